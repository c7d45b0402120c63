"""Every route in decoding: exact against running everything anew at every step, greedily and drawn, and with weights in several places."""

import numpy as np
import pytest
import torch

import headflow
from headflow.analysis.knockouts import ROUTES, Knockout, knockout_gates, knockout_sweep, only_open, upward
from headflow.decoding import Sampling, decode
from headflow.models.capture import Capture
from headflow.sequences import GateSet
from tests import reference
from tests.checkpoints import QUESTION
from tests.conftest import random_picture
from tests.families import FAMILIES
from tests.families import QUESTION as FAMILY_QUESTION
from tests.models.test_loading import SPREAD
from tests.test_decoding import check, recomputed, spelt_out

STEPS = 3


def some(layers: int, routes: tuple = ROUTES) -> list[Knockout]:
    """All layers, those from one upward, a band alone open."""
    return [make for route in routes for make in (upward(route, 0, layers), upward(route, layers // 2, layers), only_open(route, (0, layers // 2)))]


@pytest.mark.parametrize(("kind", "last_position"), [("mha", "query"), ("gqa", "generated"), ("window", "query")])
def test_every_route_against_a_full_recomputation_of_every_step(captures, kind, last_position):
    capture, _ = captures(kind)
    gates = knockout_gates(capture, some(capture.lvlm.layers), last_position=last_position)
    tokens, logits = recomputed(capture, gates, None, STEPS)
    check(capture, gates, tokens, logits)
    stock = recomputed(capture, GateSet(), None, 1)[1][:, 0]
    first = dict(zip(ROUTES, (reference.relative(part[:1, 0], stock) for part in logits.split(3)), strict=True))  # of each route, closed in all layers
    spared = "img→gen" if last_position == "query" else None
    assert {route for route, change in first.items() if change < 1e-5} == ({spared} if spared else set())


@pytest.mark.parametrize("name", ["mllama", "paligemma"])
def test_routes_in_families_that_read_the_picture_otherwise(name, tmp_path):
    """Cross-attention; a prefix that is recomputed."""
    made = FAMILIES[name]
    lvlm = headflow.load(made.build(tmp_path / name), device_map="cpu")
    capture = lvlm.capture(np.random.default_rng(1).integers(0, 256, (*made.size[::-1], 3), dtype=np.uint8), FAMILY_QUESTION)
    knockouts = [upward(route, 0, lvlm.layers) for route in ROUTES]
    gates = knockout_gates(capture, knockouts)
    check(capture, gates, *recomputed(capture, gates, None, 2))


@pytest.mark.parametrize("last_position", ["query", "generated"])
def test_drawn_tokens_are_drawn_from_the_recomputed_logits(captures, last_position):
    capture, _ = captures("gqa")
    knockouts = [upward(route, 0, capture.lvlm.layers) for route in ROUTES]
    gates = knockout_gates(capture, knockouts, last_position=last_position)

    def drawn(seed: int) -> list[list[int]]:
        return decode([capture], [gates], max_new_tokens=4, sampling=Sampling(temperature=2.0, top_p=0.9, seed=seed), examples=["x"])[0]

    # The model class, given the whole sequence anew, would look for another picture at an image token.
    special = {capture.lvlm.image_token, *capture.lvlm.end_tokens}
    seed = next(seed for seed in range(50) if not special & {token for row in drawn(seed) for token in row} and len({len(row) for row in drawn(seed)}) == 1)
    sampling = Sampling(temperature=2.0, top_p=0.9, seed=seed)
    tokens = torch.zeros(len(knockouts), 0, dtype=torch.long)
    for step in range(4):
        fed, whole = torch.nn.functional.pad(tokens, (0, 1)), spelt_out(gates, capture, step)
        logits = reference.answer_logits(capture.lvlm, capture.picture, capture.question, fed, whole, baseline=None, batch=len(knockouts))[:, -1]
        tokens = torch.cat([tokens, sampling.draw(logits, ["x"] * len(knockouts), step)[:, None]], 1)
    assert drawn(seed) == tokens.tolist()
    assert len({tuple(row) for row in tokens.tolist()}) > 1


def test_weights_in_several_places_say_the_same(checkpoints, captures):
    """One layer is read from disk whenever it runs: inputs are carried to where the weights are, as between devices."""
    model = headflow.load(checkpoints("gqa"), device_map=SPREAD)
    assert model.spread and any(weights.device.type == "meta" for weights in model.model.parameters())
    spread: list[Capture] = [model.capture(random_picture(seed), QUESTION) for seed in (1, 2)]
    knockouts = knockout_sweep(model.layers)
    for last in ("query", "generated"):
        said = [
            decode(those, [knockout_gates(capture, knockouts, last_position=last) for capture in those], max_new_tokens=5)
            for those in (spread, captures("gqa"))
        ]
        assert said[0] == said[1] and len({tuple(tokens) for tokens in said[0][0]}) > 3
    # Not only the tokens: the numbers that they are taken from.
    gates = knockout_gates(spread[0], some(model.layers))
    whole = captures("gqa")[0]
    check(spread[0], gates, *recomputed(whole, knockout_gates(whole, some(model.layers)), None, STEPS))
