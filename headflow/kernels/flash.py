"""Plain head ablation on a GPU: both sides of every head by flash attention, so that no score is written to memory."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headflow.gates import Gate
from headflow.suffix_pass import SuffixPass

# Flash attention in half precision needs an Ampere card or a later one.
_HALF_PRECISION_FROM = (8, 0)


def can_flash(state: SuffixPass, query: Tensor, visible: Tensor, softcap: float | None) -> bool:
    """Whether this path applies: plain head ablation on a GPU, with heads that its kernels take."""
    return (
        query.device.type == "cuda"
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and (query.dtype == torch.float32 or torch.cuda.get_device_capability(query.device) >= _HALF_PRECISION_FROM)
        and state.plain(visible, softcap)
    )


def both_sides(
    state: SuffixPass, layer: int, gate: Gate, query: Float[Tensor, "batch heads queries head_dim"], key: Float[Tensor, "batch kv_heads suffix head_dim"],
    value: Float[Tensor, "batch kv_heads suffix head_dim"], visible: Bool[Tensor, "1 1 queries keys"], scale: float,
) -> Float[Tensor, "batch heads queries head_dim"]:  # fmt: skip
    """Every query reads the shared prefix twice, real and ablated, and takes the side that its gate says.

    The batch lies in the query axis, so each side is one flash attention over one set of keys a head. The own suffix, a few
    keys a forward, is scored apart and merged by log-sum-exp.
    """
    bank, prefix = state.bank, state.bank.prefix
    batch, heads, rows, dim = query.shape
    repeat = heads // key.shape[1]

    def for_each_head(shared: Tensor) -> Tensor:  # [kv_heads, keys, dim] → [1, heads, keys, dim]; a few MB
        return (shared if repeat == 1 else shared.repeat_interleave(repeat, 0))[None]

    # transformers hands over a view of [batch, rows, heads, dim], so this is a view too, and so is the way back.
    folded = query.transpose(1, 2).reshape(1, batch * rows, heads, dim).transpose(1, 2)

    def read(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        output, normaliser = _flash(folded, for_each_head(keys), for_each_head(values), scale)
        output = output.transpose(1, 2).reshape(batch, rows, heads, dim).transpose(1, 2)
        return output, normaliser.reshape(heads, batch, rows).transpose(0, 1)[..., None]

    output, normaliser = read(bank.keys[layer][:, :prefix], bank.values[layer][:, :prefix])
    amount = gate.rows(layer)
    if amount is not None:
        cut = amount[..., None].to(query.device) > 0.5
        other, other_normaliser = read(*bank.ablated(layer, gate.reads))
        output, normaliser = torch.where(cut, other, output), torch.where(cut, other_normaliser, normaliser)

    if repeat > 1:
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    own = torch.matmul(query, key.transpose(2, 3)).float() * scale
    own = own.masked_fill(~visible[..., prefix:], float("-inf"))
    own_normaliser = own.logsumexp(-1, keepdim=True)
    own_output = torch.matmul(torch.exp(own - own_normaliser).to(query.dtype), value)
    # `output` first: the result takes its layout, [batch, rows, heads, dim] in memory, which the caller wants.
    return torch.lerp(output, own_output, torch.sigmoid(own_normaliser - normaliser).to(query.dtype))


def _flash(
    query: Float[Tensor, "1 heads rows head_dim"], keys: Float[Tensor, "1 heads keys head_dim"], values: Float[Tensor, "1 heads keys head_dim"], scale: float
) -> tuple[Float[Tensor, "1 heads rows head_dim"], Float[Tensor, "1 heads rows"]]:
    """Attention to keys that all forwards share, and in float32 the logarithm of each softmax's denominator (−inf where there is no key)."""
    ops, rows = torch.ops.aten, query.shape[2]
    if keys.shape[2] == 0:
        return torch.zeros_like(query), query.new_full(query.shape[:-1], float("-inf"), dtype=torch.float32)
    if query.device.type == "cpu":
        output, normaliser = ops._scaled_dot_product_flash_attention_for_cpu(query, keys, values, scale=scale)
    elif query.dtype == torch.float32:  # flash attention knows half precision only
        output, normaliser, *_ = ops._scaled_dot_product_efficient_attention(query, keys, values, None, True, scale=scale)
        normaliser = normaliser[:, :, :rows]  # padded to whole blocks
    else:
        output, normaliser, *_ = ops._scaled_dot_product_flash_attention(query, keys, values, scale=scale)
    return output, normaliser.float()
