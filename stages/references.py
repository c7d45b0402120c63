"""Reference pictures, and the baselines that are made of them or of nothing."""

from typing import Any

import polars as pl

from headflow.answers import unknown_words
from headflow.errors import HeadflowError
from headflow.models.baselines import Baseline, closed_baseline, mean_baseline
from headflow.models.lvlm import LVLM
from headflow.progress import progress


def known_references(processor: Any, examples: pl.DataFrame, key: str) -> pl.DataFrame:
    """The reference examples whose questions hold only words that model ``key`` knows.

    Raises:
        HeadflowError: there are none.
    """
    references = examples.filter(pl.col("split") == "reference")
    references = references.filter([not unknown_words(processor, question) for question in references["question"]])
    if references.is_empty():
        raise HeadflowError(f"model {key!r} knows the words of no reference's question, so there is no baseline; ask in words that it knows")
    return references


def make_baseline(kind: str, model: LVLM, references: pl.DataFrame, question: str | None = None) -> Baseline:
    """The baseline that all examples share; those of ``swap`` and ``blank`` are each example's own and are made when they are needed.

    Args:
        question: asked about every reference; None = the first one's own. It matters only where a picture's keys depend on the text after it.

    Raises:
        HeadflowError: the mean of pictures whose tokens stand at different places.
    """
    if kind != "mean":
        return closed_baseline() if kind == "closed" else Baseline(kind, [], [])
    pictures = references.unique("scene", maintain_order=True)
    asked = pictures["question"][0] if question is None else question
    with progress("mean baseline", len(pictures), "pictures") as bar:

        def captures():
            for picture in pictures["image"]:
                yield model.capture(picture, asked)
                bar.advance()

        return mean_baseline(captures())
