"""The stock model's attention, looked at while it is computed: a block of queries at a time, so that its weights are never held whole."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from headflow.kernels.joint import joint
from headflow.suffix_pass import SuffixPass


def in_blocks(
    state: SuffixPass, layer: int, query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scale: float, softcap: float | None
) -> Float[Tensor, "1 heads queries head_dim"]:
    """Attention of one forward without gates; every block of queries sees all of its keys, and its weights go to ``state.watching`` and are gone."""
    watching, seen = state.watching, slice(0, 0)

    def record(layer: int, weights: Float[Tensor, "1 heads queries keys"]) -> None:
        watching.take(layer, seen, weights[0], visible[0, 0, seen])

    recording, outputs = replace(state, record=record), []
    step = max(1, watching.block_bytes // (query.shape[1] * visible.shape[-1] * torch.float32.itemsize))
    for start in range(0, query.shape[2], step):
        seen = slice(start, min(start + step, query.shape[2]))
        outputs.append(joint(recording, layer, [], query[:, :, seen], key, value, visible[..., seen, :], scale, softcap))
    return torch.cat(outputs, 2)
