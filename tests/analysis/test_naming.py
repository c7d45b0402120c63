"""What examples are called: objects first, then categories, then answers, and never one name for all."""

import numpy as np
import polars as pl
import pytest

from headflow.analysis.clusters import cluster_heads
from headflow.analysis.naming import UNKNOWN, name_examples


def examples(**labels: list[str | None]) -> pl.DataFrame:
    return pl.DataFrame({"id": ["a", "b", "c"], "answer": ["yes", "no", "yes"], **labels})


@pytest.mark.parametrize(
    ("labels", "plural", "names"),
    [
        ({"meaning_name": ["cat", "dog", "cat"], "meaning_category": ["animal", "animal", "thing"]}, "objects", ["cat", "dog", "cat"]),
        ({"meaning_name": ["cat", "dog", None]}, "objects", ["cat", "dog", UNKNOWN]),
        ({"meaning_name": ["cat", None, None], "meaning_category": ["animal", "thing", "animal"]}, "categories", ["animal", "thing", "animal"]),
        ({"meaning_category": ["animal"] * 3}, "answers", ["yes", "no", "yes"]),
        ({}, "answers", ["yes", "no", "yes"]),
        ({"answer": ["yes"] * 3}, "examples", ["a", "b", "c"]),
    ],
)
def test_the_first_column_that_tells_examples_apart_names_them(labels, plural, names):
    found = name_examples(examples(**labels))
    assert (found.plural, found.names) == (plural, names)


def test_labels_of_other_types_are_read_as_text():
    assert name_examples(examples(meaning_name=[1, 2, 1])).names == ["1", "2", "1"]


def test_a_single_name_would_show_clusters_where_there_are_none():
    """Why names that tell nothing apart are passed over."""
    random = np.random.default_rng(0)
    noise = random.normal(size=(12, 3, 4))
    single = examples(answer=["yes"] * 3)["answer"].to_list() * 4
    assert cluster_heads(noise, single, coverage=1.0).score_ == pytest.approx(1)
    assert cluster_heads(noise, name_examples(pl.DataFrame({"id": [str(i) for i in range(12)], "answer": single})).names, coverage=1.0).score_ < 0.3
