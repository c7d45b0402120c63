"""Hadamard matrices: orthogonal at every order that can be built, and no order passed over."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headflow.attribution.hadamard import hadamard, order_at_least


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300))
def test_the_order_found_is_large_enough_and_its_matrix_orthogonal(least):
    order = order_at_least(least)
    matrix = hadamard(order).astype(int)
    assert order >= least
    assert np.isin(matrix, (-1, 1)).all()
    np.testing.assert_array_equal(matrix @ matrix.T, order * np.eye(order, dtype=int))


def test_orders_are_the_smallest_that_the_two_constructions_give():
    # 36, 52, 56, 76, 92, 100, 116 need other constructions (35, 51, 55, 75, 91, 99, 115 are no primes)
    expected = [1, 2, 4, 8, 12, 16, 20, 24, 32, 40, 44, 48, 60, 64, 68, 72, 80, 84, 88, 96, 104, 108, 120, 128]
    assert sorted({order_at_least(least) for least in range(1, 129)}) == expected


@pytest.mark.parametrize(("heads", "order"), [(48, 48), (1024, 1024), (1000, 1000), (784, 788), (144, 144), (145, 152)])
def test_orders_for_common_numbers_of_heads(heads, order):
    assert order_at_least(heads) == order


@pytest.mark.parametrize("order", [0, -4, 3, 6, 36, 52, 100])
def test_an_order_without_construction_is_refused(order):
    with pytest.raises(ValueError, match="no construction"):
        hadamard(order)
