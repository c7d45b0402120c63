"""A head start for the vision tower: a patch embedding that whitens pixels, positions that know which patches are near."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_VARIANCE_FLOOR = 0.05  # share of the largest standard deviation added to all, so that noise is not blown up
_SCALE = 0.5


@torch.no_grad()
def start_vision_tower(tower: nn.Module, pixels: Float[Tensor, "batch 3 size size"]) -> None:
    """Overwrite the patch and position embeddings of a CLIP vision tower, in place.

    Args:
        tower: its embeddings are changed.
        pixels: a few hundred sample pictures, whose patches are whitened by principal components.
    """
    embeddings = tower.embeddings
    weight, patch = embeddings.patch_embedding.weight, embeddings.patch_size
    patches = F.unfold(pixels, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    weight.copy_((_SCALE * _whitening(patches, len(weight))).reshape(weight.shape))
    positions = embeddings.position_embedding.weight
    positions[1:] = _SCALE * _plane_waves(math.isqrt(len(positions) - 1), positions.shape[1])  # 0 is the class token's


def _whitening(patches: Float[Tensor, "patches pixels"], width: int) -> Float[Tensor, "width pixels"]:
    """A randomly rotated map from patches to uncorrelated features of about unit variance."""
    centred = patches - patches.mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    deviations = values / math.sqrt(len(patches))
    kept = min(width, len(directions))
    whiten = torch.zeros(width, patches.shape[1])
    whiten[:kept] = directions[:kept] / (deviations[:kept, None] + _VARIANCE_FLOOR * deviations[0])
    rotation, _ = torch.linalg.qr(torch.randn(width, width))
    return rotation @ whiten


def _plane_waves(side: int, width: int) -> Float[Tensor, "patches width"]:
    """Sines and cosines of each patch's column and row, from half a wave across the picture to one wave in two patches."""
    row, column = (axis.reshape(-1, 1).float() for axis in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    frequencies = torch.pi * torch.linspace(0.5, side / 2, width // 4) / side
    return torch.cat([wave(axis * frequencies) for axis in (column, row) for wave in (torch.sin, torch.cos)], dim=1)
