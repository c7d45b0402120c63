"""Every kind of gate against the full-sequence answer key of tests/reference.py."""

import copy

import numpy as np
import pytest
import torch

from headflow import attention
from headflow.ablation import run_masks
from headflow.gates import Gate, ablate_heads
from headflow.kernels import grouped as kernel
from headflow.models.baselines import Baseline, blank_baseline, closed_baseline, mean_baseline, swap_baseline
from headflow.models.capture import Capture
from headflow.models.lvlm import LVLM
from headflow.suffix import make_bank, prepared, run_suffix
from tests import reference
from tests.checkpoints import QUESTION, QWEN_CHAT, SYSTEM_CHAT
from tests.conftest import random_picture
from tests.draws import Factors

TOLERANCE = 1e-5
FORWARDS = 3
MANY = 9  # enough that sorting forwards and putting them back are not the same by chance


def engine(capture: Capture, gates: list[Gate], baseline: Baseline, last: int | None = 1) -> torch.Tensor:
    with torch.no_grad(), prepared(capture):
        return run_suffix(capture, make_bank(capture, baseline), gates, last=last)


def error(capture: Capture, gates: list[Gate], baseline: Baseline, batch: int = 1) -> float:
    """Engine against answer key, relative to the largest logit."""
    twins = (baseline.keys, baseline.values) if baseline.keys else None
    expected = reference.logits(capture.lvlm, capture.picture, QUESTION, gates, baseline=twins, batch=batch)
    found = engine(capture, gates, baseline)[:, -1]
    assert found.shape == expected.shape
    return reference.relative(found, expected)


def moved(capture: Capture, gates: list[Gate], baseline: Baseline) -> float:
    """How far the gates move the logits: where it is nothing, being exact proves nothing."""
    return reference.relative(engine(capture, gates, baseline)[0, -1], capture.logits)


class Draw(Factors):
    """Random factors of the right shapes for one capture."""

    def __init__(self, capture: Capture, seed: int = 0) -> None:
        model = capture.lvlm
        self.random = torch.Generator().manual_seed(seed)
        self.layers, self.heads, self.suffix, self.positions, self.image = model.layers, model.heads, capture.suffix, len(capture.input_ids), capture.image


def test_the_answer_key_itself_equals_the_stock_model(pair):
    capture, other = pair
    assert reference.relative(reference.logits(capture.lvlm, capture.picture, QUESTION)[0], capture.logits) < 2e-6
    swapped = reference.keys_values(capture.lvlm, other.picture, QUESTION)
    twins = tuple([part[:, capture.image] for part in parts] for parts in swapped)
    everything = Gate(heads=torch.ones(1, capture.lvlm.layers, capture.lvlm.heads))
    found = reference.logits(capture.lvlm, capture.picture, QUESTION, [everything], baseline=twins)
    assert reference.relative(found[0], other.logits) < 2e-6


@pytest.mark.parametrize("layout", ["none", "all", "single", "random"])
@pytest.mark.parametrize("kind_of_baseline", ["mean", "blank", "swap", "closed"])
def test_head_ablation(pair, kind_of_baseline, layout):
    capture, other = pair
    draw = Draw(capture)
    shape = (FORWARDS, draw.layers, draw.heads)
    masks = {"none": torch.ones(shape), "all": torch.zeros(shape), "random": draw.bits(*shape)}.get(layout)
    if masks is None:  # one head ablated, another in each forward, the last one in the last layer
        masks = torch.ones(FORWARDS, draw.layers * draw.heads)
        masks[torch.arange(FORWARDS), torch.tensor([0, draw.heads + 1, draw.layers * draw.heads - 1])] = 0
        masks = masks.view(shape)
    baseline = {
        "mean": lambda: mean_baseline([other, capture]), "blank": lambda: blank_baseline(capture), "swap": lambda: swap_baseline(other),
        "closed": closed_baseline,
    }[kind_of_baseline]()  # fmt: skip
    gates = [ablate_heads(masks, baseline.reads)]
    assert error(capture, gates, baseline, FORWARDS) < TOLERANCE
    assert (moved(capture, gates, baseline) > 1e-3) == (layout != "none")


def test_swap_keys_come_from_the_other_picture(pair):
    """The baseline itself, against keys that the answer key sees when the other picture goes through the whole model."""
    capture, other = pair
    keys, values = reference.keys_values(capture.lvlm, other.picture, QUESTION)
    baseline = swap_baseline(other)
    for layer in range(capture.lvlm.layers):
        assert reference.relative(baseline.keys[layer], keys[layer][:, capture.image]) < 2e-6
        assert reference.relative(baseline.values[layer], values[layer][:, capture.image]) < 2e-6


def gate_cases(draw: Draw) -> dict[str, list[Gate]]:
    """Every factor alone, their products, and several gates at once."""
    layers, heads, suffix = draw.layers, draw.heads, draw.suffix
    question_to_role = torch.zeros(draw.positions)
    question_to_role[draw.image.stop : draw.positions - 2] = 1
    to_role = torch.zeros(suffix)
    to_role[-2:] = 1
    window = torch.zeros(layers)
    window[1:] = 1
    system = torch.zeros(draw.positions)
    system[1 : draw.image.start] = 1
    some_layers = torch.tensor([0.25, 1.0, 0.0])
    return {
        "everything": [Gate()],
        "everything closed": [Gate("nothing")],
        "heads, amounts between": [Gate(heads=draw.real(FORWARDS, layers, heads))],
        "heads closed, amounts between": [Gate("nothing", heads=draw.real(FORWARDS, layers, heads))],
        "heads, one row for all forwards": [Gate(heads=draw.bits(1, layers, heads))],
        "queries": [Gate(queries=draw.bits(suffix))],
        "queries of each forward": [Gate(queries=draw.bits(FORWARDS, suffix))],
        "queries, amounts between": [Gate("nothing", queries=draw.real(FORWARDS, suffix))],
        "the last query alone": [Gate(queries=torch.eye(suffix)[-1])],
        "all but the last query": [Gate(queries=1 - torch.eye(suffix)[-1])],
        "keys": [Gate(keys=draw.image_keys(draw.bits(draw.width)))],
        "keys of each forward": [Gate(keys=draw.image_keys(draw.bits(FORWARDS, draw.width)))],
        "keys, weights between": [Gate(keys=draw.image_keys(draw.real(FORWARDS, draw.width)))],
        "keys closed, weights between": [Gate("nothing", keys=draw.image_keys(draw.real(FORWARDS, draw.width)))],
        "layers": [Gate(layers=window)],
        "layers, amounts between": [Gate("nothing", layers=some_layers)],
        "layers of each forward": [Gate(layers=draw.bits(FORWARDS, layers))],
        "question to role closed in other layers each forward": [
            Gate("nothing", queries=to_role, keys=question_to_role, layers=torch.eye(layers)[torch.arange(FORWARDS) % layers])
        ],
        "tokens in windows": [Gate(queries=draw.bits(FORWARDS, suffix), layers=torch.eye(layers)[layer]) for layer in range(layers)],
        "heads x queries": [Gate(heads=draw.bits(FORWARDS, layers, heads), queries=draw.bits(suffix))],
        "heads x queries x keys x layers": [
            Gate(heads=draw.bits(FORWARDS, layers, heads), queries=draw.bits(FORWARDS, suffix), keys=draw.image_keys(draw.real(draw.width)), layers=window)
        ],
        "all factors, amounts between": [
            Gate(
                heads=draw.real(FORWARDS, layers, heads),
                queries=draw.real(FORWARDS, suffix),
                keys=draw.image_keys(draw.real(FORWARDS, draw.width)),
                layers=some_layers,
            )
        ],
        "question to role closed": [Gate("nothing", queries=to_role, keys=question_to_role)],
        "question to role closed in some layers, weights between": [Gate("nothing", queries=to_role, keys=0.7 * question_to_role, layers=window)],
        "system closed": [Gate("nothing", keys=system)],
        "baseline and closed, other heads": [Gate(heads=draw.bits(FORWARDS, layers, heads)), Gate("nothing", heads=draw.bits(FORWARDS, layers, heads))],
        "baseline everywhere and some keys closed": [Gate(), Gate("nothing", keys=draw.image_keys(draw.bits(draw.width)))],
        "two baseline gates, weights between": [Gate(keys=draw.image_keys(draw.real(draw.width))), Gate(keys=draw.image_keys(draw.real(FORWARDS, draw.width)))],
        "two mixing gates": [Gate(heads=draw.real(FORWARDS, layers, heads)), Gate("nothing", queries=draw.real(suffix))],
        "mixing and plain": [Gate(heads=draw.real(FORWARDS, layers, heads)), Gate("nothing", queries=to_role, keys=question_to_role)],
        "plain and mixing, keys on both": [
            Gate("nothing", keys=draw.image_keys(draw.real(draw.width))),
            Gate(heads=draw.real(1, layers, heads), keys=draw.image_keys(draw.real(FORWARDS, draw.width))),
        ],
        "three gates": [
            Gate(heads=draw.real(FORWARDS, layers, heads)),
            Gate(queries=draw.bits(suffix), layers=window),
            Gate("nothing", queries=to_role, keys=question_to_role),
        ],
    }  # fmt: skip


CASES = list(gate_cases(type("Shapes", (Draw,), {"__init__": lambda self: vars(self).update(
    random=torch.Generator(), layers=3, heads=4, suffix=9, positions=28, image=slice(3, 19))})()))  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_gates(pair, kind, case):
    capture, other = pair
    gates = gate_cases(Draw(capture, seed=3))[case]
    baseline = swap_baseline(other)
    assert error(capture, gates, baseline, FORWARDS if max(gate.batch for gate in gates) > 1 else 1) < TOLERANCE
    hidden = kind == "window" and case == "system closed"  # no suffix token sees the system tokens, as the window is shorter
    assert (moved(capture, gates, baseline) > 1e-4) != hidden


def test_a_query_from_which_every_key_is_cut_reads_nothing(captures):
    capture, _ = captures("mha")
    gate = Gate("nothing", heads=Draw(capture).bits(1, 3, 4), queries=torch.eye(capture.suffix)[2], keys=torch.ones(len(capture.input_ids)))
    assert error(capture, [gate], closed_baseline()) < TOLERANCE


@pytest.fixture
def grouped_calls(monkeypatch):
    """Force the grouped path where it applies, and count its layers."""
    calls = []
    plain = attention.grouped
    monkeypatch.setattr(kernel, "_FLASH_FROM_KEYS", 1)
    monkeypatch.setattr(attention, "grouped", lambda bank, layer, *rest: (calls.append(layer), plain(bank, layer, *rest))[1])
    return calls


@pytest.mark.parametrize("layout", ["all", "some forwards only", "none", "random", "one head"])
@pytest.mark.parametrize("kind_of_baseline", ["swap", "closed"])
def test_grouped_path(captures, grouped_calls, kind_of_baseline, layout):
    for kind in ("mha", "gqa"):
        capture, other = captures(kind)
        draw = Draw(capture, seed=5)
        masks = {"all": torch.zeros, "none": torch.ones, "random": draw.bits}.get(layout, torch.ones)(MANY, draw.layers, draw.heads)
        if layout == "some forwards only":
            masks[1] = 0
        if layout == "one head":
            masks[2, 1, 3] = 0
        baseline = swap_baseline(other) if kind_of_baseline == "swap" else closed_baseline()
        assert error(capture, [ablate_heads(masks, baseline.reads)], baseline, MANY) < TOLERANCE
    assert grouped_calls == [1, 2] * 2  # in the first layer each head has two outputs, whatever the masks


def test_grouped_path_without_system_tokens(captures, grouped_calls):
    """A closed head then sees no prefix key at all: the whole weight goes to its own suffix."""
    from headflow.suffix_pass import Bank

    capture, _ = captures("gqa")
    draw = Draw(capture)
    masks = draw.bits(FORWARDS, draw.layers, draw.heads)
    start = capture.image.start
    keys, values = [k[:, start:] for k in capture.keys], [v[:, start:] for v in capture.values]
    torch.manual_seed(0)
    shapes = [(FORWARDS, heads, draw.suffix, 8) for heads in (4, 2, 2)]
    query, key, value = (torch.randn(shape) for shape in shapes)
    bank = Bank(keys, values, draw.width, slice(0, draw.width))
    visible = torch.ones(1, 1, draw.suffix, draw.width + draw.suffix).tril(draw.width).bool()
    state = attention.SuffixPass(bank, (ablate_heads(masks, "nothing"),), last_layer=2)
    with torch.no_grad():
        fast = attention._attend(state, 1, query, key, value, visible, 0.3, None)
        assert grouped_calls == [1]
        slow = attention.joint(state, 1, [(state.gates[0], state.gates[0].rows(1))], query, key, value, visible, 0.3, None)
    assert reference.relative(fast, slow) < TOLERANCE


def test_grouped_path_is_left_alone_where_a_window_hides_keys(captures, grouped_calls):
    capture, other = captures("window")
    assert error(capture, [ablate_heads(Draw(capture).bits(MANY, 3, 4))], swap_baseline(other), MANY) < TOLERANCE
    assert grouped_calls == []


@pytest.mark.parametrize("kind", ["mha", "gqa"])
@pytest.mark.parametrize("kind_of_baseline", ["swap", "closed"])
def test_many_image_tokens(captures, kind, kind_of_baseline, monkeypatch):
    """169 image tokens: the size at which the grouped path takes over by itself."""
    capture, other = captures(kind, image_size=104)
    assert capture.image.stop - capture.image.start == 169
    layers = []
    plain = attention.grouped
    monkeypatch.setattr(attention, "grouped", lambda bank, layer, *rest: (layers.append(layer), plain(bank, layer, *rest))[1])
    baseline = swap_baseline(other) if kind_of_baseline == "swap" else closed_baseline()
    assert error(capture, [ablate_heads(Draw(capture, seed=1).bits(5, 3, 4), baseline.reads)], baseline, 5) < TOLERANCE
    assert layers == [1, 2]
    assert error(capture, [ablate_heads(Draw(capture, seed=1).real(2, 3, 4), baseline.reads)], baseline, 2) < TOLERANCE
    assert layers == [1, 2]


@pytest.mark.parametrize("layout", ["all", "random", "one head"])
@pytest.mark.parametrize("kind_of_baseline", ["swap", "closed"])
def test_head_ablation_without_the_grouped_path(captures, monkeypatch, kind_of_baseline, layout):
    """What a GPU runs."""
    monkeypatch.setattr(attention, "can_group", lambda *args: False)
    for kind in ("mha", "gqa"):
        capture, other = captures(kind)
        draw = Draw(capture, seed=5)
        masks = {"all": torch.zeros, "random": draw.bits}.get(layout, torch.ones)(MANY, draw.layers, draw.heads)
        if layout == "one head":
            masks[2, 1, 3] = 0
        baseline = swap_baseline(other) if kind_of_baseline == "swap" else closed_baseline()
        assert error(capture, [ablate_heads(masks, baseline.reads)], baseline, MANY) < TOLERANCE


@pytest.mark.parametrize("layers", [1, 2])
def test_models_of_few_layers(captures, layers):
    """Where the first layer is the last one too, or next to it."""
    capture, other = captures("gqa", layers=layers)
    draw = Draw(capture, seed=2)
    for masks in (draw.bits(FORWARDS, layers, 4), draw.real(FORWARDS, layers, 4), draw.bits(1, layers, 4)):
        assert error(capture, [ablate_heads(masks)], swap_baseline(other), len(masks)) < TOLERANCE
    keys = draw.image_keys(draw.real(FORWARDS, draw.width))
    assert error(capture, [Gate(heads=draw.real(FORWARDS, layers, 4), keys=keys)], swap_baseline(other), FORWARDS) < TOLERANCE
    gates = [ablate_heads(draw.bits(FORWARDS, layers, 4))]
    whole, last = (engine(capture, gates, swap_baseline(other), last=last) for last in (None, 1))
    assert reference.relative(last, whole[:, -1:]) < 2e-6


@pytest.mark.parametrize("flash_from", [1, 10_000])
def test_the_last_layer_short_cut_changes_nothing(pair, monkeypatch, flash_from):
    capture, other = pair
    monkeypatch.setattr(kernel, "_FLASH_FROM_KEYS", flash_from)
    baseline = swap_baseline(other)
    for gates in ([ablate_heads(Draw(capture).bits(FORWARDS, 3, 4))], [Gate(queries=Draw(capture).bits(FORWARDS, capture.suffix))]):
        whole = engine(capture, gates, baseline, last=None)
        assert whole.shape[1] == capture.suffix
        assert reference.relative(engine(capture, gates, baseline, last=1), whole[:, -1:]) < 2e-6
        assert reference.relative(engine(capture, gates, baseline, last=4), whole[:, -4:]) < 2e-6


def test_the_whole_suffix_equals_the_stock_model(pair):
    capture, _ = pair
    with torch.no_grad():
        stock = capture.lvlm.model(**capture.lvlm.inputs([capture.picture], QUESTION)).logits[:, capture.prefix :]
    assert reference.relative(engine(capture, [], closed_baseline(), last=None), stock) < 2e-6


def test_bfloat16(kind, captures):
    """No further from the float32 truth of the very same weights than running the whole sequence in bfloat16 is."""
    capture, other = captures(kind, dtype="bfloat16")
    assert capture.lvlm.dtype == torch.bfloat16
    draw = Draw(capture)
    exact = LVLM(copy.deepcopy(capture.lvlm.model).float(), capture.lvlm.processor)
    twins = tuple([part[:, capture.image] for part in parts] for parts in reference.keys_values(exact, other.picture, QUESTION))
    errors = {"engine": [], "whole sequence": []}
    for masks in (draw.bits(4, 3, 4), draw.real(4, 3, 4)):
        gates = [ablate_heads(masks)]
        truth = reference.logits(exact, capture.picture, QUESTION, gates, baseline=twins, batch=4)
        found = engine(capture, gates, swap_baseline(other))[:, -1]
        assert found.dtype == torch.float32
        whole = reference.logits(capture.lvlm, capture.picture, QUESTION, gates, baseline=twins, batch=4)
        errors["engine"].append(float((found - truth).abs().mean() / truth.abs().max()))
        errors["whole sequence"].append(float((whole.float() - truth).abs().mean() / truth.abs().max()))
    assert max(errors["engine"]) < 0.03
    assert sum(errors["engine"]) < 1.5 * sum(errors["whole sequence"])


def test_float64(kind, captures):
    """Against a float64 answer key nothing but float32 softmax and norms is left: far below the float32 tolerance."""
    capture, other = captures(kind, dtype="float64")
    gates = gate_cases(Draw(capture, seed=7))["all factors, amounts between"]
    assert error(capture, [gate.to(torch.device("cpu"), torch.float64) for gate in gates], swap_baseline(other), FORWARDS) < 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_on_a_gpu(kind, captures):
    """The GPU's own kernels, and every tensor on one device, against the answer key on the CPU."""
    capture, other = captures(kind, device="cuda")
    on_cpu, cpu_other = captures(kind)
    draw = Draw(on_cpu, seed=3)
    cases = {"head ablation": [ablate_heads(draw.bits(FORWARDS, 3, 4))], **gate_cases(draw)}
    twins = (swap_baseline(cpu_other).keys, swap_baseline(cpu_other).values)
    errors = {}
    for case, gates in cases.items():
        batch = FORWARDS if max(gate.batch for gate in gates) > 1 else 1
        expected = reference.logits(on_cpu.lvlm, on_cpu.picture, QUESTION, gates, baseline=twins, batch=batch)
        found = engine(capture, [gate.to(torch.device("cuda"), torch.float32) for gate in gates], swap_baseline(other))[:, -1].cpu()
        errors[case] = reference.relative(found, expected)
    assert max(errors.values()) < 1e-4, errors  # a GPU sums in another order, from the vision tower on


@pytest.mark.parametrize("options", [{"chat": SYSTEM_CHAT}, {"chat": QWEN_CHAT, "words": False}], ids=["system prompt", "role markers"])
def test_other_prompts(captures, options):
    """A system prompt before the picture; a byte-level tokenizer with role markers after it."""
    capture, other = captures("gqa", **options)
    assert error(capture, [ablate_heads(Draw(capture).bits(FORWARDS, 3, 4))], swap_baseline(other), FORWARDS) < TOLERANCE


def test_pictures_reach_the_answer_key_by_pixels_alone(pair):
    """The answer key starts from the picture: another one gives other logits, so it cannot have read the capture."""
    capture, _ = pair
    assert reference.relative(reference.logits(capture.lvlm, random_picture(9), QUESTION)[0], capture.logits) > 1e-2
    assert np.array_equal(np.asarray(capture.picture), random_picture(1))


# --- the kernel for GPUs, with the processor's flash attention in its place


@pytest.mark.parametrize("kind_of_baseline", ["swap", "closed"])
@pytest.mark.parametrize("layout", ["mha", "gqa"])
def test_flash_kernel(captures, monkeypatch, kind_of_baseline, layout):
    """Everything but the library's own attention is the code that runs on a GPU."""
    capture, other = captures(layout)
    baseline = swap_baseline(other) if kind_of_baseline == "swap" else closed_baseline()
    masks = np.random.default_rng(0).random((24, capture.lvlm.layers, capture.lvlm.heads)) < 0.5
    masks[0], masks[1] = True, False
    plain = run_masks(capture, masks, baseline=baseline, batch_size=8)
    used = []

    def here(state, query, visible, softcap):
        """The path's own conditions, but for the device."""
        return state.plain(visible, softcap)

    both_sides = attention.both_sides
    monkeypatch.setattr(attention, "can_flash", here)
    monkeypatch.setattr(attention, "both_sides", lambda state, layer, *rest: (used.append(layer), both_sides(state, layer, *rest))[1])
    np.testing.assert_allclose(run_masks(capture, masks, baseline=baseline, batch_size=8), plain, rtol=1e-5, atol=2e-5)
    assert set(used) == set(range(1, capture.lvlm.layers))  # the first layer has its own shortcut


def test_a_machine_without_flash_attention_goes_on(captures, monkeypatch):
    capture, other = captures("mha")
    masks = np.random.default_rng(0).random((6, capture.lvlm.layers, capture.lvlm.heads)) < 0.5
    plain = run_masks(capture, masks, baseline=swap_baseline(other))

    def missing(*args):
        raise RuntimeError("No available kernel. Aborting execution.")

    monkeypatch.setattr(attention, "can_flash", lambda *args: True)
    monkeypatch.setattr(attention, "both_sides", missing)
    monkeypatch.setattr(attention, "_flash_works", True)
    with pytest.warns(UserWarning, match="flash attention cannot be used here"):
        found = run_masks(capture, masks, baseline=swap_baseline(other))
    np.testing.assert_array_equal(found, plain)
    assert attention._flash_works is False


def test_flash_attention_that_runs_out_of_memory_halves_the_batch(captures, monkeypatch):
    capture, other = captures("mha")
    masks = np.random.default_rng(0).random((6, capture.lvlm.layers, capture.lvlm.heads)) < 0.5
    plain = run_masks(capture, masks, baseline=swap_baseline(other))
    both_sides, sizes = attention.both_sides, []

    def little_memory(state, layer, gate, query, *rest):
        sizes.append(len(query))
        if len(query) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return both_sides(state, layer, gate, query, *rest)

    monkeypatch.setattr(attention, "can_flash", lambda state, *rest: len(state.gates) == 1)
    monkeypatch.setattr(attention, "both_sides", little_memory)
    np.testing.assert_allclose(run_masks(capture, masks, baseline=swap_baseline(other), batch_size=6), plain, rtol=1e-5, atol=2e-5)
    assert max(sizes) == 6 and min(sizes) <= 2 and attention._flash_works
