"""Which answers are explained, and which other answers they compete with."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
from PIL import Image

from headflow.answers import answer_tokens, unknown_words
from headflow.datasets.faults import Faults
from headflow.datasets.selection import KIND
from headflow.errors import HeadflowError
from headflow.models.lvlm import LVLM
from headflow.progress import progress

# Longest answers, in tokens; a description needs more than a word.
_ANSWER_TOKENS, _DESCRIPTION_TOKENS = 12, 64
# Pictures answered at once.
_AT_ONCE = 16


def check_words(processor: Any, examples: pl.DataFrame, faults: Faults, *, answers: bool) -> None:
    """Note every question, and where ``answers`` every true answer, that this model has no tokens for; no model is needed."""
    for number, row in enumerate(examples.iter_rows(named=True), 1):
        if unknown := unknown_words(processor, row["question"]):
            faults.add(row["row"] or number, row["id"], f"the question {row['question']!r} holds words that this model does not know: {', '.join(unknown)}")
        if not answers:
            continue
        try:
            answer_tokens(processor, row["question"], row["answer"])
        except HeadflowError as error:
            faults.add(row["row"] or number, row["id"], str(error))


def picture_sizes(examples: pl.DataFrame) -> pl.Series:
    """Width and height of each picture, pixels, as one text."""
    sizes = []
    for picture in examples["image"]:
        with Image.open(io.BytesIO(picture)) as opened:
            sizes.append("{}x{}".format(*opened.size))
    return pl.Series("size", sizes, dtype=pl.String)


def stock_answers(model: LVLM, examples: pl.DataFrame) -> dict[str, list[int] | HeadflowError]:
    """Token ids of what the untouched model says to each example, or why it cannot take it; pictures of one size with the same
    question go together."""
    found: dict[str, list[int] | HeadflowError] = {}
    with progress("stock answers", len(examples), "examples") as bar:
        for part in answered_together(examples):
            found |= answers_of_part(model, part)
            bar.advance(len(part))
    return found


def answered_together(examples: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The examples in parts that are answered in one batch: pictures of one size with the same question."""
    sized = examples.with_columns(picture_sizes(examples))
    for _, group in sized.group_by("question", "question_kind", "size", maintain_order=True):
        yield from group.iter_slices(_AT_ONCE)


def answers_of_part(model: LVLM, part: pl.DataFrame) -> dict[str, list[int] | HeadflowError]:
    """What the model says to each example of one part, or why it cannot take it."""
    question, longest = part["question"][0], _DESCRIPTION_TOKENS if part["question_kind"][0] == "description" else _ANSWER_TOKENS
    try:
        return dict(zip(part["id"], model.answer_ids(part["image"].to_list(), str(question), longest), strict=True))
    except HeadflowError:  # one of them: each alone, so that only that one is left out
        return {id: _alone(model, image, str(question), longest) for id, image in part.select("id", "image").iter_rows()}


def _alone(model: LVLM, image: bytes, question: str, longest: int) -> list[int] | HeadflowError:
    try:
        return model.answer_ids([image], question, longest)[0]
    except HeadflowError as error:
        return error


class Candidates:
    """The answers that compete with an example's own: those of the reference examples of the same kind of question, or, where
    questions come with their pictures, of the same question.

    They come from the references so that they stay the same when more examples are asked for.
    """

    def __init__(self, processor: Any, references: pl.DataFrame) -> None:
        self.processor = processor
        topic = pl.when(pl.col("question_kind") == KIND).then("question").otherwise("question_kind")
        topics = references.group_by(topic.alias("topic"), maintain_order=True).agg(pl.col("answer").unique(maintain_order=True))
        self._answers = dict(topics.iter_rows())
        self._clashes: dict[tuple[str, str], list[str]] = {}

    def rivals(self, row: dict[str, Any], answer: str, token: int) -> tuple[int, ...]:
        """First tokens of the other candidate answers; one that begins with the answer's own ``token`` is noted as a clash."""
        found = set()
        for other in self._answers.get(row["question" if row["question_kind"] == KIND else "question_kind"], ()):
            if _same(other, answer):
                continue
            try:
                first = answer_tokens(self.processor, row["question"], other)[0]
            except HeadflowError:
                continue  # the model has no word for it, so it is no rival
            if first == token:
                self._clashes.setdefault((min(answer, other), max(answer, other)), []).append(row["id"])
            found.add(first)
        return tuple(sorted(found - {token}))

    @property
    def clashes(self) -> int:
        """Examples with another candidate that begins with the same token."""
        return len({id for ids in self._clashes.values() for id in ids})

    def warning(self) -> str | None:
        """A warning if candidates share their first token."""
        if not self._clashes:
            return None
        pairs = [f"{one!r} and {other!r}" for one, other in self._clashes]
        listed = ", ".join(pairs[:5]) + (f" and {len(pairs) - 5} more pairs" if len(pairs) > 5 else "")
        return (
            f"warning: candidate answers begin with the same token: {listed} ({self.clashes} examples); a target of the first token cannot tell them apart, "
            "features.target: answer_logprob can"
        )


def _same(one: str, other: str) -> bool:
    return one.split() == other.split()


def swap_partner(pictures: Sequence[dict[str, Any]], row: dict[str, Any], draw: float) -> str | None:
    """A reference picture of the same size with another main object (or another answer, where objects have no names).

    Args:
        pictures: rows of references, each with its ``size``.
        row: the example, with its ``size``.
        draw: in [0, 1): chooses among the candidates.
    """
    # Of a picture without a name the answer says what was asked about.
    key = "meaning_name" if row.get("meaning_name") is not None else "answer"
    fits = (p for p in pictures if p["size"] == row["size"] and p["question_kind"] == row["question_kind"] and p["image"] != row["image"])
    others = [p["id"] for p in fits if p.get(key) != row[key]]
    return others[int(draw * len(others))] if others else None
