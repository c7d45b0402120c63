"""Agreement of baselines: against slow references, calibrated, and honest about what is lacking."""

import itertools

import numpy as np
import pytest
from scipy import stats

from headflow.analysis.baselines import Under, agreement, apart, by_picture, ceilings, differences, head_means, largest, overlap, pair_correlations, summarise
from headflow.tables.baselines import BASELINE_AGREEMENT, BASELINE_DIFFERENCES, BASELINE_HEADS, BASELINE_SUMMARY

KINDS = ("mean", "blank", "swap", "closed")
SHAPE = (3, 4)


def made(count=20, pictures=None, noise=0.0, odd=0.0, seed=0) -> Under:
    """Attributions alike under all baselines, but for ``noise``, and for ``odd`` of another vector under swap."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=(count, *SHAPE))
    grids = {kind: truth + noise * random.normal(size=truth.shape) for kind in KINDS}
    grids["swap"] = grids["swap"] + odd * random.normal(size=truth.shape)
    errors = {kind: np.full(truth.shape, noise) for kind in KINDS}
    measures = {
        "total_effect": {kind: random.normal(5, 1, count) for kind in KINDS}, "held_out_r": {kind: random.uniform(0.8, 1, count) for kind in KINDS},
        "candidate": {kind: random.random(count) < 0.7 for kind in KINDS},
    }  # fmt: skip
    measures["candidate"] = {kind: values.astype(float) for kind, values in measures["candidate"].items()}
    return Under(grids, errors, measures, np.arange(count) if pictures is None else pictures)


def test_tables_agree_with_slow_references() -> None:
    under = made(pictures=np.repeat(np.arange(10), 2), noise=0.7)
    under.attributions["swap"][[0, 1, 5]] = np.nan  # the first picture has no partner, and one question of the third
    for grid in (under.errors["swap"], *(found["swap"] for found in under.measures.values())):
        grid[[0, 1, 5]] = np.nan
    table = agreement(under, top=3, confidence=0.9)
    BASELINE_AGREEMENT.check(table, "here")
    for row, (one, other) in zip(table.iter_rows(named=True), itertools.combinations(KINDS, 2), strict=True):
        assert (row["baseline"], row["other"], row["top"], row["chance"]) == (one, other, 3, 3 / 12)
        r, shared = {}, {}
        for example in range(20):
            a, b = (under.attributions[kind][example].ravel() for kind in (one, other))
            if np.isfinite(a).all() and np.isfinite(b).all():
                r.setdefault(example // 2, []).append(stats.pearsonr(a, b).statistic)
                shared.setdefault(example // 2, []).append(len(set(np.argsort(-np.abs(a))[:3]) & set(np.argsort(-np.abs(b))[:3])) / 3)
        means = [np.mean(values) for values in r.values()]
        # Fisher's scale: the derivative of artanh at the mean carries the standard error over.
        scaled = stats.sem(means) / (1 - np.mean(means) ** 2)
        low, high = np.tanh(stats.t.interval(0.9, len(means) - 1, np.arctanh(np.mean(means)), scaled))
        assert (row["r"], row["low"], row["high"]) == pytest.approx((np.mean(means), low, high))
        assert row["overlap"] == pytest.approx(np.mean([np.mean(values) for values in shared.values()]))
        assert (row["examples"], row["pictures"]) == ((17, 9) if "swap" in (one, other) else (20, 10))
    heads = head_means(under, 0.9)
    BASELINE_HEADS.check(heads, "here")
    row = heads.filter(baseline="swap", layer=2, head=1).row(0, named=True)
    by_hand = [np.nanmean(under.attributions["swap"][2 * picture : 2 * picture + 2, 2, 1]) for picture in range(1, 10)]
    assert row["mean"] == pytest.approx(np.mean(by_hand)) and row["examples"] == 17
    assert (row["low"], row["high"]) == pytest.approx(stats.t.interval(0.9, 8, np.mean(by_hand), stats.sem(by_hand)))


def test_differences_are_paired_within_pictures_and_corrected_for_each_measure() -> None:
    under = made(noise=0.3, odd=1.0)
    table = differences(under)
    BASELINE_DIFFERENCES.check(table, "here")
    effects = table.filter(measure="total_effect")
    for row in effects.iter_rows(named=True):
        one, other = (under.measures["total_effect"][row[name]] for name in ("baseline", "other"))
        assert row["difference"] == pytest.approx((one - other).mean()) and row["p"] == pytest.approx(stats.ttest_rel(one, other).pvalue)
    smallest = effects.sort("p").row(0, named=True)
    assert smallest["p_holm"] == pytest.approx(min(1, 6 * smallest["p"])) and len(effects) == 6
    alone = table.filter(measure="apart").sort("difference", descending=True)
    assert alone["baseline"][0] == "swap" and alone["p_holm"][0] < 1e-3 and alone["low"][0] > 0 and (alone["difference"][1:] < 0).all()


def test_apart_by_hand() -> None:
    under = made(count=4, noise=0.5, odd=0.5)
    flat = {kind: under.attributions[kind].reshape(4, -1) for kind in KINDS}
    r = {(a, b): [stats.pearsonr(flat[a][e], flat[b][e]).statistic for e in range(4)] for a, b in itertools.combinations(KINDS, 2)}
    mine = np.mean([r["mean", "closed"], r["blank", "closed"], r["swap", "closed"]], axis=0)
    others = np.mean([r["mean", "blank"], r["mean", "swap"], r["blank", "swap"]], axis=0)
    np.testing.assert_allclose(apart(under)["closed"], others - mine)
    two = Under({kind: under.attributions[kind] for kind in KINDS[:2]}, under.errors, {}, under.pictures)
    assert apart(two) == {} and differences(two).is_empty() and len(agreement(two)) == 1


def test_the_ceiling_is_what_noise_leaves() -> None:
    under = made(count=400, noise=0.8)
    row = agreement(under).row(0, named=True)
    assert row["ceiling"] == pytest.approx(row["r"], abs=0.03) and 0.5 < row["r"] < 0.75
    assert np.isnan(ceilings(np.zeros((1, *SHAPE)), np.zeros((1, *SHAPE)))).all()
    assert (ceilings(under.attributions["mean"], 100 * under.errors["mean"]) == 0).all()


def test_intervals_of_r_cover_its_mean_and_no_difference_is_seldom_told() -> None:
    truth = pair_correlations(made(count=20_000, noise=0.6, seed=1))["mean", "blank"].mean()  # a sample large enough to leave no doubt
    held = told = 0
    for seed in range(200):
        row = agreement(made(count=24, noise=0.6, seed=seed)).row(0, named=True)
        held += row["low"] <= truth <= row["high"]
        told += (differences(made(count=24, noise=0.6, seed=seed)).filter(measure="apart")["p_holm"] < 0.05).any()
    assert 0.90 <= held / 200 <= 0.99 and told / 200 <= 0.09


def test_heads_that_do_nothing_are_never_among_the_first() -> None:
    one = np.zeros(SHAPE)
    one[1, 2], one[0, 0] = 3.0, 1e-7
    assert largest(one, 3) == {6} and largest(np.zeros(SHAPE), 3) == set()
    other = one.copy()
    other[2, 2] = -1.0
    assert overlap(one, other, 3) == 0.5 and np.isnan(overlap(np.zeros(SHAPE), np.zeros(SHAPE), 3))
    assert overlap(one, np.full(SHAPE, np.nan), 3) != overlap(one, np.full(SHAPE, np.nan), 3)


def test_shares_have_wilsons_interval_and_one_picture_none() -> None:
    under = made()
    table = summarise(under)
    BASELINE_SUMMARY.check(table, "here")
    row = table.filter(measure="candidate", baseline="blank").row(0, named=True)
    found = stats.binomtest(int(under.measures["candidate"]["blank"].sum()), 20).proportion_ci(method="wilson")
    assert (row["low"], row["high"]) == pytest.approx((found.low, found.high)) and row["examples"] == row["pictures"] == 20
    alone = made(count=3, pictures=np.zeros(3, int), noise=0.1)
    assert agreement(alone)["low"].null_count() == 6 and differences(alone)["p"].null_count() == len(differences(alone)) > 0


def test_a_baseline_that_no_example_has_is_left_out() -> None:
    under = made(noise=0.2)
    under.attributions["mean"][:] = np.nan
    for found in under.measures.values():
        found["mean"][:] = np.nan
    assert under.kinds == ["blank", "swap", "closed"]
    assert set(head_means(under)["baseline"]) == set(summarise(under)["baseline"]) == {"blank", "swap", "closed"}
    assert len(agreement(under)) == 3 and len(differences(under).filter(measure="apart")) == 3
    nothing = Under({kind: np.full((2, *SHAPE), np.nan) for kind in KINDS}, {}, {}, np.arange(2))
    assert agreement(nothing).is_empty() and head_means(nothing).is_empty() and differences(nothing).is_empty()


def test_rounding_is_no_difference() -> None:
    under = made(noise=0.0)
    under.measures["total_effect"]["blank"][:] = under.measures["total_effect"]["mean"] + 1e-9 * np.arange(1, 21)
    row = differences(under).filter(measure="total_effect", baseline="mean", other="blank").row(0, named=True)
    assert row["p"] == 1 and row["difference"] == 0
    assert (differences(under).filter(measure="apart")["p"] == 1).all()
    alike = agreement(under)
    assert (alike["r"] > 1 - 1e-12).all() and (alike["low"] > 1 - 1e-6).all() and (alike["high"] <= 1 + 1e-12).all()


def test_means_by_picture() -> None:
    np.testing.assert_allclose(by_picture(np.array([1.0, 3.0, np.nan, 7.0, np.nan]), np.array([4, 4, 4, 2, 9])), [7.0, 2.0])
    assert by_picture(np.full(2, np.nan), np.arange(2)).shape == (0,)
