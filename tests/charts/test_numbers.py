import numpy as np
import polars as pl
import pytest

from headflow.charts import numbers
from tests.reporting import synthetic_run


@pytest.fixture(scope="module")
def run() -> synthetic_run.Run:
    return synthetic_run.make()


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        _, low, high = numbers.interval(rng.normal(3.0, 2.0, 8), 0.9)
        hits += low < 3.0 < high
    assert 0.88 < hits / 2000 < 0.92


def test_interval_of_one_value_has_no_ends_and_of_none_no_mean():
    mean, low, high = numbers.interval([2.5], 0.95)
    assert mean == 2.5 and np.isnan(low) and np.isnan(high)
    assert np.isnan(numbers.interval([], 0.95)[0])
    assert numbers.interval([1.0, float("nan"), 3.0], 0.95)[0] == 2.0


def test_share_interval_stays_inside_zero_and_one():
    assert numbers.share_interval(10, 10)[1] == 1.0
    assert 0.6 < numbers.share_interval(10, 10)[0] < 1.0
    assert numbers.share_interval(0, 0) == (0.0, 1.0)


def test_rank_correlation_sees_order_only_and_is_undefined_for_constants():
    x = np.arange(20.0)
    rho, low, high = numbers.rank_correlation(x, np.exp(x), 0.95)
    assert rho == pytest.approx(1.0) and low > 0.9 and high <= 1.0
    assert numbers.rank_correlation(x, -x, 0.95)[0] == pytest.approx(-1.0)
    assert np.isnan(numbers.rank_correlation(x, np.ones(20), 0.95)[0])
    assert np.isnan(numbers.rank_correlation(x[:3], x[:3], 0.95)[0])


def test_a_head_is_clear_only_if_its_interval_excludes_zero():
    rows = {"group": "all", "layer": 0, "single_mean": 0.0, "examples": 5}
    ends = [(0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1), (None, None), (float("nan"), float("nan")), (0.0, 0.2)]
    table = pl.DataFrame([{**rows, "head": head, "mean": 0.2, "low": low, "high": high} for head, (low, high) in enumerate(ends)])
    assert numbers.overall(table)["clear"].to_list() == [True, True, False, False, False, False]


def test_groups_other_than_all_do_not_reach_the_figures(run):
    other = run.head_summary.with_columns(pl.lit("meaning_category=digit").alias("group"), pl.lit(99.0).alias("mean"))
    assert numbers.overall(pl.concat([run.head_summary, other]))["mean"].max() < 99


def test_layer_sums_add_up_over_heads(run):
    sums = numbers.layer_sums(run.attributions, 0.95)
    direct = run.attributions.group_by("id", "layer").agg(pl.col("attribution").sum()).group_by("layer").agg(pl.col("attribution").mean()).sort("layer")
    np.testing.assert_allclose(sums["mean"], direct["attribution"])
    assert (sums["low"] < sums["mean"]).all() and (sums["mean"] < sums["high"]).all()


def test_effect_sums_leave_out_examples_with_missing_single_runs(run):
    first = run.attributions["id"][0]
    hole = (pl.col("id") == first) & (pl.col("head") == 0)
    holed = run.attributions.with_columns(pl.when(hole).then(None).otherwise(pl.col("single_head_effect")).alias("single_head_effect"))
    sums = numbers.effect_sums(holed, run.fits)
    assert sums.filter(pl.col("id") == first)["singles"].to_list() == [None]
    assert sums["singles"].null_count() == 1
    np.testing.assert_allclose(sums["total"], run.fits.sort("id").select(pl.col("intact") - pl.col("ablated")).to_series())


def test_attention_counts_only_the_explained_examples(run):
    explained = run.fits["id"].to_list()
    shifted = run.attention.with_columns(pl.when(pl.col("id").is_in(explained)).then(0.25).otherwise(1.0).alias("final_to_image"))
    assert numbers.attention_by_head(shifted, run.head_summary, explained)["attention"].to_list() == pytest.approx([0.25] * 48)
    assert numbers.even_attention(run.features, explained) == pytest.approx(36 / 48)


def test_growth_summary_ignores_what_is_undefined(run):
    broken = run.growth.with_columns(pl.lit(float("nan")).alias("agreement_r"))
    assert set(numbers.growth_by_masks(broken)["measure"]) == {"held_out_r"}
    rows = numbers.growth_by_masks(run.growth)
    assert (rows["low"] <= rows["median"]).all() and (rows["median"] <= rows["high"]).all()


def test_thinning_keeps_both_ends_and_the_order():
    frame = pl.DataFrame({"x": range(1000)})
    kept = numbers.thinned(frame, 7)["x"].to_list()
    assert len(kept) == 7 and kept[0] == 0 and kept[-1] == 999 and kept == sorted(kept)
    assert numbers.thinned(frame, 1000) is frame
