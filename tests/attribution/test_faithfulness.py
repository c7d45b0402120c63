"""Curves, areas and comparisons of rankings: by hand, against brute force on a model, and by simulation."""

import functools
import itertools

import numpy as np
import polars as pl
import pytest
from scipy import stats

from headflow.ablation import run_masks
from headflow.attribution.faithfulness import (
    ALL,
    NONE,
    area_differences,
    area_summary,
    areas,
    areas_table,
    bands,
    counts,
    curves,
    curves_table,
    holm,
    leader,
    needed,
    plan,
    usable,
)
from headflow.attribution.rankings import places
from headflow.tables.faithfulness import AREA_DIFFERENCES, AREA_SUMMARY, AREAS, CURVE_BANDS, CURVES


def test_curves_by_hand() -> None:
    """f = 10 + 4a + 2b − 1c, ranked b, a, c: F(none) = 10, F(all) = 15."""
    order = places(np.array([[[2.0, 3.0, 1.0]]]))
    wanted = plan(order, counts(3))
    targets = 10 + wanted.masks.reshape(-1, 3) @ np.array([4.0, 2.0, -1.0])
    faithfulness, completeness = curves(targets, wanted)
    np.testing.assert_allclose(faithfulness, [[0, 2 / 5, 6 / 5, 1]])
    np.testing.assert_allclose(completeness, [[0, 2 / 5, 6 / 5, 1]])  # an additive function is lost as it is gained
    assert areas(faithfulness, wanted.counts)[0] == pytest.approx((0.4 / 2 + 0.4 + (1.2 - 0.4) / 2 + 1.1) / 3)
    assert needed(faithfulness, wanted.counts, 0.8).tolist() == [2]
    assert needed(faithfulness, wanted.counts, 0.4).tolist() == [1]


def test_or_and_and_differ_in_faithfulness_and_completeness() -> None:
    either, both = (lambda m: m[:, 0, 0] | m[:, 0, 1]), (lambda m: m[:, 0, 0] & m[:, 0, 1])
    wanted = plan(places(np.array([[[2.0, 1.0]]])), counts(2))
    for function, expected in ((either, ([0, 1, 1], [0, 0, 1])), (both, ([0, 0, 1], [0, 1, 1]))):
        found = curves(function(wanted.masks).astype(float), wanted)
        assert [curve[0].tolist() for curve in found] == list(expected)


def test_curves_equal_brute_force_on_a_model(captures) -> None:
    capture, _ = captures("gqa")
    layers, heads = capture.lvlm.layers, capture.lvlm.heads
    random = np.random.default_rng(1)
    scores = random.normal(size=(3, layers, heads))
    scores[2] = scores[1].round()  # ties, and sets shared with another ranking
    wanted = plan(places(scores), counts(layers * heads))
    found = curves(run_masks(capture, wanted.masks), wanted)

    @functools.cache
    def f(heads_kept: frozenset) -> float:
        mask = np.zeros((1, layers, heads), bool)
        for head in heads_kept:
            mask[0][head] = True
        return float(run_masks(capture, mask)[0])

    everything = frozenset(itertools.product(range(layers), range(heads)))
    effect = f(everything) - f(frozenset())
    for row, grid in enumerate(scores):
        order = sorted(everything, key=lambda head: (-grid[head], *head))
        for k in range(len(order) + 1):
            top = frozenset(order[:k])
            assert found[0][row, k] == pytest.approx((f(top) - f(frozenset())) / effect, abs=1e-3)
            assert found[1][row, k] == pytest.approx((f(everything) - f(everything - top)) / effect, abs=1e-3)


def test_curves_do_not_depend_on_the_batch_size(captures) -> None:
    capture, _ = captures("mha")
    wanted = plan(places(np.random.default_rng(2).normal(size=(4, capture.lvlm.layers, capture.lvlm.heads))), counts(12, 6))
    results = [np.stack(curves(run_masks(capture, wanted.masks, batch_size=size), wanted)) for size in (1, 7, 64)]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-3)


def test_a_plan_holds_each_mask_once_and_grows_at_its_end() -> None:
    order = places(np.random.default_rng(0).normal(size=(5, 3, 4)))
    order = np.concatenate([order, order[:1]])  # the last ranking needs nothing new
    wanted = plan(order, counts(12))
    flat = np.packbits(wanted.masks.reshape(len(wanted.masks), -1), axis=1)
    assert len(np.unique(flat, axis=0)) == len(flat)
    assert not wanted.masks[NONE].any() and wanted.masks[ALL].all()
    for row, ranking in enumerate(order):
        for column, k in enumerate(wanted.counts):
            assert np.array_equal(wanted.masks[wanted.top[row, column]], ranking < k)
            assert np.array_equal(wanted.masks[wanted.rest[row, column]], ranking >= k)
    assert wanted.starts[0] == 2 and wanted.starts[-1] == len(wanted.masks)
    fewer = plan(order[:3], counts(12))
    assert np.array_equal(wanted.masks[: len(fewer.masks)], fewer.masks) and wanted.starts[:3] == fewer.starts


@pytest.mark.parametrize(("total", "points"), [(48, 24), (1024, 32), (7, 7), (5, 100), (1, 2)])
def test_counts_go_from_none_to_all(total: int, points: int) -> None:
    ks = counts(total, points)
    assert ks[0] == 0 and ks[-1] == total and (np.diff(ks) > 0).all() and len(ks) <= points + 1
    assert (np.diff(np.diff(ks)) >= -1).all()  # steps never shrink but for rounding
    assert counts(total).tolist() == list(range(total + 1))


def test_fewer_points_give_nearly_the_same_area() -> None:
    every = np.arange(1025)
    curve = 1 - np.exp(-every / 60)
    few = counts(1024, 24)
    assert areas(curve[few], few) == pytest.approx(areas(curve, every), abs=0.005)
    assert areas(every / 1024, every) == pytest.approx(0.5)


def test_a_level_reached_but_for_rounding_counts() -> None:
    assert needed(np.array([0, 0.8 - 1e-8, 1.0]), np.arange(3)) == 1
    assert needed(np.array([0.0, 0.7, 0.9, 0.75, 1.0]), np.arange(5)) == 2  # reached once is reached


def test_examples_without_an_effect_have_no_curve() -> None:
    assert usable(np.array([5.0, 4.0, 0.1, 0.0, -6.0, 5.0])).tolist() == [True, True, False, False, False, True]
    assert usable(np.zeros(3)).tolist() == [False] * 3
    assert usable(np.array([-1.0, -2.0])).tolist() == [False] * 2
    assert len(usable(np.zeros(0))) == 0
    wanted = plan(places(np.zeros((1, 1, 2))), counts(2))
    assert np.isnan(curves(np.full(len(wanted.masks), 3.0), wanted)).all()


def some_curves(random: np.random.Generator, rankings: int, examples: int, lead: float = 0.0) -> dict:
    """Curves through 0, x, 1 whose heights share an effect of the example, skewed as areas are; the first ranking is ahead by ``lead``."""
    common = random.beta(5, 2, size=examples)
    found = {}
    for ranking in range(rankings):
        heights = common + 0.3 * random.beta(4, 1.5, size=examples) + (lead if ranking == 0 else 0.0)
        found[f"r{ranking}", "own", "faithfulness"] = np.stack([np.zeros(examples), heights, np.ones(examples)], 1)
    return found


def test_comparisons_are_paired_t_tests_with_holms_correction() -> None:
    values = some_curves(np.random.default_rng(3), 3, 20, lead=0.1)
    ks = np.arange(3)
    table = area_differences(values, ks)
    found = [areas(curve, ks) for curve in values.values()]
    expected = [stats.ttest_rel(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(table["p"], [test.pvalue for test in expected])
    ends = [test.confidence_interval(0.95) for test in expected]
    np.testing.assert_allclose(table["low"], [end.low for end in ends])
    np.testing.assert_allclose(table["high"], [end.high for end in ends])
    assert (table["difference"] - pl.Series([found[0].mean() - found[1].mean()] * 3))[0] == pytest.approx(0)
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert table.filter(pl.col("scope") != "own").is_empty()


def test_rankings_that_never_differ_cannot_be_told_apart() -> None:
    curve = some_curves(np.random.default_rng(3), 1, 9)["r0", "own", "faithfulness"]
    values = {("a", "own", "faithfulness"): curve, ("b", "own", "faithfulness"): curve.copy()}
    ks = np.arange(3)
    table, summary = area_differences(values, ks), area_summary(values, ks)
    assert table["p"].to_list() == [1.0]
    first = leader(summary, table, scope="own", measure="faithfulness")
    assert first.ranking == "a" and first.level_with == ["b"] and not first.clear


def test_a_lead_is_not_claimed_by_chance() -> None:
    """Seven rankings equally good: in at most 5 % of data sets is any told from any other (0.081: the upper 99.5 % limit of 400 draws at 5 %)."""
    ks, claims, runs = np.arange(3), 0, 400
    for seed in range(runs):
        table = area_differences(some_curves(np.random.default_rng([9, seed]), 7, 24), ks)
        claims += table["p_holm"].min() < 0.05
    assert claims / runs < 0.081


def test_a_true_lead_is_told() -> None:
    ks = np.arange(3)
    values = some_curves(np.random.default_rng(4), 5, 40, lead=0.15)
    first = leader(area_summary(values, ks), area_differences(values, ks), scope="own", measure="faithfulness")
    assert first.ranking == "r0" and first.clear and first.ahead_of == ["r1", "r2", "r3", "r4"]


def test_intervals_cover_the_mean_area() -> None:
    """95 % intervals of skewed areas, 200 data sets of 24 examples."""
    ks, covered, runs = np.arange(3), 0, 200
    truth = (5 / 7 + 0.3 * 4 / 5.5) / 2 + 0.25
    for seed in range(runs):
        row = area_summary(some_curves(np.random.default_rng([5, seed]), 1, 24), ks).row(0, named=True)
        covered += row["low"] <= truth <= row["high"]
    assert 0.90 <= covered / runs <= 0.99


def test_tables(tmp_path) -> None:
    ks = counts(4)
    random = np.random.default_rng(0)
    orders = [("attribution", "own"), ("random", "shared")]
    faithfulness, completeness, top, rest = random.random((4, 3, 2, 5))
    used, effects = np.array([True, False, True]), np.array([2.0, -1.0, 3.0])
    table = curves_table(["a", "b", "c"], orders, ks, top, rest, faithfulness, completeness, used)
    CURVES.write(table, tmp_path / "c.parquet")
    row = table.filter(id="c", ranking="random", scope="shared", heads=3).row(0, named=True)
    assert (row["top"], row["rest"], row["faithfulness"], row["completeness"]) == (top[2, 1, 3], rest[2, 1, 3], faithfulness[2, 1, 3], completeness[2, 1, 3])
    assert table.filter(id="b").select("faithfulness", "completeness").null_count().row(0) == (10, 10)
    assert table.filter(id="b")["top"].null_count() == 0
    table = areas_table(["a", "b", "c"], orders, ks, faithfulness, completeness, effects, used, 0.5)
    AREAS.write(table, tmp_path / "a.parquet")
    row = table.filter(id="a", ranking="attribution", measure="completeness").row(0, named=True)
    assert row["area"] == pytest.approx(np.trapezoid(completeness[0, 0], ks / 4)) and row["total_effect"] == 2.0
    assert row["heads"] == np.argmax(completeness[0, 0] >= 0.5)
    assert table.filter(id="b").select("used", "area", "heads").unique().rows() == [(False, None, None)]


def test_summaries_of_one_example_and_of_none(tmp_path) -> None:
    ks = counts(2)
    curve = np.array([[0.0, 0.9, 1.0]])
    for values in ({("attribution", "own", "faithfulness"): curve}, {("attribution", "own", "faithfulness"): curve[:0]}, {}):
        examples = len(next(iter(values.values()))) if values else 0
        summary, mean = area_summary(values, ks), bands(values, ks)
        AREA_SUMMARY.write(summary, tmp_path / "s.parquet")
        CURVE_BANDS.write(mean, tmp_path / "b.parquet")
        AREA_DIFFERENCES.write(area_differences(values, ks), tmp_path / "d.parquet")
        assert summary["low"].null_count() == len(summary) and mean["high"].null_count() == len(mean)
        first = leader(summary, area_differences(values, ks), scope="own", measure="faithfulness")
        assert (first is not None) == (examples == 1)
    assert area_summary({("attribution", "own", "faithfulness"): curve}, ks)["area"][0] == pytest.approx(0.7)
