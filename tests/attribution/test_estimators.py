"""Gradients, the prior form and Shapley values: exact where they must be, right on average, with intervals that hold what they say."""

import numpy as np
import pytest

from headflow.attribution.gradients import mean_gradient, unsteadiness
from headflow.attribution.masks import sample_corners, sample_masks
from headflow.attribution.regression import fit
from headflow.attribution.ridge import orthogonal_ridge, ridge
from headflow.attribution.shapley import banzhaf_weights, size_shares
from headflow.errors import HeadflowError
from tests.attribution.games import HEADS, LAYERS, TOTAL, Game, Quality, Wide

SHAPE = LAYERS, HEADS


def estimate(game, *, design="foldover_hadamard", count=48, corners=0, estimator="auto", estimand="banzhaf", seed=0, reweighted=False):
    masks = sample_masks(*SHAPE, count, design=design, seed=seed)
    gradients = game.gradients(sample_corners(*SHAPE, corners, estimand=estimand, seed=seed)) if corners else None
    weights = banzhaf_weights(masks) if reweighted else None
    return fit(masks, game(masks), estimator=estimator, gradients=gradients, estimand=estimand, ends=game.ends, weights=weights)


def quality(kind, draws=200, **how) -> Quality:
    covered, claimed, off, sizes = [], [], [], []
    for seed in range(draws):
        game = Game(seed, **kind)
        truth = game.exact(how.get("estimand", "banzhaf"))
        found = estimate(game, seed=seed, **how)
        low, high = found.interval()
        covered.append(((low - 1e-9 <= truth) & (truth <= high + 1e-9)).mean())
        claimed.append((found.standard_error_**2).mean())
        off.append(found.attribution_ - truth)
        sizes.append((truth**2).mean())
    error = np.mean(np.square(off))
    return Quality(float(np.mean(covered)), float(np.sqrt(np.mean(claimed) / error)), np.mean(off, 0), float(np.sqrt(error / np.mean(sizes))))


LINEAR = {"products": 0.0}
CALIBRATED = [
    # kind, design, estimator, masks, corners, estimand
    ({}, "foldover_hadamard", "prior", 24, 8, "banzhaf"),
    ({}, "foldover_hadamard", "prior", 48, 8, "banzhaf"),
    ({"curved": 1.0}, "foldover_hadamard", "prior", 120, 8, "banzhaf"),
    ({"either": 1.0, "both": 1.0}, "foldover_hadamard", "prior", 96, 16, "banzhaf"),
    ({}, "bernoulli", "prior", 60, 8, "banzhaf"),
    ({}, "foldover_hadamard", "gradient", 48, 16, "banzhaf"),
    ({}, "kernel", "gradient", 120, 32, "shapley"),
    ({}, "kernel", "foldover", 120, 0, "shapley"),
    ({"curved": 1.0}, "kernel", "foldover", 120, 0, "shapley"),
    ({"curved": 1.0}, "kernel", "prior", 120, 16, "shapley"),
]


@pytest.mark.parametrize(("kind", "design", "estimator", "count", "corners", "estimand"), CALIBRATED)
def test_intervals_hold_the_truth_as_often_as_they_say(kind, design, estimator, count, corners, estimand):
    found = quality(kind, design=design, estimator=estimator, count=count, corners=corners, estimand=estimand)
    assert 0.90 <= found.covered <= (0.99 if estimator != "gradient" else 1.0)  # bias that masks merely cannot rule out makes these wider
    assert 0.8 < found.claimed < 1.6


WIDE = [
    # kind, design, estimator, masks (48 heads), corners, least coverage of the heads that carry
    ({}, "foldover_hadamard", "prior", 16, 8, 0.90),
    ({}, "foldover_hadamard", "prior", 48, 8, 0.90),
    ({}, "foldover_hadamard", "prior", 96, 8, 0.90),
    ({}, "foldover_hadamard", "prior", 192, 8, 0.90),
    ({}, "foldover_hadamard", "prior", 32, 2, 0.85),
    ({}, "foldover_hadamard", "prior", 192, 2, 0.90),
    ({"alternatives": 2, "weight": 3.0}, "foldover_hadamard", "prior", 48, 8, 0.90),
    ({"alternatives": 12}, "foldover_hadamard", "prior", 32, 8, 0.85),
    ({"alternatives": 12}, "foldover_hadamard", "prior", 192, 8, 0.90),
    ({}, "bernoulli", "prior", 32, 8, 0.90),
    ({}, "bernoulli", "prior", 192, 8, 0.90),
    ({}, "bernoulli", "ridge", 96, 0, 0.90),
    ({"carriers": 0.08}, "bernoulli", "ridge", 96, 0, 0.90),
    ({}, "bernoulli", "ridge", 192, 0, 0.90),
    ({}, "foldover_hadamard", "foldover", 144, 0, 0.90),
    ({}, "foldover_hadamard", "foldover", 192, 0, 0.90),
    ({"alternatives": 12}, "foldover_hadamard", "gradient", 96, 32, 0.85),
]


@pytest.mark.parametrize(("kind", "design", "estimator", "count", "corners", "least"), WIDE)
def test_intervals_of_many_heads_hold_the_truth_with_few_masks_and_with_many(kind, design, estimator, count, corners, least):
    """From a third of a mask a head to four; the heads that carry apart, as a shrunk estimate is wrong about them first."""
    covered, carrying, shape = [], [], (Wide.LAYERS, Wide.HEADS)
    for seed in range(200):
        game = Wide(seed, **kind)
        masks, truth = sample_masks(*shape, count, design=design, seed=seed), game.exact()
        gradients = game.gradients(sample_corners(*shape, corners, seed=seed)) if corners else None
        low, high = fit(masks, game(masks), estimator=estimator, gradients=gradients).interval()
        held = (low <= truth) & (truth <= high)
        covered.append(held.mean())
        carrying.append(held[np.abs(truth) > 0.3 * np.abs(truth).max()].mean())
    assert 0.90 <= np.mean(covered) <= (0.99 if estimator != "gradient" else 1.0)
    assert np.mean(carrying) >= least


def test_the_gradient_says_how_wrong_it_is_where_masks_show_it():
    """Many corners leave no sampling error, and only masks tell that the gradient is wrong about alternatives."""
    game, shape = Wide(0, products=0.0, alternatives=6), (Wide.LAYERS, Wide.HEADS)
    gradients = game.gradients(sample_corners(*shape, 256))
    masks = sample_masks(*shape, 192, design="foldover_hadamard")
    found = fit(masks, game(masks), estimator="gradient", gradients=gradients)
    np.testing.assert_allclose(found.attribution_, gradients.mean(0))
    wrong = np.abs(found.attribution_ - game.exact()) > 0.2
    assert wrong.sum() >= 10
    assert (found.standard_error_[wrong] > 0.1).all() and (mean_gradient(gradients[None])[1].reshape(shape)[wrong] < 0.05).all()


@pytest.mark.parametrize(
    ("design", "estimator", "count", "corners", "estimand"),
    [
        ("foldover_hadamard", "prior", 24, 2, "banzhaf"), ("foldover_hadamard", "prior", 8, 2, "banzhaf"), ("bernoulli", "prior", 12, 4, "banzhaf"),
        ("foldover_hadamard", "gradient", 4, 2, "banzhaf"), ("kernel", "foldover", 60, 0, "shapley"), ("kernel", "prior", 20, 2, "shapley"),
        ("kernel", "gradient", 4, 2, "shapley"),
    ],
)  # fmt: skip
def test_a_linear_function_is_recovered_exactly(design, estimator, count, corners, estimand):
    game = Game(3, **LINEAR)
    found = estimate(game, design=design, estimator=estimator, count=count, corners=corners, estimand=estimand)
    np.testing.assert_allclose(found.attribution_, game.linear.reshape(SHAPE), atol=1e-6)
    np.testing.assert_allclose(found.intercept_, 1.0, atol=1e-6)
    np.testing.assert_allclose(found.predict(sample_masks(*SHAPE, 5, design="bernoulli")), game(sample_masks(*SHAPE, 5, design="bernoulli")), atol=1e-6)


@pytest.mark.parametrize("estimand", ["banzhaf", "shapley"])
def test_estimates_are_those_of_exact_enumeration_on_average(estimand):
    # one function, many draws: the mean over draws is the exact value, for masks, for gradients and for both
    game, design = Game(1), "kernel" if estimand == "shapley" else "foldover_hadamard"
    truth = game.exact(estimand)
    for estimator, count, corners in (("foldover", 120, 0), ("prior", 120, 8), ("gradient", 4, 8)):
        draws = np.array(
            [estimate(game, design=design, estimator=estimator, count=count, corners=corners, estimand=estimand, seed=seed).attribution_ for seed in range(300)]
        )
        error_of_mean = draws.std(0, ddof=1) / np.sqrt(len(draws))
        assert np.abs(draws.mean(0) - truth).max() < 4.5 * error_of_mean.max() + 0.01 * np.abs(truth).max()


def test_shapley_values_add_up_to_the_total_effect_whatever_the_masks():
    game = Game(2, curved=1.0)
    for corners in (0, 4):
        for count in (8, 40):
            found = estimate(game, design="kernel", count=count, corners=corners, estimator="prior" if corners else "foldover", estimand="shapley")
            np.testing.assert_allclose(found.attribution_.sum(), game.ends[0] - game.ends[1], rtol=1e-9)


def test_banzhaf_values_come_from_the_runs_for_shapley_values_too():
    game = Game(5)
    masks = sample_masks(*SHAPE, 6000, design="kernel")
    both = {
        "shapley": fit(masks, game(masks), estimator="foldover", estimand="shapley", ends=game.ends),
        "banzhaf": fit(masks, game(masks), estimator="foldover", weights=banzhaf_weights(masks)),
    }
    gap = np.abs(game.exact("shapley") - game.exact("banzhaf")).max()
    for estimand, found in both.items():
        assert np.abs(found.attribution_ - game.exact(estimand)).max() < 0.2 * gap
    assert banzhaf_weights(masks).mean() == pytest.approx(1, abs=0.1)


def test_masks_at_another_probability_estimate_the_weighted_banzhaf_value():
    game, intact = Game(4), 0.8
    masks = sample_masks(*SHAPE, 40_000, design="bernoulli", ablation_probability=1 - intact)
    # by definition: mean gain of a head over sets of others that hold each with probability 0.8
    expected = np.empty(SHAPE)
    for head in np.ndindex(SHAPE):
        on, off = masks.copy(), masks.copy()
        on[:, *head], off[:, *head] = True, False
        expected[head] = (game(on) - game(off)).mean()
    found = fit(masks, game(masks), estimator="ridge", standard_errors=False).attribution_
    assert np.abs(found - expected).max() < 0.05
    assert np.abs(found - game.exact("banzhaf")).max() > 0.1


@pytest.mark.parametrize(("kind", "bias"), [({"either": 2.0}, 0.4), ({"both": 2.0}, 0.4), ({"curved": 1.0}, 0.06)])
def test_gradients_are_wrong_where_a_gate_saturates_and_the_prior_form_mends_it(kind, bias):
    kind = {"products": 0.0} | kind
    game = Game(0, **kind)
    # a side of the kink, as a network takes one: its gradient at a clipped sum is that of the inside
    corners = sample_corners(*SHAPE, 512)
    gradients = game.gradients(corners)
    heads = (0, 3) if "both" in kind else (0, 0)
    truth = game.exact("banzhaf")[heads[0] // HEADS, heads[1]]
    pulled = gradients.copy()
    if "both" in kind:
        pulled[:, 0, 3:5] = 2.0 * (corners[:, 0, 3] & corners[:, 0, 4])[:, None] + game.linear[3:5]
    elif "either" in kind:
        pulled[:, 0, :2] = 2.0 * (~corners[:, 0, 0] & ~corners[:, 0, 1])[:, None] + game.linear[:2]
    place = (heads[0] // HEADS, heads[1])
    alone = mean_gradient(pulled[None])[0].reshape(SHAPE)[place]
    masks = sample_masks(*SHAPE, 240, design="foldover_hadamard")
    mended = fit(masks, game(masks), estimator="prior", gradients=pulled).attribution_[place]
    assert abs(alone - truth) > bias
    assert abs(mended - truth) < 0.03


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_the_prior_form_tends_to_the_truth_whatever_the_prior(scale):
    game, truth = Game(6), Game(6).exact("banzhaf")
    wrong = scale * np.random.default_rng(0).normal(size=(16, *SHAPE))
    errors = []
    for count in (48, 384, 3072):
        masks = sample_masks(*SHAPE, count, design="antithetic")
        errors.append(np.abs(fit(masks, game(masks), estimator="prior", gradients=wrong).attribution_ - truth).max())
    assert errors[2] < 0.03 and errors[2] < errors[0] / 2


def test_a_good_prior_needs_fewer_masks():
    plain, helped = (quality({}, draws=60, count=24, estimator=estimator, corners=corners) for estimator, corners in (("foldover", 0), ("prior", 32)))
    assert helped.relative_error < 0.8 * plain.relative_error


def test_the_shortcut_for_orthogonal_designs_is_the_general_ridge():
    random = np.random.default_rng(0)
    for count in (24, 72):  # as many pairs as heads and more
        for still in (False, True):
            signs = np.where(sample_masks(3, 4, count, design="foldover_hadamard")[::2].reshape(count // 2, -1), 1.0, -1.0)
            targets = random.normal(size=(5, len(signs))) + signs[:, :3].sum(1)
            scales, doubt, least = random.uniform(0.2, 3, size=(5, 12)), random.uniform(0, 0.1, size=(5, 12)), random.uniform(0, 0.1, size=5)
            short = orthogonal_ridge(signs, targets, scales, True, doubt=doubt, least=least, still=still)
            for e in range(5):
                slopes, errors, penalty, freedom = ridge(
                    signs * scales[e], targets[[e]], 0, True, doubt=doubt[[e]] / scales[e] ** 2, least=least[[e]], still=still
                )  # fmt: skip
                np.testing.assert_allclose(short[0][e], slopes[0] * scales[e], atol=1e-9)
                np.testing.assert_allclose(short[2][e], penalty[0])
                np.testing.assert_allclose(short[3][e], freedom[0])
                if not still:
                    np.testing.assert_allclose(short[1][e], errors[0] * scales[e], rtol=0.15)


@pytest.mark.parametrize(("design", "count"), [("foldover_hadamard", 48), ("foldover_hadamard", 30), ("bernoulli", 40)])
def test_examples_are_fitted_alone_whatever_stands_beside_them(design, count):
    games = [Game(seed) for seed in range(4)]
    masks, corners = sample_masks(*SHAPE, count, design=design), sample_corners(*SHAPE, 8)
    targets, gradients = np.stack([game(masks) for game in games]), np.stack([game.gradients(corners) for game in games])
    batch = fit(masks, targets, gradients=gradients)
    assert batch.estimator_ == "prior"
    order = [2, 0, 3, 1]
    shuffled = fit(masks, targets[order], gradients=gradients[order])
    for name in ("attribution_", "standard_error_", "intercept_", "penalty_", "degrees_of_freedom_"):
        np.testing.assert_allclose(getattr(shuffled, name), getattr(batch, name)[order], atol=1e-10)
        np.testing.assert_allclose(getattr(fit(masks, targets[1], gradients=gradients[1]), name), getattr(batch, name)[1], atol=1e-10)


def test_the_mean_gradient_and_its_error_are_over_pairs():
    random = np.random.default_rng(0)
    gradients = random.normal(size=(2, 8, *SHAPE))
    effects, errors = mean_gradient(gradients)
    np.testing.assert_allclose(effects, gradients.reshape(2, 8, TOTAL).mean(1))
    pairs = gradients.reshape(2, 4, 2, TOTAL).mean(2)
    np.testing.assert_allclose(errors, pairs.std(1, ddof=1) / 2)
    assert np.isnan(mean_gradient(gradients[:, :2])[1]).all()
    with pytest.raises(HeadflowError, match="at least one pair"):
        mean_gradient(gradients[:, :1])


def test_heads_with_steady_gradients_are_pulled_harder_and_none_is_ruled_out():
    gradients = np.zeros((1, 8, *SHAPE))
    gradients[0, ::2, 0, 0] = 1.0
    scales = unsteadiness(gradients)[0]
    assert scales[0] / scales[1] == pytest.approx(21)
    assert (scales > 0).all() and (scales**2).mean() == pytest.approx(1)
    np.testing.assert_allclose(unsteadiness(np.ones((1, 8, *SHAPE))), 1.0)


def test_corners_come_in_pairs_and_extend():
    for estimand in ("banzhaf", "shapley"):
        corners = sample_corners(6, 8, 400, estimand=estimand, seed=3)
        np.testing.assert_array_equal(corners[::2], ~corners[1::2])
        np.testing.assert_array_equal(corners[:10], sample_corners(6, 8, 10, estimand=estimand, seed=3))
        assert not np.array_equal(corners, sample_corners(6, 8, 400, estimand=estimand, seed=4))
    shares = corners.mean((1, 2))  # every share of intact heads alike
    np.testing.assert_allclose(np.histogram(shares, 5, (0, 1))[0], 80, atol=14)


def test_kernel_masks_have_the_sizes_of_the_shapley_kernel():
    masks = sample_masks(6, 8, 20_000, design="kernel", seed=1)
    np.testing.assert_array_equal(masks[::2], ~masks[1::2])
    np.testing.assert_array_equal(masks[:300], sample_masks(6, 8, 300, design="kernel", seed=1))
    sizes = np.bincount(masks.sum((1, 2)), minlength=49) / len(masks)
    np.testing.assert_allclose(sizes, size_shares(48), atol=0.003)
    np.testing.assert_allclose(masks.mean(0), 0.5, atol=0.02)
    assert size_shares(4) * 11 == pytest.approx([0, 4, 3, 4, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "prior"}, "needs gradients; set masks.corners"),
        ({"estimator": "gradient"}, "needs gradients; set masks.corners"),
        ({"gradients": np.zeros((8, 2, 4))}, r"gradients: expected \[1 examples, corners, 2, 5\], got \[1, 8, 2, 4\]"),
        ({"gradients": np.full((8, *SHAPE), np.nan)}, "example cat: its gradient at corner 0 is not finite"),
        ({"estimand": "shapley"}, "needs `ends`"),
        ({"estimand": "shapley", "ends": (1.0, np.nan)}, "two finite targets"),
        ({"estimand": "owen"}, "must be one of banzhaf, shapley"),
        ({"estimand": "shapley", "ends": (1.0, 0.0), "estimator": "ridge"}, "estimator 'ridge' cannot give it"),
        ({"estimator": "ridge", "weights": np.ones(24)}, "takes none"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(options, message):
    masks = sample_masks(*SHAPE, 24, design="foldover_hadamard")
    with pytest.raises(HeadflowError, match=message):
        fit(masks, np.arange(24.0), names=["cat"], **options)
