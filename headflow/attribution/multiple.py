"""Tests of paired differences, and several tests at once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; nan stays nan and counts as a test."""
    found = np.asarray(p_values, float)
    order = np.argsort(found)  # nan last
    scaled = found[order] * np.arange(len(found), 0, -1)
    adjusted = np.empty(len(found))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()


def paired_p(within: Float[np.ndarray, "pictures *tests"]) -> Float[np.ndarray, " *tests"]:
    """Two-sided p-values of Student's test that differences are zero on average; nan for fewer than two pictures, 1 where none differs.

    Where all are the same, Student's test knows no error, be they two or a thousand: the exact test of their signs (R. A. Fisher, *The Design of
    Experiments*, 1935, section 21) then says how little so many can tell, 2 / 2ⁿ.
    """
    from scipy.stats import t

    count = len(within)
    if count < 2:
        return np.full(within.shape[1:], np.nan)
    sizes, error = np.abs(within).max(0), within.std(0, ddof=1) / np.sqrt(count)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * t.sf(np.abs(within.mean(0)) / error, count - 1)
    return np.where(sizes < 1e-9, 1.0, np.where(np.ptp(within, 0) < 1e-12 * sizes, 2.0 ** (1 - count), p))
