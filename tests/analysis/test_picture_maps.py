"""Maps of token values on the picture, against a sum pixel by pixel."""

import numpy as np
import pytest

from headflow.analysis.picture_maps import covered, shares, sparsity, to_pixels
from headflow.errors import HeadflowError

WIDTH, HEIGHT = 9, 7


def draw(seed: int, tokens: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Signed values and boxes of any size, overlapping, off the pixel grid; two tokens have none."""
    random = np.random.default_rng(seed)
    corners = np.sort(random.random((tokens, 2, 2)), axis=1) * (WIDTH, HEIGHT)
    boxes = corners.reshape(tokens, 4)
    boxes[[3, 7]] = np.nan
    return random.normal(size=tokens), boxes


def share_in_pixel(box: np.ndarray, x: int, y: int) -> float:
    """Share of a box that lies in one pixel."""
    left, top, right, bottom = box
    across, down = min(right, x + 1) - max(left, x), min(bottom, y + 1) - max(top, y)
    return max(across, 0) * max(down, 0) / ((right - left) * (bottom - top))


@pytest.mark.parametrize("seed", range(3))
def test_map_is_the_sum_pixel_by_pixel(seed):
    values, boxes = draw(seed)
    expected = np.zeros((HEIGHT, WIDTH))
    for value, box in zip(values, boxes, strict=True):
        if not np.isnan(box).any():
            for y in range(HEIGHT):
                for x in range(WIDTH):
                    expected[y, x] += value * share_in_pixel(box, x, y)
    found = to_pixels(values, boxes, (WIDTH, HEIGHT))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.sum() == pytest.approx(np.delete(values, [3, 7]).sum())


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_sums_pixel_by_pixel(seed):
    values, boxes = draw(seed)
    random = np.random.default_rng(100 + seed)
    main, *others = random.random((3, HEIGHT, WIDTH)) < 0.3
    sums, even = np.zeros(3), np.zeros(3)
    for value, box in zip(values, boxes, strict=True):
        if not np.isnan(box).any():
            for y in range(HEIGHT):
                for x in range(WIDTH):
                    part = 0 if main[y, x] else 1 if any(mask[y, x] for mask in others) else 2
                    sums[part] += abs(value) * share_in_pixel(box, x, y)
                    even[part] += share_in_pixel(box, x, y)
    found = shares(values, boxes, main, others)
    np.testing.assert_allclose([found.object, found.others, found.background], sums / sums.sum())
    np.testing.assert_allclose([found.even_object, found.even_others, found.even_background], even / even.sum())
    assert found.area_object == main.mean()
    assert found.area_object + found.area_others + found.area_background == pytest.approx(1)
    assert found.placed == pytest.approx(np.abs(np.delete(values, [3, 7])).sum() / np.abs(values).sum())


def test_covered_share_of_a_token_half_inside():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, :4] = True
    boxes = np.array([[3.0, 0, 5, 2], [0, 0, 4, 7], [4, 0, 9, 7], [3.5, 1, 4.5, 1.5], [np.nan] * 4])
    np.testing.assert_allclose(covered(boxes, mask), [0.5, 1, 0, 0.5, np.nan])


def test_whole_picture_and_tiles_are_summed():
    tiles = np.array([[x, y, x + 1.0, y + 1.0] for y in range(2) for x in range(2)])
    boxes = np.concatenate([[[0.0, 0, 2, 2]], tiles])
    np.testing.assert_allclose(to_pixels(np.array([4.0, 1, 2, 3, -4]), boxes, (2, 2)), [[2, 3], [4, -3]])


def test_nothing_to_divide_is_nan_and_not_a_crash():
    _, boxes = draw(0)
    nothing = shares(np.zeros(len(boxes)), boxes, np.ones((HEIGHT, WIDTH), bool), [])
    assert np.isnan(nothing.object)
    assert np.isnan(nothing.placed)
    assert nothing.even_object == pytest.approx(1)
    without = shares(np.ones(2), np.full((2, 4), np.nan), np.ones((HEIGHT, WIDTH), bool), [])
    assert np.isnan(without.even_object)
    assert without.placed == 0


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([1.0] * 10, 0.8, 8), ([-8.0, 1, 1], 0.8, 1), ([8.0, -1, 1, np.nan], 0.81, 2), ([0.0, 0, 0], 0.8, 0), ([], 0.8, 0), ([0.1] * 10, 0.3, 3),
        ([2.0, 1], 1.0, 2),
    ],
)  # fmt: skip
def test_sparsity_is_the_fewest_tokens(values, share, expected):
    assert sparsity(np.array(values), share) == expected


def test_mistakes_are_named():
    with pytest.raises(HeadflowError, match="3 token values cannot be put into 2 boxes"):
        to_pixels(np.ones(3), np.zeros((2, 4)), (WIDTH, HEIGHT))
    with pytest.raises(HeadflowError, match="differ in size"):
        shares(np.ones(1), np.array([[0.0, 0, 1, 1]]), np.ones((2, 2), bool), [np.ones((2, 3), bool)])
