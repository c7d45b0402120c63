"""Tests of paired differences."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from headflow.attribution.multiple import paired_p


def test_differences_that_are_all_the_same_are_told_by_their_signs() -> None:
    """Student's test would be certain of two pictures that fell alike."""
    assert paired_p(np.array([-0.5, -0.5])) == 0.5 and paired_p(np.full(10, 0.2)) == 2 / 2**10
    assert paired_p(np.zeros(5)) == 1.0 and np.isnan(paired_p(np.array([1.0])))
    within = np.random.default_rng(0).normal(0.3, 1.0, (12, 4))
    assert paired_p(within) == pytest.approx(ttest_1samp(within, 0.0).pvalue)
