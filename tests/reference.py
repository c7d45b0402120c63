"""The answer key: gated attention written as plainly as possible, over the whole prompt at once.

It shares no code and no trick with the engine. The stock model class runs the full sequence from pixels to logits, under the
mask that transformers makes for its own eager attention; every edge (layer, head, query, key) has two numbers in dense
tensors, how much of the real key and how much of its twin is seen; the softmax runs over 2N keys. Mixed outputs are spelt
out as a weighted list of such pairs of tensors.

Where the text after the picture changes keys before it (PaliGemma, whose prompt is bidirectional), the same words hold: gates
act on the queries after the image span, a cut edge reads the twin in the place of this run's own image key, and everything
else is what the model makes of it. Where the picture enters through layers of cross-attention (Mllama), gates act on these
layers alone and on every query, and their keys are the picture's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from headflow.gates import Gate

NAME = "plain_reference"


@dataclass
class Mixture:
    """One term of an output: ``share`` [batch, layers, heads, queries] of the attention that sees ``real`` and ``twin``, each with a last axis of keys."""

    share: Tensor
    real: Tensor
    twin: Tensor


@dataclass
class _State:
    """What one run is told and what it hands back.

    Attributes:
        mixtures: the gates, edge by edge; None = the stock model.
        twin_keys, twin_values: per layer that reads the picture [kv_heads, image, head_dim].
        image: where the picture stands among the keys.
        reading: the layers that read the picture.
        prompt: tokens of the prompt; what follows is an answer, and every one of its tokens is seen by itself and by later ones only.
            None = take the model's word for it.
        keys, values: what came by, per layer [batch, kv_heads, N, head_dim].
        masks: which keys the model shows to each query, per layer [batch, queries, keys].
    """

    mixtures: list[Mixture] | None = None
    twin_keys: Sequence[Tensor] | None = None
    twin_values: Sequence[Tensor] | None = None
    image: slice = field(default_factory=lambda: slice(0))
    reading: Sequence[int] = ()
    prompt: int | None = None
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    masks: dict[int, Tensor] = field(default_factory=dict)


_state: list[_State] = []


def _plain_attention(module, query, key, value, attention_mask, scaling=None, softcap=None, **_):
    """Batch, head and query by formula; norms of queries and keys and rotary positions have been applied before."""
    state = _state[-1]
    layer = module.layer_idx
    batch, heads, length, dim = query.shape
    group = heads // key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    visible = (attention_mask > torch.finfo(attention_mask.dtype).min / 2)[:, 0].expand(batch, -1, -1)
    if state.prompt is not None:  # a model that sees its whole prompt both ways would take the answer for a part of it
        q, k = torch.arange(length)[:, None], torch.arange(length)[None]
        visible = visible & ((k < state.prompt) | (k <= q))
    state.keys[layer], state.values[layer], state.masks[layer] = key.detach().clone(), value.detach().clone(), visible
    shown = visible.to(query)
    gated = state.mixtures is not None and layer in state.reading
    place = state.reading.index(layer) if gated else None

    outputs = []
    for head in range(heads):
        real_k, real_v = key[:, head // group], value[:, head // group]
        scores = query[:, head] @ real_k.transpose(1, 2) * scale
        if not gated:
            outputs.append(_average(_cap(scores, softcap), shown, real_v))
            continue
        # No twin outside the picture: dense() leaves no weight on those places.
        twin_k, twin_v = torch.zeros_like(real_k), torch.zeros_like(real_v)
        if state.twin_keys is not None:
            twin_k[:, state.image] = state.twin_keys[place][head // group].to(query)
            twin_v[:, state.image] = state.twin_values[place][head // group].to(query)
        both = _cap(torch.cat([scores, query[:, head] @ twin_k.transpose(1, 2) * scale], -1), softcap)
        values = torch.cat([real_v, twin_v], 1)
        total = 0
        for mixture in state.mixtures:
            amounts = torch.cat([mixture.real[:, place, head] * shown, mixture.twin[:, place, head] * shown], -1)
            total = total + mixture.share[:, place, head, :, None] * _average(both, amounts, values)
        outputs.append(total)
    return torch.stack(outputs, 2), None


def _whole_mask(*args, **kwargs):
    """transformers' own eager mask, never left out."""
    return eager_mask(*args, **{**kwargs, "allow_is_bidirectional_skip": False})


def _cap(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _average(scores: Tensor, amounts: Tensor, values: Tensor) -> Tensor:
    """Σ amount·e^score·value / Σ amount·e^score; a query that sees nothing reads zero."""
    largest = scores.masked_fill(amounts == 0, float("-inf")).amax(-1, keepdim=True).clamp_min(-1e30)
    weights = amounts * torch.exp(torch.where(amounts > 0, scores - largest, torch.zeros_like(scores)))
    return (weights @ values) / weights.sum(-1, keepdim=True).clamp_min(1e-30)


AttentionInterface.register(NAME, _plain_attention)
AttentionMaskInterface.register(NAME, _whole_mask)


@contextmanager
def _plain(decoder, state: _State) -> Iterator[None]:
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = NAME
    _state.append(state)
    try:
        yield
    finally:
        _state.pop()
        decoder.config._attn_implementation = before


def _untouched(lvlm, picture, question: str) -> _State:
    state = _State()
    with torch.no_grad(), _plain(lvlm.decoder, state):
        lvlm.model(**lvlm.inputs([picture], question), use_cache=False)
    return state


def keys_values(lvlm, picture, question: str) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of a whole prompt, per layer [kv_heads, N, head_dim], as the attention of an untouched run sees them."""
    state = _untouched(lvlm, picture, question)
    layers = sorted(state.keys)
    return [state.keys[layer][0] for layer in layers], [state.values[layer][0] for layer in layers]


def picture_keys_values(lvlm, picture, question: str) -> tuple[list[Tensor], list[Tensor]]:
    """Those of the picture alone, per layer that reads it [kv_heads, image, head_dim]."""
    keys, values = keys_values(lvlm, picture, question)
    image, reading = _image(lvlm, lvlm.inputs([picture], question)), _reading(lvlm)
    if _crosses(lvlm):
        return [keys[layer] for layer in reading], [values[layer] for layer in reading]
    return [k[:, image] for k in keys], [v[:, image] for v in values]


def _crosses(lvlm) -> bool:
    return hasattr(lvlm.decoder.config, "cross_attention_layers")


def _reading(lvlm) -> list[int]:
    """The layers that read the picture."""
    config = lvlm.decoder.config
    return sorted(config.cross_attention_layers) if _crosses(lvlm) else list(range(config.num_hidden_layers))


def _image(lvlm, inputs: dict[str, Tensor]) -> slice:
    """First to last image position."""
    places = (inputs["input_ids"][0] == lvlm.image_token).nonzero().flatten().tolist()
    return slice(places[0], places[-1] + 1)


def masks(lvlm, picture, question: str) -> list[Tensor]:
    """Which keys an untouched run shows to each query, per layer [queries, keys]."""
    state = _untouched(lvlm, picture, question)
    return [state.masks[layer][0] for layer in sorted(state.masks)]


def dense(
    gates: Sequence[Gate], *, batch: int, layers: int, heads: int, queries: int, keys: int, first: int, image: slice, dtype: torch.dtype
) -> list[Mixture]:
    """Write the gates out edge by edge, from the words of their documentation.

    Args:
        first: the first query that gates act on.
        image: where the picture stands among the keys.
    """
    shape = (batch, layers, heads, queries)
    terms = [Mixture(torch.ones(shape, dtype=dtype), torch.ones(*shape, keys, dtype=dtype), torch.ones(*shape, keys, dtype=dtype))]
    kept = [torch.ones(*shape, keys, dtype=dtype)]  # per term: how much of each real key the baseline gates leave
    in_image = torch.zeros(keys, dtype=dtype)
    in_image[image] = 1
    for gate in gates:
        rows = torch.zeros(shape, dtype=dtype)
        rows[..., first:] = 1  # nothing before the end of the picture is ever changed
        if gate.heads is not None:
            rows = rows * gate.heads.to(dtype)[:, :, :, None]
        if gate.queries is not None:
            amounts = torch.zeros(batch, queries, dtype=dtype)
            amounts[:, first:] = gate.queries.to(dtype)
            rows = rows * amounts[:, None, None, :]
        if gate.layers is not None:
            rows = rows * gate.layers.to(dtype).expand(batch, layers)[:, :, None, None]
        cut = (in_image if gate.keys is None else gate.keys.to(dtype)).expand(batch, keys)[:, None, None, None, :]
        after, after_kept = [], []
        for term, left in zip(terms, kept, strict=True):
            intact = Mixture(term.share * (1 - rows), term.real, term.twin)
            if gate.reads == "baseline":
                closing, new_left = term.twin, left * (1 - cut)
            else:
                closing, new_left = term.twin * (1 - cut), left
            taken = Mixture(term.share * rows, term.real * (1 - cut), closing)
            after += [intact, taken]
            after_kept += [left, new_left]
        terms, kept = after, after_kept
    for term, left in zip(terms, kept, strict=True):
        term.twin = (1 - left) * term.twin * in_image
    return terms


def logits(lvlm, picture, question: str, gates: Sequence[Gate] = (), *, baseline: tuple[list[Tensor], list[Tensor]] | None = None, batch: int = 1) -> Tensor:
    """Last-position logits [batch, vocabulary] of the full prompt under ``gates``.

    Args:
        baseline: keys and values per layer [kv_heads, image, head_dim]; None = gates that read the baseline read nothing.
    """
    return answer_logits(lvlm, picture, question, [0], gates, baseline=baseline, batch=batch)[:, -1]


def answer_logits(
    lvlm, picture, question: str, answer: Sequence[int] | Tensor, gates: Sequence[Gate] = (), *,
    baseline: tuple[list[Tensor], list[Tensor]] | None = None, batch: int = 1,
) -> Tensor:  # fmt: skip
    """Logits [batch, answer, vocabulary] that predict each token of ``answer`` from those before it; its last token is not fed.

    ``answer`` may be one of each forward, [batch, answer]. The logits can be differentiated in the factors of the gates that ask for it.
    """
    inputs = lvlm.inputs([picture] * batch, question)
    prompt, answer = inputs["input_ids"].shape[1], torch.as_tensor(answer)
    inputs = {name: _prolonged(name, x, prompt, answer[..., :-1]) for name, x in inputs.items()}
    length, image, reading = inputs["input_ids"].shape[1], _image(lvlm, inputs), _reading(lvlm)
    keys, first = length, image.stop
    if _crosses(lvlm):
        keys, first = _untouched(lvlm, picture, question).keys[reading[0]].shape[2], 0
        image, prompt = slice(0, keys), None
    heads = lvlm.decoder.config.num_attention_heads
    mixtures = dense(gates, batch=batch, layers=len(reading), heads=heads, queries=length, keys=keys, first=first, image=image, dtype=lvlm.dtype)
    if baseline is None:
        for mixture in mixtures:
            mixture.twin = torch.zeros_like(mixture.twin)
    differentiate = any(factor is not None and factor.requires_grad for gate in gates for factor in (gate.heads, gate.queries, gate.keys, gate.layers))
    with (
        torch.set_grad_enabled(differentiate),
        _plain(lvlm.decoder, _State(mixtures, *(baseline or (None, None)), image=image, reading=reading, prompt=prompt)),
    ):
        return lvlm.model(**inputs, use_cache=False).logits[:, -answer.shape[-1] :]


def _prolonged(name: str, x: Tensor, prompt: int, fed: Tensor) -> Tensor:
    """Inputs that go token by token, with further tokens; all but their ids are as the last prompt token's."""
    more = fed.shape[-1]
    if x.ndim < 2 or x.shape[1] != prompt or not more:
        return x
    if name == "input_ids":
        return torch.cat([x, fed.expand(len(x), -1)], 1)
    return torch.cat([x, *[x[:, -1:]] * more], 1)


def relative(value: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of the reference."""
    return float((value.double() - reference.double()).abs().max() / reference.double().abs().max())
