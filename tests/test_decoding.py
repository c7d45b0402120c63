"""Generation under gates: against ``generate`` without any, and against a full recomputation of every step with some."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import headflow
from headflow import attention
from headflow.decoding import Sampling, decode
from headflow.errors import HeadflowError
from headflow.execution.fingerprint import DECODING, ENGINE, engine_version
from headflow.gates import Gate
from headflow.kernels import grouped as kernel
from headflow.models.baselines import Baseline, closed_baseline, swap_baseline
from headflow.models.capture import Capture
from headflow.models.lvlm import LVLM
from headflow.sequences import GateSet, Sequences
from headflow.suffix import prepared
from tests import reference
from tests.closure import ROOT, import_closure
from tests.conftest import random_picture
from tests.draws import Factors
from tests.families import FAMILIES, QUESTION

TOLERANCE = 1e-5
FORWARDS = 3
OTHER_QUESTION = "Which colour is the main object?"
NEW = 6


@dataclass
class Examples:
    """Three examples on one model: two pictures under one question, and one of them under another of another length."""

    lvlm: LVLM
    pictures: list[np.ndarray]
    questions: tuple[str, ...] = (QUESTION, QUESTION, OTHER_QUESTION)

    def __post_init__(self) -> None:
        self.captures = [self.lvlm.capture(picture, question) for picture, question in zip(self.pictures, self.questions, strict=True)]
        assert len({len(capture.input_ids) for capture in self.captures}) == 2

    def generate(self, index: int, ends: Sequence[int], longest: int = NEW) -> list[int]:
        """What transformers makes of one example alone."""
        self.lvlm._forget_positions()
        inputs = self.lvlm.inputs([self.pictures[index]], self.questions[index])
        settings = GenerationConfig(do_sample=False, max_new_tokens=longest, eos_token_id=list(ends), pad_token_id=0)
        return self.lvlm.model.generate(**inputs, generation_config=settings)[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Examples:
    made = FAMILIES[request.param]
    pictures = [np.random.default_rng(seed).integers(0, 256, (*made.size[::-1], 3), dtype=np.uint8) for seed in (1, 2)]
    return Examples(headflow.load(made.build(tmp_path_factory.mktemp(made.name))), [*pictures, pictures[0]])


@pytest.fixture
def three(models) -> Examples:
    """On a small LLaVA whose tokens are words."""
    return Examples(models("gqa"), [random_picture(1), random_picture(2), random_picture(1)])


def until(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Up to the token that ends it."""
    return next((list(tokens[:at]) for at, token in enumerate(tokens) if token in ends), list(tokens))


def end_with(monkeypatch: pytest.MonkeyPatch, lvlm: LVLM, token: int) -> set[int]:
    """Let ``token`` end answers too; all tokens that do."""
    monkeypatch.setattr(lvlm.model.generation_config, "eos_token_id", token)
    return lvlm.end_tokens


def test_without_a_gate_the_tokens_are_those_of_generate(family, monkeypatch):
    ends = family.lvlm.end_tokens
    whole = [family.generate(index, sorted(ends)) for index in range(3)]
    assert [said for (said,) in decode(family.captures, max_new_tokens=NEW)] == [until(tokens, ends) for tokens in whole]
    # A token that ends answers early, and as many as can be at different places.
    lengths = {token: [len(until(tokens, [token])) for tokens in whole] for tokens in whole for token in tokens}
    ends = end_with(monkeypatch, family.lvlm, max(lengths, key=lambda token: len(set(lengths[token]))))
    stock = [family.generate(index, sorted(ends)) for index in range(3)]
    assert min(map(len, stock)) < NEW
    expected = [until(tokens, ends) for tokens in stock]
    assert [said for (said,) in decode(family.captures, max_new_tokens=NEW)] == expected
    assert [decode([capture], max_new_tokens=NEW)[0][0] for capture in family.captures] == expected
    assert family.lvlm.answer_ids([family.pictures[0]], family.questions[0], NEW) == expected[:1]


# --- under gates, against a full recomputation


class Draw(Factors):
    """Random factors of the right shapes for one capture, three forwards each."""

    def __init__(self, capture: Capture, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.layers, self.heads, self.suffix, self.positions = capture.lvlm.layers, capture.lvlm.heads, capture.suffix, capture.key_positions
        self.image, self.cross = capture.key_image, capture.mode == "cross"

    def text_keys(self, *shape: int) -> torch.Tensor:
        """Tokens of the text after the picture, but for the last two; some of the picture where it stands in no sequence."""
        keys = torch.zeros(*shape, self.positions)
        keys[..., slice(0, 3) if self.cross else slice(self.image.stop, self.positions - 2)] = 1
        return keys


CASES: dict[str, Callable[[Draw], GateSet]] = {
    "heads, in prompt and answer": lambda d: GateSet(*[(Gate(heads=d.bits(FORWARDS, d.layers, d.heads)),)] * 2),
    "heads closed, in the answer": lambda d: GateSet((), (Gate("nothing", heads=d.bits(FORWARDS, d.layers, d.heads)),)),
    "heads, in the prompt": lambda d: GateSet((Gate(heads=d.bits(FORWARDS, d.layers, d.heads)),)),
    "the picture closed in some layers of the answer": lambda d: GateSet((), (Gate("nothing", layers=d.bits(FORWARDS, d.layers)),)),
    "the picture closed to some of the prompt, others in the answer": lambda d: GateSet(
        (Gate("nothing", queries=d.bits(FORWARDS, d.suffix), layers=d.bits(FORWARDS, d.layers)),), (Gate("nothing", layers=d.bits(FORWARDS, d.layers)),)
    ),
    "text closed to the answer": lambda d: GateSet((), (Gate("nothing", keys=d.text_keys()),)),
    "keys of each forward, weights between": lambda d: GateSet(
        (Gate(keys=d.image_keys(d.real(FORWARDS, d.width))),), (Gate("nothing", keys=d.image_keys(d.real(FORWARDS, d.width))),)
    ),
    "amounts between": lambda d: GateSet((Gate(queries=d.real(d.suffix)),), (Gate(heads=d.real(FORWARDS, d.layers, d.heads), queries=torch.tensor([0.5])),)),
    "one amount a forward in the answer": lambda d: GateSet((), (Gate(queries=torch.tensor([[0.0], [0.4], [1.0]])),)),
    "several gates": lambda d: GateSet(
        (Gate(heads=d.bits(FORWARDS, d.layers, d.heads), queries=d.bits(d.suffix)), Gate("nothing", keys=d.text_keys(), queries=d.bits(FORWARDS, d.suffix))),
        (Gate(heads=d.bits(FORWARDS, d.layers, d.heads)), Gate("nothing", keys=d.text_keys(FORWARDS), layers=d.bits(FORWARDS, d.layers))),
    ),
}


def spelt_out(gates: GateSet, capture: Capture, generated: int) -> list[Gate]:
    """The gates over prompt and generated tokens, as the answer key takes them."""

    def prolonged(factor: torch.Tensor, more: int) -> torch.Tensor:
        return torch.cat([factor, factor.new_zeros(*factor.shape[:-1], more)], -1)

    found = []
    for gate, answers in [(gate, False) for gate in gates.prompt] + [(gate, True) for gate in gates.generated]:
        if answers:
            amount = torch.ones(1, 1) if gate.queries is None else gate.queries.reshape(-1, 1)
            queries = torch.cat([torch.zeros(len(amount), capture.suffix), amount.expand(-1, generated)], -1)
        else:
            queries = prolonged(torch.ones(capture.suffix) if gate.queries is None else gate.queries, generated)
        keys = gate.keys if gate.keys is None or capture.mode == "cross" else prolonged(gate.keys, generated)
        found.append(Gate(gate.reads, heads=gate.heads, queries=queries, keys=keys, layers=gate.layers))
    return found


def recomputed(capture: Capture, gates: GateSet, twins: tuple[list, list], steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy decoding that runs everything anew at every step: tokens ``[forwards, steps]``, and the logits that they were taken from.

    The model class, given the whole sequence anew, would look for another picture at an image token: none is chosen.
    """
    tokens, logits = torch.zeros(gates.forwards, 0, dtype=torch.long), []
    for step in range(steps):
        fed = torch.nn.functional.pad(tokens, (0, 1))
        whole = spelt_out(gates, capture, step)
        logits.append(reference.answer_logits(capture.lvlm, capture.picture, capture.question, fed, whole, baseline=twins, batch=gates.forwards)[:, -1])
        best = logits[-1].index_fill(1, torch.tensor([min(capture.lvlm.image_token, logits[-1].shape[1] - 1)]), float("-inf")).argmax(1)
        tokens = torch.cat([tokens, best[:, None]], 1)
    return tokens, torch.stack(logits, 1)


@torch.no_grad()
def check(capture: Capture, gates: GateSet, tokens: torch.Tensor, expected: torch.Tensor) -> None:
    """Logits of every forward at every step against those of the answer key; and, where nothing ends them, the tokens."""
    with prepared(capture):
        sequences = Sequences([capture], [gates], [range(gates.forwards)])
        found = [sequences.logits]
        for step in range(tokens.shape[1] - 1):
            sequences.append(tokens[:, step].tolist())
            found.append(sequences.logits)
    for step, logits in enumerate(found):
        assert reference.relative(logits, expected[:, step]) < TOLERANCE, step
    for said, best in zip(decode([capture], [gates], max_new_tokens=tokens.shape[1])[0], expected.argmax(-1), strict=True):
        if torch.isin(best, torch.tensor([capture.lvlm.image_token])).any():
            continue
        assert said == until(best.tolist(), capture.lvlm.end_tokens)


def moved(capture: Capture, gates: GateSet) -> tuple[float, float]:
    """How far the gates move the logits of the first token and, the same tokens given, of the third; where it is nothing, exactness proves nothing."""
    with torch.no_grad(), prepared(capture):
        both = [Sequences([capture], [some], [range(some.forwards)]) for some in (gates, GateSet())]
        first = [sequences.logits for sequences in both]
        for sequences in both:
            for token in (5, 6):
                sequences.append([token] * len(sequences))
    return tuple(reference.relative(a, b.expand_as(a)) for a, b in (first, [sequences.logits for sequences in both]))


def with_twins(gates: GateSet, other: Capture) -> tuple[GateSet, tuple[list, list]]:
    """The gates with another picture for a baseline, and that picture's keys and values as the answer key sees them."""
    return GateSet(gates.prompt, gates.generated, swap_baseline(other)), reference.picture_keys_values(other.lvlm, other.picture, other.question)


def test_gates_of_every_family_against_a_full_recomputation_of_every_step(family):
    capture, other, _ = family.captures
    gates, twins = with_twins(CASES["several gates"](Draw(capture, seed=1)), other)
    check(capture, gates, *recomputed(capture, gates, twins, 3))
    assert min(moved(capture, gates)) > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_gates_against_a_full_recomputation_of_every_step(pair, name, monkeypatch):
    capture, other = pair
    gates, twins = with_twins(CASES[name](Draw(capture, seed=3)), other)
    answers = recomputed(capture, gates, twins, 3)
    check(capture, gates, *answers)
    first, third = moved(capture, gates)
    assert (first > 1e-3) == bool(gates.prompt)
    # Within a window shorter than the prompt, the answer may see next to nothing of the picture, or of the text's beginning.
    assert third > (1e-3 if capture.lvlm.decoder.config.model_type != "mistral" else -1)
    monkeypatch.setattr(kernel, "_FLASH_FROM_KEYS", 1)
    check(capture, gates, *answers)


def test_the_kernel_for_gpus(captures, monkeypatch):
    capture, other = captures("gqa")
    used, both_sides = [], attention.both_sides
    monkeypatch.setattr(attention, "can_flash", lambda state, query, visible, softcap: state.plain(visible, softcap))  # its own conditions, but for the device
    monkeypatch.setattr(attention, "both_sides", lambda state, *rest: (used.append(state.generated), both_sides(state, *rest))[1])
    gates, twins = with_twins(CASES["heads, in prompt and answer"](Draw(capture)), other)
    check(capture, gates, *recomputed(capture, gates, twins, 3))
    assert {True, False} == set(used)


# --- batches


def drawn_sets(examples: Examples) -> list[GateSet]:
    """Three forwards, one and two."""
    first, second, third = (Draw(capture, seed) for seed, capture in enumerate(examples.captures))
    return [
        CASES["the picture closed to some of the prompt, others in the answer"](first),
        GateSet((), (Gate(keys=second.image_keys(second.bits(second.width))),)),
        GateSet((Gate("nothing", layers=third.bits(2, third.layers)),), (Gate(heads=third.bits(1, third.layers, third.heads)),)),
    ]


def test_what_is_decoded_together_is_what_is_decoded_alone(models, monkeypatch):
    three = Examples(models("window"), [random_picture(1), random_picture(2), random_picture(1)])  # windows are counted from each one's own end
    gates = drawn_sets(three)
    free = decode(three.captures, gates, max_new_tokens=16)
    # Tokens that end some sequences early and leave others, so that the batch shrinks more than once.
    tokens = [token for said in free for tokens in said for token in tokens]
    lengths = {token: sorted({len(until(tokens, [token])) for said in free for tokens in said}) for token in set(tokens)}
    end_with(monkeypatch, three.lvlm, max(lengths, key=lambda token: len(lengths[token])))
    sizes, keep = [], Sequences.keep
    monkeypatch.setattr(Sequences, "keep", lambda self, places: (sizes.append((len(self), len(places))), keep(self, places))[1])
    together = decode(three.captures, gates, max_new_tokens=16)
    assert len(sizes) > 1 and all(before > after > 0 for before, after in sizes)
    assert [len(said) for said in together] == [3, 1, 2]
    assert len({len(tokens) for said in together for tokens in said}) > 2
    assert decode(three.captures[::-1], gates[::-1], max_new_tokens=16)[::-1] == together
    for size in (1, 4):
        assert decode(three.captures, gates, max_new_tokens=16, batch_size=size) == together
    for capture, cut, expected in zip(three.captures, gates, together, strict=True):
        assert decode([capture], [cut], max_new_tokens=16) == [expected]
        assert decode([capture], [cut], max_new_tokens=3)[0] == [tokens[:3] for tokens in expected]


def test_prompts_that_are_run_in_slices(captures, monkeypatch):
    capture, _ = captures("gqa")
    gates = CASES["several gates"](Draw(capture))
    whole = decode([capture], [gates])
    monkeypatch.setattr("headflow.sequences.automatic_batch", lambda capture: 2)
    assert decode([capture], [gates]) == whole


def test_batches_side_by_side_in_threads(three):
    gates = drawn_sets(three)
    expected = decode(three.captures, gates)
    before, used = torch.get_num_threads(), set()
    handle = three.lvlm.model.register_forward_pre_hook(lambda *_: used.add(threading.get_ident()))
    torch.set_num_threads(4)
    try:
        assert decode(three.captures, gates, batch_size=1) == expected
    finally:
        torch.set_num_threads(before)
        handle.remove()
    assert len(used) > 1


def test_out_of_memory_halves_the_batch(three):
    gates, sizes = drawn_sets(three), []
    expected = decode(three.captures, gates)

    def little_memory(module, args, kwargs):
        if "input_ids" in kwargs:  # a step, not a prompt
            sizes.append(len(kwargs["input_ids"]))
            if sizes[-1] > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    handle = three.lvlm.model.register_forward_pre_hook(little_memory, with_kwargs=True)
    try:
        assert decode(three.captures, gates) == expected
    finally:
        handle.remove()
    assert max(sizes) == 6 and sizes[-1] <= 2


def test_a_step_holds_scores_of_one_token_a_sequence(captures, monkeypatch):
    """What attention holds grows with the keys of one token, not with the square of the sequence."""
    capture, _ = captures("gqa")
    rows, attend = [], attention._attend
    monkeypatch.setattr(
        attention, "_attend", lambda state, layer, query, *rest: (rows.append((state.generated, query.shape[2])), attend(state, layer, query, *rest))[1]
    )
    decode([capture], max_new_tokens=6)
    assert {size for generated, size in rows if generated} == {1}
    assert sum(not generated for generated, _ in rows) == capture.lvlm.decoder_layers  # the prompt is run once


# --- sampling


def test_draws_do_not_depend_on_what_is_decoded_beside_them(three):
    gates, sampling = drawn_sets(three), Sampling(temperature=1.5, top_p=0.95, seed=3)
    names = ["a", "b", "c"]
    together = decode(three.captures, gates, max_new_tokens=12, sampling=sampling, examples=names)
    assert decode(three.captures, gates, max_new_tokens=12, sampling=sampling, examples=names, batch_size=2) == together
    for capture, cut, name, expected in zip(three.captures, gates, names, together, strict=True):
        assert decode([capture], [cut], max_new_tokens=12, sampling=sampling, examples=[name]) == [expected]
    (stock,), (again,), (other,) = (decode(three.captures[:1], sampling=sampling, examples=[name])[0] for name in ("a", "a", "d"))
    assert stock == again != other != decode(three.captures[:1], sampling=Sampling(1.5, 0.95, seed=4), examples=["d"])[0][0]
    # Two forwards of one example under the same gates have the same luck.
    twice = GateSet((), (Gate("nothing", layers=torch.zeros(2, three.lvlm.layers)),))
    assert decode(three.captures[:1], [twice], sampling=sampling, examples=["a"])[0] == [stock, stock]


def test_cold_sampling_is_greedy(three):
    greedy = decode(three.captures)
    assert decode(three.captures, sampling=Sampling(temperature=1e-4)) == greedy
    assert decode(three.captures, sampling=Sampling(temperature=5, top_p=1e-6)) == greedy


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_frequencies_are_the_probabilities(top_p):
    """20 000 draws against the softmax; the nucleus is the smallest set of the likeliest tokens that reaches top_p."""
    logits = torch.tensor([2.0, -1.0, 0.5, 1.0, -9.0, 0.0])
    probabilities = torch.softmax(logits.double() / 2, 0)
    order = probabilities.argsort(descending=True)
    size = 1 + int((probabilities[order].cumsum(0) < top_p - 1e-12).sum())
    nucleus = torch.zeros_like(probabilities)
    nucleus[order[:size]] = probabilities[order[:size]] / probabilities[order[:size]].sum()
    count = 20_000
    drawn = Sampling(temperature=2, top_p=top_p, seed=5).draw(logits.expand(count, -1), range(count), 0)
    frequencies = torch.bincount(drawn, minlength=6) / count
    assert not frequencies[nucleus == 0].any() and size == (6 if top_p == 1 else 3)
    spread = (nucleus * (1 - nucleus) / count).sqrt()
    assert ((frequencies - nucleus).abs() <= 4 * spread).all()


def test_a_draw_of_one_example_at_another_step_is_another():
    logits = torch.zeros(1, 1000)
    drawn = [int(Sampling(seed=1).draw(logits, ["x"], step)) for step in range(20)]
    assert len(set(drawn)) > 15 and drawn == [int(Sampling(seed=1).draw(logits, ["x"], step)) for step in range(20)]


# --- what cannot be


def test_what_does_not_fit_is_said(three, captures):
    capture = three.captures[0]
    layers, heads = three.lvlm.layers, three.lvlm.heads

    def refused(message: str, captures: Sequence[Capture] = (capture,), gates: GateSet | None = None, **options: object) -> None:
        with pytest.raises(HeadflowError, match=message):
            decode(captures, None if gates is None else [gates], **options)

    refused("2 examples, but 1 gate sets", three.captures[:2], GateSet())
    refused("1 examples, but 2 names", examples=["a", "b"])
    refused("max_new_tokens = 0", max_new_tokens=0)
    refused("batch_size = 0", batch_size=0)
    refused("several models", [capture, captures("mha")[0]])
    refused("captured with an answer", [three.lvlm.capture(three.pictures[0], QUESTION, answer=[5, 6])])
    refused("gate: queries has shape", gates=GateSet((Gate(queries=torch.ones(3)),)))
    refused("gates of generated tokens: gate: queries has shape", gates=GateSet((), (Gate(queries=torch.ones(capture.suffix)),)))
    refused("gates of generated tokens: gate: keys has shape", gates=GateSet((), (Gate("nothing", keys=torch.ones(5)),)))
    refused("tell 2 forwards apart, those of generated tokens 3", gates=GateSet((Gate(layers=torch.ones(2, layers)),), (Gate(layers=torch.ones(3, layers)),)))
    refused("the baseline is 'closed'", gates=GateSet((Gate(heads=torch.ones(1, layers, heads)),), baseline=closed_baseline()))
    for message, options in (("temperature = 0", {"temperature": 0}), ("top_p = 0", {"top_p": 0}), ("top_p = 1.5", {"top_p": 1.5})):
        with pytest.raises(HeadflowError, match=message):
            Sampling(**options)
    assert decode([]) == []


def test_the_grey_picture_is_read_where_no_baseline_is_given(three):
    capture = three.captures[0]
    grey = three.lvlm.capture(np.full_like(three.pictures[0], 128), QUESTION)
    gates = GateSet((Gate(),), (Gate(),))
    said = decode([capture], [gates])[0][0]
    assert said == decode([capture], [GateSet((Gate(),), (Gate(),), swap_baseline(grey))])[0][0] == decode([grey])[0][0] != decode([capture])[0][0]
    assert isinstance(gates.settled(capture).baseline, Baseline)


def test_all_code_that_decides_on_tokens_is_in_the_fingerprint():
    package = ROOT / "headflow"
    met = {str(path.relative_to(package)) for path in import_closure(package / "decoding.py")}
    harmless = {"errors.py", "files.py", "lazy.py", "models/prepared.py"}
    needed = {name for name in met - harmless if not name.endswith("__init__.py") and not name.startswith("models/embedded/")}
    assert set(DECODING) <= needed <= {*ENGINE, *DECODING}
    assert engine_version(*DECODING) != engine_version()
