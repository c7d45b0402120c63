"""Local differences: each is what really flipping that group, in that head alone, does to the head's output, times the gradient."""

import numpy as np
import pytest
import torch

import headflow
from headflow.ablation import run_masks
from headflow.components import Heads, ImageTokens
from headflow.datasets.planted import QUESTION as PLANTED_QUESTION
from headflow.datasets.planted import pattern
from headflow.errors import HeadflowError
from headflow.execution.runs import run_gradients
from headflow.execution.store import ResultStore
from headflow.gates import Gate
from headflow.local_differences import flips, token_effects
from headflow.models.baselines import blank_baseline, closed_baseline, mean_baseline, swap_baseline
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.targets import Target
from tests.families import FAMILIES
from tests.families import QUESTION as FAMILY_QUESTION
from tests.test_components import image_tokens

TARGET = Target("logit", 7)


def outputs(capture, bank, gates, added=None):
    """Every head's output, layer by layer ``[forwards, rows, heads, head_dim]``, as it goes into the projection; and the logits."""
    seen, lvlm = [], capture.lvlm
    layers = [lvlm.decoder.layers[layer] for layer in lvlm.image_layers or range(lvlm.decoder_layers)]

    def keep(module, args):
        seen.append(args[0].view(*args[0].shape[:2], lvlm.heads, -1))
        return None if added is None else (args[0] + added[len(seen) - 1].expand(args[0].shape), *args[1:])

    with prepared(capture):
        hooks = [(getattr(layer, "self_attn", None) or layer.cross_attn).o_proj.register_forward_pre_hook(keep) for layer in layers]
        try:
            logits = run_suffix(capture, bank, gates)
        finally:
            for hook in hooks:
                hook.remove()
    return seen, logits


def by_flipping(capture, components, corner, baseline):
    """[layers, heads, groups]: flip every group in every head by gates, one forward each, and look at that head's output."""
    lvlm, bank, groups = capture.lvlm, make_bank(capture, baseline), len(components.groups)
    cut = 1 - torch.from_numpy(corner).float()
    here = torch.ones(lvlm.layers, lvlm.heads) if components.heads is None else components.heads.float()

    rows, dim = capture.computed, capture.image_keys_values()[0][0].shape[-1]
    slopes = [torch.zeros(1, rows, lvlm.heads * dim) for _ in range(lvlm.layers)]
    # In the last layer the projection is run for the last row alone.
    slopes[-1] = slopes[-1][:, -1:] if (lvlm.image_layers or [lvlm.decoder_layers - 1])[-1] == lvlm.decoder_layers - 1 else slopes[-1]
    for slope in slopes:
        slope.requires_grad_(True)
    with torch.enable_grad():
        _, logits = outputs(capture, bank, [Gate(baseline.reads, heads=here[None], keys=cut @ components.groups.float())], slopes)
        gradients = torch.autograd.grad(TARGET(logits).sum(), slopes)

    effects = torch.zeros(lvlm.layers, lvlm.heads, groups)
    single = torch.eye(lvlm.layers * lvlm.heads).view(-1, lvlm.layers, lvlm.heads)
    for group in range(groups):
        found = []
        for amount in (0, 1):
            flipped = cut.clone()
            flipped[group] = amount
            gates = [
                Gate(baseline.reads, heads=(1 - single) * here, keys=cut @ components.groups.float()),
                Gate(baseline.reads, heads=single * here, keys=flipped @ components.groups.float()),
            ]
            with torch.no_grad():
                found.append(outputs(capture, bank, gates)[0])
        for layer, head in np.ndindex(lvlm.layers, lvlm.heads):
            at = layer * lvlm.heads + head
            change = found[0][layer][at, :, head] - found[1][layer][at, :, head]
            slope = gradients[layer].view(*gradients[layer].shape[:2], lvlm.heads, -1)[0, :, head]
            effects[layer, head, group] = (change * slope).sum()
    return effects.numpy()


def check(capture, components, baseline):
    corners = np.random.default_rng(0).random((3, len(components.groups))) < 0.5
    corners[2:] = True
    targets, found = token_effects(capture, corners, components=components, baseline=baseline, target=TARGET, batch_size=2, by_head=True)
    assert targets == pytest.approx(run_masks(capture, corners, baseline=baseline, target=TARGET, components=components), abs=1e-4)
    for corner, mine in zip(corners[[0, 2]], found[[0, 2]], strict=True):  # a random one and the intact one
        expected = by_flipping(capture, components, corner, baseline)
        assert np.abs(mine - expected).max() < 3e-5 * np.abs(expected).max()
        assert (np.abs(expected) > 1e-3 * np.abs(expected).max()).sum() > 2
    _, summed = token_effects(capture, corners, components=components, baseline=baseline, target=TARGET)
    np.testing.assert_allclose(summed, found.sum((1, 2)), atol=1e-5 * np.abs(summed).max())


@pytest.mark.parametrize("some_heads", [False, True])
@pytest.mark.parametrize("closed", [False, True])
def test_each_difference_is_that_of_a_real_flip(pair, closed, some_heads):
    capture, other = pair
    check(capture, image_tokens(capture, some_heads), closed_baseline() if closed else swap_baseline(other))


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    def take(name):
        lvlm = headflow.load(FAMILIES[name].build(tmp_path_factory.mktemp(name)))
        width, height = FAMILIES[name].size
        pictures = np.random.default_rng(1).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        return [lvlm.capture(picture, FAMILY_QUESTION) for picture in pictures]

    return take


@pytest.mark.parametrize("name", ["paligemma2", "mllama", "gemma3"])
def test_the_other_ways_to_read_a_picture(family, name):
    """A prompt that is read both ways, with capped scores; cross-attention; a sliding window beside full attention."""
    capture, other = family(name)
    check(capture, image_tokens(capture), closed_baseline() if name == "gemma3" else swap_baseline(other))


@pytest.fixture(scope="module")
def planted():
    def take(circuit, name="jade", seed=3):
        model = headflow.load(f"planted:{circuit}")
        drawn = pattern(name, "warm", np.random.default_rng(seed))
        capture = model.capture(drawn.image, PLANTED_QUESTION)
        inside = drawn.mask[4::8, 4::8].ravel()
        return capture, Target("logit", capture.first_token(name)), inside

    return take


def single_tokens(capture, heads=None):
    image, positions = capture.key_image, capture.key_positions
    groups = torch.zeros(image.stop - image.start, positions, dtype=torch.bool)
    groups[torch.arange(len(groups)), torch.arange(image.start, image.stop)] = True
    return ImageTokens(groups, heads)


def test_exact_where_later_layers_are_linear(planted):
    """Heads that add to the logit and do nothing else: the sum over heads is the whole difference of two masked runs."""
    capture, target, inside = planted("additive")
    components, baseline = single_tokens(capture), blank_baseline(capture)
    corners = np.random.default_rng(0).random((3, 36)) < 0.5
    _, found = token_effects(capture, corners, components=components, baseline=baseline, target=target)
    for corner, effects in zip(corners, found, strict=True):
        states = np.repeat(corner[None], 72, 0)
        states[np.arange(36), np.arange(36)], states[np.arange(36, 72), np.arange(36)] = True, False
        real, cut = run_masks(capture, states, baseline=baseline, target=target, components=components).reshape(2, 36)
        np.testing.assert_allclose(effects, real - cut, atol=2e-5)
        assert effects[~inside] == pytest.approx(0, abs=1e-5) and (effects[inside] > 0.5).all()


def test_heads_kept_apart_find_the_planted_readers(planted):
    capture, target, inside = planted("additive")
    _, effects = token_effects(capture, components=single_tokens(capture), target=target, by_head=True)
    per_head = effects[0][..., inside].sum(-1)
    expected = np.zeros_like(per_head)
    for layer, head, weight in ((1, 2, 3.0), (2, 0, 2.0), (2, 5, 1.5), (3, 3, 1.0), (4, 1, 0.5)):
        expected[layer, head] = weight
    np.testing.assert_allclose(per_head, expected, atol=1e-4)


def test_heads_that_are_not_chosen_have_no_part(planted):
    capture, target, _ = planted("additive")
    chosen = torch.zeros(5, 8, dtype=torch.bool)
    chosen[2] = True
    _, some = token_effects(capture, components=single_tokens(capture, chosen), target=target, by_head=True)
    _, everything = token_effects(capture, components=single_tokens(capture), target=target, by_head=True)
    np.testing.assert_allclose(some[0, 2], everything[0, 2], atol=1e-6)
    assert not some[0, [0, 1, 3, 4]].any()


def test_batches_and_threads_change_nothing(pair):
    capture, other = pair
    components, baseline = image_tokens(capture), mean_baseline([capture, other])
    corners = np.random.default_rng(2).random((7, len(components.groups))) < 0.5
    options = {"components": components, "baseline": baseline, "target": TARGET, "by_head": True}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        many = token_effects(capture, corners, batch_size=2, **options)
    finally:
        torch.set_num_threads(before)
    for mine, theirs in zip(token_effects(capture, corners, batch_size=7, **options), many, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * np.abs(theirs).max())


def test_a_group_that_holds_all_the_weight():
    """Written out in extended precision: 1 − (1 − 1e-12) is no way to find what is left."""
    random = np.random.default_rng(0)
    scores = torch.from_numpy(random.normal(size=(4, 9)).astype(np.float32))
    scores[:, 2] += 60  # the second group's real key
    scores[1] = -torch.inf  # a query to which everything is hidden
    scores[3, 5:] = -torch.inf
    worth = torch.from_numpy(random.normal(size=(4, 9)).astype(np.float32))
    places, picture = torch.tensor([0, 1, 1, 3]), slice(1, 5)  # 1 system token, 4 of the picture, the last in no group, 4 of the text; group 2 has none
    found = flips(scores, scores, worth, places, 3, None, picture).numpy()
    for row, group in np.ndindex(4, 3):
        weights = np.exp(scores[row].numpy().astype(np.longdouble))
        left = weights.copy()
        left[1:5][places.numpy() == group] = 0
        averages = [(w * worth[row].numpy()).sum() / w.sum() if w.sum() else 0 for w in (weights, left)]
        assert found[row, group] == pytest.approx(float(averages[0] - averages[1]), abs=1e-7)


def test_a_query_that_is_left_nothing_reads_nothing():
    scores, worth = torch.zeros(1, 2), torch.tensor([[3.0, 5.0]])
    assert flips(scores, scores, worth, torch.tensor([0, 0]), 1, None, slice(0, 2)).item() == pytest.approx(4)


def test_only_image_tokens_have_local_differences(captures):
    capture, _ = captures("mha")
    with pytest.raises(HeadflowError, match="components are Heads, expected ImageTokens"):
        token_effects(capture, components=Heads(capture.lvlm.layers, capture.lvlm.heads))
    with pytest.raises(HeadflowError, match=r"masks have shape \(1, 3\), expected \(masks, 9 groups\)"):
        token_effects(capture, np.ones((1, 3), bool), components=image_tokens(capture))


def test_the_store_keeps_differences_as_it_keeps_gradients(captures, tmp_path):
    capture, other = captures("gqa")
    components, baseline = image_tokens(capture), swap_baseline(other)
    corners = np.random.default_rng(4).random((10, len(components.groups))) < 0.5
    with ResultStore(tmp_path / "store.sqlite") as store:
        first = run_gradients(store, "one", corners, lambda: (capture, baseline, TARGET), components=components)
        again = run_gradients(store, "one", corners, lambda: pytest.fail("nothing is left to do"), components=components)
    expected = token_effects(capture, corners, components=components, baseline=baseline, target=TARGET)
    for stored, found, mine in zip(first, again, expected, strict=True):
        np.testing.assert_array_equal(stored, found)
        np.testing.assert_allclose(stored, mine, atol=1e-5 * np.abs(mine).max())
