"""Bands of layers: those that lie side by side, windows that slide, and all layers above or below one."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from headflow.errors import HeadflowError

Band = tuple[int, int]
"""First layer and one past the last, in the numbering of gates: the layers that read the picture."""


def side_by_side(layers: int, count: int) -> list[Band]:
    """``count`` bands of equal size (but for one layer), each layer in one.

    Raises:
        HeadflowError: more bands than layers.
    """
    if not 1 <= count <= layers:
        raise HeadflowError(f"text_tokens.windows = {count}: the model has {layers} layers that read the picture; take 1 to {layers} bands")
    parts = np.array_split(np.arange(layers), count)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]


def as_masks(bands: list[Band], layers: int) -> Bool[np.ndarray, "bands layers"]:
    """Which layers each band holds."""
    layer = np.arange(layers)
    return np.array([(layer >= first) & (layer < stop) for first, stop in bands]).reshape(len(bands), layers)


@dataclass(frozen=True)
class Sweep:
    """Where a route is closed, step by step through the model.

    Attributes:
        layers: layers of the model.
        windows: the sliding windows, from the input upward.
        steps: where a cumulative closing begins or ends: 0, stride, 2·stride … and the number of layers.
    """

    layers: int
    windows: tuple[Band, ...]
    steps: tuple[int, ...]

    @property
    def bands(self) -> tuple[Band, ...]:
        """Every band that has to be run, each once."""
        every = [*self.windows, *((step, self.layers) for step in self.steps[:-1]), *((0, step) for step in self.steps[1:])]
        return tuple(dict.fromkeys(every))

    @property
    def blocks(self) -> tuple[Band, ...]:
        """The layers between one step and the next."""
        return tuple(zip(self.steps[:-1], self.steps[1:], strict=True))


def default_width(layers: int) -> int:
    """A sixth of the layers; two at least, as single layers show little where a route is redundant, but no more than half of them."""
    return max(1, min(max(2, round(layers / 6)), layers // 2))


def sweep(layers: int, width: int | None = None, stride: int = 1) -> Sweep:
    """Windows of ``width`` layers and the steps of cumulative closings, ``stride`` layers apart; the last ones end with the model.

    Args:
        width: None = :func:`default_width`.

    Raises:
        HeadflowError: a window or a stride beyond the model.
    """
    width = default_width(layers) if width is None else width
    for name, value in (("width", width), ("stride", stride)):
        if not 1 <= value <= layers:
            raise HeadflowError(f"flow.{name} = {value}: the model has {layers} layers that read the picture; take 1 to {layers}")
    starts = list(dict.fromkeys([*range(0, layers - width + 1, stride), layers - width]))
    steps = tuple(dict.fromkeys([*range(0, layers, stride), layers]))
    return Sweep(layers, tuple((start, start + width) for start in starts), steps)
