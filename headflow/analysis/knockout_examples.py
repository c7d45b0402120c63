"""Single pictures: what the stock model says, what is said without a route, and which objects are lost or invented."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

from headflow.judging.match import mentions
from headflow.judging.vocabulary import Vocabulary

Mark = Literal["", "named", "invented"]


@dataclass(frozen=True)
class KnockedOutText:
    """A description without one route.

    Attributes:
        parts: the whole text in order, each part with its mark: an object that the stock description names too, one that it does not, or no object.
        lost: objects of the stock description that are not named.
        ended: whether the model ended the description.
    """

    route: str
    last_position: str
    parts: tuple[tuple[str, Mark], ...]
    lost: tuple[str, ...]
    ended: bool


@dataclass(frozen=True)
class KnockoutExample:
    """A picture with the stock description, its objects marked, and those without each route, closed in all layers."""

    id: str
    scene: int
    stock: tuple[tuple[str, Mark], ...]
    texts: tuple[KnockedOutText, ...]


def knockout_examples(
    descriptions: pl.DataFrame, knocked_out: pl.DataFrame, plan: pl.DataFrame, vocabulary: Vocabulary, *, most: int = 6
) -> list[KnockoutExample]:
    """The first ``most`` pictures, whatever became of them: they are not chosen by their outcome.

    Args:
        descriptions: what the stock model says.
        knocked_out: what it says under knockouts.
        plan: the knockout plan.
        vocabulary: objects and the words for them.
    """
    blind = [part.sort("closed").row(-1, named=True) for _, part in plan.filter(kind="upward").group_by("route", "last_position", maintain_order=True)]
    said = {(row["id"], row["knockout"]): row for row in knocked_out.iter_rows(named=True)}
    found = []
    for stock in descriptions.head(most).iter_rows(named=True):
        texts = []
        objects = list(dict.fromkeys(mention.name for mention in mentions(stock["description"], vocabulary)))
        for row in blind:
            if (text := said.get((stock["id"], row["knockout"]))) is None:
                continue
            parts, named = marked(text["description"], objects, vocabulary)
            lost = tuple(name for name in objects if name not in named)
            texts.append(KnockedOutText(row["route"], row["last_position"], parts, lost, text["ended"]))
        found.append(KnockoutExample(stock["id"], stock["scene"], marked(stock["description"], objects, vocabulary)[0], tuple(texts)))
    return found


def marked(text: str, objects: Sequence[str], vocabulary: Vocabulary) -> tuple[tuple[tuple[str, Mark], ...], set[str]]:
    """``text`` in parts, mentions of ``objects`` and of others marked, and the objects that it names."""
    parts: list[tuple[str, Mark]] = []
    at, named = 0, set()
    for mention in mentions(text, vocabulary):
        parts += [(text[at : mention.start], ""), (text[mention.start : mention.stop], "named" if mention.name in objects else "invented")]
        at = mention.stop
        named.add(mention.name)
    parts.append((text[at:], ""))
    return tuple((piece, mark) for piece, mark in parts if piece), named
