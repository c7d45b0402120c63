"""Attention under any gates, by one softmax over everything that a query may read; differentiable."""

import torch
from jaxtyping import Float
from torch import Tensor

from headflow.gates import Gate
from headflow.suffix_pass import Reading, SuffixPass


def _fold(x: Float[Tensor, "batch heads rows head_dim"], kv_heads: int) -> Float[Tensor, "kv_heads batch group_rows head_dim"]:
    """Group query heads by the key head that they read, and put that first: one product then serves all forwards."""
    batch, heads, rows, dim = x.shape
    return x.reshape(batch, kv_heads, heads // kv_heads * rows, dim).transpose(0, 1)


def joint(
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
    unweighed = scores
    scores = _weigh(unweighed, prefix, image, cuts, visible, length, kv_heads)
    if cuts and (bank.mode != "shared" or any(gate.keys is not None for gate, _ in cuts)):
        blind = (scores == float("-inf")).all(-1, keepdim=True)  # a query from which every key is cut reads nothing
        weights = torch.softmax(scores.masked_fill(blind, 0), -1, dtype=torch.float32).masked_fill(blind, 0)
    else:
        weights = torch.softmax(scores, -1, dtype=torch.float32)
    if state.record is not None:
        seen = weights.transpose(0, 1).reshape(batch, heads, rows, -1)
        state.record(layer, seen)
    weights = weights.to(query.dtype)
    group_rows = heads // kv_heads * rows
    weights = weights.view(kv_heads, batch, group_rows, weights.shape[-1])
    output = (weights[..., :length].reshape(kv_heads, batch * group_rows, length) @ shared_values).view(kv_heads, batch, group_rows, dim)
    output = output + weights[..., length:] @ value.transpose(0, 1)
    output = output.transpose(0, 1).reshape(batch, heads, rows, dim)
    if state.differences is None or not cuts:
        return output
    scores = unweighed.detach()

    def weigh(cuts: list[tuple[Gate, Tensor]]) -> Tensor:
        return _weigh(scores, prefix, image, cuts, visible, length, kv_heads)

    picture, twins = _columns(prefix, image, length), slice(prefix, length)
    return state.differences(Reading(layer, cuts, weigh, shared_values, value.detach(), picture, twins), output)


def _columns(prefix: int, image: slice, length: int) -> slice:
    """Where the picture's real keys stand among [real prefix | twins | the forward's own keys]."""
    after_twins = length - prefix if image.start >= prefix else 0  # the picture is among the forward's own keys
    return slice(image.start + after_twins, image.stop + after_twins)


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
        scores[..., _columns(prefix, image, length)] += torch.log1p(-rows)
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
            keys = torch.nn.functional.pad(keys, (0, positions - keys.shape[-1]))  # what has been generated since is not cut
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
