"""Several tests at once."""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; nan stays nan and counts as a test."""
    found = np.asarray(p_values, float)
    order = np.argsort(found)  # nan last
    scaled = found[order] * np.arange(len(found), 0, -1)
    adjusted = np.empty(len(found))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()
