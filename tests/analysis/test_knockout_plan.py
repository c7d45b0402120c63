"""Which knockouts a run makes: every set of layers of every route is there, and nothing is run twice."""

import pytest
import torch

from headflow.analysis.knockout_plan import Closing, knockout_plan
from headflow.analysis.knockouts import ROUTES, Knockout, knockout_gates, upward
from headflow.errors import HeadflowError

BOTH = ("query", "generated")


@pytest.mark.parametrize(("layers", "width", "stride"), [(6, None, 1), (5, 2, 2), (12, 3, 4), (1, None, 1), (3, 3, 1)])
def test_every_row_closes_the_layers_that_it_names(layers, width, stride):
    closings, plan = knockout_plan(layers, ROUTES, BOTH, width=width, stride=stride)
    assert plan["knockout"].unique().sort().to_list() == list(range(len(closings)))
    for row in plan.iter_rows(named=True):
        cut = closings[row["knockout"]].knockout.cut(layers).tolist()
        band = [row["first_layer"] is not None and row["first_layer"] <= layer <= row["last_layer"] for layer in range(layers)]
        wanted = {
            "upward": [layer > row["at"] for layer in range(layers)], "below": [layer < row["at"] for layer in range(layers)],
            "closed": band, "open": [not inside for inside in band],
        }[row["kind"]]  # fmt: skip
        assert cut == wanted and row["closed"] == sum(cut)
        if any(cut):
            assert closings[row["knockout"]].knockout.route == row["route"]
            assert closings[row["knockout"]].last_position == row["last_position"]
        if row["kind"] in ("upward", "below") and any(cut):
            assert band == cut
        elif row["kind"] in ("closed", "open"):
            assert row["at"] == (row["first_layer"] + row["last_layer"]) / 2
    for route, last in [(one, other) for one in ROUTES for other in BOTH if (one, other) != ("img→both", "generated")]:
        mine = plan.filter(route=route, last_position=last)
        steps = [*range(0, layers, stride), layers]
        assert mine.filter(kind="upward")["at"].to_list() == [step - 1 for step in steps] and mine.filter(kind="below")["at"].to_list() == steps
        assert len(mine.filter(kind="closed")) == len(mine.filter(kind="open")) > 0
    assert not len(plan.filter(route="img→both", last_position="generated"))


def test_what_closes_the_same_edges_is_run_once_and_nothing_else_is(captures):
    """By the gates themselves."""
    capture, _ = captures("mha")
    layers = capture.lvlm.layers
    closings, plan = knockout_plan(layers, ROUTES, BOTH)
    wanted = [Closing(Knockout(route, first, stop, outside), last) for route in ROUTES for last in BOTH
              for first in range(layers + 1) for stop in range(first, layers + 1) for outside in (False, True)]  # fmt: skip

    def edges(closing: Closing) -> tuple:
        gates = knockout_gates(capture, [closing.knockout], last_position=closing.last_position)
        factors = [(gate.layers[0], torch.ones(1) if gate.queries is None else gate.queries[0]) for gate in (*gates.prompt, *gates.generated)]
        return tuple(tuple(torch.outer(*each).flatten().tolist()) for each in factors)

    by_gates, by_name = {}, {}
    for closing in wanted:
        by_gates.setdefault(edges(closing), set()).add(closing.edges(layers))
        by_name.setdefault(closing.edges(layers), set()).add(edges(closing))
    assert all(len(names) == 1 for names in by_gates.values()) and all(len(products) == 1 for products in by_name.values())
    assert len({closing.edges(layers) for closing in closings}) == len(closings) < len(plan)


def test_layers_are_those_of_the_decoder():
    closings, plan = knockout_plan(3, ["img→gen"], ["query"], width=2, image_layers=[3, 8, 13], decoder_layers=20)
    rows = plan.filter(kind="upward")
    assert rows["at"].to_list() == [-1, 3, 8, 13] and rows["first_layer"].to_list() == [3, 8, 13, None] and rows["closed"].to_list() == [3, 2, 1, 0]
    assert plan.filter(kind="below")["at"].to_list() == [3, 8, 13, 20]
    assert plan.filter(kind="open").select("at", "first_layer", "last_layer").rows() == [(5.5, 3, 8), (10.5, 8, 13)]
    assert closings[0] == Closing(upward("img→gen", 0, 3), "query")


def test_what_cannot_be_is_said():
    for name in ("width", "stride"):
        for value in (0, 7):
            with pytest.raises(HeadflowError, match=f"knockout.{name} = {value}: the model has 6 layers"):
                knockout_plan(6, ROUTES, BOTH, **{name: value})
