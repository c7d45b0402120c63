"""What heads write: shares that add up to the logits, the picture's part of them, and planted heads that say their word."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CohereConfig, GraniteConfig, LlamaConfig, Olmo2Config
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import headflow
from headflow.ablation import gate_gradients
from headflow.datasets.planted import QUESTION as PLANTED_QUESTION
from headflow.datasets.planted import pattern
from headflow.errors import HeadflowError
from headflow.gates import Gate
from headflow.models.baselines import blank_baseline, closed_baseline, swap_baseline
from headflow.models.planted.circuits import find_circuit
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.targets import Target
from headflow.tracing.residual import Norm, Stream, find_paths, recordable, recording
from headflow.tracing.written import direct_effects, only, written_logits
from tests import reference
from tests.families import FAMILIES, QUESTION
from tests.families import llava as llava_families

# Text models that add up in other ways, in LLaVA's clothes: a factor on what is added, attention and MLP side by side behind a layer norm, norms behind
# both, and projections with a bias.
OTHERS = {
    "granite": (GraniteConfig, {"residual_multiplier": 0.3}), "cohere": (CohereConfig, {}), "olmo2": (Olmo2Config, {}),
    "biased llama": (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
}  # fmt: skip


def load(name, folder):
    if name in FAMILIES:
        return headflow.load(FAMILIES[name].build(folder)), FAMILIES[name].size
    kind, options = OTHERS[name]
    return headflow.load(llava_families._llava_next(folder, kind, llava_families._VICUNA_CHAT, **options)), (40, 24)


@pytest.fixture(scope="module", params=[*FAMILIES, *OTHERS])
def pair(request, tmp_path_factory):
    lvlm, (width, height) = load(request.param, tmp_path_factory.mktemp("family"))
    pictures = np.random.default_rng(1).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    return [lvlm.capture(picture, QUESTION) for picture in pictures]


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return FAMILIES["llava"].build(tmp_path_factory.mktemp("llava"))


def small(folder):
    lvlm = headflow.load(folder)
    return lvlm.capture(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8), QUESTION)


def stock_parts(lvlm, picture):
    """One stock forward of the whole prompt, seen by hooks of this test: what stands at the last position before and after each layer, what each MLP adds
    there (by the names of the families), and the logits."""
    before, after, mlps, hooks = {}, {}, {}, []

    def keep(store, layer, given):
        return lambda module, args, kwargs, output: store.update(
            {layer: ((args[0] if args else kwargs["hidden_states"]) if given else output[0] if isinstance(output, tuple) else output)[:, -1:]}
        )

    for number, layer in enumerate(lvlm.decoder.layers):
        hooks += [layer.register_forward_hook(keep(store, number, given), with_kwargs=True) for store, given in ((before, True), (after, False))]
        last = getattr(layer, "post_feedforward_layernorm", layer.mlp)
        hooks.append(last.register_forward_hook(keep(mlps, number, False), with_kwargs=True))
    try:
        with torch.no_grad():
            logits = lvlm.model(**lvlm.inputs([picture], QUESTION), use_cache=False).logits[:, -1:]
    finally:
        for hook in hooks:
            hook.remove()
    for number, layer in enumerate(lvlm.decoder.layers):
        gate = getattr(layer, "cross_attn_mlp_gate", None)
        mlps[number] = mlps[number] * (getattr(layer, "residual_multiplier", 1.0) if gate is None else gate.tanh().item())
    return before, after, mlps, logits


def projection(layer):
    return (getattr(layer, "self_attn", None) or layer.cross_attn).o_proj


def test_shares_add_up_to_the_logits(pair):
    """Embedding + every head + every MLP = the last state; through the frozen norm and the unembedding, the logits."""
    capture = pair[0]
    lvlm, paths = capture.lvlm, find_paths(capture)
    layers, heads = list(lvlm.decoder.layers), lvlm.decoder.config.num_attention_heads
    with recordable(paths), recording(1) as seen:
        before, after, mlps, logits = stock_parts(lvlm, capture.picture)
    stream = Stream(paths, seen, 1e-4)
    total = before[0]
    with torch.no_grad():
        for number, layer in enumerate(layers):
            module, outputs = projection(layer), seen.heads[number]
            alone = torch.stack([only(outputs, head, heads) for head in range(heads)])
            width = outputs.shape[-1] // heads
            for head in range(heads):
                mine = slice(head * width, (head + 1) * width)
                by_hand = outputs[..., mine] @ module.weight[:, mine].T
                assert torch.allclose(module(alone[head]) - (0 if module.bias is None else module.bias), by_hand, atol=1e-5)
            written = stream.write(number, alone)
            # A bias belongs to no head: it is what the projection says to nothing.
            bias = torch.zeros_like(before[0])
            if module.bias is not None:
                assert not paths.layers[number].norms
                bias = paths.layers[number].factor * module.bias.expand_as(bias)
            assert reference.relative(written.sum(0) + bias, after[number] - before[number] - mlps[number]) < 1e-4
            assert len({round(float(one.norm()), 4) for one in written}) > 1
            total = total + written.sum(0) + bias + mlps[number]
        assert reference.relative(paths.logits(stream.read(total) + stream.constant()), logits) < 2e-5


def test_the_pictures_part_against_the_answer_key(pair):
    """The full sequence through the stock class, with and without the picture's keys in one layer; read with the frozen scales of the intact run."""
    capture, other = pair
    lvlm, paths = capture.lvlm, find_paths(capture)
    layer, heads = lvlm.layers - 1, range(lvlm.heads)
    number = layer if lvlm.image_layers is None else lvlm.image_layers[layer]
    cut = torch.zeros(2, lvlm.layers, lvlm.heads)
    cut[1, layer] = 1
    twins = reference.picture_keys_values(lvlm, other.picture, QUESTION)
    with recordable(paths), recording(1) as seen:
        expected = reference.logits(lvlm, capture.picture, QUESTION, [Gate(heads=cut)], baseline=twins, batch=2)
    stream = Stream(paths, seen, 1e-4, slice(0, 1))
    change = seen.heads[number][:1] - seen.heads[number][1:]
    by_hand = torch.stack([stream.read(stream.write(number, only(change, head, lvlm.heads)))[0] for head in heads]).detach()
    found = written_logits(capture, [(layer, head) for head in heads], baseline=swap_baseline(other))
    assert found.shape == (lvlm.heads, 1, expected.shape[-1])
    assert reference.relative(found, by_hand) < 2e-4 and float(by_hand.abs().max()) > 1e-3


def test_both_ways_to_take_the_pictures_part_agree(pair):
    """Differences of two forwards with a whole layer cut, and derivatives of one forward by all gates."""
    capture, other = pair
    token, baseline = capture.greedy_token(), swap_baseline(other)
    heads = [(layer, head) for layer in range(capture.lvlm.layers) for head in range(capture.lvlm.heads)]
    paths = find_paths(capture)
    words = written_logits(capture, heads, baseline=baseline)[:, 0, token].reshape(capture.lvlm.layers, -1).numpy()
    if paths.softcap:  # the slope of the cap at the logit
        words = words * (1 - float(capture.logits[token] / paths.softcap) ** 2)
    direct = direct_effects(capture, baseline=baseline, target=Target("logit", token))[0]
    np.testing.assert_allclose(direct, words, atol=2e-5 * max(1, np.abs(words).max()))
    logprob = direct_effects(capture, baseline=baseline, target=Target("logprob", token))[0]
    assert np.abs(logprob - direct).max() > 1e-4


def test_a_whole_answer_is_written_at_each_of_its_tokens(llava):
    lvlm = headflow.load(llava)
    told = lvlm.capture(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8), QUESTION, [7, 3, 9])
    heads = [(layer, head) for layer in range(lvlm.layers) for head in range(lvlm.heads)]
    written = written_logits(told, heads, rows=told.predicts)
    slopes = torch.eye(written.shape[-1])[[7, 3, 9]] - told.answer_logits.softmax(-1)
    expected = (written * slopes).sum((1, 2)).reshape(lvlm.layers, -1).numpy()
    np.testing.assert_allclose(direct_effects(told)[0], expected, atol=1e-5)
    assert np.abs((written[:, -1] * slopes[-1]).sum(-1).reshape(lvlm.layers, -1).numpy() - expected).max() > 1e-3


def test_every_position_and_any_batch(llava):
    capture = small(llava)
    heads = [(0, 1), (2, 3), (1, 0), (1, 2)]
    everywhere = written_logits(capture, heads, rows=None)
    assert everywhere.shape[:2] == (4, capture.suffix)
    np.testing.assert_allclose(everywhere[:, -1:], written_logits(capture, heads, batch_size=2), atol=1e-5)
    states = np.random.default_rng(0).random((7, capture.lvlm.layers, capture.lvlm.heads)) < 0.5
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        many = direct_effects(capture, states, batch_size=2)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(many, direct_effects(capture, states, batch_size=7), atol=1e-5)
    with torch.no_grad():  # nothing is left behind
        again = capture.lvlm.model(**capture.lvlm.inputs([capture.picture], QUESTION)).logits[0, -1]
    assert torch.equal(again.float(), capture.logits)


def test_the_last_layers_heads_have_no_help_but_their_mlp(llava):
    """With the MLP of the last layer silenced, what its heads write is all that they do: the gate gradient, but for the norm's own slope."""
    lvlm = headflow.load(llava)
    nn.init.zeros_(lvlm.decoder.layers[-1].mlp.down_proj.weight)
    capture = lvlm.capture(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8), QUESTION)
    token = capture.greedy_token()
    whole = gate_gradients(capture, np.ones((1, lvlm.layers, lvlm.heads), bool), target=Target("logit", token))[1][0, -1]
    written = written_logits(capture, [(lvlm.layers - 1, head) for head in range(lvlm.heads)])
    # f = w·x/|x|: its slope along d is w·d/|x| − (w·x/|x|)(x·d)/|x|²; the first term is frozen, the second taken by hand.
    with prepared(capture), recordable(find_paths(capture)), recording(1) as seen:
        cut = torch.zeros(2, lvlm.layers, lvlm.heads)
        cut[1, -1] = 1
        run_suffix(capture, make_bank(capture, blank_baseline(capture)), [Gate(heads=cut)])
    stream = Stream(find_paths(capture), seen, 1e-4, slice(0, 1))
    state = seen.norms[lvlm.decoder.norm][0][0, -1]
    change = seen.heads[lvlm.layers - 1][:1] - seen.heads[lvlm.layers - 1][1:]
    with torch.no_grad():
        added = torch.stack([stream.write(lvlm.layers - 1, only(change, head, lvlm.heads))[0, -1] for head in range(lvlm.heads)])
    shrinking = float(capture.logits[token]) * (added @ state) / (state @ state)
    np.testing.assert_allclose(written[:, 0, token] - shrinking, whole, atol=2e-4)
    assert float(shrinking.abs().max()) > 1e-3


def planted(circuit, name="jade"):
    model = headflow.load(f"planted:{circuit}")
    capture = model.capture(pattern(name, "warm", np.random.default_rng(3)).image, PLANTED_QUESTION)
    return capture, capture.first_token(name)


@pytest.mark.parametrize("baseline", ["blank", "closed"])
def test_carrying_heads_write_the_answer_and_others_write_nothing(baseline):
    capture, token = planted("additive")
    circuit = find_circuit("additive")
    heads = [(layer, head) for layer in range(circuit.layers) for head in range(circuit.heads)]
    written = written_logits(capture, heads, baseline=closed_baseline() if baseline == "closed" else baseline)[:, 0].reshape(circuit.layers, circuit.heads, -1)
    for reader in circuit.readers:
        mine = written[reader.place]
        assert int(mine.argmax()) == token and float(mine[token]) == pytest.approx(reader.weight, abs=1e-3)
        written[reader.place] = 0
    assert float(written.abs().max()) < 1e-3


def test_what_is_written_by_itself_at_every_state_of_planted_heads():
    states = np.random.default_rng(0).random((6, 5, 8)) < 0.5
    for name, slope in (("additive", 1.0), ("redundant", None), ("chain", 0.0)):
        capture, token = planted(name)
        circuit, target = find_circuit(name), Target("logit", token)
        expected = np.zeros((5, 8))
        for reader in circuit.readers:
            # A pooled reader writes the linear part of the response itself; one at the role token writes nothing at the end.
            own = circuit.response.linear if reader.pooled else 1.0 if slope is None else slope
            expected[reader.place] = reader.weight * own
        direct = direct_effects(capture, states, target=target)
        np.testing.assert_allclose(direct, np.broadcast_to(expected, direct.shape), atol=2e-3)
        if name == "chain":  # and yet the heads carry it all
            assert gate_gradients(capture, states, target=target)[1].max() > 4


def test_in_half_precision_the_ways_are_the_same(llava):
    capture = small(llava)
    lvlm = headflow.load(llava, dtype="bfloat16")
    half = lvlm.capture(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8), QUESTION)
    assert [path.factor for path in find_paths(half).layers] == [1.0] * 3
    heads = [(layer, head) for layer in range(3) for head in range(4)]
    assert np.corrcoef(written_logits(half, heads).ravel(), written_logits(capture, heads).ravel())[0, 1] > 0.98


@pytest.mark.parametrize("norm", [LlamaRMSNorm(48), nn.LayerNorm(48), nn.LayerNorm(47), nn.RMSNorm(48, eps=1e-2), nn.LayerNorm(48, elementwise_affine=False)])
def test_a_norm_taken_apart(norm):
    draws = torch.Generator().manual_seed(0)
    width = 47 if norm is not None and getattr(norm, "normalized_shape", (48,)) == (47,) else 48
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws))
        x, change = torch.randn(2, 3, width, generator=draws) + 0.5, torch.randn(3, width, generator=draws)
        y = norm(x)
    apart = Norm.take_apart(norm, x)
    frozen = apart.freeze(x, y, 1e-4)
    assert apart.centres == isinstance(norm, nn.LayerNorm)
    assert torch.allclose(frozen(x) + apart.bias, y, atol=1e-4)
    centred = change - change.mean(-1, keepdim=True) if apart.centres else change
    own = x - x.mean(-1, keepdim=True) if apart.centres else x
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0))
    weight = 1.0 if getattr(norm, "weight", None) is None else norm.weight.detach()
    expected = weight * centred / (own.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    assert torch.allclose(frozen(change), expected, atol=1e-4)


def test_what_is_no_norm_is_refused():
    x = torch.randn(2, 3, 8)
    with pytest.raises(HeadflowError, match="Tanh is neither an RMS norm nor a layer norm"):
        Norm.take_apart(nn.Tanh(), x).freeze(x, torch.tanh(x), 1e-4)


def bend_logits(lvlm, bend):
    def hook(module, args, output):
        output["logits"] = bend(output["logits"])
        return output

    lvlm.model.register_forward_hook(hook)


def test_a_factor_before_the_logits_is_found(llava):
    capture = small(llava)
    plain = written_logits(capture, [(1, 2)])
    lvlm = headflow.load(llava)
    bend_logits(lvlm, lambda logits: 0.25 * logits)
    shrunk = lvlm.capture(np.asarray(capture.picture), QUESTION)
    assert find_paths(shrunk).factor == pytest.approx(0.25, abs=1e-4)
    assert torch.allclose(written_logits(shrunk, [(1, 2)]), 0.25 * plain, atol=1e-5)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda lvlm: lvlm.decoder.layers[1].register_forward_hook(lambda module, args, output: 1.5 * output), "layer 1: its output is not the sum"),
        (lambda lvlm: bend_logits(lvlm, lambda logits: logits**3), "its logits are not"),
        (
            lambda lvlm: lvlm.decoder.layers[0].self_attn.register_forward_hook(lambda module, args, output: (2 * output[0], None)),
            "layer 0: no output projection",
        ),
        (lambda lvlm: setattr(lvlm.model, "get_output_embeddings", lambda: None), "names no decoder layers or no output embeddings"),
    ],
)  # fmt: skip
def test_models_that_are_no_such_sum_are_refused(llava, spoil, message):
    lvlm = headflow.load(llava)
    spoil(lvlm)
    capture = lvlm.capture(np.zeros((16, 16, 3), np.uint8), QUESTION)
    with pytest.raises(HeadflowError, match=f"LlavaForConditionalGeneration.*{message}"):
        written_logits(capture, [(0, 0)])


def test_a_head_that_is_not_there_is_named(llava):
    with pytest.raises(HeadflowError, match=r"head \(3, 0\): the model has 3 layers that read the picture, of 4 heads each"):
        written_logits(small(llava), [(0, 0), (3, 0)])
