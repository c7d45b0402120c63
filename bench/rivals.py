"""What a researcher would write without headflow: two ways to ablate heads, both on the stock model.

Both return the same targets as :func:`headflow.run_masks`; bench/speed.py and bench/gpu.py compare them before they time anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from headflow.models.baselines import Baseline
from headflow.models.capture import Capture

_HOOKED = "bench_full_sequence"


def full_sequence(capture: Capture, masks: Bool[np.ndarray, "masks layers heads"], baseline: Baseline, token: int, batch: int) -> Float[np.ndarray, " masks"]:
    """The whole prompt, for every mask: attention is hooked so that ablated heads read the baseline at image positions.

    Spared the vision tower: the picture's embeddings are computed once. Only the last position's logits are computed.
    """
    cut = torch.from_numpy(~masks).to(capture.embeddings.device)
    results = []
    for start in range(0, len(cut), batch):
        part = cut[start : start + batch]
        embeddings = capture.embeddings.expand(len(part), -1, -1)
        with torch.no_grad(), _hooked(capture, part, baseline):
            logits = capture.lvlm.model(inputs_embeds=embeddings, position_ids=capture.position_ids, use_cache=False, logits_to_keep=1).logits
        results.append(logits[:, -1, token])
    return torch.cat(results).float().cpu().numpy()


@contextmanager
def _hooked(capture: Capture, cut: Bool[Tensor, "batch layers heads"], baseline: Baseline) -> Iterator[None]:
    """Send the text model's attention through a function that knows which heads are cut."""
    image, prefix = capture.image, capture.prefix

    def attention(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: object
    ) -> tuple[Tensor, None]:
        layer = module.layer_idx
        mine = cut[:, layer, :, None, None]
        shared = query.shape[1] // key.shape[1]  # query heads to a key head: each is cut alone, so each needs keys of its own
        # Positions of the prefix see the picture as it is; the text after it reads what the mask says.
        before = scaled_dot_product_attention(
            query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], is_causal=True, scale=scaling, enable_gqa=shared > 1
        )
        keys, values = (x.repeat_interleave(shared, 1) for x in (key, value))
        twins = [x.repeat_interleave(shared, 0) for x in (baseline.keys[layer], baseline.values[layer])]
        keys[:, :, image] = torch.where(mine, twins[0], keys[:, :, image])
        values[:, :, image] = torch.where(mine, twins[1], values[:, :, image])
        after = scaled_dot_product_attention(query[:, :, prefix:], keys, values, attn_mask=attention_mask[:, :, prefix:], scale=scaling)
        return torch.cat([before, after], 2).transpose(1, 2).contiguous(), None

    def whole_mask(*args: object, **kwargs: object) -> Tensor:
        return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})

    AttentionInterface.register(_HOOKED, attention)
    AttentionMaskInterface.register(_HOOKED, whole_mask)
    config = capture.lvlm.decoder.config
    stock, config._attn_implementation = config._attn_implementation, _HOOKED
    try:
        yield
    finally:
        config._attn_implementation = stock


def expanded_cache(capture: Capture, masks: Bool[np.ndarray, "masks layers heads"], baseline: Baseline, token: int, batch: int) -> Float[np.ndarray, " masks"]:
    """The text after the picture only, for every mask: the stock model on a ``DynamicCache`` of the prefix.

    The prefix is expanded to the batch, and each forward's copy holds the baseline at the image positions of its
    ablated heads. Query heads that share a key head must be cut together: such a cache has no room for two versions of it.
    """
    shared = masks.shape[2] // len(capture.keys[0])
    cut = torch.from_numpy(~masks[:, :, ::shared]).to(capture.embeddings.device)
    assert shared == 1 or (masks == np.repeat(masks[:, :, ::shared], shared, 2)).all(), "heads that share a key head must be cut together"
    image, prefix = capture.image, capture.prefix
    replaced = []
    for real, twin in zip((*capture.keys, *capture.values), (*baseline.keys, *baseline.values), strict=True):
        ablated = real.clone()
        ablated[:, image] = twin
        replaced.append(ablated)
    layers = len(capture.keys)
    results = []
    for start in range(0, len(cut), batch):
        part = cut[start : start + batch]
        cache = DynamicCache()
        for layer in range(layers):
            mine = part[:, layer, :, None, None]
            keys, values = torch.where(mine, replaced[layer], capture.keys[layer]), torch.where(mine, replaced[layers + layer], capture.values[layer])
            cache.update(keys, values, layer)
        embeddings = capture.embeddings[:, prefix:].expand(len(part), -1, -1)
        positions = capture.position_ids[..., prefix:]
        positions = positions.expand(*positions.shape[:-2], len(part), -1)
        with torch.no_grad():
            logits = capture.lvlm.model(inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        results.append(logits[:, -1, token])
    return torch.cat(results).float().cpu().numpy()
