"""Gradients of gates, the public functions over masks, and that batching and threads never change a result."""

import dataclasses
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headflow
from headflow.ablation import gate_gradients, run_gates, run_masks, stream_masks
from headflow.attention import NAME
from headflow.errors import HeadflowError
from headflow.gates import Gate, ablate_heads
from headflow.models.baselines import Baseline, blank_baseline, closed_baseline, swap_baseline
from headflow.models.loading import load
from headflow.targets import Target
from tests import reference
from tests.checkpoints import QUESTION
from tests.conftest import random_picture

SHAPE = (3, 4)


def corners(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *SHAPE)) < 0.5


def key_targets(capture, gates, baseline, target, batch=1) -> torch.Tensor:
    """The target by the answer key, in the precision of the model."""
    twins = (baseline.keys, baseline.values) if baseline.keys else None
    logits = reference.logits(capture.lvlm, capture.picture, QUESTION, gates, baseline=twins, batch=batch)
    if target.kind == "logit":
        return logits[:, target.token]
    return logits[:, target.token] - logits.logsumexp(-1)


def test_masks_by_the_public_function(pair):
    capture, other = pair
    baseline, target = swap_baseline(other), Target("logprob", 9)
    masks = corners(5)
    found = run_masks(capture, masks, baseline=baseline, target=target)
    expected = key_targets(capture, [ablate_heads(torch.from_numpy(masks))], baseline, target, batch=5)
    assert found.dtype == np.float32 and found.shape == (5,)
    assert reference.relative(torch.from_numpy(found), expected) < 1e-5


@pytest.mark.parametrize(
    "masks", [corners(4).astype(np.float64), corners(4).astype(np.int64), corners(4).astype(np.uint8), torch.from_numpy(corners(4))], ids=str
)
def test_masks_of_any_number_format(captures, masks):
    capture, _ = captures("mha")
    np.testing.assert_array_equal(run_masks(capture, masks), run_masks(capture, corners(4)))


def test_defaults_are_the_models_own_answer_and_a_grey_picture(captures):
    capture, _ = captures("mha")
    intact, ablated = run_masks(capture, np.stack([np.ones(SHAPE, bool), np.zeros(SHAPE, bool)]))
    assert intact == pytest.approx(float(capture.logits.max()), rel=1e-5)
    from PIL import Image

    grey = capture.lvlm.capture(Image.new("RGB", (32, 32), (128, 128, 128)), QUESTION)
    assert ablated == pytest.approx(float(grey.logits[int(capture.logits.argmax())]), rel=1e-4)


@pytest.mark.parametrize("masks", [np.ones((2, 3, 5), bool), np.ones((3, 4), bool), np.ones((2, 12), bool)])
def test_masks_of_the_wrong_shape_are_refused(captures, masks):
    with pytest.raises(HeadflowError, match="masks have shape"):
        run_masks(captures("mha")[0], masks)


def test_no_masks_give_no_targets(captures):
    assert run_masks(captures("mha")[0], np.ones((0, *SHAPE), bool)).shape == (0,)


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
def test_masks_outside_0_to_1_are_refused(captures, amount):
    masks = np.ones((1, *SHAPE))
    masks[0, 0, 0] = amount
    with pytest.raises(HeadflowError, match=r"values outside 0\.\.1"):
        run_masks(captures("mha")[0], masks)


# --- gradients


def finite_differences(f, at: torch.Tensor, step: float = 1e-2) -> torch.Tensor:
    """Central differences of fourth order; ``f`` takes many points at once.

    The norms of a model work in float32, so a smaller step would measure rounding.
    """
    moves = torch.eye(at.numel(), dtype=at.dtype).view(-1, *at.shape) * step
    values = f(torch.cat([at + steps * moves for steps in (-2, -1, 1, 2)])).view(4, *at.shape)
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


def double(captures, kind):
    capture, other = captures(kind, dtype="float64")
    return capture, swap_baseline(other), Target("logprob", int(capture.logits.argmax()))


def unchecked(**factors: torch.Tensor) -> Gate:
    """A gate whose amounts may leave 0..1 by a step: the answer key mixes linearly there too, though a Gate refuses them."""
    reads = factors.pop("reads", "baseline")
    gate = Gate(reads, **{name: torch.zeros_like(factor) for name, factor in factors.items()})
    for name, factor in factors.items():
        object.__setattr__(gate, name, factor)
    return gate


def test_gate_gradients_against_finite_differences(kind, captures):
    """At a corner, where ablation runs, and inside the cube; by the answer key in float64, which shares neither code nor method."""
    capture, baseline, target = double(captures, kind)
    masks = torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    masks[0] = masks[0].round()
    values, gradients = gate_gradients(capture, masks, baseline=baseline, target=target)
    assert gradients.shape == (2, *SHAPE)
    expected = key_targets(capture, [ablate_heads(masks)], baseline, target, batch=2)
    assert reference.relative(torch.from_numpy(values), expected) < 1e-5
    for point, gradient in zip(masks, gradients, strict=True):
        expected = finite_differences(lambda m: key_targets(capture, [unchecked(heads=1 - m)], baseline, target, batch=len(m)), point)
        assert reference.relative(torch.from_numpy(gradient), expected) < 1e-4


@pytest.mark.parametrize("factor", ["heads", "queries", "layers"])
@pytest.mark.parametrize("reads", ["baseline", "nothing"])
def test_autograd_through_run_gates(captures, factor, reads):
    capture, baseline, target = double(captures, "gqa")
    shape = {"heads": SHAPE, "queries": (capture.suffix,), "layers": (3,)}[factor]
    amounts = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    leaf = amounts.clone().requires_grad_(True)
    run_gates(capture, [Gate(reads, **{factor: leaf[None] if factor == "heads" else leaf})], baseline=baseline, target=target).sum().backward()

    def f(points: torch.Tensor) -> torch.Tensor:
        if factor == "layers":  # one amount a layer for all forwards: one by one
            return torch.cat([key_targets(capture, [unchecked(reads=reads, layers=point)], baseline, target) for point in points])
        return key_targets(capture, [unchecked(reads=reads, **{factor: points})], baseline, target, batch=len(points))

    assert leaf.grad is not None
    assert reference.relative(leaf.grad, finite_differences(f, amounts)) < 1e-4


def test_gradients_of_several_factors_at_once(captures):
    capture, baseline, target = double(captures, "mha")
    heads = torch.from_numpy(corners(1)[0]).double()
    queries = torch.linspace(0.1, 0.9, capture.suffix, dtype=torch.float64)
    leaves = [heads.clone().requires_grad_(True), queries.clone().requires_grad_(True)]
    run_gates(capture, [Gate(heads=leaves[0][None], queries=leaves[1])], baseline=baseline, target=target).backward()

    def f(h: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        batch = max(len(h), len(q))
        gate = unchecked(heads=h.expand(batch, -1, -1), queries=q.expand(batch, -1))
        return key_targets(capture, [gate], baseline, target, batch=batch)

    assert reference.relative(leaves[0].grad, finite_differences(lambda h: f(h, queries[None]), heads)) < 1e-4
    assert reference.relative(leaves[1].grad, finite_differences(lambda q: f(heads[None], q), queries)) < 1e-4


def test_gradient_is_the_exact_difference_where_the_target_is_linear(checkpoints):
    """Without the last MLP and the last norm the logits are linear in the last layer's gates: no step size, no rounding to argue about."""
    model = load(checkpoints("gqa"), device_map="cpu")
    model.decoder.norm = torch.nn.Identity()
    model.decoder.layers[-1].mlp.down_proj.weight.data.zero_()
    capture, other = (model.capture(random_picture(seed), QUESTION) for seed in (1, 2))
    baseline, target = swap_baseline(other), Target("logit", 7)
    masks = corners(1).astype(np.float32)
    _, gradients = gate_gradients(capture, masks, baseline=baseline, target=target)
    for head in range(4):
        ends = np.repeat(masks, 2, 0)
        ends[:, -1, head] = [0, 1]
        off, on = run_masks(capture, ends, baseline=baseline, target=target)
        assert gradients[0, -1, head] == pytest.approx(on - off, rel=1e-3, abs=2e-5)
    assert np.abs(gradients[0, -1]).max() > 1e-2


def test_gradients_agree_with_the_masked_runs_and_do_not_depend_on_the_batch(captures):
    capture, other = captures("gqa")
    baseline, masks = swap_baseline(other), corners(7)
    values, gradients = gate_gradients(capture, masks, baseline=baseline)
    np.testing.assert_allclose(values, run_masks(capture, masks, baseline=baseline), rtol=1e-4, atol=1e-5)
    alone = gate_gradients(capture, masks, baseline=baseline, batch_size=2)
    np.testing.assert_allclose(alone[0], values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(alone[1], gradients, rtol=1e-3, atol=1e-4)


def test_run_gates_leaves_the_weights_without_gradients(captures):
    capture, other = captures("mha")
    leaf = torch.full((1, *SHAPE), 0.5, requires_grad=True)
    run_gates(capture, [Gate(heads=leaf)], baseline=swap_baseline(other)).sum().backward()
    assert leaf.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in capture.lvlm.model.parameters())


def test_a_gate_on_the_baseline_needs_one(captures):
    capture, _ = captures("mha")
    with pytest.raises(HeadflowError, match="reads='nothing'"):
        run_gates(capture, [Gate()], baseline=closed_baseline())


def test_a_baseline_for_other_positions_is_refused(captures):
    capture, other = captures("mha")
    elsewhere = dataclasses.replace(other, position_ids=other.position_ids + 1)
    shifted = Baseline("swap", swap_baseline(other).keys, swap_baseline(other).values, layout=elsewhere.layout())
    with pytest.raises(HeadflowError, match="image positions"):
        run_masks(capture, corners(1), baseline=shifted)


# --- batching


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 40), batch=st.integers(1, 48), threads=st.integers(1, 4))
def test_batch_size_and_threads_never_change_a_result(captures, count, batch, threads):
    capture, other = captures("gqa")
    baseline, masks = swap_baseline(other), corners(40)[:count]
    alone = run_masks(capture, corners(40), baseline=baseline, batch_size=40)[:count]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = run_masks(capture, masks, baseline=baseline, batch_size=batch)
        assert torch.get_num_threads() == threads
        np.testing.assert_array_equal(found, run_masks(capture, masks, baseline=baseline, batch_size=batch))
    finally:
        torch.set_num_threads(before)
    scale = np.abs(alone).max()
    np.testing.assert_allclose(found / scale, alone / scale, rtol=0, atol=1e-5)


def test_the_automatic_batch_gives_the_same_numbers_twice(pair):
    capture, other = pair
    masks = corners(300)
    first = run_masks(capture, masks, baseline=swap_baseline(other))
    np.testing.assert_array_equal(first, run_masks(capture, masks, baseline=swap_baseline(other)))
    assert len(np.unique(first)) > 250


def test_many_image_tokens_in_batches(captures):
    """The grouped path pads heads to the largest group, so its batches differ in shape: results still must not."""
    capture, other = captures("gqa", image_size=104)
    baseline, masks = swap_baseline(other), corners(20)
    whole = run_masks(capture, masks, baseline=baseline, batch_size=20)
    for batch in (1, 3, 7):
        np.testing.assert_allclose(run_masks(capture, masks, baseline=baseline, batch_size=batch), whole, rtol=0, atol=1e-5 * np.abs(whole).max())


def test_stream_covers_every_mask_once_and_in_order(captures):
    capture, _ = captures("mha")
    spans = [(start, stop) for start, stop, values in stream_masks(capture, corners(11), batch_size=4) if len(values) == stop - start]
    assert spans == [(0, 4), (4, 8), (8, 11)]


# --- the model is left as it was


def hooks(model) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("use", ["run_masks", "stream_masks, half read", "gate_gradients", "run_gates", "capture"])
def test_an_error_leaves_the_model_as_it_was(captures, monkeypatch, use):
    capture, other = captures("mha")
    model = capture.lvlm
    before, threads = (model.decoder.config._attn_implementation, hooks(model.model)), torch.get_num_threads()
    baseline = swap_baseline(other)

    class Stop(Exception):
        pass

    def target(logits):
        raise Stop

    if use == "stream_masks, half read":
        stream = stream_masks(capture, corners(20), baseline=baseline, batch_size=2)
        next(stream)
        assert model.decoder.config._attn_implementation == NAME
        stream.close()
    elif use == "capture":
        monkeypatch.setattr(type(model.model.lm_head), "forward", lambda *args: target(None))
        with pytest.raises(Stop):
            model.capture(capture.picture, QUESTION)
        monkeypatch.undo()
    else:
        with pytest.raises(Stop):
            if use == "run_gates":
                run_gates(capture, [Gate()], baseline=baseline, target=target)
            else:
                {"run_masks": run_masks, "gate_gradients": gate_gradients}[use](capture, corners(20), baseline=baseline, target=target, batch_size=2)
    assert (model.decoder.config._attn_implementation, hooks(model.model)) == before
    assert torch.get_num_threads() == threads
    with torch.no_grad():
        again = model.model(**model.inputs([capture.picture], QUESTION)).logits[0, -1]
    assert torch.equal(again.float(), model.capture(capture.picture, QUESTION).logits)


def test_the_vision_tower_is_never_switched(captures):
    """A plain set_attn_implementation would route the vision tower through the gates too."""
    capture, _ = captures("mha")
    tower = capture.lvlm.model.get_encoder(modality="image")
    stream = stream_masks(capture, corners(4), batch_size=2)
    next(stream)
    assert tower.config._attn_implementation != NAME
    stream.close()


@pytest.fixture
def own_pair(checkpoints):
    """Captures on a model that no other test uses: one left switched would fail them all."""
    model = load(checkpoints("mha"), device_map="cpu")
    return model.capture(random_picture(1), QUESTION), model.capture(random_picture(2), QUESTION)


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_two_streams_side_by_side(own_pair, first_to_end):
    """Two examples read alternately: the one that ends first must not switch the model back under the other."""
    capture, other = own_pair
    baselines, masks = [swap_baseline(other), swap_baseline(capture)], corners(6)
    expected = [run_masks(c, masks, baseline=b, batch_size=2) for c, b in zip((capture, other), baselines, strict=True)]
    before = capture.lvlm.decoder.config._attn_implementation
    streams = [stream_masks(c, masks, baseline=b, batch_size=2) for c, b in zip((capture, other), baselines, strict=True)]
    found = [[next(stream)[2]] for stream in streams]
    for which in (first_to_end, 1 - first_to_end):
        found[which] += [values for _, _, values in streams[which]]
        np.testing.assert_allclose(np.concatenate(found[which]), expected[which], rtol=1e-5)
    assert capture.lvlm.decoder.config._attn_implementation == before


def test_capturing_while_a_stream_is_open(own_pair):
    """A notebook user takes the next picture before the last stream has ended."""
    capture, other = own_pair
    stream = stream_masks(capture, corners(4), baseline=swap_baseline(other), batch_size=2)
    next(stream)
    try:
        assert torch.equal(capture.lvlm.capture(other.picture, QUESTION).logits, other.logits)
    finally:
        stream.close()


def test_two_threads_on_one_model(own_pair):
    """Each thread's gates are its own, and whoever ends first leaves the model as the other needs it."""
    capture, other = own_pair
    work = [(capture, corners(20, 1), swap_baseline(other)), (other, corners(200, 2), swap_baseline(capture))]
    expected = [run_masks(c, masks, baseline=b, batch_size=4) for c, masks, b in work]
    before = capture.lvlm.decoder.config._attn_implementation
    found, failed = {}, []

    def run(index: int) -> None:
        try:
            example, masks, baseline = work[index]
            found[index] = run_masks(example, masks, baseline=baseline, batch_size=4)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for index, values in enumerate(expected):
        np.testing.assert_allclose(found[index], values, rtol=0, atol=1e-5 * np.abs(values).max())
    assert capture.lvlm.decoder.config._attn_implementation == before


def test_the_library_in_under_ten_lines(checkpoints):
    """The README's example, on a folder and a picture."""
    folder, image = checkpoints("mha"), random_picture(1)
    lvlm = headflow.load(folder)
    capture = lvlm.capture(image, "What is the main object?")
    masks = headflow.sample_masks(lvlm.layers, lvlm.heads, 256)
    targets = headflow.run_masks(capture, masks)
    attributions = headflow.fit(masks, targets)
    assert attributions.attribution_.shape == SHAPE
    held_out = headflow.sample_masks(lvlm.layers, lvlm.heads, 64, stream="held_out", design="bernoulli")
    assert np.corrcoef(attributions.predict(held_out), headflow.run_masks(capture, held_out))[0, 1] > 0.3


def test_baselines_may_be_named(own_pair):
    capture, _ = own_pair
    masks = corners(2)
    for name, made in (("blank", blank_baseline(capture)), ("closed", closed_baseline())):
        np.testing.assert_array_equal(run_masks(capture, masks, baseline=name), run_masks(capture, masks, baseline=made))
    with pytest.raises(HeadflowError, match="baseline = 'mean': must be 'blank', 'closed'"):
        run_masks(capture, masks, baseline="mean")
