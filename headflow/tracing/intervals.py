"""Means, ratios and differences over examples, with intervals that count pictures: several questions about one picture are no independent witnesses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headflow.analysis.permutations import Exchange
from headflow.seeds import generator

RESOLUTION = 1e-4
"""What counts as zero, as a share of the whole effect: a difference in the eighth digit of a logit is rounding, not a finding."""


@dataclass(frozen=True)
class Estimate:
    """Values with confidence limits and p-values against zero, all of one shape; limits and p are nan where there is one picture only."""

    value: Float[np.ndarray, "*shape"]
    low: Float[np.ndarray, "*shape"]
    high: Float[np.ndarray, "*shape"]
    p: Float[np.ndarray, "*shape"]


def numbered(pictures: Sequence[object]) -> Int[np.ndarray, "examples"]:
    """A number for each example's picture, 0 … pictures − 1."""
    return Exchange(list(pictures)).picture


def mean(values: Float[np.ndarray, "examples *rest"], pictures: Int[np.ndarray, "examples"], confidence: float, *, tests: int = 1) -> Estimate:
    """Mean over examples; standard error over pictures (cluster-robust), Student's t with pictures − 1 degrees of freedom.

    With one example a picture this is the ordinary interval of a mean (S.-Y. Liang and S. L. Zeger, *Longitudinal data analysis using
    generalized linear models*, Biometrika 73, 1986, for the sums within pictures).

    Args:
        values: nan where an example has none; such examples are left out, entry by entry.
        tests: how many such intervals shall hold together (Bonferroni).
    """
    known = np.isfinite(values)
    count = known.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.where(known, values, 0.0).sum(0) / count
        error = _error(np.where(known, values - centre, 0.0), known, pictures) / count
    return _estimate(centre, error, _pictures(known, pictures), confidence, tests)


def ratio(
    values: Float[np.ndarray, "examples *rest"], totals: Float[np.ndarray, "examples"], pictures: Int[np.ndarray, "examples"], confidence: float
) -> Estimate:
    """Mean of ``values`` over mean of ``totals``, by linearisation (the delta method); nan where the mean total cannot be told from zero.

    Examples in which a value is nan count in neither mean of that entry.
    """
    totals = totals.reshape(-1, *[1] * (values.ndim - 1))
    known = np.isfinite(values)
    count = known.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        below = np.where(known, totals, 0.0).sum(0) / count
        value = np.where(known, values, 0.0).sum(0) / count / below
        error = _error(np.where(known, values - value * totals, 0.0), known, pictures) / count / np.abs(below)
    whole = mean(np.where(known, totals, np.nan), pictures, confidence)
    told = np.isnan(whole.p) | (whole.low > 0) | (whole.high < 0)
    found = _estimate(value, error, _pictures(known, pictures), confidence, 1)
    parts = (np.where(told & (np.abs(below) > 0), part, np.nan) for part in (found.value, found.low, found.high, found.p))
    return Estimate(*parts)


def bootstrap(pictures: Int[np.ndarray, "examples"], draws: int, seed: int, stream: str) -> Float[np.ndarray, "draws examples"]:
    """Weights of the examples in ``draws`` resamples of whole pictures; each row adds up to 1."""
    times = Exchange(pictures.tolist()).resample(generator(seed, stream), draws).astype(float)
    return times / np.maximum(times.sum(1, keepdims=True), 1.0)


def percentiles(value: float, drawn: Float[np.ndarray, "draws"], confidence: float) -> Estimate:
    """Percentile interval of bootstrap draws, and the share of draws on the far side of zero, doubled, as p-value.

    Draws that are nan are left out; where more than a tenth are, nothing is said.
    """
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(known) < 0.9 * len(drawn) or not len(known):
        return Estimate(np.float64(value), *[np.float64(np.nan)] * 3)
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    beyond = min((known <= 0).sum(), (known >= 0).sum())
    return Estimate(np.float64(value), low, high, np.float64(min(1.0, 2 * (1 + beyond) / (1 + len(known)))))


def settled(p: Float[np.ndarray, "*shape"], value: Float[np.ndarray, "*shape"], total: float) -> Float[np.ndarray, "*shape"]:
    """p-values, 1 where the value is rounding beside the whole effect (:data:`RESOLUTION`)."""
    return np.where(np.isfinite(p) & (np.abs(value) <= RESOLUTION * abs(total)), 1.0, p)


def _error(rest: np.ndarray, known: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Root of the summed squares of each picture's sum, with the small-sample factor pictures / (pictures − 1)."""
    sums = np.zeros((int(pictures.max(initial=-1)) + 1, *rest.shape[1:]))
    np.add.at(sums, pictures, rest)
    groups = _pictures(known, pictures)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt((sums**2).sum(0) * np.where(groups > 1, groups / (groups - 1.0), np.nan))


def _pictures(known: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Pictures with a known value."""
    seen = np.zeros((int(pictures.max(initial=-1)) + 1, *known.shape[1:]), bool)
    np.logical_or.at(seen, pictures, known)
    return seen.sum(0)


def _estimate(value: np.ndarray, error: np.ndarray, groups: np.ndarray, confidence: float, tests: int) -> Estimate:
    from scipy.stats import t

    freedom = np.maximum(groups - 1.0, 1.0)
    reach = t.ppf(1 - (1 - confidence) / 2 / tests, freedom) * error
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.where(error > 0, 2 * t.sf(np.abs(value / error), freedom), np.where(value == 0, 1.0, 0.0))
    return Estimate(np.asarray(value), value - reach, value + reach, np.where(np.isnan(error), np.nan, p))
