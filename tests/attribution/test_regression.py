"""Regression: against slow references, planted truth, closed forms; calibration of the standard errors; targets that cannot be fitted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import RidgeCV

from headflow.attribution import regression
from headflow.attribution.masks import sample_masks
from headflow.attribution.regression import correlations, fit, goodness, resolve_estimator
from headflow.attribution.ridge import PENALTIES
from headflow.errors import HeadflowError

LAYERS, HEADS = 3, 4
TOTAL = LAYERS * HEADS


def planted(seed, *, examples=1, share=1.0, pairs=0.0, triples=0.0, noise=0.0):
    """Attributions [examples, layers, heads] and the function masks -> targets that has them, with interactions of ±1-coded heads."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=(examples, TOTAL)) * (random.random((examples, TOTAL)) < share)
    kinds = [(2, pairs), (3, triples), (4, pairs)] * TOTAL
    sets = [(random.permutation(TOTAL)[:order], size * random.normal(size=examples)) for order, size in kinds]

    def targets(masks):
        signs = np.where(masks.reshape(len(masks), -1), 1.0, -1.0)
        values = 3.0 + truth @ signs.T / 2
        for members, weight in sets:
            values = values + weight[:, None] * signs[:, members].prod(1)
        return values + noise * random.normal(size=values.shape)

    return truth.reshape(examples, LAYERS, HEADS), targets


@pytest.mark.parametrize(
    ("design", "count"),
    [("foldover_hadamard", 24), ("foldover_hadamard", 30), ("foldover_hadamard", 48), ("foldover_hadamard", 101), ("antithetic", 36), ("antithetic", 101)],
)
def test_foldover_recovers_linear_truth_with_even_interactions_cancelled(design, count):
    truth, targets = planted(1, examples=3, pairs=0.5)
    masks = sample_masks(LAYERS, HEADS, count, design=design, seed=4)
    np.testing.assert_allclose(fit(masks, targets(masks), estimator="foldover").attribution_, truth, atol=1e-6)


def test_odd_interactions_are_not_cancelled():
    truth, targets = planted(1, triples=0.5)
    masks = sample_masks(LAYERS, HEADS, 24, design="foldover_hadamard")
    assert np.abs(fit(masks, targets(masks), estimator="foldover").attribution_ - truth).max() > 0.05


def test_foldover_is_the_closed_form_on_a_complete_design():
    _, targets = planted(2, examples=4, triples=0.3, noise=0.3)
    masks = sample_masks(LAYERS, HEADS, 24, design="foldover_hadamard", seed=1)  # order 12: as many pairs as heads
    values = targets(masks)
    result = fit(masks, values, estimator="foldover")
    signs = np.where(masks.reshape(24, -1), 1, -1)
    np.testing.assert_allclose(result.attribution_.reshape(4, -1), values @ signs / 12, atol=1e-6)
    np.testing.assert_allclose(result.predict(np.zeros((1, LAYERS, HEADS), bool))[:, 0], values.mean(1) - (values @ signs / 24).sum(1), atol=1e-6)


def test_ridge_and_its_intercept_recover_linear_truth():
    truth, targets = planted(3, examples=3)
    masks = sample_masks(LAYERS, HEADS, 40, design="bernoulli")
    result = fit(masks, targets(masks), estimator="ridge")
    np.testing.assert_allclose(result.attribution_, truth, atol=1e-6)
    np.testing.assert_allclose(result.intercept_, targets(np.zeros((1, LAYERS, HEADS), bool))[:, 0], atol=1e-6)


@pytest.mark.parametrize("count", [9, 13, 20, 60])  # fewer masks than heads, as many as unknowns, more
@pytest.mark.parametrize("estimator", ["ridge", "foldover"])
def test_ridge_equals_refitting_without_each_mask(count, estimator):
    _, targets = planted(5, examples=3, triples=0.2, noise=1.0)
    masks = sample_masks(LAYERS, HEADS, count if estimator == "ridge" else 2 * count, design="bernoulli" if estimator == "ridge" else "antithetic", seed=2)
    values = targets(masks)
    result = fit(masks, values, estimator=estimator)
    signs = np.where(masks.reshape(len(masks), -1), 1.0, -1.0)
    if estimator == "foldover":
        signs, values = signs[::2], (values[:, ::2] - values[:, 1::2]) / 2
    intercept = estimator == "ridge"
    centred = signs - signs.mean(0) if intercept else signs
    grid = PENALTIES * (centred**2).sum() / TOTAL
    left_out = np.zeros((len(grid), 3))
    for out in range(len(signs)):
        others = np.arange(len(signs)) != out
        slopes, constants = refit(signs[others], values[:, others], grid, intercept)
        left_out += (values[:, out] - slopes @ signs[out] - constants) ** 2
    for example, answers in enumerate(values):
        mine = np.argmin(np.abs(grid - result.penalty_[example]))
        assert left_out[mine, example] <= left_out[:, example].min() * (1 + 1e-5)
        slopes = refit(signs, answers[None], grid[[mine]], intercept)[0][0, 0]
        np.testing.assert_allclose(result.attribution_[example].ravel(), 2 * slopes, atol=1e-5)  # rounding of the normal equations
        library = RidgeCV(grid, fit_intercept=intercept).fit(signs, answers)
        np.testing.assert_allclose(result.attribution_[example].ravel(), 2 * library.coef_, atol=1e-6)


def refit(signs, values, grid, intercept):
    """Ridge by the normal equations: slopes [penalties, examples, heads] and constants [penalties, examples]."""
    means, middle = (signs.mean(0), values.mean(1)) if intercept else (np.zeros(signs.shape[1]), np.zeros(len(values)))
    centred = signs - means
    system = centred.T @ centred + grid[:, None, None] * np.eye(signs.shape[1])
    slopes = np.linalg.solve(system, centred.T @ (values - middle[:, None]).T).transpose(0, 2, 1)
    return slopes, middle - slopes @ means


def test_a_saturated_orthogonal_design_is_not_shrunk():
    # every penalty has the same leave-one-out error there; rounding must not choose
    _, targets = planted(6, examples=5, noise=0.5)
    masks = sample_masks(LAYERS, HEADS, 24, design="foldover_hadamard")
    result = fit(masks, targets(masks), estimator="foldover")
    assert (result.penalty_ < 1e-6).all()


def test_lasso_recovers_a_sparse_truth_from_few_masks():
    truth, targets = planted(7, examples=2, share=0.2, noise=0.01)
    masks = sample_masks(LAYERS, HEADS, 18, design="bernoulli", seed=1)
    result = fit(masks, targets(masks), standard_errors=False)
    assert result.estimator_ == "lasso"
    np.testing.assert_allclose(result.attribution_, truth, atol=0.1)
    spread = planted(7, examples=2, share=0.2, noise=0.01)[1](sample_masks(LAYERS, HEADS, 50, design="bernoulli", seed=9))
    assert (goodness(spread, result.predict(sample_masks(LAYERS, HEADS, 50, design="bernoulli", seed=9)))[0] > 0.99).all()


def test_single_masks_are_read_as_differences():
    _, targets = planted(8, examples=2, pairs=0.3)
    masks = np.concatenate([np.ones((1, LAYERS, HEADS), bool), sample_masks(LAYERS, HEADS, TOTAL, design="single")])
    values = targets(masks)
    result = fit(masks, values)
    assert result.estimator_ == "single"
    np.testing.assert_allclose(result.attribution_.reshape(2, -1), values[:, :1] - values[:, 1:])
    np.testing.assert_allclose(result.predict(masks), values)
    assert not result.standard_error_.any()
    for part in (masks[1:], masks[:-1]):
        with pytest.raises(HeadflowError, match="need the intact mask and one mask for each of the 12 heads"):
            fit(part, targets(part))


def test_auto_takes_the_estimator_that_suits_the_masks():
    def resolved(design, count):
        return resolve_estimator("auto", sample_masks(LAYERS, HEADS, count, design=design))

    assert resolved("bernoulli", 23) == resolved("antithetic", 22) == "lasso"
    assert resolved("bernoulli", 24) == "ridge"
    assert resolved("antithetic", 24) == resolved("foldover_hadamard", 25) == "foldover"
    assert resolved("single", 12) == "single"


@pytest.mark.parametrize(
    ("design", "estimator", "message"),
    [
        ("bernoulli", "foldover", "needs complementary pairs"),
        ("bernoulli", "ols", "must be one of auto, ridge, lasso, foldover"),
        ("single", "ridge", "plain differences only"),
    ],
)
def test_estimators_that_the_masks_cannot_serve_are_refused(design, estimator, message):
    masks = sample_masks(LAYERS, HEADS, 12, design=design)
    with pytest.raises(HeadflowError, match=message):
        fit(masks, np.arange(12.0), estimator=estimator)


CALIBRATED = [
    # design, estimator, masks, planted truth
    ("bernoulli", "ridge", 30, {"pairs": 0.1, "triples": 0.1, "noise": 0.3}),
    ("bernoulli", "ridge", 96, {"pairs": 0.1, "triples": 0.1, "noise": 0.3}),
    ("bernoulli", "ridge", 48, {"pairs": 0.3}),
    ("antithetic", "foldover", 60, {"pairs": 0.5, "triples": 0.1, "noise": 0.3}),
    ("foldover_hadamard", "foldover", 24, {"share": 0.2, "noise": 0.3}),
    ("foldover_hadamard", "foldover", 36, {"pairs": 0.5, "triples": 0.1, "noise": 0.3}),
    ("foldover_hadamard", "foldover", 96, {"pairs": 0.5, "triples": 0.1, "noise": 0.3}),
    ("foldover_hadamard", "foldover", 96, {"triples": 0.2}),
    ("bernoulli", "lasso", 20, {"share": 0.25, "noise": 0.3}),
]


@pytest.mark.parametrize(("design", "estimator", "count", "kind"), CALIBRATED)
def test_intervals_hold_the_truth_as_often_as_they_say(design, estimator, count, kind):
    covered, squares, errors = [], [], []
    for seed in range(200):
        truth, targets = planted(seed, **kind)
        masks = sample_masks(LAYERS, HEADS, count, design=design, seed=seed)
        result = fit(masks, targets(masks), estimator=estimator, seed=seed)
        low, high = result.interval(0.95)
        covered.append(((low <= truth) & (truth <= high)).mean())
        squares.append((result.standard_error_**2).mean())
        errors.append(((result.attribution_ - truth) ** 2).mean())
    assert 0.90 <= np.mean(covered) <= 0.99
    assert 0.8 < np.sqrt(np.mean(squares) / np.mean(errors)) < 1.6


def test_standard_errors_are_those_of_repeated_draws():
    # the same example under many draws of masks: the spread of its attributions is what the standard error claims
    truth, targets = planted(1, pairs=0.3, triples=0.1)
    draws = [sample_masks(LAYERS, HEADS, 72, design="foldover_hadamard", seed=seed) for seed in range(300)]
    fits = [fit(masks, targets(masks), estimator="foldover") for masks in draws]
    spread = np.std([f.attribution_ for f in fits], axis=0)
    claimed = np.sqrt(np.mean([f.standard_error_**2 for f in fits], axis=0))
    np.testing.assert_allclose(np.median(claimed / spread), 1, atol=0.1)
    assert np.abs(np.mean([f.attribution_ for f in fits], axis=0) - truth).max() < 0.03


@pytest.mark.parametrize(
    ("estimator", "design", "count"),
    [("ridge", "bernoulli", 40), ("foldover", "foldover_hadamard", 40), ("foldover", "antithetic", 24), ("lasso", "bernoulli", 20)],
)
def test_a_batch_of_examples_equals_one_by_one(estimator, design, count):
    _, targets = planted(9, examples=4, triples=0.2, noise=0.4)
    masks, others = (sample_masks(LAYERS, HEADS, n, design=d, seed=s) for n, d, s in ((count, design, 1), (30, "bernoulli", 2)))
    values, held_out = targets(masks), targets(others)
    batch = fit(masks, values, estimator=estimator, held_out=(others, held_out), seed=3)
    for example in range(4):
        alone = fit(masks, values[example], estimator=estimator, held_out=(others, held_out[example]), seed=3)
        assert alone.attribution_.shape == (LAYERS, HEADS)
        assert np.ndim(alone.intercept_) == 0
        for name in ("attribution_", "standard_error_", "intercept_", "penalty_", "degrees_of_freedom_", "held_out_r_", "held_out_r2_"):
            np.testing.assert_allclose(getattr(alone, name), getattr(batch, name)[example], atol=1e-9, err_msg=name)
        np.testing.assert_allclose(alone.predict(others), batch.predict(others)[example], atol=1e-9)
        np.testing.assert_allclose(alone.interval(0.9), np.array(batch.interval(0.9))[:, example], atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(1e-3, 1e4), shift=st.floats(-1e4, 1e4), estimator=st.sampled_from(("ridge", "foldover", "lasso")))
def test_attributions_scale_with_the_target_and_ignore_its_level(scale, shift, estimator):
    _, targets = planted(10, noise=0.5)
    masks = sample_masks(LAYERS, HEADS, 32, design="foldover_hadamard")
    values = targets(masks)[0]
    plain, changed = (fit(masks, v, estimator=estimator, standard_errors=estimator != "lasso") for v in (values, scale * values + shift))
    reach = 1e-3 if estimator == "lasso" else 1e-6
    np.testing.assert_allclose(changed.attribution_ / scale, plain.attribution_, atol=reach)
    np.testing.assert_allclose(changed.standard_error_ / scale, plain.standard_error_, atol=reach)


def test_the_seed_of_the_bootstrap_matters_and_repeats():
    _, targets = planted(11, noise=0.5)
    masks = sample_masks(LAYERS, HEADS, 20, design="bernoulli")
    values = targets(masks)
    one, same, other = (fit(masks, values, seed=seed).standard_error_ for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_complementary_pairs_stay_together_in_the_bootstrap():
    rows = regression._resampled(sample_masks(2, 3, 9, design="antithetic"), np.random.default_rng(0))
    np.testing.assert_array_equal(rows[1::2], rows[::2] + 1)
    assert (rows[::2] % 2 == 0).all()


@pytest.mark.parametrize(("estimator", "design"), [("ridge", "bernoulli"), ("foldover", "foldover_hadamard"), ("lasso", "bernoulli")])
@pytest.mark.parametrize("level", [0.0, 0.1, -1e6])
def test_a_target_that_never_varies_has_no_attribution_and_no_correlation(estimator, design, level):
    masks, others = sample_masks(LAYERS, HEADS, 26, design=design), sample_masks(LAYERS, HEADS, 10, design="bernoulli", seed=1)
    _, targets = planted(12)
    values = np.concatenate([np.full((1, 26), level), targets(masks)])
    held_out = np.concatenate([np.full((1, 10), level), targets(others)])
    result = fit(masks, values, estimator=estimator, held_out=(others, held_out))
    np.testing.assert_allclose(result.attribution_[0], 0, atol=1e-9 * max(abs(level), 1))
    np.testing.assert_allclose(result.standard_error_[0], 0, atol=1e-9 * max(abs(level), 1))
    np.testing.assert_allclose(result.intercept_[0], level)
    assert np.isnan(result.held_out_r_[0]) and np.isnan(result.held_out_r2_[0])
    assert result.held_out_r_[1] > 0.9
    assert np.isfinite(result.standard_error_).all()


def test_goodness_of_known_cases():
    actual = np.array([[1.0, 2, 3, 4]] * 5)
    predicted = np.array([[1.0, 2, 3, 4], [4, 3, 2, 1], [2, 2, 2, 2], [2, 4, 6, 8], [2.5, 2.5, 2.5, 2.5]])
    r, r2 = goodness(actual, predicted)
    np.testing.assert_allclose(r, [1, -1, 0, 1, 0])
    np.testing.assert_allclose(r2, [1, -3, -0.2, -5, 0])
    assert np.isnan(correlations(actual, predicted)).tolist() == [False, False, True, False, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_targets_that_are_not_finite_name_their_example(bad):
    masks = sample_masks(LAYERS, HEADS, 30)
    values = np.zeros((3, 30))
    values[1, 7] = bad
    with pytest.raises(HeadflowError, match=f"example cat-2: its target under fit mask 7 is {bad}"):
        fit(masks, values, names=["cat-1", "cat-2", "cat-3"])
    with pytest.raises(HeadflowError, match=f"example 1: its target under held-out mask 7 is {bad}"):
        fit(masks, np.zeros((3, 30)), held_out=(masks, values))


@pytest.mark.parametrize(
    ("masks", "targets", "message"),
    [
        (sample_masks(LAYERS, HEADS, 30), np.zeros((2, 29)), r"fit targets: expected \[examples, 30\] or \[30\], got \[2, 29\]"),
        (sample_masks(LAYERS, HEADS, 30).astype(float), np.zeros((2, 30)), "expected booleans"),
        (sample_masks(LAYERS, HEADS, 3), np.zeros(3), "3 fit masks: at least 4"),
        (np.zeros((30, LAYERS, HEADS), bool), np.arange(30.0), "all 30 fit masks are the same"),
    ],
)
def test_inputs_that_cannot_be_fitted_are_refused(masks, targets, message):
    with pytest.raises(HeadflowError, match=message):
        fit(masks, targets, estimator="auto" if len(masks) == 3 else "ridge")
