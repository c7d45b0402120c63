"""Growth with the number of masks: sizes, halves that keep pairs, one estimator throughout."""

import numpy as np
import polars as pl
import pytest

from headflow.attribution import growth as module
from headflow.attribution.growth import growth, sizes
from headflow.attribution.masks import in_complementary_pairs, sample_masks
from headflow.attribution.regression import fit, goodness
from headflow.tables.ablations import GROWTH


@pytest.mark.parametrize(
    ("count", "expected"), [(256, [16, 32, 64, 128, 256]), (100, [16, 32, 64, 100]), (16, [16]), (17, [16, 17]), (8, [8]), (7, []), (4, [])]
)
def test_sizes_double_up_to_all_masks(count, expected):
    assert sizes(count) == expected


def noisy(masks, examples, noise, seed=0):
    truth = np.random.default_rng(1).normal(size=(examples, masks[0].size))
    return truth @ masks.reshape(len(masks), -1).T + noise * np.random.default_rng(seed).normal(size=(examples, len(masks)))


@pytest.mark.parametrize("design", ["bernoulli", "antithetic", "foldover_hadamard"])
def test_more_masks_fit_and_agree_better(design):
    masks, others = sample_masks(3, 4, 256, design=design), sample_masks(3, 4, 64, design="bernoulli", stream="held_out")
    frame = growth(["a", "b", "c"], masks, noisy(masks, 3, 1.0), (others, noisy(others, 3, 1.0, seed=5)))
    GROWTH.check(frame, "test")
    assert frame["masks"].to_list() == [16] * 3 + [32] * 3 + [64] * 3 + [128] * 3 + [256] * 3
    assert frame["id"].to_list() == ["a", "b", "c"] * 5
    means = frame.drop("id").group_by("masks", maintain_order=True).mean()
    assert means["held_out_r"][-1] > means["held_out_r"][0] + 0.02
    assert means["agreement_r"][-1] > 0.9
    unpaired = frame.filter(pl.col("agreement_r").is_null())["masks"].unique().to_list()
    assert unpaired == ([] if design == "bernoulli" else [16, 32])  # halves of 8 and 16 masks cannot tell 12 heads apart


def test_rows_are_the_fits_they_claim_to_be():
    masks, others = sample_masks(3, 4, 48, design="foldover_hadamard"), sample_masks(3, 4, 20, design="bernoulli")
    targets, held_out = noisy(masks, 2, 0.5), noisy(others, 2, 0.5)
    frame = growth(["a", "b"], masks, targets, (others, held_out))
    whole = fit(masks[:32], targets[:, :32], estimator="foldover")
    np.testing.assert_allclose(frame.filter(masks=32)["held_out_r"], goodness(held_out, whole.predict(others))[0])
    one, two = (fit(masks[part], targets[:, part], estimator="foldover").attribution_.reshape(2, -1) for part in (slice(0, 24), slice(24, 48)))
    np.testing.assert_allclose(frame.filter(masks=48)["agreement_r"], [np.corrcoef(a, b)[0, 1] for a, b in zip(one, two, strict=True)])


def test_halves_keep_complementary_pairs_and_the_estimator_stays(monkeypatch):
    calls = []

    def watched(masks, targets, **options):
        calls.append((len(masks), in_complementary_pairs(masks), options["estimator"]))
        return fit(masks, targets, **options)

    monkeypatch.setattr(module, "fit", watched)
    masks = sample_masks(3, 4, 54, design="foldover_hadamard")
    growth(["a"], masks, noisy(masks, 1, 0.5), (masks, noisy(masks, 1, 0.5)))
    assert calls == [(n, True, "foldover") for n in (16, 8, 8, 32, 16, 16, 54, 26, 26)]


def test_a_target_that_never_varies_gives_nulls():
    masks = sample_masks(3, 4, 32)
    frame = growth(["a"], masks, np.full((1, 32), 2.5), (masks, np.full((1, 32), 2.5)))
    assert frame["held_out_r"].to_list() == frame["agreement_r"].to_list() == [None, None]


def test_masks_of_single_heads_have_no_growth():
    masks = np.concatenate([np.ones((1, 3, 4), bool), sample_masks(3, 4, 12, design="single")])
    frame = growth(["a"], masks, noisy(masks, 1, 0.0), (masks, noisy(masks, 1, 0.0)))
    assert len(GROWTH.check(frame, "test")) == 0
