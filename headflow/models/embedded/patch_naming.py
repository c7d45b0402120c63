"""Stage A's task: say of each patch of a picture what it shows. It stands in for pretraining the vision tower on captions."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from headflow.datasets.scenes.render import Scene
from headflow.datasets.scenes.vocabulary import BACKGROUNDS, COLOURS, NAMES

_LEAST_SHARE = 0.08  # of a patch's pixels that an object must take to count
_EMPTY_WEIGHT = 0.25  # most patches are empty, so each of them counts less
_BACKGROUND_WEIGHT = 0.3

_NAME_INDEX = {name: i + 1 for i, name in enumerate(NAMES)}
_COLOUR_INDEX = {colour: i + 1 for i, colour in enumerate(COLOURS)}


class PatchLabels(NamedTuple):
    """What each patch shows; 0 = no object."""

    name: Int[Tensor, "batch patches"]
    colour: Int[Tensor, "batch patches"]
    size: Int[Tensor, "batch patches"]
    """1 = of the main object, 2 = of a small one."""
    background: Int[Tensor, " batch"]


def patch_labels(scenes: list[Scene], patch_size: int) -> PatchLabels:
    """Labels from the exact masks: a patch belongs to the object that takes most of it."""
    side = len(scenes[0].image) // patch_size
    labels = np.zeros((3, len(scenes), side * side), np.int64)
    for i, scene in enumerate(scenes):
        most = np.full(side * side, patch_size**2 * _LEAST_SHARE)
        for item in scene.objects:
            pixels = item.mask.reshape(side, patch_size, side, patch_size).sum((1, 3)).reshape(-1)
            won = pixels > most
            most = np.where(won, pixels, most)
            labels[:, i, won] = np.array([[_NAME_INDEX[item.name]], [_COLOUR_INDEX[item.colour]], [1 if item.main else 2]])
    background = torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes])
    return PatchLabels(*torch.from_numpy(labels), background)


class PatchNamer(nn.Module):
    """Linear read-outs of the vision tower's features; thrown away after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.name = nn.Linear(width, len(NAMES) + 1)
        self.colour = nn.Linear(width, len(COLOURS) + 1)
        self.size = nn.Linear(width, 3)
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def forward(self, features: Float[Tensor, "batch patches width"], labels: PatchLabels) -> Float[Tensor, ""]:
        """The loss."""
        features = self.norm(features)
        loss = _BACKGROUND_WEIGHT * F.cross_entropy(self.background(features.mean(1)), labels.background)
        for read_out, truth in ((self.name, labels.name), (self.colour, labels.colour), (self.size, labels.size)):
            weights = torch.where(truth > 0, 1.0, _EMPTY_WEIGHT).flatten()
            losses = F.cross_entropy(read_out(features).flatten(0, 1), truth.flatten(), reduction="none")
            loss = loss + (losses * weights).sum() / weights.sum()
        return loss
