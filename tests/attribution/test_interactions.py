"""Interactions: the sign of OR and AND, exactness against enumeration, no more false discoveries than stated, small memory for half a million pairs."""

import itertools

import numpy as np
import polars as pl
import pytest
from scipy import stats

from headflow.attribution.interactions import COMPENSATE, NEED, UNCLEAR, _least_squares, find_interactions, pair_scores, products
from headflow.attribution.masks import sample_masks
from headflow.attribution.regression import fit
from headflow.errors import HeadflowError
from headflow.tables.interactions import INTERACTION_FITS, INTERACTIONS

LAYERS, HEADS = 4, 4


def additive(flat, weights):
    return flat @ weights


def either(flat, a, b):
    return (flat[:, a] | flat[:, b]).astype(float)


def both(flat, a, b):
    return (flat[:, a] & flat[:, b]).astype(float)


def study(function, *, count=256, held=128, design="auto", seed=0, noise=0.0, examples=1, p=0.5, shape=(LAYERS, HEADS), **options):
    """Interactions of ``function(flat masks, example)`` from sampled masks."""
    random = np.random.default_rng(seed)
    masks = sample_masks(*shape, count, design=design, seed=seed, ablation_probability=p)
    others = sample_masks(*shape, held, design="bernoulli", seed=seed, stream="held_out", ablation_probability=p)
    shared = [random.normal(size=(examples, len(m))) for m in (masks, others)]
    targets, actual = (
        np.array([function(m.reshape(len(m), -1), example) for example in range(examples)]) + noise * e for m, e in zip((masks, others), shared, strict=True)
    )
    fitted = fit(masks, targets, standard_errors=False)
    return find_interactions(fitted, masks, targets, (others, actual), ablation_probability=p, **options)


WEIGHTS = np.random.default_rng(7).normal(size=LAYERS * HEADS)


@pytest.mark.parametrize("design", ["foldover_hadamard", "bernoulli", "antithetic"])
def test_either_of_two_compensates_and_both_of_two_need_each_other(design):
    found = study(lambda flat, _: additive(flat, WEIGHTS) + 2 * either(flat, 1, 9) + 3 * both(flat, 4, 14), design=design, noise=0.3)
    frame = INTERACTIONS.check(found.table(), "test").filter(pl.col("kind") != UNCLEAR)
    assert frame.select("layer", "head", "other_layer", "other_head", "kind").rows() == [(1, 0, 3, 2, NEED), (0, 1, 2, 1, COMPENSATE)]
    assert frame["effect"].to_list() == pytest.approx([3, -2], abs=0.5)
    assert (frame["low"] < frame["effect"]).all() and (frame["effect"] < frame["high"]).all()


def test_effects_of_a_function_of_pairs_alone_are_exact():
    found = study(lambda flat, _: additive(flat, WEIGHTS) + 2 * either(flat, 1, 9) + 3 * both(flat, 4, 14))
    np.testing.assert_array_equal(found.heads_[:2], [[4, 14], [1, 9]])
    np.testing.assert_allclose(found.effect_[:2], [3, -2], atol=1e-6)
    np.testing.assert_allclose(found.pairs_r_, 1, atol=1e-3)
    assert found.plain_r_[0] < 0.99


@pytest.mark.parametrize("p", [0.5, 0.25])
def test_an_effect_is_the_mean_second_difference_over_the_states_of_the_others(p):
    random = np.random.default_rng(3)
    table = random.normal(size=(2,) * 5)  # a function of five heads with interactions of every order
    table[1, 1] += 4.0

    def function(flat, _):
        return table[tuple(flat[:, :5].astype(int).T)]

    found = study(function, count=4096, held=4096, design="bernoulli", p=p, shape=(1, 6), most=40)
    states = np.array(list(itertools.product((0, 1), repeat=3)))
    chance = np.prod(np.where(states == 1, 1 - p, p), axis=1)
    for (i, j), effect, low, high in zip(found.heads_, found.effect_, found.low_, found.high_, strict=True):
        if max(i, j) > 4:
            expected = 0.0
        else:
            corner = np.moveaxis(table, (i, j), (0, 1)).reshape(2, 2, 8)
            expected = chance @ (corner[1, 1] - corner[1, 0] - corner[0, 1] + corner[0, 0])
        assert low - 0.5 * (high - low) <= expected <= high + 0.5 * (high - low), (i, j, expected, effect)
    assert found.heads_[0].tolist() == [0, 1] and found.kind_[0] == NEED


def test_scores_of_all_pairs_equal_one_by_one():
    random = np.random.default_rng(0)
    centred = (random.random((50, 7)) < 0.7) - 0.7
    centred[:, 6] = 0.3  # a head intact throughout
    response = random.normal(size=50)
    scores = pair_scores(centred, response)
    for i, j in itertools.combinations(range(7), 2):
        column = products(centred, np.array([[i, j]]))[:, 0]
        column = column - column.mean()
        expected = column @ (response - response.mean()) / np.linalg.norm(column) if np.ptp(column) > 1e-12 else 0.0
        assert scores[i, j] == pytest.approx(expected, abs=1e-9)


def test_without_pairs_false_discoveries_stay_at_the_stated_rate():
    """An additive function with noise: any discovery is false, and may be made under one seed in ten."""
    weights = WEIGHTS[:8]
    found = [study(lambda flat, _: additive(flat, weights), count=64, held=40, noise=0.5, seed=seed, level=0.1, shape=(2, 4)) for seed in range(100)]
    assert np.mean([some.found_.any() for some in found]) <= 0.1 + 2.6 * np.sqrt(0.1 * 0.9 / 100)  # 99 % of draws


def test_pairs_without_effect_are_found_at_the_stated_rate_whatever_is_chosen():
    """The second half by itself, with ten pairs of no effect always chosen and noise that depends on a head's state."""
    pairs = np.array(list(itertools.combinations(range(5), 2)))
    false, p_values = 0, []
    for seed in range(200):
        masks = sample_masks(2, 4, 80, design="bernoulli", seed=seed).reshape(80, 8)
        noise = np.random.default_rng(seed).normal(size=(3, 80)) * np.where(masks[:, 0], 2.0, 0.5)
        estimates, error, freedom = _least_squares(products(masks - 0.5, pairs), noise)
        p = 2 * stats.t.sf(np.abs(estimates.mean(0)) / error, freedom)
        p_values += p.tolist()
        false += bool((stats.false_discovery_control(p) <= 0.1).any())
    assert false / 200 <= 0.1 + 2.6 * np.sqrt(0.1 * 0.9 / 200)
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=0.2 * level + 0.005)


TRUE_PAIRS = {(1, 9): -1.5, (4, 14): 1.5}


@pytest.fixture(scope="module")
def with_pairs():
    """80 draws of two pairs and a term of third order, which the tests must not take for pairs."""

    def function(flat, _):
        signs = np.where(flat, 1.0, -1.0)
        return additive(flat, WEIGHTS) + 1.5 * either(flat, 1, 9) + 1.5 * both(flat, 4, 14) + 0.4 * signs[:, 2] * signs[:, 3] * signs[:, 8]

    return [study(function, count=96, held=64, noise=0.5, seed=seed, level=0.1) for seed in range(80)]


def test_beside_true_pairs_false_discoveries_stay_at_the_stated_rate(with_pairs):
    shares, hits = [], 0
    for found in with_pairs:
        pairs = {tuple(pair) for pair in found.heads_[found.found_].tolist()}
        shares.append(len(pairs - TRUE_PAIRS.keys()) / max(len(pairs), 1))
        hits += len(pairs & TRUE_PAIRS.keys())
    assert np.mean(shares) <= 0.1 + 2.6 * np.sqrt(0.1 * 0.9 / len(with_pairs))
    assert hits / (2 * len(with_pairs)) > 0.8


def test_intervals_cover_whatever_the_choice(with_pairs):
    """95 % intervals of every pair tested, chosen or not by luck, cover the truth in 90 to 99 % of cases."""
    covered = []
    for found in with_pairs:
        truth = np.array([TRUE_PAIRS.get(tuple(pair), 0.0) for pair in found.heads_.tolist()])
        covered += ((found.low_ <= truth) & (truth <= found.high_)).tolist()
    assert 0.90 <= np.mean(covered) <= 0.99


def test_what_is_found_is_judged_among_all_pairs_tested():
    """A draw in which two pairs have p below the level, and may not be called found."""

    def function(flat, _):
        return additive(flat, WEIGHTS) + 0.8 * (both(flat, 4, 14) + either(flat, 1, 9) + both(flat, 2, 8)) + 0.5 * both(flat, 3, 11)

    found = study(function, count=96, held=64, noise=0.5, seed=3)
    np.testing.assert_allclose(found.q_, stats.false_discovery_control(found.p_))
    assert ((found.p_ <= found.level) & ~found.found_).any()
    assert [kind == UNCLEAR for kind in found.kind_] == (found.q_ > found.level).tolist()


def test_a_sum_of_heads_has_no_pairs():
    found = study(lambda flat, _: additive(flat, WEIGHTS))
    assert len(found.table()) == 0 and found.metrics()["pairs_tested"] == 0
    assert found.metrics()["mean_held_out_r"] == pytest.approx(found.metrics()["mean_held_out_r_with_pairs"])


def test_pairs_improve_the_held_out_fit_of_every_example_that_has_them():
    def function(flat, example):
        return additive(flat, WEIGHTS) + (2 + example) * either(flat, 1, 9)

    found = study(function, examples=3, noise=0.1)
    assert (found.pairs_r_ > found.plain_r_).all()
    assert found.table()["same_sign"][0] == 1.0
    frame = INTERACTION_FITS.check(found.fits_table(["a", "b", "c"]), "test")
    assert frame["held_out_r_pairs"].to_list() == pytest.approx(found.pairs_r_.tolist())
    np.testing.assert_allclose(found.example_effect_[:, 0], [-2, -3, -4], atol=0.3)


def test_the_order_of_examples_does_not_matter():
    masks, others = sample_masks(4, 4, 128), sample_masks(4, 4, 64, design="bernoulli", stream="held_out")
    random = np.random.default_rng(0)
    shift = random.normal(size=5)
    targets, actual = (
        np.array([additive(flat, WEIGHTS) + (1 + s) * either(flat, 1, 9) for s in shift]) + 0.2 * random.normal(size=(5, len(flat)))
        for flat in (m.reshape(len(m), -1) for m in (masks, others))
    )
    order = random.permutation(5)
    one, two = (find_interactions(fit(masks, t), masks, t, (others, a)).table() for t, a in ((targets, actual), (targets[order], actual[order])))
    assert one.select("layer", "head", "other_layer", "other_head", "kind").equals(two.select("layer", "head", "other_layer", "other_head", "kind"))
    np.testing.assert_allclose(one["effect"], two["effect"])


def test_masks_of_single_heads_tell_of_no_pair():
    masks = np.concatenate([np.ones((1, 4, 4), bool), sample_masks(4, 4, 16, design="single")])
    others = sample_masks(4, 4, 40, design="bernoulli", stream="held_out")
    function = lambda m: either(m.reshape(len(m), -1), 1, 9)[None]  # noqa: E731
    found = find_interactions(fit(masks, function(masks)), masks, function(masks), (others, function(others)))
    assert len(found.table()) == 0 and found.metrics()["pairs_scored"] == 0


def test_masks_of_the_shapley_kernel_tell_of_no_pair():
    """Their sizes tie all products together: terms of fourth order would pass for pairs."""
    shape, random = (6, 8), np.random.default_rng(0)
    weights, fours = random.normal(size=48), [random.choice(48, 4, replace=False) for _ in range(40)]
    masks = sample_masks(*shape, 384, design="kernel", seed=0)
    others = sample_masks(*shape, 128, design="kernel", seed=0, stream="held_out")

    def targets(some):
        flat = some.reshape(len(some), -1)
        return (additive(flat, weights) + 0.3 * sum(np.where(flat[:, four], 1.0, -1.0).prod(1) for four in fours))[None]

    ends = targets(np.ones((1, *shape), bool))[:, 0], targets(np.zeros((1, *shape), bool))[:, 0]
    fitted = fit(masks, targets(masks), estimand="shapley", ends=ends)
    told = find_interactions(fitted, masks, targets(masks), (others, targets(others)), estimand="shapley")
    assert told.scored_ == 0 and not len(told.effect_)
    np.testing.assert_array_equal(told.pairs_r_, told.plain_r_)
    taken_for_bits = find_interactions(fitted, masks, targets(masks), (others, targets(others)))
    assert taken_for_bits.found_.any()  # the game has no pair at all


def test_too_few_held_out_masks_are_refused():
    with pytest.raises(HeadflowError, match="12 held-out masks"):
        study(lambda flat, _: additive(flat, WEIGHTS), held=12)


def test_half_a_million_pairs_fit_into_memory():
    """32 × 32 heads: one planted pair among 523,776 is found, without a design of all pairs (which alone would take 4 GB)."""
    import tracemalloc

    def function(flat, _):
        return flat @ np.linspace(-1, 1, 1024) + 8 * either(flat, 3, 1000)

    tracemalloc.start()
    found = study(function, count=2048, held=128, noise=0.1, shape=(32, 32), design="foldover_hadamard")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.scored_ == 1024 * 1023 // 2
    assert found.heads_[0].tolist() == [3, 1000] and found.kind_[0] == COMPENSATE
    assert peak < 1e9
