"""The answer key: gated attention written as plainly as possible, over the whole prompt at once.

It shares no code and no trick with the engine. The stock model class runs the full sequence from pixels to logits; every
edge (layer, head, query, key) has two numbers in dense tensors, how much of the real key and how much of its twin is
seen; the softmax runs over 2N keys. Mixed outputs are spelt out as a weighted list of such pairs of tensors.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from headflow.gates import Gate

NAME = "plain_reference"


@dataclass
class Mixture:
    """One term of an output: ``share`` [batch, layers, heads, N] of the attention that sees ``real`` and ``twin`` [batch, layers, heads, N, N]."""

    share: Tensor
    real: Tensor
    twin: Tensor


@dataclass
class _State:
    mixtures: list[Mixture] | None
    twin_keys: list[Tensor] | None
    twin_values: list[Tensor] | None
    seen: dict[int, tuple[Tensor, Tensor]]


_state: list[_State] = []


def _plain_attention(module, query, key, value, attention_mask, scaling=None, softcap=None, sliding_window=None, **_):
    """Batch, head and query by formula; the stock mask is worked out from positions, not taken from transformers."""
    state = _state[-1]
    layer = module.layer_idx
    state.seen[layer] = (key.detach().clone(), value.detach().clone())
    batch, heads, length, dim = query.shape
    group = heads // key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    q, k = torch.arange(length)[:, None], torch.arange(length)[None]
    causal = ((k <= q) & (k > q - sliding_window) if sliding_window else k <= q).to(query)

    outputs = []
    for head in range(heads):
        real_k, real_v = key[:, head // group], value[:, head // group]
        scores = query[:, head] @ real_k.transpose(1, 2) * scale
        if state.mixtures is None:
            outputs.append(_average(_cap(scores, softcap), causal.expand(batch, -1, -1), real_v))
            continue
        twin_k = state.twin_keys[layer][head // group].to(query).expand(batch, -1, -1)
        twin_v = state.twin_values[layer][head // group].to(query).expand(batch, -1, -1)
        both = _cap(torch.cat([scores, query[:, head] @ twin_k.transpose(1, 2) * scale], -1), softcap)
        values = torch.cat([real_v, twin_v], 1)
        total = 0
        for mixture in state.mixtures:
            amounts = torch.cat([mixture.real[:, layer, head] * causal, mixture.twin[:, layer, head] * causal], -1)
            total = total + mixture.share[:, layer, head, :, None] * _average(both, amounts, values)
        outputs.append(total)
    return torch.stack(outputs, 2), None


def _cap(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _average(scores: Tensor, amounts: Tensor, values: Tensor) -> Tensor:
    """Σ amount·e^score·value / Σ amount·e^score; a query that sees nothing reads zero."""
    largest = scores.masked_fill(amounts == 0, float("-inf")).amax(-1, keepdim=True).clamp_min(-1e30)
    weights = amounts * torch.exp(torch.where(amounts > 0, scores - largest, torch.zeros_like(scores)))
    return (weights @ values) / weights.sum(-1, keepdim=True).clamp_min(1e-30)


AttentionInterface.register(NAME, _plain_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


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


def keys_values(lvlm, picture, question: str) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of a whole prompt, per layer [kv_heads, N, head_dim], as the attention of an untouched run sees them."""
    state = _State(None, None, None, {})
    with torch.no_grad(), _plain(lvlm.decoder, state):
        lvlm.model(**lvlm.inputs([picture], question))
    layers = sorted(state.seen)
    return [state.seen[layer][0][0] for layer in layers], [state.seen[layer][1][0] for layer in layers]


def dense(gates: Sequence[Gate], *, batch: int, layers: int, heads: int, length: int, image: slice, dtype: torch.dtype) -> list[Mixture]:
    """Write the gates out edge by edge, from the words of their documentation."""
    shape = (batch, layers, heads, length)
    terms = [Mixture(torch.ones(shape, dtype=dtype), torch.ones(*shape, length, dtype=dtype), torch.ones(*shape, length, dtype=dtype))]
    kept = [torch.ones(*shape, length, dtype=dtype)]  # per term: how much of each real key the baseline gates leave
    in_image = torch.zeros(length, dtype=dtype)
    in_image[image] = 1
    for gate in gates:
        rows = torch.zeros(shape, dtype=dtype)
        rows[..., image.stop :] = 1  # nothing before the end of the picture is ever changed
        if gate.heads is not None:
            rows = rows * gate.heads.to(dtype)[:, :, :, None]
        if gate.queries is not None:
            amounts = torch.zeros(batch, length, dtype=dtype)
            amounts[:, image.stop :] = gate.queries.to(dtype)
            rows = rows * amounts[:, None, None, :]
        if gate.layers is not None:
            rows = rows * gate.layers.to(dtype)[None, :, None, None]
        if gate.keys is None:
            keys = in_image.expand(batch, length)
        else:
            keys = gate.keys.to(dtype) if gate.keys.ndim == 2 else gate.keys.to(dtype).expand(batch, length)
        cut = keys[:, None, None, None, :]
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
    inputs = lvlm.inputs([picture] * batch, question)
    ids = inputs["input_ids"][0].tolist()
    places = [i for i, token in enumerate(ids) if token == lvlm.image_token]
    image = slice(places[0], places[-1] + 1)
    mixtures = dense(gates, batch=batch, layers=lvlm.layers, heads=lvlm.heads, length=len(ids), image=image, dtype=lvlm.dtype)
    dim = lvlm.decoder.layers[0].self_attn.head_dim
    twins = [[torch.zeros(lvlm.kv_heads, len(ids), dim, dtype=lvlm.dtype) for _ in range(lvlm.layers)] for _ in range(2)]
    if baseline is None:
        for mixture in mixtures:
            mixture.twin = torch.zeros_like(mixture.twin)
    else:
        for whole, parts in zip(twins, baseline, strict=True):
            for layer, part in enumerate(parts):
                whole[layer][:, image] = part.to(lvlm.dtype)
    with torch.no_grad(), _plain(lvlm.decoder, _State(mixtures, *twins, {})):
        return lvlm.model(**inputs).logits[:, -1]


def relative(value: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of the reference."""
    return float((value.double() - reference.double()).abs().max() / reference.double().abs().max())
