"""The one attention function that obeys the gates; registered with transformers under the name ``headflow``.

It runs the *suffix* only (every token after the image span). The prefix is never recomputed: under causal attention no
gate changes it, so all forwards of a batch share one unbatched bank of prefix keys and values, and the baseline twins
of the image positions beside it. RoPE, QK-norm and projections have happened before this function is called.

Two kinds of model need more than the suffix (:data:`Mode`): where later tokens reach back before the end of the picture,
every forward runs the whole sequence and the bank holds the twins alone; where the picture enters through layers of
cross-attention, the prompt is text alone and the bank holds the picture's keys and their twins in those layers.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headflow.gates import Gate

NAME = "headflow"
# Below this many prefix keys one joint softmax over all keys is faster than separate products merged afterwards.
_FLASH_FROM_KEYS = 160

Mode = Literal["shared", "recomputed", "cross"]
"""How a model's masked forwards treat what stands before the text: one shared prefix, the whole sequence recomputed, or
cross-attention to a picture that stands in no sequence."""

Record = Callable[[int, Float[Tensor, "batch heads queries keys"]], None]


@dataclass
class Bank:
    """Keys and values that all forwards share, decoder layer by decoder layer.

    Attributes:
        keys, values: per decoder layer ``[kv_heads, real + twins, head_dim]``: the real ones that are shared (the prefix; the
            picture in a layer of cross-attention; none where everything is recomputed), then the baseline twins of the
            image (absent where there is no baseline).
        prefix: tokens in the shared prefix; the image span is its last part.
        image: the image span in the prompt.
        mode: see :data:`Mode`.
        image_layers: decoder layers that read the picture by cross-attention; None = every layer reads it.
        picture: keys of the picture in a layer of cross-attention.
        visible: per decoder layer what the stock model shows to each query, where it cannot be told from the suffix alone.
    """

    keys: list[Float[Tensor, "kv_heads bank head_dim"]]
    values: list[Float[Tensor, "kv_heads bank head_dim"]]
    prefix: int
    image: slice
    mode: Mode = "shared"
    image_layers: Sequence[int] | None = None
    picture: int = 0
    visible: list[Bool[Tensor, "1 1 rows keys"]] | None = None

    # Keys and values of an ablated head, made when first needed: per (layer, whether there are twins to read).
    _ablated: dict[tuple[int, bool], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def has_baseline(self) -> bool:
        layer = 0 if self.image_layers is None else self.image_layers[0]
        return self.keys[layer].shape[1] > self.place(layer)[0]

    def ordinal(self, layer: int) -> int | None:
        """The number that gates know a decoder layer by, counted along the layers that read the picture; None = it reads none."""
        if self.image_layers is None:
            return layer
        return self.image_layers.index(layer) if layer in self.image_layers else None

    def crosses(self, layer: int) -> bool:
        """Whether the layer attends to the picture alone."""
        return self.image_layers is not None and layer in self.image_layers

    def place(self, layer: int) -> tuple[int, slice]:
        """Shared real keys of a layer, and where among the layer's real keys the image stands."""
        return (self.picture, slice(0, self.picture)) if self.crosses(layer) else (self.prefix, self.image)

    def ablated(self, layer: int, reads: str) -> tuple[Tensor, Tensor]:
        """What a fully ablated head sees of the shared prefix: the system tokens, then the twins of the image span or nothing."""
        wanted = (layer, reads == "baseline" and self.has_baseline)
        if wanted not in self._ablated:
            system = slice(0, self.image.start)
            both = (self.keys[layer], self.values[layer])
            self._ablated[wanted] = tuple(torch.cat([x[:, system], x[:, self.prefix :]], 1) if wanted[1] else x[:, system] for x in both)
        return self._ablated[wanted]


@dataclass
class SuffixPass:
    """State of one suffix pass: what the attention function needs beside its arguments.

    Attributes:
        bank: shared keys and values.
        gates: the cuts; empty = the stock model.
        last: output positions that the last layer has to produce, counted from the end (None = all).
        record: called per layer with the attention weights over [real prefix | baseline image | suffix].
        fired: layers that came through here, in order.
        last_layer: number of the last layer.
        forwards, suffix: the batch size, and tokens that each forward runs.
        one_start: whether all forwards enter the first layer with the same embeddings.
        sorted: the forwards in the order of each head.
        seen: receives what the model shows to each query, layer by layer.
    """

    bank: Bank
    gates: Sequence[Gate] = ()
    last: int | None = None
    record: Record | None = None
    fired: list[int] = field(default_factory=list)
    last_layer: int = -1
    forwards: int = 1
    suffix: int = 1
    one_start: bool = False
    sorted: "_Sorted | None" = None
    seen: dict[int, Bool[Tensor, "1 1 rows keys"]] | None = None

    def queries_needed(self, layer: int, suffix: int) -> int:
        return suffix if self.last is None or layer != self.last_layer else min(self.last, suffix)

    def rows(self, gate: Gate, layer: int) -> Float[Tensor, "batch heads rows"] | None:
        """Amount of a gate's cut for every row that is run; None = the layer is left alone."""
        ordinal = self.bank.ordinal(layer)
        rows = None if ordinal is None else gate.rows(ordinal)
        if rows is None or self.bank.mode != "recomputed":
            return rows
        before = self.bank.image.stop  # rows up to the end of the picture are run, but never cut
        return torch.nn.functional.pad(rows.expand(*rows.shape[:-1], self.suffix - before), (before, 0))


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


# The stock implementation of each switched text model and how many use the switch now, by the identity of its config.
_switches: dict[int, tuple[str, int]] = {}
_switches_lock = threading.Lock()


@contextmanager
def switched(decoder: PreTrainedModel) -> Iterator[None]:
    """Route the text model, and it alone, through :func:`gated_attention`; undone on the way out, errors included.

    Several may use the switch at a time, in threads or in streams that are read alternately: the last one out undoes it.
    A stock forward meanwhile gets the stock attention.
    """
    config = decoder.config
    with _switches_lock:
        before, users = _switches.get(id(config), (config._attn_implementation, 0))
        _switches[id(config)] = (before, users + 1)
        config._attn_implementation = NAME
    try:
        yield
    finally:
        with _switches_lock:
            before, users = _switches.pop(id(config))
            if users > 1:
                _switches[id(config)] = (before, users - 1)
            else:
                config._attn_implementation = before


def _stock_name(config: object) -> str:
    return _switches.get(id(config), (config._attn_implementation, 0))[0]


@contextmanager
def watched(decoder: PreTrainedModel, layers: int) -> Iterator[dict[int, Bool[Tensor, "1 1 rows keys"]]]:
    """Stock forwards whose masks are seen: yields, layer by layer, what each query is shown. Nothing is cut."""
    seen: dict[int, Tensor] = {}
    nothing = Bank([torch.empty(0)] * layers, [torch.empty(0)] * layers, 0, slice(0, 0), "recomputed")
    with switched(decoder), obey(SuffixPass(nothing, seen=seen)):
        yield seen


def gated_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "batch heads suffix head_dim"],
    key: Float[Tensor, "batch kv_heads suffix head_dim"],
    value: Float[Tensor, "batch kv_heads suffix head_dim"],
    attention_mask: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **others: object,
) -> tuple[Float[Tensor, "batch suffix heads head_dim"], None]:
    """Attention of suffix queries to the shared prefix and to their own suffix, under the active gates."""
    state = _ACTIVE.get(None)
    if state is None:  # a stock forward while somebody else's stream is open
        stock = ALL_ATTENTION_FUNCTIONS.get(_stock_name(module.config)) or sys.modules[type(module).__module__].eager_attention_forward
        return stock(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, softcap=softcap, **others)
    layer = module.layer_idx
    state.fired.append(layer)
    suffix = query.shape[2]
    needed = state.queries_needed(layer, suffix)
    visible = _visible(attention_mask) if state.bank.visible is None else state.bank.visible[layer].to(query.device)
    if state.seen is not None:
        state.seen[layer] = visible
    visible = visible[..., -needed:, :]
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
    if _ACTIVE.get(None) is None and "config" in kwargs:
        return ALL_MASK_ATTENTION_FUNCTIONS[_stock_name(kwargs["config"])](*args, **kwargs)
    kwargs["allow_is_causal_skip"] = False
    kwargs["allow_is_bidirectional_skip"] = False
    return sdpa_mask(*args, **kwargs)


AttentionInterface.register(NAME, gated_attention)
AttentionMaskInterface.register(NAME, _boolean_mask)


def _visible(mask: Tensor) -> Tensor:
    """Which keys the stock model shows to each query, ``[1, 1, rows, keys]``; the same for every forward."""
    mask = mask[:1, :1]
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def _attend(
    state: SuffixPass, layer: int, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float, softcap: float | None
) -> Float[Tensor, "batch heads queries head_dim"]:
    if state.one_start and len(state.fired) == 1 and state.record is None and len(state.gates) == 1 and state.gates[0].only_heads:
        return _first_layer(state, layer, query[:1], key[:1], value[:1], visible, scale, softcap)
    if _can_group(state, query, visible, softcap):
        return _grouped(state, layer, state.gates[0], query, key, value, visible, scale)
    active = []
    for gate in state.gates:
        rows = state.rows(gate, layer)
        if rows is None:
            continue
        rows = rows.to(query.device)  # a gate without row factors knows no device
        active.append((gate, rows[..., -query.shape[2] :] if rows.shape[-1] > 1 else rows))
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


def _first_layer(
    state: SuffixPass, layer: int, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float, softcap: float | None
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Nothing differs between forwards before the first layer's gate: each head has two outputs, and forwards choose or mix."""
    gate = state.gates[0]
    intact = _joint(state, layer, [], query, key, value, visible, scale, softcap)
    amount = state.rows(gate, layer)
    if amount is None:
        return intact.expand(state.forwards, -1, -1, -1)
    amount = (amount[..., -query.shape[2] :] if amount.shape[-1] > 1 else amount)[..., None].to(query)
    ablated = _joint(state, layer, [(gate, amount.new_ones(1, 1, 1))], query, key, value, visible, scale, softcap)
    return torch.lerp(intact, ablated, amount)


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
    prefix, image = bank.place(layer)
    if bank.crosses(layer):  # its keys are the picture's, and those are in the bank
        key = value = query.new_empty(batch, bank.keys[layer].shape[0], 0, dim)
    kv_heads = key.shape[1]
    reads_baseline = any(gate.reads == "baseline" for gate, _ in cuts)
    length = bank.keys[layer].shape[1] if reads_baseline else prefix
    shared_keys, shared_values = (x[layer][:, :length] if length else key.new_empty(kv_heads, 0, dim) for x in (bank.keys, bank.values))

    folded = _fold(query * scale, kv_heads)
    to_shared = (folded.reshape(kv_heads, -1, dim) @ shared_keys.transpose(1, 2)).view(kv_heads, batch, heads // kv_heads * rows, length)
    to_suffix = folded @ key.transpose(0, 1).transpose(2, 3)
    scores = torch.cat([to_shared, to_suffix], -1).view(kv_heads, batch, heads // kv_heads, rows, -1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = _weigh(scores, prefix, image, cuts, visible, length, kv_heads)
    if cuts and (bank.mode != "shared" or any(gate.keys is not None for gate, _ in cuts)):
        blind = (scores == float("-inf")).all(-1, keepdim=True)  # a query from which every key is cut reads nothing
        weights = torch.softmax(scores.masked_fill(blind, 0), -1, dtype=torch.float32).masked_fill(blind, 0)
    else:
        weights = torch.softmax(scores, -1, dtype=torch.float32)
    weights = weights.to(query.dtype)
    if state.record is not None:
        seen = weights.transpose(0, 1).reshape(batch, heads, rows, -1)
        state.record(layer, seen)
    group_rows = heads // kv_heads * rows
    weights = weights.view(kv_heads, batch, group_rows, weights.shape[-1])
    output = (weights[..., :length].reshape(kv_heads, batch * group_rows, length) @ shared_values).view(kv_heads, batch, group_rows, dim)
    output = output + weights[..., length:] @ value.transpose(0, 1)
    return output.transpose(0, 1).reshape(batch, heads, rows, dim)


def _weigh(
    scores: Float[Tensor, "kv_heads batch group rows keys"], prefix: int, image: slice, cuts: list[tuple[Gate, Tensor]],
    visible: Tensor, length: int, kv_heads: int,
) -> Tensor:  # fmt: skip
    """Add the logarithm of each key's weight: what the stock mask shows times what the gates leave open.

    Real key: Π(1 − cut). Twin: (1 − Π over baseline gates (1 − cut)) · Π over closing gates (1 − cut).
    """
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
        after_twins = length - prefix if image.start >= prefix else 0  # the picture is among the forward's own keys
        scores[..., image.start + after_twins : image.stop + after_twins] += torch.log1p(-rows)
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


@dataclass
class _Sorted:
    """Forwards of one pass in the order of each head, intact ones first; made once for all layers.

    Attributes:
        order: forward at each place, ``[layers, heads, batch]``.
        place: the inverse.
        intact: intact forwards per layer and head, and its least and most per layer.
    """

    order: Int[Tensor, "layers heads batch"]
    place: Int[Tensor, "layers heads batch"]
    intact: Int[Tensor, "layers heads"]
    least: list[int]
    most: list[int]

    @classmethod
    def of(cls, gate: Gate, layers: int, heads: int, batch: int) -> "_Sorted":
        cut = torch.zeros(layers, heads, batch, dtype=torch.bool)
        for layer in range(layers):
            rows = gate.rows(layer)
            if rows is not None:
                cut[layer] = rows[..., 0].t() > 0.5
        order = torch.argsort(cut.to(torch.uint8), dim=-1, stable=True)
        intact = batch - cut.sum(-1)
        return cls(order, torch.argsort(order, dim=-1), intact, intact.amin(1).tolist(), intact.amax(1).tolist())


def _can_group(state: SuffixPass, query: Tensor, visible: Tensor, softcap: float | None) -> bool:
    """Whether the fast path for plain head ablation applies (CPU, nothing to differentiate or record, the whole prefix visible)."""
    return (
        query.device.type == "cpu"
        and not torch.is_grad_enabled()
        and softcap is None
        and state.record is None
        and state.bank.mode == "shared"
        and len(state.gates) == 1
        and state.gates[0].only_heads
        and not state.gates[0].mixes
        and bool(visible[..., : state.bank.prefix].all())
    )


def _grouped(
    state: SuffixPass, layer: int, gate: Gate, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Head by head, forwards that are intact read the real prefix and the others its twin: no key is scored in vain.

    Every head sorts the forwards, intact ones first. Both sides are then plain slices of the batch; where the numbers of
    intact forwards differ from head to head, the forwards between the least and the most are computed on both sides.
    """
    bank = state.bank
    batch, heads, queries = query.shape[:3]
    repeat = heads // key.shape[1]
    prefix = bank.prefix
    if state.sorted is None:
        state.sorted = _Sorted.of(gate, len(bank.keys), heads, batch)
    order, place, intact = (x[layer] for x in (state.sorted.order, state.sorted.place, state.sorted.intact))
    least, most = state.sorted.least[layer], state.sorted.most[layer]
    # Sorted and contiguous: products of many small matrices are several times slower on strided ones.
    query, key, value = (_by_head(x, heads, order) for x in (query, key, value))

    def for_each_head(shared: Tensor) -> Tensor:
        return shared if repeat == 1 else shared.repeat_interleave(repeat, 0)

    sides = []  # (first forward, one past the last, keys, values)
    if most > 0:
        sides.append((0, most, for_each_head(bank.keys[layer][:, :prefix]), for_each_head(bank.values[layer][:, :prefix])))
    if least < batch:
        sides.append((least, batch, *map(for_each_head, bank.ablated(layer, gate.reads))))
    doubtful = (torch.arange(least, most) >= intact[:, None])[:, :, None, None]  # computed on both sides; True = cut

    def merge(parts: list[Tensor]) -> Tensor:
        """Per side ``[heads, its forwards, queries, n]`` → ``[heads, batch, queries, n]``."""
        if len(parts) == 1:
            return parts[0]
        middle = torch.where(doubtful, parts[1][:, : most - least], parts[0][:, least:])
        return torch.cat([parts[0][:, :least], middle, parts[1][:, most - least :]], 1)

    mask = torch.zeros(queries, key.shape[2], dtype=query.dtype).masked_fill_(~visible[0, 0, :, prefix:], float("-inf"))
    own = torch.baddbmm(mask, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=scale).view(heads, batch, queries, -1)
    attend = _one_softmax if prefix < _FLASH_FROM_KEYS else _two_softmaxes
    return _take(attend(sides, merge, query, own, value, scale), place).transpose(0, 1)


def _by_head(x: Float[Tensor, "batch some_heads rows head_dim"], heads: int, order: Int[Tensor, "heads batch"]) -> Tensor:
    """``[heads, batch, rows, head_dim]``, the forwards of each head in its ``order``."""
    x = x.transpose(0, 1).contiguous()
    return _take(x if x.shape[0] == heads else x.repeat_interleave(heads // x.shape[0], 0), order)


def _take(x: Float[Tensor, "heads batch rows head_dim"], order: Int[Tensor, "heads batch"]) -> Tensor:
    """Each head's forwards in another order, whole blocks of memory at a time."""
    heads, batch = order.shape
    return x.flatten(0, 1).index_select(0, (order + batch * torch.arange(heads)[:, None]).flatten()).view_as(x)


def _one_softmax(sides: list[tuple], merge: Callable[[list[Tensor]], Tensor], query: Tensor, own: Tensor, value: Tensor, scale: float) -> Tensor:
    """Few keys: one softmax over [shared keys | own suffix]. Everything is sorted by head: ``[heads, batch, queries, ·]``."""
    heads, batch, queries, dim = query.shape
    width = max(keys.shape[1] for _, _, keys, _ in sides)
    scores = []
    for start, stop, keys, _ in sides:
        part = torch.bmm(query[:, start:stop].reshape(heads, -1, dim), keys.transpose(1, 2) * scale)
        if part.shape[-1] < width:
            part = torch.nn.functional.pad(part, (0, width - part.shape[-1]), value=float("-inf"))
        scores.append(part.view(heads, stop - start, queries, width))
    weights = torch.softmax(torch.cat([merge(scores), own], -1), -1, dtype=torch.float32).to(query.dtype)
    parts = []
    for start, stop, _, values in sides:
        part = weights[:, start:stop, :, : values.shape[1]].flatten(1, 2)
        parts.append(torch.bmm(part, values).view(heads, stop - start, queries, dim))
    own = weights[..., width:].flatten(0, 1)
    return merge(parts) + torch.bmm(own, value.flatten(0, 1)).view(heads, batch, queries, dim)


def _two_softmaxes(sides: list[tuple], merge: Callable[[list[Tensor]], Tensor], query: Tensor, own: Tensor, value: Tensor, scale: float) -> Tensor:
    """Many keys: shared keys by flash attention, the own suffix apart, merged by their log-sum-exp."""
    heads, batch, queries, dim = query.shape
    outputs, normalisers = [], []
    for start, stop, keys, values in sides:
        taken = query[:, start:stop].reshape(1, heads, -1, dim)
        if keys.shape[1] == 0:
            part, normaliser = torch.zeros_like(taken), taken.new_full(taken.shape[:-1], float("-inf"))
        else:
            part, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(taken, keys[None], values[None], scale=scale)
        outputs.append(part.view(heads, stop - start, queries, dim))
        normalisers.append(normaliser.view(heads, stop - start, queries, 1).float())
    own = own.float()
    own_normaliser = own.logsumexp(-1, keepdim=True)
    own_weights = torch.exp(own - own_normaliser).to(query.dtype)
    own_output = torch.bmm(own_weights.flatten(0, 1), value.flatten(0, 1)).view(heads, batch, queries, dim)
    share = torch.sigmoid(merge(normalisers) - own_normaliser).to(query.dtype)
    return torch.lerp(own_output, merge(outputs), share)
