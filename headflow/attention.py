"""The one attention function that obeys the gates; registered with transformers under the name ``headflow``.

It runs the *suffix* only (every token after the image span). The prefix is never recomputed: under causal attention no
gate changes it, so all forwards of a batch share one unbatched bank of prefix keys and values, and the baseline twins
of the image positions beside it. RoPE, QK-norm and projections have happened before this function is called.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from headflow.gates import Gate

NAME = "headflow"
# Below this many prefix keys one joint softmax over all keys is faster than separate products merged afterwards.
_FLASH_FROM_KEYS = 160

Record = Callable[[int, Float[Tensor, "batch heads queries keys"]], None]


@dataclass
class Bank:
    """Keys and values that all forwards share, layer by layer.

    Attributes:
        keys, values: per layer ``[kv_heads, prefix + image, head_dim]``: the real prefix, then the baseline twins of the
            image span (absent where there is no baseline).
        prefix: tokens in the prefix; the image span is its last part.
        image: the image span inside the prefix.
    """

    keys: list[Float[Tensor, "kv_heads bank head_dim"]]
    values: list[Float[Tensor, "kv_heads bank head_dim"]]
    prefix: int
    image: slice

    @property
    def has_baseline(self) -> bool:
        return self.keys[0].shape[1] > self.prefix


@dataclass
class SuffixPass:
    """State of one suffix pass: what the attention function needs beside its arguments.

    Attributes:
        bank: shared keys and values.
        gates: the cuts; empty = the stock model.
        last: output positions that the last layer has to produce, counted from the end (None = all).
        record: called per layer with the attention weights over [real prefix | baseline image | suffix].
        fired: layers that came through here, in order.
    """

    bank: Bank
    gates: Sequence[Gate] = ()
    last: int | None = None
    record: Record | None = None
    fired: list[int] = field(default_factory=list)
    last_layer: int = -1

    def queries_needed(self, layer: int, suffix: int) -> int:
        return suffix if self.last is None or layer != self.last_layer else min(self.last, suffix)


# A context variable and not a keyword argument: some families hand keyword arguments on to the vision tower. Each
# worker thread has its own.
_ACTIVE: ContextVar[SuffixPass] = ContextVar("headflow_suffix_pass")


@contextmanager
def obey(state: SuffixPass) -> Iterator[SuffixPass]:
    """Make ``state`` the one that the attention function reads in this thread."""
    token = _ACTIVE.set(state)
    try:
        yield state
    finally:
        _ACTIVE.reset(token)


@contextmanager
def switched(decoder: PreTrainedModel) -> Iterator[None]:
    """Route the text model, and it alone, through :func:`gated_attention`; undone on the way out, errors included."""
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = NAME
    try:
        yield
    finally:
        decoder.config._attn_implementation = before


def gated_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "batch heads suffix head_dim"],
    key: Float[Tensor, "batch kv_heads suffix head_dim"],
    value: Float[Tensor, "batch kv_heads suffix head_dim"],
    attention_mask: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: object,
) -> tuple[Float[Tensor, "batch suffix heads head_dim"], None]:
    """Attention of suffix queries to the shared prefix and to their own suffix, under the active gates."""
    state = _ACTIVE.get()
    layer = module.layer_idx
    state.fired.append(layer)
    suffix = query.shape[2]
    needed = state.queries_needed(layer, suffix)
    visible = _visible(attention_mask)[..., -needed:, :]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = _attend(state, layer, query[:, :, -needed:], key, value, visible, scale, softcap)
    output = output.transpose(1, 2)
    if needed < suffix:  # the caller reshapes to the full suffix; rows that nobody reads stay zero
        padded = output.new_zeros(output.shape[0], suffix, *output.shape[2:])
        padded[:, -needed:] = output
        return padded, None
    return output.contiguous(), None


def _boolean_mask(*args: object, **kwargs: object) -> Tensor:
    """A real boolean mask, always: without one, sliding windows would silently be ignored."""
    kwargs["allow_is_causal_skip"] = False
    kwargs["allow_is_bidirectional_skip"] = False
    return sdpa_mask(*args, **kwargs)


AttentionInterface.register(NAME, gated_attention)
AttentionMaskInterface.register(NAME, _boolean_mask)


def _visible(mask: Tensor) -> Tensor:
    """Which keys the stock model shows to each query, ``[1, 1, suffix, prefix + suffix]``; the same for every forward."""
    mask = mask[:1, :1]
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _attend(
    state: SuffixPass, layer: int, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float, softcap: float | None
) -> Float[Tensor, "batch heads queries head_dim"]:
    active = []
    for gate in state.gates:
        rows = gate.rows(layer)
        if rows is None:
            continue
        rows = rows.to(query.device)  # a gate without row factors knows no device
        active.append((gate, rows[..., -query.shape[2] :] if rows.shape[-1] > 1 else rows))
    if _can_group(state, active, query, visible, softcap):
        return _grouped(state.bank, layer, active[0][0].reads if active else "baseline", active[0][1] if active else None, query, key, value, visible, scale)
    # Each mixing gate doubles the branches: its edges intact, its edges cut.
    branches: list[tuple[Tensor | None, list[tuple[Gate, Tensor]]]] = [(None, [])]
    for gate, rows in active:
        if not gate.mixes:
            branches = [(weight, [*cuts, (gate, rows)]) for weight, cuts in branches]
            continue
        amount, full = rows[..., None], torch.ones(1, 1, 1, device=rows.device, dtype=rows.dtype)
        branches = [
            (share if weight is None else weight * share, [*cuts, *taken])
            for weight, cuts in branches
            for share, taken in ((1 - amount, []), (amount, [(gate, full)]))
        ]
    total = None
    for weight, cuts in branches:
        output = _joint(state, layer, cuts, query, key, value, visible, scale, softcap)
        output = output if weight is None else weight.to(output) * output
        total = output if total is None else total + output
    return total


def _fold(x: Float[Tensor, "batch heads rows head_dim"], kv_heads: int) -> Float[Tensor, "kv_heads batch group_rows head_dim"]:
    """Group query heads by the key head that they read, and put that first: one product then serves all forwards."""
    batch, heads, rows, dim = x.shape
    return x.reshape(batch, kv_heads, heads // kv_heads * rows, dim).transpose(0, 1)


def _joint(
    state: SuffixPass, layer: int, cuts: list[tuple[Gate, Tensor]], query: Tensor, key: Tensor, value: Tensor,
    visible: Tensor, scale: float, softcap: float | None,
) -> Float[Tensor, "batch heads queries head_dim"]:  # fmt: skip
    """One softmax over [real prefix | baseline image | suffix], each key weighted by how far the gates let it be seen."""
    bank = state.bank
    batch, heads, rows, dim = query.shape
    kv_heads, prefix = key.shape[1], bank.prefix
    reads_baseline = any(gate.reads == "baseline" for gate, _ in cuts)
    length = bank.keys[layer].shape[1] if reads_baseline else prefix
    shared_keys, shared_values = bank.keys[layer][:, :length], bank.values[layer][:, :length]

    folded = _fold(query * scale, kv_heads)
    to_shared = (folded.reshape(kv_heads, -1, dim) @ shared_keys.transpose(1, 2)).view(kv_heads, batch, -1, length)
    to_suffix = folded @ key.transpose(0, 1).transpose(2, 3)
    scores = torch.cat([to_shared, to_suffix], -1).view(kv_heads, batch, heads // kv_heads, rows, -1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = _weigh(scores, bank, cuts, visible, length, kv_heads)
    weights = torch.softmax(scores, -1, dtype=torch.float32)
    if cuts and any(gate.keys is not None for gate, _ in cuts):
        weights = torch.nan_to_num(weights)  # a query from which every key is cut reads nothing
    weights = weights.to(query.dtype)
    if state.record is not None:
        seen = weights.transpose(0, 1).reshape(batch, heads, rows, -1)
        state.record(layer, seen)
    weights = weights.view(kv_heads, batch, -1, weights.shape[-1])
    output = (weights[..., :length].reshape(kv_heads, -1, length) @ shared_values).view(kv_heads, batch, -1, dim)
    output = output + weights[..., length:] @ value.transpose(0, 1)
    return output.transpose(0, 1).reshape(batch, heads, rows, dim)


def _weigh(
    scores: Float[Tensor, "kv_heads batch group rows keys"], bank: Bank, cuts: list[tuple[Gate, Tensor]],
    visible: Tensor, length: int, kv_heads: int,
) -> Tensor:  # fmt: skip
    """Add the logarithm of each key's weight: what the stock mask shows times what the gates leave open.

    Real key: Π(1 − cut). Twin: (1 − Π over baseline gates (1 − cut)) · Π over closing gates (1 − cut).
    """
    prefix, image = bank.prefix, bank.image
    stock = torch.zeros(visible.shape[-2:], dtype=scores.dtype, device=scores.device).masked_fill_(~visible[0, 0], float("-inf"))
    twins = stock[:, image] if length > prefix else stock[:, :0]
    stock = torch.cat([stock[:, :prefix], twins, stock[:, prefix:]], -1)
    if not cuts:
        return scores + stock

    def rows_by_key_head(rows: Tensor) -> Tensor:
        """[batch, heads, queries] → [kv_heads, batch, group, queries, 1], sizes of 1 kept."""
        if rows.shape[1] == 1:
            return rows.transpose(0, 1)[:, :, None, :, None]
        return rows.reshape(rows.shape[0], kv_heads, -1, rows.shape[2]).transpose(0, 1)[..., None]

    simple = len(cuts) == 1 and cuts[0][0].keys is None
    if simple:  # one gate on the whole image span: two numbers a row, no tensor as wide as the keys
        gate, rows = cuts[0]
        rows = rows_by_key_head(rows)
        scores = scores + stock
        scores[..., image] += torch.log1p(-rows)
        if length > prefix:
            scores[..., prefix:length] += torch.log(rows)
        return scores

    positions = visible.shape[-1]
    real = scores.new_ones(1, 1, 1, 1, positions)
    kept, closed = real[..., image], real[..., image]
    for gate, rows in cuts:
        if gate.keys is None:
            keys = scores.new_zeros(1, positions)
            keys[:, image] = 1
        else:
            keys = gate.keys if gate.keys.ndim == 2 else gate.keys[None]
        left = 1 - rows_by_key_head(rows) * keys[None, :, None, None, :].to(scores)
        real = real * left
        if gate.reads == "baseline":
            kept = kept * left[..., image]
        else:
            closed = closed * left[..., image]
    twin = (1 - kept) * closed if length > prefix else real[..., :0]
    shape = torch.broadcast_shapes(real.shape[:-1], twin.shape[:-1])
    weight = torch.cat([real[..., :prefix].expand(*shape, -1), twin.expand(*shape, -1), real[..., prefix:].expand(*shape, -1)], -1)
    return scores + stock + torch.log(weight)


def _can_group(state: SuffixPass, active: list[tuple[Gate, Tensor]], query: Tensor, visible: Tensor, softcap: float | None) -> bool:
    """Whether the fast path for plain head ablation applies (many keys, CPU, nothing to differentiate or record)."""
    bank = state.bank
    return (
        query.device.type == "cpu"
        and not torch.is_grad_enabled()
        and bank.prefix >= _FLASH_FROM_KEYS
        and softcap is None
        and state.record is None
        and len(active) <= 1
        and all(gate.only_heads and not gate.mixes for gate, _ in active)
        and bool(visible[..., : bank.prefix].all())
    )


def _grouped(
    bank: Bank, layer: int, reads: str, rows: Tensor | None, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Head by head, forwards that are intact read the real prefix and the others its twin: no key is scored in vain.

    The two sides of each softmax (shared prefix, own suffix) are computed apart and merged by their log-sum-exp.
    """
    batch, heads, queries, dim = query.shape
    repeat = heads // key.shape[1]
    keys, values = bank.keys[layer].repeat_interleave(repeat, 0), bank.values[layer].repeat_interleave(repeat, 0)
    prefix, system = bank.prefix, bank.image.start
    by_head = query.transpose(0, 1)
    output = query.new_empty(heads, batch, queries, dim)
    normaliser = query.new_empty(heads, batch, queries)
    cut = torch.zeros(heads, batch, dtype=torch.bool) if rows is None else (rows[..., 0] > 0.5).expand(batch, heads).t()
    for is_cut in (False, True):
        members = cut == is_cut
        most = int(members.sum(1).max())
        if most == 0:
            continue
        # Pad every head to the largest group; surplus rows are computed and dropped.
        order = torch.argsort(members, dim=1, descending=True, stable=True)[:, :most]
        used = torch.gather(members, 1, order)
        if not is_cut:
            k, v = keys[:, :prefix], values[:, :prefix]
        elif reads == "baseline":
            k = torch.cat([keys[:, :system], keys[:, prefix:]], 1)
            v = torch.cat([values[:, :system], values[:, prefix:]], 1)
        else:
            k, v = keys[:, :system], values[:, :system]
        which = torch.arange(heads)[:, None].expand(-1, most)
        taken = by_head[which, order].reshape(1, heads, most * queries, dim)
        if k.shape[1] == 0:
            part, lse = torch.zeros_like(taken), taken.new_full(taken.shape[:-1], float("-inf"))
        else:
            part, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(taken, k[None], v[None], scale=scale)
        output[which[used], order[used]] = part.view(heads, most, queries, dim)[used]
        normaliser[which[used], order[used]] = lse.view(heads, most, queries)[used].to(normaliser)
    own_scores = _fold(query * scale, key.shape[1]) @ key.transpose(0, 1).transpose(2, 3)
    own_scores = own_scores.view(key.shape[1], batch, repeat, queries, -1)
    own_scores = own_scores + torch.zeros(visible.shape[-2:], dtype=own_scores.dtype)[:, prefix:].masked_fill(~visible[0, 0, :, prefix:], float("-inf"))
    own_scores = own_scores.float()
    own_normaliser = own_scores.logsumexp(-1)
    own = torch.exp(own_scores - own_normaliser[..., None]).to(query.dtype).view(key.shape[1], batch, repeat * queries, -1) @ value.transpose(0, 1)
    own = own.view(key.shape[1], batch, repeat, queries, dim).transpose(1, 2).reshape(heads, batch, queries, dim)
    own_normaliser = own_normaliser.transpose(1, 2).reshape(heads, batch, queries)
    share = torch.sigmoid(normaliser.float() - own_normaliser)[..., None].to(query.dtype)
    return torch.lerp(own, output, share).transpose(0, 1)
