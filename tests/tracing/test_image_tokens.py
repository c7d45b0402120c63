"""Tracing of image tokens: exact where the truth is known, calibrated errors, and a search that finds what is small."""

import numpy as np
import pytest
import torch

import headflow
from headflow.ablation import run_masks
from headflow.components import ImageTokens
from headflow.datasets.planted import QUESTION, pattern
from headflow.local_differences import token_effects
from headflow.models.baselines import blank_baseline
from headflow.models.planted.games import coalitions, shapley
from headflow.targets import Target
from headflow.tracing import patches
from headflow.tracing.image_tables import split_agreement
from headflow.tracing.image_tokens import Effort, Runs, trace


def runs_of(value, tokens, bias=lambda differences: differences):
    """Runs of a game on masks over tokens; local differences are the true ones, bent by ``bias``."""

    def expand(groups, masks):
        return (masks.astype(float) @ groups) > 0.5

    def differences(groups, masks):
        whole = expand(groups, masks)
        rows = [value(row[None] | groups) - value(row[None] & ~groups) for row in whole]
        return value(whole), bias(np.stack(rows))

    return Runs(lambda groups, masks: value(expand(groups, masks)), differences)


LINE = np.stack([np.arange(12.0), np.zeros(12)], 1)


def saturating(masks):
    return 6 * np.tanh(masks @ np.r_[np.linspace(0.2, 1.5, 6), np.zeros(5), -0.4])


def true_values():
    return shapley(saturating(coalitions(12)))


@pytest.mark.parametrize("estimand", ["shapley", "banzhaf"])
def test_exact_where_tokens_add_up(estimand):
    weights = np.linspace(-1, 2, 12)
    traced = trace(runs_of(lambda masks: 3 + masks @ weights, 12), LINE, Effort(count=32, corners=8, estimand=estimand))
    np.testing.assert_allclose(traced.attribution, weights, atol=1e-6)
    assert traced.fitted.held_out_r_ == pytest.approx(1) and traced.intact - traced.ablated == pytest.approx(weights.sum())
    assert (traced.masks, traced.corners, traced.rounds) == (2 + 48 + 32, 8, [])


def test_redundant_tokens_share_the_whole_effect():
    traced = trace(runs_of(saturating, 12), LINE, Effort(count=64, corners=64))
    assert traced.attribution.sum() == pytest.approx(float(saturating(np.ones(12)) - saturating(np.zeros(12))))
    truth = true_values()
    assert np.corrcoef(traced.attribution, truth)[0, 1] > 0.97


def test_differences_that_overshoot_together_are_scaled():
    truth = true_values()
    for factor in (0.4, 1.8):
        traced = trace(runs_of(saturating, 12, lambda found, factor=factor: factor * found), LINE, Effort(count=64, corners=64))
        assert np.abs(traced.attribution - truth).max() < 0.25 * truth.max()


def test_intervals_hold_the_truth():
    """Over draws of masks and corners, with local differences that are wrong by up to a tenth in each token."""
    truth, wrong = true_values(), 1 + 0.1 * np.cos(np.arange(12))
    hits = []
    for seed in range(30):
        traced = trace(runs_of(saturating, 12, lambda found: found * wrong), LINE, Effort(count=64, corners=32, seed=seed))
        low, high = traced.interval(0.95)
        hits.append((low <= truth) & (truth <= high))
    assert np.mean(hits) > 0.9


SIDE = 24
GRID = np.stack([np.tile(np.arange(SIDE), SIDE), np.arange(SIDE).repeat(SIDE)], 1) + 0.5


@pytest.fixture(scope="module")
def picture():
    """576 tokens: an object of 21, five tokens of the background, one of them negative, a little of everything else, and some saturation."""
    random = np.random.default_rng(5)
    weights = random.normal(0, 0.003, len(GRID))
    weights[((GRID - [9, 15]) ** 2).sum(1) < 7] += random.uniform(0.2, 0.6, (((GRID - [9, 15]) ** 2).sum(1) < 7).sum())
    weights[[30, 115, 250, 540, 571]] += [0.8, 0.7, -0.8, 0.9, 0.6]

    def value(masks):
        return 12 * np.tanh((masks @ weights) / 12)

    bent = 0.7 + 0.3 * np.sin(np.arange(len(GRID)))
    runs = runs_of(value, len(GRID), lambda found: found * bent[: found.shape[1]])
    # Nearly additive: the mean slope over sets of all sizes.
    slope = value(np.ones(len(GRID))) / weights.sum()
    return runs, weights * slope


def error(found, truth):
    return np.sqrt(((found - truth) ** 2).sum() / (truth**2).sum())


def test_the_search_finds_what_an_even_grid_of_patches_cannot(picture):
    runs, truth = picture
    effort = Effort(alone=80, count=256, corners=64)
    traced = trace(runs, GRID, effort)
    even = trace(runs, GRID, effort, patches.first_partition(GRID, 80))
    assert traced.partition.max() == even.partition.max() == 79
    assert len(traced.rounds) == 3 and (traced.masks, traced.corners) == (even.masks, even.corners)
    assert error(traced.attribution, truth) < 0.3 < 0.7 < error(even.attribution, truth)
    strongest = np.argsort(-np.abs(truth))[:15]
    assert (traced.sizes[strongest] <= 2).all() and np.median(traced.sizes) > 8
    assert np.corrcoef(traced.attribution[strongest], truth[strongest])[0, 1] > 0.9


def test_a_patch_is_the_sum_of_its_parts_within_error(picture):
    traced = trace(picture[0], GRID, Effort(alone=80, count=256, corners=64))
    agreeing, checked = split_agreement(traced)
    assert checked > 20 and agreeing / checked > 0.85
    for before, after in zip(traced.rounds, traced.rounds[1:], strict=False):  # each round only halves
        assert all(len(set(before.partition[after.partition == patch])) == 1 for patch in range(after.partition.max() + 1))


def test_the_same_seed_gives_the_same(picture):
    one, two, other = (trace(picture[0], GRID, Effort(alone=40, count=64, corners=16, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.attribution, two.attribution) and not np.array_equal(one.attribution, other.attribution)


@pytest.mark.parametrize("circuit", ["additive", "chain"])
@pytest.mark.parametrize("alone", [36, 12])
def test_planted_circuits_give_the_tokens_of_the_object(circuit, alone):
    """Each of the nine patches of the object gives a ninth of the whole effect, the background nothing; also where there are too many tokens at once."""
    model = headflow.load(f"planted:{circuit}")
    drawn = pattern("oak", "cool", np.random.default_rng(2))
    capture = model.capture(drawn.image, QUESTION)
    inside = drawn.mask[4::8, 4::8].ravel()
    options = {"baseline": blank_baseline(capture), "target": Target("logit", capture.first_token("oak"))}

    def components(groups):
        keys = torch.zeros(len(groups), capture.key_positions, dtype=torch.bool)
        keys[:, capture.key_image] = torch.from_numpy(groups)
        return ImageTokens(keys)

    runs = Runs(
        lambda groups, masks: run_masks(capture, masks, components=components(groups), **options),
        lambda groups, masks: token_effects(capture, masks, components=components(groups), **options),
    )
    row, column = np.divmod(np.arange(36), 6)
    traced = trace(runs, np.stack([column, row], 1) * 8.0 + 4, Effort(alone=alone, count=32, corners=8, held_out=20))
    total = traced.intact - traced.ablated
    assert total > 1
    if alone == 36:
        np.testing.assert_allclose(traced.attribution, np.where(inside, total / 9, 0), atol=1e-3 * total)
        assert traced.fitted.held_out_r_ > 0.999
    else:
        assert traced.partition.max() < 12 and traced.attribution[inside].sum() == pytest.approx(total, rel=0.25)
        assert traced.attribution[inside].min() > traced.attribution[~inside].mean()


def test_a_regression_that_does_harm_is_left(picture):
    """Sharply saturated: a few dozen masks scatter so much that the regression on them predicts worse than the differences that it started from."""
    weights = np.r_[np.full(4, 3.0), np.full(8, 0.1)]
    runs = runs_of(lambda masks: 10 * np.tanh(masks @ weights) + 0.8 * np.sin(37 * (masks @ np.arange(12.0))), 12)
    found = [trace(runs, LINE, Effort(count=24, corners=32, seed=seed)) for seed in range(8)]
    assert {traced.fitted.estimator_ for traced in found} == {"differences", "prior"}
    for traced in found:
        assert traced.attribution.sum() == pytest.approx(traced.intact - traced.ablated, rel=1e-6)
        assert traced.fitted.held_out_r_ > 0.5 and (traced.error > 0).all()


def test_they_add_up_where_differences_point_the_other_way():
    """Differences of the wrong sign are no guide to scale; the whole effect is divided all the same."""
    weights = np.linspace(0.1, 1, 12)
    traced = trace(runs_of(lambda masks: np.tanh(masks @ weights), 12, lambda found: -found), LINE, Effort(count=32, corners=16))
    assert traced.attribution.sum() == pytest.approx(float(np.tanh(weights.sum())))
