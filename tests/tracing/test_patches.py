"""Patches: neighbours go together, equal in size, and are halved where evenness is wrong."""

import numpy as np
import pytest

from headflow.errors import HeadflowError
from headflow.tracing.patches import first_partition, halves, known_centres, memberships, refined

SIDE = 16
GRID = np.stack([np.tile(np.arange(SIDE), SIDE), np.arange(SIDE).repeat(SIDE)], 1) + 0.5


def test_the_first_patches_are_squares_of_one_size():
    partition = first_partition(GRID, 16)
    assert np.bincount(partition).tolist() == [16] * 16
    for patch in range(16):
        assert np.ptp(GRID[partition == patch], axis=0).tolist() == [3, 3]
    assert memberships(partition).sum(0).tolist() == [1] * len(GRID)


def test_a_number_that_is_no_power_of_two():
    sizes = np.bincount(first_partition(GRID, 11))
    assert len(sizes) == 11 and sizes.sum() == len(GRID) and set(sizes) == {16, 32}
    assert len(np.bincount(first_partition(GRID[:5], 9))) == 5  # no more patches than tokens


def test_halves_are_cut_across_the_longer_side():
    wide = np.array([[x, y] for y in range(2) for x in range(5)], float)
    left, right = halves(np.arange(10), wide)
    assert wide[left, 0].max() <= wide[right, 0].min() and len(left) == len(right) == 5


def test_tokens_without_a_place_go_with_the_one_before():
    boxes = np.array([[np.nan] * 4, [0, 0, 2, 2], [np.nan] * 4, [2, 0, 4, 2]])
    assert known_centres(boxes, 4).tolist() == [[1, 1], [1, 1], [1, 1], [3, 1]]
    assert known_centres(np.full((3, 4), np.nan), 3)[:, 0].tolist() == known_centres(None, 3)[:, 0].tolist() == [0, 1, 2]


def test_signal_is_isolated():
    """One token that stands alone, a pair that cancels, and an even patch: the first two are taken apart, the last stays whole."""
    truth = np.zeros(SIDE * SIDE)
    truth[(GRID < 8).all(1)] = 0.3  # even over a quarter of the picture
    truth[12 * SIDE + 12], truth[3 * SIDE + 13], truth[3 * SIDE + 14] = 2, 1, -1
    noise = np.random.default_rng(0).normal(0, 0.02, (8, len(truth)))
    start = first_partition(GRID, 4)
    fine = refined(start, 24, GRID, truth + noise, np.zeros(4))
    sizes = np.bincount(fine)[fine]
    assert sizes[[12 * SIDE + 12, 3 * SIDE + 13, 3 * SIDE + 14]].tolist() == [1, 1, 1]
    assert (sizes[(GRID < 8).all(1)] == 64).all()
    merged = np.array([len(set(start[fine == patch])) for patch in range(fine.max() + 1)])
    assert (merged == 1).all()  # patches are parts of those before


def test_noise_alone_is_hardly_halved():
    random, more = np.random.default_rng(1), []
    for _ in range(20):
        noise = random.normal(0, 1, (16, len(GRID)))
        more.append(refined(first_partition(GRID, 4), 200, GRID, noise, np.zeros(4)).max() + 1)
    even = np.tile(np.arange(4.0), (16, 1))[:, first_partition(GRID, 4)]
    assert refined(first_partition(GRID, 4), 200, GRID, even, np.zeros(4)).max() == 3
    assert np.median(more) < 120


def test_what_differences_do_not_see_is_looked_for():
    partition, unseen = first_partition(GRID, 4), np.array([0.0, 4.0, 0.0, -1.0])
    fine = refined(partition, 12, GRID, np.zeros((4, len(GRID))), unseen)
    assert [len(set(fine[partition == patch])) for patch in range(4)] == [1, 9, 1, 1]


def test_nothing_to_divide():
    with pytest.raises(HeadflowError, match="0 image tokens in 4 patches"):
        first_partition(np.empty((0, 2)), 4)
