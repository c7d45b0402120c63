"""Masks of text tokens, and what the regression makes of games whose Banzhaf values are known."""

import numpy as np
import pytest

from headflow.attribution.masks import in_complementary_pairs
from headflow.attribution.regression import goodness
from headflow.errors import HeadflowError
from headflow.models.planted.games import banzhaf, coalitions
from headflow.tracing.text_masks import EXHAUSTIVE, attribute, plan


def game(masks: np.ndarray) -> np.ndarray:
    """Additive but for two pairs: tokens 0 and 1 stand in for each other, 2 and 3 need each other."""
    flat = masks.reshape(len(masks), -1).astype(float)
    return 3 * flat[:, -1] + 0.5 * flat[:, 4] + 2 * np.maximum(flat[:, 0], flat[:, 1]) - 4 * flat[:, 2] * flat[:, 3]


def slopes(masks: np.ndarray) -> np.ndarray:
    """The derivative of the game's multilinear extension."""
    flat = masks.reshape(len(masks), -1).astype(float)
    found = np.zeros_like(flat)
    found[:, -1], found[:, 4] = 3, 0.5
    found[:, 0], found[:, 1] = 2 * (1 - flat[:, 1]), 2 * (1 - flat[:, 0])
    found[:, 2], found[:, 3] = -4 * flat[:, 3], -4 * flat[:, 2]
    return found.reshape(masks.shape)


def test_few_tokens_are_cut_in_all_combinations() -> None:
    one = plan(1, 6)
    assert one.exhaustive and not len(one.corners) and one.masks[0].all() and not one.masks[1].any()
    assert one.masks[2:8].sum((1, 2)).tolist() == [5] * 6 and len({mask.tobytes() for mask in one.masks[one.fit]}) == 2**6
    traced = attribute(one, np.stack([game(one.masks), 2 * game(one.masks)]))
    worth = game(coalitions(6)[:, None])
    np.testing.assert_allclose(traced.fitted.attribution_[1, 0], 2 * banzhaf(worth))
    assert traced.fitted.estimator_ == EXHAUSTIVE and not traced.fitted.standard_error_.any()
    assert traced.alone[0, 0].tolist() == [0, 0, -4, -4, 0.5, 3] and (traced.intact[0], traced.ablated[0]) == (1.5, 0)


def test_each_combination_is_judged_by_a_fit_without_it() -> None:
    one = plan(2, 3)
    masks, targets = one.masks[one.fit], game(one.masks)[one.fit]
    design = np.column_stack([np.ones(len(masks)), masks.reshape(len(masks), -1)])
    left = [design[i] @ np.linalg.lstsq(np.delete(design, i, 0), np.delete(targets, i), rcond=None)[0] for i in range(len(masks))]
    r, r2 = goodness(targets[None], np.array(left)[None])
    fitted = attribute(one, game(one.masks)[None]).fitted
    assert fitted.held_out_r_ == pytest.approx(r) and fitted.held_out_r2_ == pytest.approx(r2) and 0.5 < r[0] < 1


@pytest.mark.parametrize("corners", [16, 0])
def test_many_tokens_are_found_by_regression(corners: int) -> None:
    one = plan(2, 12, corners=corners, count=192)
    assert not one.exhaustive and in_complementary_pairs(one.masks[one.fit]) and len(one.corners) == corners
    random = np.random.default_rng(0)
    targets = np.stack([game(one.masks), game(one.masks) + 0.01 * random.normal(size=len(one.masks))])
    gradients = np.stack([slopes(one.corners)] * 2) if corners else None
    fitted = attribute(one, targets, gradients).fitted
    truth = np.zeros(24)
    truth[[0, 1, 2, 3, 4, 23]] = 1, 1, -2, -2, 0.5, 3
    assert fitted.estimator_ == ("prior" if corners else "foldover")
    np.testing.assert_allclose(fitted.attribution_.reshape(2, -1), [truth] * 2, atol=0.12)
    low, high = fitted.interval(0.99)
    assert ((low.reshape(2, -1) <= truth) & (truth <= high.reshape(2, -1))).mean() > 0.9
    assert (fitted.held_out_r_ > 0.85).all()


def test_a_longer_run_extends_a_shorter_one() -> None:
    short, longer = plan(1, 20, count=64), plan(1, 20, count=96)
    assert np.array_equal(longer.masks[: len(short.masks)], short.masks) and np.array_equal(longer.corners, short.corners)
    assert longer.starts == short.starts == [0, 22, 46]
    assert not np.array_equal(plan(1, 20, seed=1).masks, plan(1, 20).masks)


def test_one_token_alone() -> None:
    one = plan(1, 1)
    traced = attribute(one, np.array([[5.0, 2.0, 2.0, 2.0, 5.0]]))
    assert traced.fitted.attribution_[0, 0, 0] == 3 and np.isnan(traced.fitted.held_out_r_[0])


def test_errors() -> None:
    with pytest.raises(HeadflowError, match="there is nothing to cut"):
        plan(1, 0)
    one = plan(1, 12)
    with pytest.raises(HeadflowError, match="example b: its target under fit mask 3"):
        targets = np.zeros((2, len(one.masks)))
        targets[1, one.fit.start + 3] = np.nan
        attribute(one, targets, np.zeros((2, 8, 1, 12)), names=["a", "b"])
