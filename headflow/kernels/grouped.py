"""Plain head ablation on a CPU: each head's intact and ablated forwards are scored apart, so that no key is scored in vain."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headflow.gates import Gate
from headflow.suffix_pass import SuffixPass

# Below this many prefix keys one joint softmax over all keys is faster than separate products merged afterwards.
_FLASH_FROM_KEYS = 160


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


def can_group(state: SuffixPass, query: Tensor, visible: Tensor, softcap: float | None) -> bool:
    """Whether this path applies: plain head ablation on a CPU."""
    return query.device.type == "cpu" and state.plain(visible, softcap)


def grouped(
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
