"""Tokens as components: their masks are the gates that they say, and their gradients the slopes of what is mixed."""

import numpy as np
import pytest
import torch

from headflow.ablation import gate_gradients, run_gates, run_masks
from headflow.components import Heads, ImageTokens, TextTokens
from headflow.errors import HeadflowError
from headflow.execution.runs import run_example, run_gradients
from headflow.execution.store import ResultStore
from headflow.gates import Gate
from headflow.models.baselines import swap_baseline
from headflow.targets import Target
from tests import reference
from tests.checkpoints import QUESTION

TARGET = Target("logit", 7)


def text_tokens(capture, heads: bool = False) -> TextTokens:
    """Two groups that leave out the first suffix token, in two windows of layers."""
    model, suffix = capture.lvlm, capture.suffix
    groups = torch.zeros(2, suffix, dtype=torch.bool)
    groups[0, 1 : suffix // 2], groups[1, suffix // 2 :] = True, True
    windows = torch.arange(model.layers)[None] // 2 == torch.arange(2)[:, None]
    chosen = torch.zeros(model.layers, model.heads, dtype=torch.bool)
    chosen[:, ::2] = True
    return TextTokens(groups, windows, chosen if heads else None)


def image_tokens(capture, heads: bool = False) -> ImageTokens:
    """Every image token of the first half alone, the rest together."""
    image, positions = capture.key_image, capture.key_positions
    half = (image.stop - image.start) // 2
    groups = torch.zeros(half + 1, positions, dtype=torch.bool)
    groups[torch.arange(half), image.start + torch.arange(half)] = True
    groups[half, image.start + half : image.stop] = True
    chosen = torch.zeros(capture.lvlm.layers, capture.lvlm.heads, dtype=torch.bool)
    chosen[1:, 1] = True
    return ImageTokens(groups, chosen if heads else None)


@pytest.mark.parametrize("some_heads", [False, True])
@pytest.mark.parametrize("make", [text_tokens, image_tokens])
def test_masks_equal_the_full_sequence_answer_key(pair, make, some_heads):
    capture, other = pair
    components, baseline = make(capture, some_heads), swap_baseline(other)
    masks = np.random.default_rng(0).random((5, *components.shape)) < 0.5
    masks[0], masks[1] = True, False
    found = run_masks(capture, masks, baseline=baseline, target=TARGET, components=components, batch_size=2)
    gates = components.gates(torch.from_numpy(masks).float(), "baseline")
    twins = tuple([part[:, capture.image] for part in parts] for parts in reference.keys_values(capture.lvlm, other.picture, QUESTION))
    expected = reference.logits(capture.lvlm, capture.picture, QUESTION, gates, baseline=twins, batch=5)[:, TARGET.token]
    assert found == pytest.approx(expected.numpy(), abs=2e-5 * float(capture.logits.abs().max()))
    assert len(set(np.round(found, 4))) > 2 and found[0] == pytest.approx(float(capture.logits[TARGET.token]), abs=1e-4)


def test_what_a_text_mask_cuts(captures):
    """Written out by hand: in its window, a group's tokens read no picture; nothing else changes."""
    capture, other = captures("mha")
    components, baseline = text_tokens(capture), swap_baseline(other)
    masks = np.ones((1, *components.shape), bool)
    masks[0, 1, 0] = False  # the first group, in the second window
    queries, layers = components.groups[0].float(), components.windows[1].float()
    by_hand = run_gates(capture, [Gate(queries=queries, layers=layers)], baseline=baseline, target=TARGET)
    assert run_masks(capture, masks, baseline=baseline, target=TARGET, components=components)[0] == pytest.approx(float(by_hand), abs=1e-5)


def test_gradients_are_slopes(captures):
    capture, other = captures("gqa")
    components, baseline = text_tokens(capture, heads=True), swap_baseline(other)
    corner = np.array([[[1, 0], [0, 1]]], bool)
    _, slopes = gate_gradients(capture, corner, baseline=baseline, target=TARGET, components=components)
    for place in np.ndindex(*components.shape):
        ends = np.repeat(corner.astype(np.float32), 2, 0)
        ends[(0, *place)], ends[(1, *place)] = 0.5 - 5e-3, 0.5 + 5e-3
        middle = corner.astype(np.float32)
        middle[(0, *place)] = 0.5
        low, high = run_masks(capture, ends, baseline=baseline, target=TARGET, components=components)
        _, at_middle = gate_gradients(capture, middle, baseline=baseline, target=TARGET, components=components)
        assert (high - low) / 1e-2 == pytest.approx(at_middle[(0, *place)], abs=3e-2 * float(np.abs(slopes).max()))


def test_gradients_of_closed_keys_are_refused(captures):
    capture, _ = captures("mha")
    components = image_tokens(capture)
    with pytest.raises(HeadflowError, match="derivative of a closed key's weight has no bound"):
        gate_gradients(capture, np.ones((1, *components.shape), bool), components=components)


def test_masks_of_another_shape_are_refused(captures):
    capture, _ = captures("mha")
    components = text_tokens(capture)
    with pytest.raises(HeadflowError, match=r"masks have shape \(3, 5\), expected \(masks, 2 windows, 2 groups\)"):
        run_masks(capture, np.ones((3, 5), bool), components=components)
    with pytest.raises(HeadflowError, match="must not be empty, nor have a member in common"):
        TextTokens(components.groups[[0, 0]], components.windows)
    with pytest.raises(HeadflowError, match="boolean"):
        ImageTokens(torch.ones(2, 9))


def test_the_store_keeps_components_apart(captures, tmp_path):
    """One context, masks of one shape: records of other components are never taken, those of the same are."""
    capture, other = captures("mha")
    prepare = lambda: (capture, swap_baseline(other), TARGET)  # noqa: E731
    all_heads, some = text_tokens(capture), text_tokens(capture, heads=True)
    masks = np.random.default_rng(1).random((6, *all_heads.shape)) < 0.5
    found = []
    with ResultStore(tmp_path / "store.sqlite") as store:
        for components in (all_heads, some, Heads(*all_heads.shape) if (capture.lvlm.layers, capture.lvlm.heads) == all_heads.shape else None, all_heads):
            if components is None:
                continue
            counts = []
            targets = run_example(store, "one", masks, prepare, components=components, done=lambda now, stored, counts=counts: counts.append((now, stored)))
            run_gradients(store, "one", masks[:2], prepare, components=components)
            found.append((targets, sum(now for now, _ in counts)))
    assert found[0][1] == 6 and found[1][1] == 6 and found[-1][1] == 0
    assert not np.allclose(found[0][0], found[1][0]) and np.array_equal(found[0][0], found[-1][0])


def test_the_store_tells_numbers_between_apart(captures, tmp_path):
    """Corners on the way from ablated to intact are no bits; each has its own record."""
    capture, other = captures("mha")
    shape = (capture.lvlm.layers, capture.lvlm.heads)
    with ResultStore(tmp_path / "store.sqlite") as store:
        ways = [run_gradients(store, "one", np.full((1, *shape), share, np.float32), lambda: (capture, swap_baseline(other), TARGET)) for share in (0.25, 0.75)]
    assert not np.allclose(ways[0][0], ways[1][0]) and not np.allclose(ways[0][1], ways[1][1])
