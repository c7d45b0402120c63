"""Which knockouts a run makes, and what each shows: one forward serves every set of layers and route that closes the same edges."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch

from headflow.analysis.knockouts import Knockout, LastPosition, Route, below, knockout_gates, only_open, upward
from headflow.errors import HeadflowError
from headflow.gates import Gate
from headflow.models.capture import Capture
from headflow.sequences import GateSet
from headflow.tables.knockouts import KNOCKOUT_PLAN
from headflow.tracing.bands import sweep


@dataclass(frozen=True)
class Closing:
    """A knockout, and what the prompt's last position counts with (see :func:`headflow.analysis.knockouts.knockout_gates`)."""

    knockout: Knockout
    last_position: LastPosition

    def edges(self, layers: int) -> str:
        """What is closed, written out: two closings with the same edges give the same description.

        Args:
            layers: layers that read the picture.
        """
        cut = self.knockout.cut(layers).int().tolist()
        if not any(cut):
            return "nothing"
        speaks, reads = self.knockout.route != "img→query", self.knockout.route != "img→gen"
        last = speaks if self.last_position == "generated" else reads
        return f"{int(reads)}{int(last)}{int(speaks)}:{''.join(map(str, cut))}"


def closing_gates(capture: Capture, closings: Sequence[Closing]) -> GateSet:
    """Gates for :func:`headflow.decoding.decode`: one forward a closing, in order, whatever the last position of each counts with.

    Raises:
        HeadflowError: a band beyond the model.
    """
    some = [knockout_gates(capture, [closing.knockout], last_position=closing.last_position) for closing in closings]
    prompt, generated = [gates.prompt[0] for gates in some], [gates.generated[0] for gates in some]
    queries, layers = torch.cat([gate.queries for gate in prompt]), torch.cat([gate.layers for gate in prompt])
    return GateSet((Gate("nothing", queries=queries, layers=layers),), (Gate("nothing", layers=torch.cat([gate.layers for gate in generated])),))


def knockout_plan(
    layers: int, routes: Sequence[Route], last_positions: Sequence[LastPosition], *, width: int | None = None, stride: int = 1,
    image_layers: Sequence[int] | None = None, decoder_layers: int | None = None,
) -> tuple[list[Closing], pl.DataFrame]:  # fmt: skip
    """Every route closed from each layer upward, below each layer, in each band and outside each band.

    Args:
        layers: layers that read the picture.
        last_positions: ``img→both`` is the same with either and is listed with the first.
        width: layers of a band; None = a sixth of them, two at least.
        stride: layers from one step, or band, to the next.
        image_layers: where some decoder layers only read the picture (cross-attention): which; None = all.
        decoder_layers: all of the decoder's; None = ``layers``.

    Returns:
        What is to be run, each set of edges once, and a KNOCKOUT_PLAN table, whose ``knockout`` counts them.

    Raises:
        HeadflowError: a width or a stride beyond the model.
    """
    for name, value in (("width", width), ("stride", stride)):
        if value is not None and not 1 <= value <= layers:
            raise HeadflowError(f"knockout.{name} = {value}: the model has {layers} layers that read the picture; take 1 to {layers}")
    places, end = list(range(layers)) if image_layers is None else list(image_layers), layers if decoder_layers is None else decoder_layers
    steps, closings, index, rows = sweep(layers, width, stride), [], {}, []

    def add(kind: str, at: float, closing: Closing, first: int, stop: int) -> None:
        edges = closing.edges(layers)
        if edges not in index:
            index[edges] = len(closings)
            closings.append(closing)
        band = {"first_layer": places[first], "last_layer": places[stop - 1]} if first < stop else {"first_layer": None, "last_layer": None}
        knockout, closed = closing.knockout, int(closing.knockout.cut(layers).sum())
        shown = {"route": knockout.route, "last_position": closing.last_position, "kind": kind, "at": at, **band, "closed": closed}
        rows.append({"knockout": index[edges], **shown})

    for route in routes:
        for last in last_positions[:1] if route == "img→both" else last_positions:
            for step in steps.steps:
                add("upward", -1.0 if step == 0 else float(places[step - 1]), Closing(upward(route, step, layers), last), step, layers)
            for step in steps.steps:
                add("below", float(places[step] if step < layers else end), Closing(below(route, step), last), 0, step)
            for kind, make in (("closed", lambda band, route=route: Knockout(route, *band)), ("open", lambda band, route=route: only_open(route, band))):
                for band in steps.windows:
                    add(kind, (places[band[0]] + places[band[1] - 1]) / 2, Closing(make(band), last), *band)
    return closings, pl.DataFrame(rows, schema={name: column.dtype for name, column in KNOCKOUT_PLAN.columns.items()})
