"""The contract that every supported family must keep, on a random checkpoint that is loaded from disk as a hub id would be.

The answer key (tests/reference.py) runs the stock model over the whole prompt and shares no code with the engine.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pytest
import torch
from PIL import Image

import headflow
from headflow import attention
from headflow.ablation import gate_gradients, run_gates, run_masks
from headflow.attribution.masks import sample_masks
from headflow.checks import check_intervention
from headflow.errors import HeadflowError
from headflow.gates import Gate, ablate_heads
from headflow.kernels import grouped as kernel
from headflow.models.baselines import GREY, Baseline, blank_baseline, closed_baseline, mean_baseline, swap_baseline
from headflow.models.capture import Capture
from headflow.models.features import image_attention
from headflow.models.lvlm import LVLM
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.targets import Target
from tests import reference
from tests.draws import Factors
from tests.families import FAMILIES, QUESTION, Family

TOLERANCE = 1e-5
FORWARDS = 3
# Their processors bring every picture to one size.
ONE_SIZE = {"llava", "gemma3", "paligemma", "paligemma2"}
# Their picture tokens see one another both ways.
BIDIRECTIONAL_PICTURE = {"gemma3"}


def picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


@dataclass
class Case:
    """One family, loaded once; what several tests need is made when first asked for."""

    family: Family
    folder: str
    lvlm: LVLM
    twins: dict[int, tuple[list, list]] = field(default_factory=dict)

    def picture(self, seed: int) -> np.ndarray:
        return picture(seed, self.family.size)

    def take(self, seed: int) -> Capture:
        return self.lvlm.capture(self.picture(seed), QUESTION)

    @cached_property
    def capture(self) -> Capture:
        return self.take(1)

    @cached_property
    def other(self) -> Capture:
        return self.take(2)

    def seen(self, seed: int) -> tuple[list, list]:
        """The picture's keys and values in a stock run, by the answer key; seed 0 is a grey picture."""
        if seed not in self.twins:
            shown = self.picture(seed) if seed else np.full((*self.family.size[::-1], 3), GREY, np.uint8)
            self.twins[seed] = reference.picture_keys_values(self.lvlm, shown, QUESTION)
        return self.twins[seed]

    def errors(self, gates: list[Gate], baseline: Baseline, twins: tuple[list, list] | None) -> tuple[float, float]:
        """Engine against answer key, and how far the gates move the logits; relative to the largest logit."""
        batch = max(gate.batch for gate in gates)
        expected = reference.logits(self.lvlm, self.capture.picture, QUESTION, gates, baseline=twins, batch=batch)
        with torch.no_grad(), prepared(self.capture):
            found = run_suffix(self.capture, make_bank(self.capture, baseline), gates)[:, -1]
        assert found.shape == expected.shape
        return reference.relative(found, expected), reference.relative(found[0], self.capture.logits)


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in made:
            folder = FAMILIES[name].build(tmp_path_factory.mktemp(name))
            made[name] = Case(FAMILIES[name], folder, headflow.load(folder))
        return made[name]

    return case


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request: pytest.FixtureRequest, cases: Callable[[str], Case]) -> Case:
    return cases(request.param)


class Draw(Factors):
    """Random factors of the right shapes for one capture."""

    def __init__(self, capture: Capture, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.shape = (FORWARDS, capture.lvlm.layers, capture.lvlm.heads)
        self.suffix, self.positions, self.image = capture.suffix, capture.key_positions, capture.key_image
        self.roles = capture.roles[-capture.suffix :]

    @property
    def source(self) -> torch.Tensor:
        """The question's keys; where only the picture has keys, those of its first half."""
        if self.image == slice(0, self.positions):
            return (torch.arange(self.positions) < self.positions / 2).float()
        keys = torch.zeros(self.positions)
        keys[-self.suffix :] = torch.tensor([float(role == "question") for role in self.roles])
        return keys

    @property
    def answering(self) -> torch.Tensor:
        """The queries after the question."""
        return torch.tensor([float(role in ("role", "final")) for role in self.roles])


GATES: dict[str, Callable[[Draw], list[Gate]]] = {
    "heads": lambda d: [Gate(heads=d.bits(*d.shape))],
    "heads closed": lambda d: [Gate("nothing", heads=d.bits(*d.shape))],
    "heads, amounts between": lambda d: [Gate(heads=d.real(*d.shape))],
    "queries": lambda d: [Gate(queries=d.bits(FORWARDS, d.suffix))],
    "the last query, closed": lambda d: [Gate("nothing", queries=torch.eye(d.suffix)[-1])],
    "some image keys": lambda d: [Gate(keys=d.image_keys(d.bits(FORWARDS, d.width)))],
    "some image keys closed": lambda d: [Gate("nothing", keys=d.image_keys(d.bits(FORWARDS, d.width)))],
    "image keys, weights between": lambda d: [Gate(keys=d.image_keys(d.real(d.width)))],
    "question to answer closed": lambda d: [Gate("nothing", queries=d.answering, keys=d.source)],
    "layers": lambda d: [Gate(layers=torch.tensor([0.0, *[1.0] * (d.shape[1] - 1)]))],
    "layers closed, amounts between": lambda d: [Gate("nothing", layers=d.real(d.shape[1]))],
    "every factor": lambda d: [Gate(heads=d.bits(*d.shape), queries=d.bits(FORWARDS, d.suffix), keys=d.image_keys(d.real(d.width)), layers=d.real(d.shape[1]))],
    "heads, and question to answer closed": lambda d: [Gate(heads=d.bits(*d.shape)), Gate("nothing", queries=d.answering, keys=d.source)],
    "two that mix": lambda d: [Gate(heads=d.real(*d.shape)), Gate("nothing", queries=d.real(d.suffix))],
}


def test_the_folder_says_what_was_loaded(case):
    config = json.loads((case.folder / "config.json").read_text())
    text = config["text_config"]
    assert case.lvlm.layers == len(text.get("cross_attention_layers", range(text["num_hidden_layers"])))
    assert case.lvlm.heads == text["num_attention_heads"]
    assert case.lvlm.kv_heads == text["num_key_value_heads"]
    assert type(case.lvlm.model).__name__ == config["architectures"][0]


def test_a_second_capture_is_the_same(case):
    first, again = case.capture, case.take(1)
    assert torch.equal(first.logits, again.logits)
    assert torch.equal(first.embeddings, again.embeddings)
    assert all(torch.equal(a, b) for a, b in zip(first.keys + first.values, again.keys + again.values, strict=True))
    assert reference.relative(case.other.logits, first.logits) > 1e-2


def test_the_picture_enters_inside_its_span_and_nowhere_else(case):
    capture, other = case.capture, case.other
    token = case.lvlm.image_token
    assert token in (capture.input_ids[capture.image.start], capture.input_ids[capture.image.stop - 1])
    assert token not in capture.input_ids[: capture.image.start] + capture.input_ids[capture.image.stop :]
    differs = (capture.embeddings != other.embeddings).any(-1)[0].tolist()
    assert capture.input_ids == other.input_ids
    if case.family.prefix == "cross":
        assert not any(differs)
        return
    pictured = [at for at, one in enumerate(capture.input_ids) if one == token]
    assert not [at for at, moved in enumerate(differs) if moved and at not in pictured]
    # Newline features are image tokens that no pixel moves.
    assert sum(differs) > len(pictured) / 2


def test_roles(case):
    roles = case.capture.roles
    assert len(roles) == len(case.capture.input_ids) == len(case.capture.pieces)
    order = [role for at, role in enumerate(roles) if at == 0 or roles[at - 1] != role]
    expected = ["system", "image", "question", "role", "final"]
    # Where the prompt begins with the picture, or one token ends it, there is nothing for these to hold.
    optional = {"system", "role"}
    assert order == [role for role in expected if role in order or role not in optional]
    assert [at for at, role in enumerate(roles) if role == "image"] == list(range(case.capture.image.start, case.capture.image.stop))
    text = "".join(piece for piece, role in zip(case.capture.pieces, roles, strict=True) if role == "question")
    assert "".join(QUESTION.split()) in "".join(text.split())


def test_checks(case):
    checks = check_intervention(case.capture, case.other)
    assert checks.identity < TOLERANCE
    assert checks.swap < TOLERANCE
    assert checks.effect > 1e-2
    assert case.capture.mode == case.family.prefix
    if case.family.prefix == "cross":
        assert checks.prefix is None
    else:
        assert checks.prefix < TOLERANCE if case.family.prefix == "shared" else checks.prefix > 1e-3


def test_the_mask_of_the_answer_key_is_the_one_that_the_config_describes(case):
    """Causal, within the window of the layer; beyond that only what a family is known for."""
    text = case.lvlm.model.config.get_text_config()
    image, length = case.capture.image, len(case.capture.input_ids)
    query, key = torch.arange(length)[:, None], torch.arange(length)[None]
    crossing = getattr(text, "cross_attention_layers", ())
    every = "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
    kinds = getattr(text, "layer_types", None) or [every] * text.num_hidden_layers
    for layer, (kind, mask) in enumerate(zip(kinds, reference.masks(case.lvlm, case.picture(1), QUESTION), strict=True)):
        if layer in crossing:  # tiles that the picture fills; the tokens before it are shown the others too, whatever they hold
            tiles = case.lvlm.inputs([case.picture(1)], QUESTION)["cross_attention_mask"][0, :, 0].bool()
            tiles = tiles.repeat_interleave(mask.shape[1] // tiles.shape[1], 1)
            assert not tiles.all()
            assert torch.equal(mask, tiles | ~tiles.any(1, keepdim=True))
            continue
        window = text.sliding_window if kind == "sliding_attention" else length
        expected = (key <= query) & (key > query - window)
        if case.family.prefix == "recomputed":
            expected = torch.ones_like(expected)
        if case.family.name in BIDIRECTIONAL_PICTURE:
            expected[image, image] = True
        assert torch.equal(mask, expected), kind


def test_the_answer_key_itself_equals_the_stock_model(case):
    found = reference.logits(case.lvlm, case.capture.picture, QUESTION)[0]
    assert reference.relative(found, case.capture.logits) < 2e-6
    everything = Gate(heads=torch.ones(1, case.lvlm.layers, case.lvlm.heads))
    swapped = reference.logits(case.lvlm, case.capture.picture, QUESTION, [everything], baseline=case.seen(2))[0]
    assert reference.relative(swapped, case.other.logits) < 5e-6


@pytest.mark.parametrize("kind", ["mean", "blank", "swap", "closed"])
def test_head_ablation(case, kind):
    """The engine's baselines too are compared with what the answer key sees in stock runs."""
    masks = 1 - Draw(case.capture, seed=1).bits(FORWARDS, case.lvlm.layers, case.lvlm.heads)
    baseline, twins = {
        "mean": lambda: (mean_baseline([case.capture, case.other]), tuple(
            [(a + b) / 2 for a, b in zip(one, two, strict=True)] for one, two in zip(case.seen(1), case.seen(2), strict=True)
        )),
        "blank": lambda: (blank_baseline(case.capture), case.seen(0)),
        "swap": lambda: (swap_baseline(case.other), case.seen(2)),
        "closed": lambda: (closed_baseline(), None),
    }[kind]()  # fmt: skip
    error, moved = case.errors([ablate_heads(masks, baseline.reads)], baseline, twins)
    assert error < TOLERANCE
    assert moved > 1e-2


@pytest.mark.parametrize("path", ["many keys", "a GPU's"])
def test_head_ablation_on_the_other_paths(case, path, monkeypatch):
    """The way that is taken on a CPU where there are many image tokens, and the one on a GPU."""
    if path == "many keys":
        monkeypatch.setattr(kernel, "_FLASH_FROM_KEYS", 1)
    else:
        monkeypatch.setattr(attention, "can_group", lambda *args: False)
    masks = Draw(case.capture, seed=5).bits(FORWARDS, case.lvlm.layers, case.lvlm.heads)
    for baseline, twins in ((swap_baseline(case.other), case.seen(2)), (closed_baseline(), None)):
        error, _ = case.errors([ablate_heads(masks, baseline.reads)], baseline, twins)
        assert error < TOLERANCE


def test_gate_gradients(case):
    masks = Draw(case.capture, seed=6).bits(2, case.lvlm.layers, case.lvlm.heads)
    token = case.capture.greedy_token()
    targets, found = gate_gradients(case.capture, masks, baseline=swap_baseline(case.other), target=Target("logit", token))
    corners = masks.clone().requires_grad_(True)
    expected = reference.logits(case.lvlm, case.capture.picture, QUESTION, [ablate_heads(corners)], baseline=case.seen(2), batch=2)[:, token]
    (gradients,) = torch.autograd.grad(expected.sum(), corners)
    assert reference.relative(torch.from_numpy(targets), expected.detach()) < TOLERANCE
    assert reference.relative(torch.from_numpy(found), gradients) < 10 * TOLERANCE


def test_attention_to_the_picture(case):
    """Against the weights that transformers' own eager attention hands out."""
    eager = headflow.load(case.folder, attn="eager")
    weights = eager.model(**eager.inputs([case.picture(1)], QUESTION), output_attentions=True).attentions
    assert len(weights) == case.lvlm.decoder_layers
    reading = case.lvlm.image_layers or range(len(weights))
    shares = torch.stack([weights[layer][0, :, -case.capture.suffix :, case.capture.key_image].sum(-1) for layer in reading])
    found = image_attention(case.capture)
    assert torch.allclose(found.final, shares[..., -1], atol=1e-5)
    assert torch.allclose(found.suffix, shares.mean(-1), atol=1e-5)


def test_bfloat16(case):
    """Swap and identity hold to the rounding of half precision."""
    half = headflow.load(case.folder, dtype="bfloat16")
    check_intervention(*(half.capture(case.picture(seed), QUESTION) for seed in (1, 2)))
    assert half.prefix_mode == case.family.prefix


@pytest.mark.parametrize("kind", GATES)
def test_gates(case, kind):
    error, moved = case.errors(GATES[kind](Draw(case.capture, seed=2)), swap_baseline(case.other), case.seen(2))
    assert error < TOLERANCE
    assert moved > 1e-3


def test_answers_of_several_tokens(case):
    """Every token of the answer sees the picture through the same gates, and gates name its queries."""
    answer = case.lvlm.answer_tokens(QUESTION, "a red house")
    assert len(answer) > 2
    capture, other = (case.lvlm.capture(case.picture(seed), QUESTION, answer) for seed in (1, 2))
    assert capture.roles[-len(answer) :] == ["final", *["answer"] * (len(answer) - 1)]
    stock = reference.answer_logits(case.lvlm, capture.picture, QUESTION, answer)[0]
    assert reference.relative(capture.answer_logits, stock) < TOLERANCE
    baseline, draw = swap_baseline(other), Draw(capture, seed=4)
    masks = draw.bits(*draw.shape)
    for gates in ([ablate_heads(masks)], [Gate(queries=draw.bits(FORWARDS, draw.suffix))], GATES["every factor"](draw)):
        expected = reference.answer_logits(case.lvlm, capture.picture, QUESTION, answer, gates, baseline=case.seen(2), batch=FORWARDS)
        with torch.no_grad(), prepared(capture):
            found = run_suffix(capture, make_bank(capture, baseline), gates, last=capture.predicts)
        assert reference.relative(found, expected) < TOLERANCE
    expected = reference.answer_logits(case.lvlm, capture.picture, QUESTION, answer, [ablate_heads(masks)], baseline=case.seen(2), batch=FORWARDS)
    likely = expected.log_softmax(-1).gather(-1, torch.tensor(answer).expand(FORWARDS, -1)[..., None]).sum((1, 2))
    assert reference.relative(torch.from_numpy(run_masks(capture, masks, baseline=baseline)), likely) < TOLERANCE


def test_all_heads_and_none(case):
    """Nothing ablated is the stock model; everything ablated with another picture's keys is the stock model on that picture."""
    token = case.capture.greedy_token()
    masks = np.stack([np.ones((case.lvlm.layers, case.lvlm.heads), bool), np.zeros((case.lvlm.layers, case.lvlm.heads), bool)])
    intact, ablated = run_masks(case.capture, masks, baseline=swap_baseline(case.other), target=Target("logit", token))
    largest = float(case.capture.logits.abs().max())
    assert abs(intact - float(case.capture.logits[token])) < TOLERANCE * largest
    assert abs(ablated - float(case.other.logits[token])) < TOLERANCE * largest


def test_the_batch_size_changes_nothing(case):
    masks = sample_masks(case.lvlm.layers, case.lvlm.heads, 7, seed=3)
    baseline = swap_baseline(case.other)
    alone, three, auto = (run_masks(case.capture, masks, baseline=baseline, batch_size=size) for size in (1, 3, "auto"))
    assert np.ptp(auto) > 1e-2 * np.abs(auto).max()
    assert np.abs(alone - auto).max() < TOLERANCE * np.abs(auto).max()
    assert np.abs(three - auto).max() < TOLERANCE * np.abs(auto).max()


def test_pictures_of_other_shapes(case):
    """More tiles or patches give more tokens, and keys of one layout never stand in for another's."""
    width, height = case.family.size
    wide, tall = (case.lvlm.capture(picture(1, size), QUESTION) for size in ((2 * width, height // 2), (width // 2, 2 * height)))
    if case.family.name in ONE_SIZE:
        assert wide.image == tall.image == case.capture.image
        return
    for one, another in ((wide, tall), (tall, wide)):
        masks = np.ones((1, case.lvlm.layers, case.lvlm.heads), bool)
        with pytest.raises(HeadflowError, match="image size"):
            run_masks(one, masks, baseline=swap_baseline(another))
        with pytest.raises(HeadflowError, match="one image size"):
            mean_baseline([one, another])
        stock = run_masks(one, masks, baseline="blank")
        assert abs(stock[0] - float(one.logits.max())) < TOLERANCE * float(one.logits.abs().max())
    # Under M-RoPE as many tokens stand at other places; under cross-attention tiles that a picture does not fill stay, unseen.
    assert wide.image != tall.image or wide.position_ids.ndim == 3 or case.family.prefix == "cross"


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_picture_on_its_side_has_as_many_tokens_at_other_places(cases, name):
    """Positions in two dimensions (M-RoPE): keys of a wide grid are no baseline for a tall one."""
    case = cases(name)
    upright, side = case.capture, case.lvlm.capture(picture(1, case.family.size[::-1]), QUESTION)
    assert side.input_ids == upright.input_ids
    assert not torch.equal(side.position_ids, upright.position_ids)
    with pytest.raises(HeadflowError, match="image size"):
        run_masks(upright, np.ones((1, case.lvlm.layers, case.lvlm.heads), bool), baseline=swap_baseline(side))
    with pytest.raises(HeadflowError, match="one image size"):
        mean_baseline([upright, side])


def test_the_model_answers_as_before(case):
    """Whatever was switched on for masked runs is off again, after a failure too."""
    lvlm, shown = case.lvlm, case.picture(1)
    before = lvlm.decoder.config._attn_implementation
    answer = lvlm.answer([shown], QUESTION, max_new_tokens=4)
    assert answer == lvlm.answer([shown], QUESTION, max_new_tokens=4)
    run_gates(case.capture, GATES["every factor"](Draw(case.capture)), baseline=swap_baseline(case.other))
    with pytest.raises(HeadflowError):
        run_gates(case.capture, [Gate(queries=torch.ones(case.capture.suffix + 1))], baseline=swap_baseline(case.other))
    assert lvlm.decoder.config._attn_implementation == before
    assert lvlm.answer([shown], QUESTION, max_new_tokens=4) == answer
    assert torch.equal(case.take(1).logits, case.capture.logits)


def test_several_pictures_at_once(case):
    """As many answers, each that of its own picture."""
    shown = [case.picture(seed) for seed in (1, 2, 3)]
    assert case.lvlm.answer_ids(shown, QUESTION, max_new_tokens=4) == [case.lvlm.answer_ids([one], QUESTION, max_new_tokens=4)[0] for one in shown]
    together = case.lvlm.model(**case.lvlm.inputs(shown, QUESTION)).logits[:, -1]
    alone = torch.stack([case.take(seed).logits for seed in (1, 2, 3)])
    assert reference.relative(together, alone) < TOLERANCE
    assert min(reference.relative(alone[i], alone[i - 1]) for i in range(3)) > 1e-2


def test_greedy_answers_begin_with_the_captured_token(case):
    """``generate`` and the capture agree on what comes after the prompt."""
    inputs = case.lvlm.inputs([Image.fromarray(case.picture(1))], QUESTION)
    tokens = case.lvlm.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert int(tokens[0, -1]) == case.capture.greedy_token()
