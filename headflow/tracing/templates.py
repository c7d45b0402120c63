"""Prompts side by side: which token of one example stands for which of another, by role and not by position.

Examples of one *template* differ at most in some words. Within each role the tokens that all of them share at its beginning and at its end
are aligned one by one; what varies between goes into one slot, whatever its length ("What is the colour of the ⟨star⟩?"). Tokens of an
answer are aligned by their place in it.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

BEFORE = ("system", "image", "question")
"""Roles of tokens up to the end of the question. Where the picture stands in no sequence, those before it read it too."""
AFTER = ("role", "final", "answer")
"""Roles of the tokens that come after the question and lead to the answer."""
GAP = "…"
LEAST = 3
"""Pictures that a wording has to be asked about to be a template of its own, and a template to be reported apart."""
_NAMED = 2  # words of a varying slot that are named


@dataclass(frozen=True)
class Slot:
    """A place of a template.

    Attributes:
        role: role of its tokens.
        text: its token, or ⟨…⟩ with the commonest of what stands there.
        tokens: for each member of the template the tokens that stand there, by their index in the suffix; most have one.
    """

    role: str
    text: str
    tokens: tuple[tuple[int, ...], ...]

    @property
    def varies(self) -> bool:
        return self.text.startswith("⟨")


@dataclass(frozen=True)
class Template:
    """Examples whose prompts are aligned.

    Attributes:
        name: the question, with a gap where its words vary.
        members: the examples, by index.
        slots: its places in the order of the prompt.
    """

    name: str
    members: tuple[int, ...]
    slots: tuple[Slot, ...]

    def gather(self, values: Sequence[Float[np.ndarray, "windows tokens"]]) -> Float[np.ndarray, "members windows slots"]:
        """Values of each slot, summed over its tokens; nan where a member has none there."""
        found = np.full((len(self.members), len(values[self.members[0]]), len(self.slots)), np.nan)
        for row, member in enumerate(self.members):
            for column, slot in enumerate(self.slots):
                if slot.tokens[row]:
                    found[row, :, column] = values[member][:, list(slot.tokens[row])].sum(1)
        return found


def templates(
    questions: Sequence[str], kinds: Sequence[str], pictures: Sequence[Hashable], tokens: Sequence[Sequence[str]], roles: Sequence[Sequence[str]]
) -> list[Template]:
    """The templates that the examples fall into, in the order of first appearance; each example is in one.

    Examples with one kind of question belong together. Where every wording of a kind is asked about at least three pictures, each
    wording is a template of its own.

    Args:
        questions, kinds: the user's text, and what kind of question it is.
        pictures: what tells each example's picture from others.
        tokens, roles: of the suffix, token by token.
    """
    shown: dict[str, dict[str, set[Hashable]]] = {}
    for question, kind, picture in zip(questions, kinds, pictures, strict=True):
        shown.setdefault(kind, {}).setdefault(question, set()).add(picture)
    often = {kind for kind, wordings in shown.items() if min(map(len, wordings.values())) >= LEAST}
    members: dict[tuple[str, str], list[int]] = {}
    for example, (question, kind) in enumerate(zip(questions, kinds, strict=True)):
        members.setdefault((kind, question if kind in often else ""), []).append(example)
    found = []
    for (kind, _), mine in members.items():
        name = _common([questions[example] for example in mine])
        name = f"{name} ({kind})" if any(other.name == name for other in found) else name
        found.append(Template(name, tuple(mine), align([tokens[example] for example in mine], [roles[example] for example in mine])))
    return found


def suffixes(rows: pl.DataFrame, *, cross: bool) -> tuple[list[list[str]], list[list[str]]]:
    """Text and role of each example's tokens after the picture, from rows of a FEATURES table.

    Args:
        cross: whether the picture is read by cross-attention: it then stands in no sequence, and all tokens are meant.
    """
    starts = [0 if cross else stop for stop in rows["image_stop"]]
    tokens, roles = ([mine[start:] for mine, start in zip(rows[column].to_list(), starts, strict=True)] for column in ("tokens", "roles"))
    return tokens, roles


def apart(found: Sequence[Template], pictures: Int[np.ndarray, "examples"]) -> list[tuple[str | None, Int[np.ndarray, "members"]]]:
    """All examples, under the name None, and, where there are several templates, those of each that is asked about enough pictures."""
    every: list[tuple[str | None, np.ndarray]] = [(None, np.arange(len(pictures)))]
    if len(found) > 1:
        every += [(one.name, np.array(one.members)) for one in found if len(set(pictures[list(one.members)].tolist())) >= LEAST]
    return every


def align(tokens: Sequence[Sequence[str]], roles: Sequence[Sequence[str]]) -> tuple[Slot, ...]:
    """The slots of some examples' suffixes, in the order of the prompt; every token is in one."""
    slots: list[Slot] = []
    for role in (*BEFORE, *AFTER):
        places = [[place for place, one in enumerate(mine) if one == role] for mine in roles]
        words = [[texts[place] for place in mine] for texts, mine in zip(tokens, places, strict=True)]
        if role == "answer":
            for place in range(max(map(len, words))):
                slots.append(_slot(role, [mine[place : place + 1] for mine in words], [mine[place : place + 1] for mine in places]))
            continue
        begin, end = _shared(words)
        for place in range(begin):
            slots.append(_slot(role, [mine[place : place + 1] for mine in words], [mine[place : place + 1] for mine in places]))
        if any(len(mine) > begin + end for mine in words):
            slots.append(_slot(role, [mine[begin : len(mine) - end] for mine in words], [mine[begin : len(mine) - end] for mine in places]))
        for place in range(end, 0, -1):
            slots.append(_slot(role, [[mine[-place]] for mine in words], [[mine[-place]] for mine in places]))
    return tuple(slots)


def _slot(role: str, words: list[list[str]], places: list[list[int]]) -> Slot:
    texts = Counter(_joined(mine) for mine in words if mine)
    if len(texts) == 1 and all(len(mine) <= 1 for mine in words):
        return Slot(role, next(iter(texts)), tuple(map(tuple, places)))
    common = [text.strip() for text, _ in texts.most_common(_NAMED)]
    return Slot(role, f"⟨{' | '.join([*common, GAP] if len(texts) > _NAMED else common)}⟩", tuple(map(tuple, places)))


def _joined(pieces: Sequence[str]) -> str:
    """Tokens as one text: some tokenizers keep the space before a word in its token, others leave it out."""
    if len(pieces) == 1:
        return pieces[0]
    spaced = any(piece[:1] in (" ", "▁", "Ġ") for piece in pieces)
    return ("" if spaced else " ").join(pieces).replace("▁", " ").replace("Ġ", " ").strip()


def _shared(words: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Words that all have in common at the beginning and, of what is left, at the end."""
    shortest = min(map(len, words))
    begin = 0
    while begin < shortest and len({mine[begin] for mine in words}) == 1:
        begin += 1
    end = 0
    while end < shortest - begin and len({mine[-1 - end] for mine in words}) == 1:
        end += 1
    return begin, end


def _common(questions: Sequence[str]) -> str:
    words = [question.split() for question in questions]
    begin, end = _shared(words)
    if all(len(mine) == begin + end for mine in words):
        return questions[0]
    return " ".join([*words[0][:begin], GAP, *words[0][len(words[0]) - end :]])
