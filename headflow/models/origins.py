"""Where in the picture each number that the image processor hands to the model comes from.

Every processor resizes, cuts, pads and normalises: each of its numbers is a weighted mean of nearby pixels of one channel, or
padding. So the place need not be derived from any processor's settings, it can be measured: sine waves are shown instead of the
picture, and the phase of what comes out is the place (structured light by phase shifting: Srinivasan et al. 1984), fine where
resampling leaves the fine waves, coarse where it does not.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headflow.errors import HeadflowError

if TYPE_CHECKING:
    from headflow.models.lvlm import LVLM

# Each wave is so many times as fine as the one before, which tells its periods apart; the finest has about this period, pixels.
_FINER, _FINEST = 8, 8
# Less contrast than this share of the full one is noise (8 bits a pixel), or padding.
_CONTRAST = 0.25


def pixel_inputs(lvlm: "LVLM", size: tuple[int, int], question: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Model inputs for an all-black and for an all-white picture of ``size`` (width, height): what differs comes from pixels.

    Raises:
        HeadflowError: no input depends on the picture's pixels, or their number depends on what the picture shows.
    """
    black, white = (lvlm.inputs([Image.new("RGB", size, colour)], question) for colour in ("black", "white"))
    if {k: x.shape for k, x in black.items()} != {k: x.shape for k, x in white.items()}:
        raise HeadflowError("the processor cuts pictures of one size differently, by what they show: the places of their tokens are unknown")
    names = [k for k, x in black.items() if x.is_floating_point() and not torch.equal(x, white[k])]
    if not names:
        raise HeadflowError("the processor makes the same inputs of a black and of a white picture: the places of their tokens are unknown")
    return black, {k: white[k] for k in names}


def origins(lvlm: "LVLM", size: tuple[int, int], question: str, black: dict[str, Tensor], white: dict[str, Tensor]) -> Float[np.ndarray, "2 entries"]:
    """x and y of the point of the picture, in pixels, that each entry of the pixel inputs ``white`` comes from; NaN for padding.

    Entries are those of the tensors of ``white`` in their order, flattened. The point is the centre of what was averaged: x = 0.5
    is the middle of the leftmost column of pixels. Right to about a hundredth of a pixel where nothing is scaled down.
    """
    low, high = (_flat(inputs, white) for inputs in (black, white))
    reach = high - low
    seen = np.abs(reach) > _CONTRAST * np.abs(reach).max()

    def contrast(levels: Float[np.ndarray, "height width"]) -> Float[np.ndarray, " entries"]:
        shown = Image.fromarray(np.rint(127.5 + 127.5 * levels).astype(np.uint8)).convert("RGB")
        return 2 * (_flat(lvlm.inputs([shown], question), white) - low) / np.where(seen, reach, 1) - 1

    places = np.empty((2, len(low)))
    for axis, length in enumerate(size):
        at = np.full(len(low), length / 2)
        for period in _periods(length):
            wave = 2 * np.pi / period * (np.arange(length) + 0.5)
            cosine, sine = (contrast(np.broadcast_to(f(wave) if axis == 0 else f(wave)[:, None], size[::-1])) for f in (np.cos, np.sin))
            fine = np.arctan2(sine, cosine) * period / (2 * np.pi)
            fine += np.rint((at - fine) / period) * period
            at = np.where(np.hypot(cosine, sine) > _CONTRAST, fine, at)
        places[axis] = at
    places[:, ~seen] = np.nan
    return places


def _periods(length: int) -> Iterator[float]:
    """Of the waves along a side of ``length`` pixels, the first of which tells all its places apart."""
    period = 2.0 * length
    yield period
    while period / _FINER >= _FINEST:
        period /= _FINER
        yield period
    if period > _FINEST:
        yield float(_FINEST)


def _flat(inputs: dict[str, Tensor], names: dict[str, Tensor]) -> Float[np.ndarray, " entries"]:
    return torch.cat([inputs[name].double().flatten().cpu() for name in names]).numpy()
