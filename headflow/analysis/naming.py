"""What examples are called where figures and clusters compare them: by their object, else their category, else their answer."""

from dataclasses import dataclass

import polars as pl

UNKNOWN = "?"


@dataclass(frozen=True)
class Naming:
    """Names of some examples.

    Attributes:
        noun, plural: what a name stands for, e.g. ``object`` and ``objects``.
        names: a name for each example; UNKNOWN where it has none.
    """

    noun: str
    plural: str
    names: list[str]


_NAMED_BY = {"meaning_name": ("object", "objects"), "meaning_category": ("category", "categories"), "answer": ("answer", "answers")}


def name_examples(examples: pl.DataFrame) -> Naming:
    """The first of object name, category and answer that tells these examples apart; each example by itself if none does.

    Heads are grouped by how they vary over names. Over a single name nothing can vary: heads would fall into those above and
    those below zero, which looks like two perfect clusters and says nothing.

    Args:
        examples: an examples table; label columns may be absent.
    """
    for column, (noun, plural) in _NAMED_BY.items():
        if column in examples.columns:
            names = examples[column].cast(pl.String)
            if names.drop_nulls().n_unique() >= 2:
                return Naming(noun, plural, names.fill_null(UNKNOWN).to_list())
    return Naming("example", "examples", examples["id"].to_list())
