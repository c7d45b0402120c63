"""Costs, plans and stopping early: what is run depends on the targets alone, and the error is what it was said to be."""

import numpy as np
import pytest

from headflow.attribution.adaptive import LOOK, looks, run_until_precise
from headflow.attribution.budget import GRADIENT_RUN, forwards, plan, relative_error
from headflow.attribution.masks import sample_corners, sample_masks
from headflow.attribution.regression import Attribution, fit
from headflow.errors import HeadflowError
from tests.attribution.games import HEADS, LAYERS, Game

SHAPE = LAYERS, HEADS


def test_costs_count_the_backward_pass():
    assert forwards(100, 0) == 100
    assert forwards(100, 10) == 100 + 10 * GRADIENT_RUN
    np.testing.assert_allclose(forwards(np.array([1, 2]), 2), [1 + 2 * GRADIENT_RUN, 2 + 2 * GRADIENT_RUN])


def test_relative_error_is_that_of_the_whole_vector():
    ones = np.ones((3, 2, 2))
    found = Attribution("ridge", ones * [[[2.0]], [[0.0]], [[0.0]]], ones * [[[0.5]], [[1.0]], [[0.0]]], *[np.zeros(3)] * 3)
    np.testing.assert_allclose(relative_error(found), [0.25, np.inf, 0.0])


def test_plans_cost_more_for_more_precision_and_less_with_gradients():
    for heads in (48, 1024):
        plans = [plan(heads, precision) for precision in (0.3, 0.1, 0.05, 0.02)]
        costs = [one.forwards for one in plans]
        assert costs == sorted(costs) and costs[0] < costs[-1]
        for one, precision in zip(plans, (0.3, 0.1, 0.05, 0.02), strict=True):
            assert one.relative_error <= precision * 1.001
            assert one.forwards == forwards(one.masks, one.corners)
            assert one.masks >= 4 and one.masks % 2 == 0 and one.corners % 2 == 0
            plain = plan(heads, precision, gradients=False)
            assert plain.estimator == "foldover" and plain.masks >= 2 * heads and one.forwards <= plain.forwards
    assert plan(1024, 0.1).estimator == "prior"


@pytest.mark.parametrize(("heads", "precision"), [(0, 0.1), (48, 0.0), (48, 1.0)])
def test_impossible_plans_are_refused(heads, precision):
    with pytest.raises(HeadflowError, match="a plan needs"):
        plan(heads, precision)


def test_looks_end_with_whole_records_and_grow_apart():
    assert looks(1000) == [32, 64, 128, 192, 256, 320, 448, 576, 768, 960, 1000]
    assert looks(64) == [32, 64] and looks(10) == [10]
    assert looks(2000)[:10] == looks(1000)[:10]
    assert all(count % LOOK == 0 for count in looks(5000)[1:-1])


def early(seed, precision, *, count=768, corners=8, asked=None, **options):
    game, masks = Game(seed, curved=0.5), sample_masks(*SHAPE, count, design="foldover_hadamard", seed=seed)
    gradients = game.gradients(sample_corners(*SHAPE, corners, seed=seed))

    def measure(upto):
        if asked is not None:
            asked.append(upto)
        return game(masks[:upto])

    values, error = run_until_precise(masks, measure, precision, gradients=gradients, **options)
    fitted = fit(masks[: len(values)], values, gradients=gradients)
    truth = game.exact("banzhaf")
    return len(values), error, float(np.linalg.norm(fitted.attribution_ - truth) / np.linalg.norm(truth)), fitted, truth


def test_an_example_stops_at_the_first_look_that_is_precise_enough():
    asked = []
    count, error, *_ = early(1, 0.03, asked=asked)
    assert asked == looks(768)[: len(asked)] and asked[-1] == count
    assert error < 0.03
    tighter, *_ = early(1, 0.012)
    assert tighter > count
    everything, error, *_ = early(1, 1e-6)
    assert everything == 768 and error > 1e-6
    later, *_ = early(1, 0.5, least=300)
    assert later == 320


def test_more_masks_to_choose_from_change_nothing_before_the_stop():
    assert early(2, 0.04)[:2] == early(2, 0.04, count=1200)[:2]


@pytest.mark.parametrize("precision", [0.06, 0.03])
def test_stopping_early_keeps_the_error_and_the_intervals_honest(precision):
    counts, errors, covered = [], [], []
    for seed in range(200):
        count, _, error, fitted, truth = early(seed, precision)
        low, high = fitted.interval()
        counts.append(count)
        errors.append(error)
        covered.append(((low <= truth) & (truth <= high)).mean())
    assert len(set(counts)) > 2  # examples differ in what they need
    stopped = np.array(counts) < 768
    assert np.sqrt(np.mean(np.square(np.array(errors)[stopped]))) < 1.1 * precision
    assert 0.90 <= np.mean(covered) <= 0.99
