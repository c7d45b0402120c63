"""Groups of examples: which there are, and intervals over examples that mean what they say."""

import numpy as np
import polars as pl
import pytest

from headflow.attribution.groups import label_columns, label_groups, mean_interval, summarise
from headflow.tables.ablations import HEAD_SUMMARY

LABELS = pl.DataFrame(
    {
        "looks_colour": ["red", "red", "blue", "red", None],
        "id": list("abcde"),
        "meaning_count": [10, 9, 9, 9, 10],
        "meaning_round": [True, True, True, False, None],
    }
)


def test_groups_are_values_that_occur_often_enough():
    assert label_columns(LABELS) == ["meaning_count", "meaning_round", "looks_colour"]
    groups = label_groups(LABELS)
    assert list(groups) == ["all", "meaning_count=9", "meaning_round=True", "looks_colour=red"]
    assert groups["all"].all()
    assert groups["meaning_count=9"].tolist() == [False, True, True, True, False]
    assert groups["looks_colour=red"].tolist() == [True, True, False, True, False]
    assert list(label_groups(LABELS, least=2))[1:3] == ["meaning_count=9", "meaning_count=10"]


def test_the_interval_is_students():
    mean, low, high = mean_interval(np.array([[1.0], [2.0], [6.0]]), 0.95)
    half = 4.302653 * np.sqrt(7.0) / np.sqrt(3)  # t quantile with 2 degrees of freedom
    np.testing.assert_allclose([mean[0], low[0], high[0]], [3, 3 - half, 3 + half], rtol=1e-6)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_holds_the_population_mean_as_often_as_it_says(confidence):
    values = np.random.default_rng(0).normal(1.5, 2.0, size=(8, 20_000))
    _, low, high = mean_interval(values, confidence)
    assert abs(((low <= 1.5) & (high >= 1.5)).mean() - confidence) < 0.01


def test_the_summary_has_every_head_of_every_group():
    random = np.random.default_rng(2)
    attributions, singles = random.normal(size=(5, 2, 3)), random.normal(size=(5, 2, 3))
    frame = HEAD_SUMMARY.check(summarise(attributions, singles, label_groups(LABELS), confidence=0.9), "test")
    assert frame["group"].n_unique() == 4
    assert len(frame) == 4 * 6
    row = frame.row(by_predicate=(pl.col("group") == "meaning_count=9") & (pl.col("layer") == 1) & (pl.col("head") == 2), named=True)
    mean, low, high = mean_interval(attributions[1:4, 1, 2], 0.9)
    assert (row["mean"], row["low"], row["high"], row["examples"]) == (mean, low, high, 3)
    assert row["single_mean"] == pytest.approx(singles[1:4, 1, 2].mean())


def test_one_example_has_a_mean_and_no_interval():
    frame = summarise(np.ones((1, 1, 2)), np.ones((1, 1, 2)), {"all": np.array([True])})
    assert frame.select("mean", "low", "high").rows() == [(1.0, None, None)] * 2
