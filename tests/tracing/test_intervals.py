"""Intervals over examples that count pictures: right on average, by simulation, and silent where there is nothing to say."""

import numpy as np
import pytest
from scipy import stats

from headflow.tracing.intervals import bootstrap, mean, numbered, percentiles, ratio, settled

RUNS = 600


def clustered(random: np.random.Generator, pictures: int = 14, most: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Examples of some pictures, one to ``most`` each, which share a part of their value; the true mean is 1."""
    sizes = random.integers(1, most + 1, pictures)
    picture = np.repeat(np.arange(pictures), sizes)
    return 1 + random.normal(size=pictures)[picture] + 0.5 * random.normal(size=len(picture)), picture


def test_one_example_a_picture_gives_the_ordinary_interval() -> None:
    values = np.random.default_rng(0).normal(1, 2, (12, 3))
    found = mean(values, np.arange(12), 0.9)
    low, high = stats.t.interval(0.9, 11, values.mean(0), stats.sem(values))
    np.testing.assert_allclose([found.value, found.low, found.high], [values.mean(0), low, high])
    np.testing.assert_allclose(found.p, stats.ttest_1samp(values, 0).pvalue)


def test_questions_about_one_picture_are_no_independent_witnesses() -> None:
    random, held, naive = np.random.default_rng(1), 0, 0
    for _ in range(RUNS):
        values, pictures = clustered(random)
        found, plain = mean(values, pictures, 0.9), mean(values, np.arange(len(values)), 0.9)
        held += found.low <= 1 <= found.high
        naive += plain.low <= 1 <= plain.high
    assert 0.86 < held / RUNS < 0.93 and naive / RUNS < 0.84


def test_shares_hold_their_level() -> None:
    random, held = np.random.default_rng(2), 0
    for _ in range(RUNS):
        totals = random.normal(10, 2, 16)
        values = 0.4 * totals + random.normal(0, 1, 16)
        found = ratio(values[:, None], totals, np.arange(16), 0.9)
        held += found.low[0] <= 0.4 <= found.high[0]
    assert 0.86 < held / RUNS < 0.94


def test_there_is_no_share_of_what_cannot_be_told_from_nothing() -> None:
    random = np.random.default_rng(3)
    found = ratio(random.normal(size=(10, 2)), random.normal(size=10), np.arange(10), 0.95)
    assert np.isnan(found.value).all() and np.isnan(found.low).all()


def test_examples_without_a_value_are_left_out_entry_by_entry() -> None:
    values = np.random.default_rng(4).normal(3, 1, (9, 2))
    values[:4, 1] = np.nan
    found = mean(values, np.arange(9), 0.95)
    assert found.value == pytest.approx([values[:, 0].mean(), values[4:, 1].mean()])
    assert found.high[1] == pytest.approx(stats.t.interval(0.95, 4, values[4:, 1].mean(), stats.sem(values[4:, 1]))[1])
    shares = ratio(values, np.arange(1.0, 10.0), np.arange(9), 0.95)
    assert shares.value[1] == pytest.approx(values[4:, 1].mean() / np.arange(5.0, 10.0).mean())


def test_one_picture_has_a_mean_and_no_interval() -> None:
    found = mean(np.array([1.0, 2.0]), np.zeros(2, int), 0.95)
    assert found.value == 1.5 and np.isnan([found.low, found.high, found.p]).all()


def test_several_intervals_together_are_wider() -> None:
    values = np.random.default_rng(5).normal(size=(10, 1))
    one, five = mean(values, np.arange(10), 0.95), mean(values, np.arange(10), 0.95, tests=5)
    assert five.high == pytest.approx(mean(values, np.arange(10), 0.99).high) and five.low < one.low


def test_bootstrap_draws_whole_pictures_and_depends_on_the_seed_alone() -> None:
    pictures = numbered(["a", "b", "a", "c"])
    weights = bootstrap(pictures, 500, 7, "test")
    assert pictures.tolist() == [0, 1, 0, 2] and np.array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_allclose(weights.sum(1), 1)
    assert np.array_equal(weights, bootstrap(pictures, 500, 7, "test")) and not np.array_equal(weights, bootstrap(pictures, 500, 8, "test"))


def test_percentiles() -> None:
    found = percentiles(0.5, np.arange(-9.0, 91.0) / 100, 0.9)
    assert found.p == pytest.approx(2 * 11 / 101) and found.low == pytest.approx(-0.0405) and found.high == pytest.approx(0.8505)
    few = percentiles(0.5, np.array([np.nan] * 2 + [1.0] * 8), 0.9)
    assert few.value == 0.5 and np.isnan(few.low)


def test_rounding_is_no_finding() -> None:
    assert settled(np.array([1e-9, 1e-9, np.nan]), np.array([1e-6, 1.0, 0.0]), 5.0)[:2].tolist() == [1.0, 1e-9]
