"""Mask designs: what each promises, that longer runs extend shorter ones, and what the mask table holds."""

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headflow import params
from headflow.attribution import masks as masks_module
from headflow.attribution import regression
from headflow.attribution.hadamard import order_at_least
from headflow.attribution.masks import (
    FIRST_CORNER,
    FIRST_FIT,
    FIRST_HELD_OUT,
    FIRST_SINGLE,
    in_complementary_pairs,
    mask_table,
    pack,
    resolve_design,
    sample_corners,
    sample_masks,
    unpack,
)
from headflow.errors import HeadflowError
from headflow.tables.ablations import MASKS

RANDOM_DESIGNS = ("bernoulli", "antithetic", "foldover_hadamard")
small = st.integers(1, 9)


@settings(max_examples=60, deadline=None)
@given(layers=small, heads=small, short=st.integers(1, 700), more=st.integers(0, 700), design=st.sampled_from(RANDOM_DESIGNS), seed=st.integers(0, 2**32 - 1))
def test_a_longer_run_extends_a_shorter_one(layers, heads, short, more, design, seed):
    one, two = (sample_masks(layers, heads, count, design=design, seed=seed) for count in (short, short + more))
    assert one.shape == (short, layers, heads)
    assert one.dtype == bool
    np.testing.assert_array_equal(two[:short], one)


@pytest.mark.parametrize("design", RANDOM_DESIGNS)
def test_masks_differ_between_seeds_streams_and_blocks(design):
    draw = lambda **options: sample_masks(4, 8, 1024, design=design, **options)  # noqa: E731
    masks = draw(seed=1)
    for other in (draw(seed=2), draw(seed=1, stream="held_out"), masks[512:]):
        assert 0.45 < (masks[: len(other)] != other).mean() < 0.55
    np.testing.assert_array_equal(masks, draw(seed=1))


@pytest.mark.parametrize(("layers", "heads"), [(6, 8), (3, 4), (5, 5), (2, 7), (1, 1)])
def test_every_foldover_block_is_orthogonal_and_balanced(layers, heads):
    total = layers * heads
    block = 2 * order_at_least(total)
    signs = np.where(sample_masks(layers, heads, 3 * block, design="foldover_hadamard", seed=7), 1, -1).reshape(3, block, total)
    for rows in signs:
        np.testing.assert_array_equal(rows.T @ rows, block * np.eye(total))
        np.testing.assert_array_equal(rows.sum(0), np.zeros(total))
    if total > 1:
        assert not np.array_equal(signs[0], signs[1])


@settings(max_examples=30, deadline=None)
@given(layers=small, heads=small, count=st.integers(2, 300), design=st.sampled_from(("antithetic", "foldover_hadamard")))
def test_complements_stand_next_to_each_other(layers, heads, count, design):
    masks = sample_masks(layers, heads, count, design=design)
    assert in_complementary_pairs(masks)
    np.testing.assert_array_equal(masks[0 : count // 2 * 2 : 2], ~masks[1::2])
    assert not in_complementary_pairs(np.concatenate([masks[:2], masks[:1], masks[:1]]))


@pytest.mark.parametrize("design", ["bernoulli", "antithetic"])
@pytest.mark.parametrize("probability", [0.05, 0.3, 0.5, 0.9])
def test_heads_are_ablated_with_the_probability_asked_for(design, probability):
    ablated = ~sample_masks(4, 8, 4000, design=design, ablation_probability=probability, seed=3)
    assert abs(ablated.mean() - probability) < 0.01
    assert np.abs(ablated.mean(0) - probability).max() < 0.04
    correlation = np.corrcoef(ablated.reshape(4000, 32).T.astype(float))
    assert np.abs(correlation - np.eye(32)).max() < 0.1


def test_antithetic_pairs_lean_against_each_other_at_any_probability():
    masks = sample_masks(4, 8, 4000, design="antithetic", ablation_probability=0.3, seed=3)
    both = (~masks[0::2] & ~masks[1::2]).mean()
    assert both == 0.0  # u < 0.3 and 1 - u < 0.3 never happen together; independent masks would give 0.09


def test_single_masks_ablate_one_head_each():
    masks = sample_masks(3, 4, 12, design="single")
    np.testing.assert_array_equal(~masks.reshape(12, 12), np.eye(12, dtype=bool))
    np.testing.assert_array_equal(sample_masks(3, 4, 5, design="single"), masks[:5])
    with pytest.raises(HeadflowError, match=r"masks.count = 13.*12 heads"):
        sample_masks(3, 4, 13, design="single")


def test_auto_changes_design_at_two_masks_a_head():
    assert resolve_design("auto", 6, 8, 95) == "bernoulli"
    assert resolve_design("auto", 6, 8, 96) == "foldover_hadamard"
    assert resolve_design("auto", 6, 8, 960, ablation_probability=0.2) == "bernoulli"
    assert resolve_design("antithetic", 6, 8, 960) == "antithetic"
    np.testing.assert_array_equal(sample_masks(6, 8, 96), sample_masks(6, 8, 96, design="foldover_hadamard"))
    np.testing.assert_array_equal(sample_masks(6, 8, 95), sample_masks(6, 8, 95, design="bernoulli"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 0}, "layers = 0"), ({"count": 0}, "count = 0"), ({"design": "sobol"}, "design = 'sobol'"),
        ({"ablation_probability": 1.0}, "ablation_probability = 1.0"),
        ({"design": "foldover_hadamard", "ablation_probability": 0.2}, "ablation_probability = 0.2"),
    ],
)  # fmt: skip
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(HeadflowError, match=message):
        sample_masks(**{"layers": 2, "heads": 3, "count": 8} | arguments)


@settings(max_examples=50, deadline=None)
@given(layers=small, heads=small, count=st.integers(1, 40), seed=st.integers(0, 1000))
def test_packing_and_unpacking_give_the_masks_back(layers, heads, count, seed):
    masks = np.random.default_rng(seed).random((count, layers, heads)) < 0.5
    np.testing.assert_array_equal(unpack(pack(masks), layers, heads), masks)


def test_the_first_bit_is_the_first_head_and_set_when_intact():
    masks = np.ones((1, 2, 8), bool)
    masks[0, 0, 0] = False
    assert pack(masks) == [b"\x7f\xff"]


def test_masks_of_another_model_are_refused():
    with pytest.raises(HeadflowError, match="mask 0 holds 6 bytes, 4 layers × 8 heads need 4"):
        unpack(pack(np.ones((2, 6, 8), bool)), 4, 8)


def test_the_table_holds_every_purpose_and_keeps_ids_when_it_grows():
    short, long = (mask_table(6, 8, design="bernoulli", count=count, held_out=held_out, seed=5) for count, held_out in ((64, 16), (200, 40)))
    MASKS.check(long, "test")
    counts = dict(long["purpose"].value_counts().iter_rows())
    assert counts == {"intact": 1, "ablated": 1, "single": 48, "held_out": 40, "fit": 200}
    assert long["mask"].n_unique() == len(long)
    assert short.equals(short.select("mask").join(long, on="mask", maintain_order="left"))
    rows = {purpose: unpack(part["bits"].to_list(), 6, 8) for (purpose,), part in long.group_by("purpose", maintain_order=True)}
    assert rows["intact"].all() and not rows["ablated"].any()
    np.testing.assert_array_equal(rows["fit"], sample_masks(6, 8, 200, design="bernoulli", seed=5))
    np.testing.assert_array_equal(rows["single"], sample_masks(6, 8, 48, design="single"))
    first = {purpose: long.filter(purpose=purpose)["mask"].min() for purpose in counts}
    assert first == {"intact": 0, "ablated": 1, "single": FIRST_SINGLE, "held_out": FIRST_HELD_OUT, "fit": FIRST_FIT}


def test_held_out_masks_are_bernoulli_and_share_nothing_with_fit_masks():
    table = mask_table(6, 8, design="bernoulli", count=256, held_out=256, ablation_probability=0.25)
    fit, held_out = (unpack(table.filter(purpose=purpose)["bits"].to_list(), 6, 8) for purpose in ("fit", "held_out"))
    assert abs((~held_out).mean() - 0.25) < 0.02
    assert abs((fit == held_out).mean() - (0.25**2 + 0.75**2)) < 0.02  # agreement of independent masks


def test_more_held_out_masks_than_their_numbers_are_refused():
    with pytest.raises(HeadflowError, match="1000001 held-out masks"):
        mask_table(1, 2, count=4, held_out=1_000_001)


def test_sampling_masks_imports_no_heavy_library():
    code = "import sys, headflow.attribution.masks as m; m.mask_table(6, 8); print(*{'torch', 'transformers', 'sklearn', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_the_params_offer_the_designs_and_estimators_that_there_are():
    assert set(get_args(params.Design)) == set(get_args(masks_module.Design))
    assert set(get_args(params.Estimator)) == set(get_args(regression.Estimator))


def test_corners_stand_at_the_end_under_ids_of_their_own_and_grow():
    short, long = (mask_table(6, 8, count=64, corners=corners, held_out=16, seed=5) for corners in (4, 12))
    MASKS.check(long, "test")
    corners = long.filter(purpose="corner")
    assert corners["mask"].to_list() == list(range(FIRST_CORNER, FIRST_CORNER + 12))
    assert long.tail(12).equals(corners)
    np.testing.assert_array_equal(unpack(corners["bits"].to_list(), 6, 8), sample_corners(6, 8, 12, seed=5))
    assert short.equals(short.select("mask").join(long, on="mask", maintain_order="left"))
    # with gradients an orthogonal design is taken from the first mask on
    fit = unpack(long.filter(purpose="fit")["bits"].to_list(), 6, 8)
    np.testing.assert_array_equal(fit, sample_masks(6, 8, 64, design="foldover_hadamard", seed=5))
    assert "corner" not in mask_table(6, 8, design="single", count=48, corners=8)["purpose"]


def test_masks_for_shapley_values_are_drawn_by_their_kernel_and_judged_there():
    table = mask_table(6, 8, estimand="shapley", count=64, corners=4, held_out=16, seed=5)
    rows = {purpose: unpack(table.filter(purpose=purpose)["bits"].to_list(), 6, 8) for purpose in ("fit", "held_out", "corner")}
    np.testing.assert_array_equal(rows["fit"], sample_masks(6, 8, 64, design="kernel", seed=5))
    np.testing.assert_array_equal(rows["held_out"], sample_masks(6, 8, 16, design="kernel", seed=5, stream="held_out"))
    np.testing.assert_array_equal(rows["corner"], sample_corners(6, 8, 4, estimand="shapley", seed=5))
    with pytest.raises(HeadflowError, match="Shapley values need the design 'kernel'"):
        mask_table(6, 8, design="bernoulli", estimand="shapley")
    with pytest.raises(HeadflowError, match=r"masks\.estimand = 'owen'"):
        sample_corners(6, 8, 4, estimand="owen")
    with pytest.raises(HeadflowError, match="at least two heads"):
        sample_masks(1, 1, 4, design="kernel")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"corners": 3}, "corners = 3: they come in pairs"),
        ({"estimand": "shapley", "design": "bernoulli"}, "Shapley values need the design 'kernel'"),
        ({"precision": 0.1, "design": "single"}, "design 'single' draws nothing"),
    ],
)
def test_params_that_do_not_go_together_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        params.MasksParams(**masks)
