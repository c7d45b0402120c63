"""Knockout of the picture while a model describes it: which tokens may not see it, and in which layers (Kaduri et al. 2025).

Routes, all of them edges to the picture that read nothing:

- ``img→gen``: generated tokens cannot see the picture. What they say of it can only come through the prompt's text.
- ``img→query``: the prompt's text cannot see it; generated tokens still can.
- ``img→both``: neither can.

The first generated token is read off at the prompt's last position. In the paper that position is a part of the prompt: ``img→gen`` leaves the
first token alone and ``img→query`` does not. With ``last_position="generated"`` it counts with the tokens that are generated: ``img→gen``
blocks the first token too, and ``img→query`` spares it. ``img→both`` is the same either way.

Knockouts can set off fallback routes: they show what a model *can* do without an edge, not only what it does with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from headflow.errors import HeadflowError
from headflow.gates import Gate
from headflow.models.baselines import Baseline
from headflow.models.capture import Capture
from headflow.sequences import GateSet
from headflow.tracing.bands import Band, sweep

Route = Literal["img→gen", "img→query", "img→both"]
ROUTES: tuple[Route, ...] = get_args(Route)
LastPosition = Literal["query", "generated"]


@dataclass(frozen=True)
class Knockout:
    """A route that is closed in some layers.

    Attributes:
        route: whose view of the picture is cut.
        first, stop: a band of layers, the first and one past the last, in the numbering of gates: the layers that read the picture. The
            paper's "above L" is ``first = L + 1``, ``stop`` = all layers.
        outside: whether the route is closed everywhere but in the band ("only these layers open"), not in the band.
    """

    route: Route
    first: int
    stop: int
    outside: bool = False

    def __post_init__(self) -> None:
        if self.route not in ROUTES:
            raise HeadflowError(f"knockout: route = {self.route!r}: must be one of {', '.join(ROUTES)}")
        if not 0 <= self.first <= self.stop:
            raise HeadflowError(f"knockout: layers {self.first} to {self.stop} are no band")

    def cut(self, layers: int) -> Bool[Tensor, " layers"]:
        """Layers in which the route is closed.

        Raises:
            HeadflowError: the band ends beyond the model.
        """
        if self.stop > layers:
            raise HeadflowError(f"knockout: the band ends at layer {self.stop}, but {layers} layers read the picture")
        layer = torch.arange(layers)
        return ((layer >= self.first) & (layer < self.stop)) ^ self.outside


def upward(route: Route, first: int, layers: int) -> Knockout:
    """Closed from layer ``first`` upward; ``first = layers`` closes nothing."""
    return Knockout(route, first, layers)


def below(route: Route, stop: int) -> Knockout:
    """Closed in every layer below ``stop``; ``stop = 0`` closes nothing."""
    return Knockout(route, 0, stop)


def only_open(route: Route, band: Band) -> Knockout:
    """Closed in every layer but those of the band."""
    return Knockout(route, *band, outside=True)


def knockout_sweep(layers: int, routes: Sequence[Route] = ROUTES, *, width: int | None = None, stride: int = 1) -> list[Knockout]:
    """Every route closed from each layer upward, below each layer, in each band and outside each band, each set of layers once.

    Args:
        layers: layers that read the picture.
        width: layers of a band; None = a sixth of them, two at least.
        stride: layers from one step, or band, to the next.

    Raises:
        HeadflowError: a width or a stride beyond the model.
    """
    steps = sweep(layers, width, stride)
    found: dict[tuple, Knockout] = {}
    for route in routes:
        for knockout in (
            *(upward(route, step, layers) for step in steps.steps), *(below(route, step) for step in steps.steps),
            *(Knockout(route, *band) for band in steps.windows), *(only_open(route, band) for band in steps.windows),
        ):  # fmt: skip
            found.setdefault((route, *knockout.cut(layers).tolist()), knockout)
    return list(found.values())


def knockout_gates(
    capture: Capture, knockouts: Sequence[Knockout], *, last_position: LastPosition = "query", baseline: Baseline | None = None
) -> GateSet:  # fmt: skip
    """Gates for :func:`headflow.decoding.decode`: one forward a knockout, in order.

    Args:
        capture: the example.
        knockouts: what is closed.
        last_position: whether the prompt's last position, where the first generated token comes from, counts with the prompt (``"query"``, as in
            the paper) or with the generated tokens (``"generated"``).
        baseline: what is read where an edge is cut; None = nothing, as in the paper.

    Raises:
        HeadflowError: no knockout, a band beyond the model, or an unknown ``last_position``.
    """
    if not knockouts:
        raise HeadflowError("knockout: there is nothing to knock out")
    if last_position not in get_args(LastPosition):
        raise HeadflowError(f"knockout: last_position = {last_position!r}: must be one of {', '.join(get_args(LastPosition))}")
    layers = torch.stack([knockout.cut(capture.lvlm.layers) for knockout in knockouts]).float()
    speaks, reads = (torch.tensor([knockout.route != other for knockout in knockouts]).float()[:, None] for other in ("img→query", "img→gen"))
    queries = reads.repeat(1, capture.suffix)
    if last_position == "generated":
        queries[:, -1:] = speaks
    kind = "nothing" if baseline is None or not baseline.keys else "baseline"
    return GateSet((Gate(kind, queries=queries, layers=layers),), (Gate(kind, layers=layers * speaks),), baseline)
