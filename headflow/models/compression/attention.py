"""Attention behind a cache from which keys are gone, other ones in every layer.

The stock model's mask is made for the whole conversation as it was, so that sliding windows and the like count the tokens that were there; each
layer then takes the columns of the keys that it still has. Registered with transformers under the name ``headflow_compressed``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "headflow_compressed"
GONE = -1


class CompressedCache(DynamicCache):
    """Keys and values of what stays, and of all that comes after; it counts as long as the conversation was.

    Args:
        keys, values: per decoder layer ``[rows, kv_heads, slots, head_dim]``; None = a layer that is left out (cross-attention without a picture).
        length: tokens of the conversation as it was.
    """

    def __init__(self, keys: Sequence[Tensor | None], values: Sequence[Tensor | None], length: int) -> None:
        super().__init__()
        self.length, self.used = length, 0
        for layer, (key, value) in enumerate(zip(keys, values, strict=True)):
            if key is not None:
                super().update(key, value, layer)

    def advance(self, tokens: int) -> None:
        """A pass is over: what it has written counts."""
        self.used += tokens

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length + self.used

    def get_mask_sizes(self, query_length: int | Tensor, layer_idx: int = 0) -> tuple[int, int]:
        # Some versions of transformers hand over the positions of the queries instead of their number.
        queries = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.length + self.used + queries, 0


@dataclass
class Columns:
    """Which token of the conversation each slot of the cache holds.

    Attributes:
        places: per decoder layer; :data:`GONE` where a row has fewer than others of its batch.
        crossing: layers of cross-attention, whose slots are the picture's.
        length: tokens of the conversation as it was.
    """

    places: list[Int[Tensor, "rows slots"]]
    crossing: frozenset[int]
    length: int


# A context variable, as in headflow.attention: some families hand keyword arguments on to the vision tower.
_ACTIVE: ContextVar[Columns] = ContextVar("headflow_compressed_columns")


@contextmanager
def behind(decoder: PreTrainedModel, columns: Columns) -> Iterator[None]:
    """Route the text model through :func:`compressed_attention`; undone on the way out, errors included."""
    before, token = decoder.config._attn_implementation, _ACTIVE.set(columns)
    decoder.config._attn_implementation = NAME
    try:
        yield
    finally:
        decoder.config._attn_implementation = before
        _ACTIVE.reset(token)


def compressed_attention(
    module: torch.nn.Module, query: Float[Tensor, "rows heads new head_dim"], key: Float[Tensor, "rows kv_heads slots head_dim"],
    value: Float[Tensor, "rows kv_heads slots head_dim"], attention_mask: Tensor | None, scaling: float | None = None, dropout: float = 0.0,
    softcap: float | None = None, **others: object,
) -> tuple[Float[Tensor, "rows new heads head_dim"], None]:  # fmt: skip
    """Attention of the new tokens to the slots that the stock mask shows them."""
    columns, layer = _ACTIVE.get(), module.layer_idx
    places = columns.places[layer].to(query.device)
    there = (places != GONE)[:, None, None]
    if layer in columns.crossing:
        visible = there.expand(-1, 1, query.shape[2], -1)
    else:
        mask = attention_mask.to(query.device).expand(len(places), 1, -1, -1)
        shown = mask[..., : columns.length].gather(-1, places.clamp_min(0)[:, None, None].expand(-1, 1, query.shape[2], -1))
        visible = torch.cat([shown & there, mask[..., columns.length :]], -1)
    shared = query.shape[1] != key.shape[1]
    if softcap is None:
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scaling, enable_gqa=shared)
    else:
        group = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(group, 1) for x in (key, value))
        scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        scores = (torch.tanh(scores / softcap) * softcap).masked_fill(~visible, torch.finfo(scores.dtype).min)
        output = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype) @ value
    return output.transpose(1, 2).contiguous(), None


def _boolean_mask(*args: object, **kwargs: object) -> Tensor:
    """A real boolean mask, always: without one, sliding windows would silently be ignored."""
    kwargs["allow_is_causal_skip"] = False
    kwargs["allow_is_bidirectional_skip"] = False
    return sdpa_mask(*args, **kwargs)


AttentionInterface.register(NAME, compressed_attention)
AttentionMaskInterface.register(NAME, _boolean_mask)
