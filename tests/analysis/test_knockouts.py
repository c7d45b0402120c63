"""Knockouts of the picture: which edges they cut, and what planted circuits then say."""

import numpy as np
import pytest
import torch

import headflow
from headflow.analysis.knockouts import ROUTES, Knockout, below, knockout_gates, knockout_sweep, only_open, upward
from headflow.datasets.planted import NAMES, QUESTION, pattern
from headflow.decoding import decode
from headflow.errors import HeadflowError
from headflow.gates import Gate
from headflow.models.baselines import closed_baseline, swap_baseline
from headflow.models.capture import Capture
from headflow.models.planted import find_circuit
from headflow.seeds import generator
from headflow.sequences import GateSet, Sequences
from headflow.suffix import prepared


@pytest.fixture(scope="module", params=["chain", "additive"])
def planted(request: pytest.FixtureRequest) -> tuple[str, list[Capture]]:
    """One picture of every name, on a model whose circuit is known."""
    lvlm = headflow.load(f"planted:{request.param}")
    return request.param, [lvlm.capture(pattern(name, "warm", generator(0, "knockouts", at)).image, QUESTION) for at, name in enumerate(NAMES)]


@torch.no_grad()
def logit(capture: Capture, name: str, gates: GateSet) -> np.ndarray:
    """Logit of the object's name at the first generated token, one a knockout."""
    with prepared(capture):
        return Sequences([capture], [gates], [range(gates.forwards)]).logits[:, capture.first_token(name)].numpy()


@pytest.mark.parametrize("last_position", ["query", "generated"])
def test_planted_circuits_say_what_their_routes_leave_open(planted, last_position):
    """chain: picture → role token (layer 1) → final token (layer 3); additive: picture → final token in several layers. The answer is the
    first generated token, which comes from the final position."""
    name, captures = planted
    circuit, layers = find_circuit(name), captures[0].lvlm.layers
    knockouts = knockout_sweep(layers)
    sets = [knockout_gates(capture, knockouts, last_position=last_position) for capture in captures]
    said = decode(captures, sets, max_new_tokens=3)
    logits = np.stack([logit(*example) for example in zip(captures, NAMES, sets, strict=True)])
    readers = {"role": name == "chain", "final": name == "additive"}
    for at, knockout in enumerate(knockouts):
        cut = knockout.cut(layers).numpy()
        # Does this route hold the positions that read the picture?
        blinds = {
            "img→gen": readers["final"] and last_position == "generated",
            "img→query": readers["role"] or last_position == "query",
            "img→both": True,
        }[knockout.route]
        mask = np.ones((layers, captures[0].lvlm.heads), bool)
        mask[cut & blinds] = False
        truth = np.array([circuit.value(mask)])
        np.testing.assert_allclose(logits[:, at], truth.repeat(len(NAMES)), atol=1e-3)
        if truth > 1e-6:
            assert [captures[0].lvlm.text(tokens[at]) for tokens in said] == list(NAMES), knockout
        elif knockout.route == "img→both" and cut.all():  # nothing of the picture is left: one answer for all
            assert len({tuple(tokens[at]) for tokens in said}) == 1
    outcome = {knockout.route: logits[0, at] for at, knockout in enumerate(knockouts) if (knockout.first, knockout.stop) == (0, layers)}
    stock = float(captures[0].logits[captures[0].first_token("amber")])
    if (name, last_position) == ("chain", "query"):
        assert outcome["img→gen"] == pytest.approx(stock) and abs(outcome["img→query"]) < 1e-6 > abs(outcome["img→both"])


def test_img_to_gen_leaves_the_first_token_and_its_variant_does_not(captures):
    capture, _ = captures("gqa")
    layers = capture.lvlm.layers
    paper, variant, query, other_query, both = (
        knockout_gates(capture, [upward(route, 0, layers)], last_position=last)
        for route, last in (("img→gen", "query"), ("img→gen", "generated"), ("img→query", "query"), ("img→query", "generated"), ("img→both", "query"))
    )

    @torch.no_grad()
    def logits(gates: GateSet) -> torch.Tensor:
        """Of the first three tokens, the same ones given."""
        with prepared(capture):
            sequences, found = Sequences([capture], [gates], [range(1)]), []
            for token in (5, 6, 7):
                found.append(sequences.logits[0])
                sequences.append([token])
        return torch.stack(found)

    every, last = torch.ones(capture.suffix), torch.eye(capture.suffix)[-1]
    spelt_out = {
        "paper": (paper, GateSet((), (Gate("nothing"),))),
        "variant": (variant, GateSet((Gate("nothing", queries=last),), (Gate("nothing"),))),
        "query": (query, GateSet((Gate("nothing", queries=every),))),
        "other query": (other_query, GateSet((Gate("nothing", queries=every - last),))),
        "both": (both, GateSet((Gate("nothing"),), (Gate("nothing"),))),
    }
    found = {name: logits(gates) for name, (gates, _) in spelt_out.items()}
    for name, (_, gates) in spelt_out.items():
        torch.testing.assert_close(found[name], logits(gates), atol=1e-5, rtol=1e-5)
    stock = logits(GateSet())
    torch.testing.assert_close(stock[0], capture.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["paper"][0], stock[0], atol=1e-5, rtol=1e-5)
    for name, gates in found.items():
        changed = (gates - stock).abs().amax(-1) > 1e-3
        assert changed.tolist() == [name != "paper", True, True], name


def test_a_baseline_may_be_read_instead_of_nothing(captures):
    """Everything that could see the picture reads another one: the answer is about that one."""
    capture, other = captures("mha")
    everywhere = [upward("img→both", 0, capture.lvlm.layers)]
    assert decode([capture], [knockout_gates(capture, everywhere, baseline=swap_baseline(other))]) == decode([other]) != decode([capture])
    nothing = knockout_gates(capture, everywhere)
    assert decode([capture], [knockout_gates(capture, everywhere, baseline=closed_baseline())]) == decode([capture], [nothing])


def test_sets_of_layers():
    def layers(knockout: Knockout) -> list[int]:
        return knockout.cut(6).nonzero().flatten().tolist()

    assert layers(upward("img→gen", 0, 6)) == list(range(6)) and layers(upward("img→gen", 4, 6)) == [4, 5] and layers(upward("img→gen", 6, 6)) == []
    assert layers(below("img→query", 2)) == [0, 1] and layers(Knockout("img→both", 2, 4)) == [2, 3] and layers(only_open("img→both", (2, 4))) == [0, 1, 4, 5]


@pytest.mark.parametrize(("layers", "stride", "width"), [(6, 1, None), (6, 2, 3), (32, 4, None), (1, 1, None)])
def test_a_sweep_has_every_set_of_layers_once(layers, stride, width):
    knockouts = knockout_sweep(layers, ("img→gen", "img→query"), stride=stride, width=width)
    sets = [(knockout.route, *knockout.cut(layers).tolist()) for knockout in knockouts]
    assert len(set(sets)) == len(sets)
    for route in ("img→gen", "img→query"):
        mine = {cut for name, *cut in map(tuple, sets) if name == route for cut in [tuple(cut)]}
        assert (True,) * layers in mine and (False,) * layers in mine
        for step in range(0, layers, stride):
            assert tuple(layer >= step for layer in range(layers)) in mine and tuple(layer < step for layer in range(layers)) in mine
        assert {tuple(not one for one in cut) for cut in mine} == mine  # what is closed in one is open in another


def test_what_cannot_be_is_said(captures):
    capture, _ = captures("mha")
    with pytest.raises(HeadflowError, match=f"route = 'img→text': must be one of {', '.join(ROUTES)}"):
        Knockout("img→text", 0, 1)
    with pytest.raises(HeadflowError, match="layers 3 to 1 are no band"):
        Knockout("img→gen", 3, 1)
    with pytest.raises(HeadflowError, match="ends at layer 9, but 3 layers"):
        knockout_gates(capture, [Knockout("img→gen", 0, 9)])
    with pytest.raises(HeadflowError, match="nothing to knock out"):
        knockout_gates(capture, [])
    with pytest.raises(HeadflowError, match="last_position = 'final'"):
        knockout_gates(capture, [Knockout("img→gen", 0, 1)], last_position="final")
