"""Which pictures are explained and which are references, and the table made of them."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import polars as pl

from headflow.datasets.faults import Fault, OnBadExample
from headflow.datasets.pictures import Size
from headflow.errors import HeadflowError
from headflow.seeds import generator
from headflow.tables.examples import EXAMPLES

SPLITS = ("explain", "reference")
KIND = "asked"
"""Question kind of every question that came with its picture."""

Key = TypeVar("Key")


class Examples(NamedTuple):
    """What a reader returns: the examples table, and the rows left out (a SKIPPED table)."""

    table: pl.DataFrame
    skipped: pl.DataFrame


@dataclass(frozen=True)
class Selection:
    """How many pictures are taken and how they are kept; the same for every source but scenes.

    Args:
        count: pictures to explain, at most.
        references: pictures for the baselines, at most.
        seed: of the choice.
        picture_size: width and height that pictures are cut (at the centre) and scaled to; None keeps them as they are.
        on_bad_example: "stop" or "skip" rows with faults.
        max_pixels: a picture with more is a fault.
    """

    count: int = 48
    references: int = 64
    seed: int = 0
    picture_size: Size | None = None
    on_bad_example: OnBadExample = "stop"
    max_pixels: int = 50_000_000


@dataclass(frozen=True)
class Asked:
    """One question about a picture, ready for the table; ``row`` is where it stands in its source."""

    row: int
    id: str
    question: str
    answer: str
    labels: Mapping[str, str | None] = field(default_factory=dict)
    objects: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Shown:
    """One picture as it is stored (PNG), with all that is asked about it in a split."""

    image: bytes
    asked: Sequence[Asked]


def drawing_order(keys: Iterable[str], seed: int, source: str) -> list[str]:
    """``keys`` in the order in which they are drawn: each has its own draw, so that a new one moves none of the others past each other."""
    return sorted(keys, key=lambda key: (generator(seed, f"{source}/{key}").random(), key))


def divide(order: Sequence[Key], count: int, references: int) -> dict[str, list[Key]]:
    """The split of each picture: explained ones from the front of the order, references from its back.

    So more of one kind moves none of the other until they meet; where they do, pictures are both.
    """
    return {"explain": list(order[:count]), "reference": list(order[::-1][:references])}


def settle(order: Sequence[Key], selection: Selection, usable: Callable[[Key], bool], after_each_look: Callable[[], None]) -> dict[str, list[Key]]:
    """:func:`divide` the usable ones, looking at no more of them than needed.

    Args:
        order: in drawing order.
        selection: how many are wanted.
        usable: whether a picture can be taken; asked once of each that is drawn, and of those drawn in place of the unusable.
        after_each_look: called when all that are drawn have been looked at; may raise.
    """
    order, known = list(order), set()
    while True:
        chosen = divide(order, selection.count, selection.references)
        new = [key for key in dict.fromkeys([*chosen["explain"], *chosen["reference"]]) if key not in known]
        if not new:
            return chosen
        known.update(new)
        unusable = {key for key in new if not usable(key)}
        order = [key for key in order if key not in unusable]
        after_each_look()


def make_table(chosen: Mapping[str, Sequence[Key]], show: Callable[[Key, str], Shown], labels: Sequence[str], selection: Selection, where: str) -> pl.DataFrame:
    """The EXAMPLES table.

    Args:
        chosen: pictures of each split, in drawing order.
        show: the picture and its questions in a split.
        labels: label columns.
        selection: what was wanted.
        where: the data set's name, for messages.

    Raises:
        HeadflowError: fewer than two pictures, or none to explain.
    """
    explained, references = chosen["explain"], chosen["reference"]
    if not explained or len({*explained, *references}) < 2:
        raise HeadflowError(
            f"{where}: {len({*explained, *references})} usable picture(s), {len(explained)} of them to explain; at least two are needed, as a head that is "
            "cut reads other pictures in place of the one explained"
        )
    if both := len(set(explained) & set(references)):
        print(
            f"note: {where}: too few pictures for {selection.count} to explain and {selection.references} further references: {both} are both, so a baseline "
            "holds some of the picture that it stands in for",
            file=sys.stderr,
        )
    rows = []
    for split in SPLITS:
        for scene, key in enumerate(chosen[split]):
            try:
                shown = show(key, split)
            except Fault as fault:
                raise HeadflowError(f"{where}: {key}: {fault}; it changed while it was read, run again") from None
            for asked in shown.asked:
                row = {"id": f"{split}-{asked.id}", "split": split, "row": asked.row, "scene": scene, "image": shown.image, "question_kind": KIND}
                row |= {"question": asked.question, "answer": asked.answer}
                rows.append(row | {"object_count": None, "description": None, "objects": list(asked.objects), **asked.labels})
    schema: dict[str, Any] = {name: column.dtype for name, column in EXAMPLES.columns.items()} | dict.fromkeys(labels, pl.String)
    return pl.DataFrame(rows, schema=schema)
