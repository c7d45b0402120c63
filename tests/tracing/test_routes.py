"""Routes between groups of tokens, against the full-sequence answer key, and what closes them written out by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import headflow
from headflow.ablation import gate_gradients, run_gates, run_masks
from headflow.components import Components
from headflow.errors import HeadflowError
from headflow.execution.runs import run_example
from headflow.execution.store import ResultStore
from headflow.gates import Gate
from headflow.models.baselines import closed_baseline, swap_baseline
from headflow.models.capture import Capture
from headflow.targets import Target
from headflow.tracing.bands import as_masks, sweep
from headflow.tracing.components import FROM_IMAGE, ROUTES, Route, Routes, routes, single_tokens
from headflow.tracing.flow import flow_masks
from tests import reference
from tests.checkpoints import QUESTION
from tests.families import FAMILIES
from tests.families import QUESTION as FAMILY_QUESTION

TARGET = Target("logit", 7)
FAMILY_NAMES = ("paligemma", "mllama", "gemma3", "qwen2_vl")
"""Whose prompt is seen both ways, whose picture stands in no sequence, whose layers slide, whose positions have three axes."""


def taken(capture: Capture, width: int | None = None) -> tuple[Routes, np.ndarray, list[str]]:
    """All routes of an example, the masks that the stage runs, and the routes' names."""
    found = routes(capture.roles, capture.suffix, cross=capture.mode == "cross")
    steps = sweep(capture.lvlm.layers, width)
    names = [route.name for route in found]
    closed, masks = flow_masks(names, FROM_IMAGE, steps)
    assert len(masks) == len(closed) + 1
    return Routes(found, torch.from_numpy(as_masks(list(steps.bands), steps.layers))), masks, names


def agree(capture: Capture, other: Capture, question: str, components: Components, masks: np.ndarray) -> np.ndarray:
    """Targets by the engine, after checking them against the answer key."""
    token = capture.greedy_token()
    found = run_masks(capture, masks, baseline=swap_baseline(other), target=Target("logit", token), components=components, batch_size=5)
    twins = reference.picture_keys_values(capture.lvlm, other.picture, question)
    gates = components.gates(torch.from_numpy(masks).float(), "baseline")
    expected = reference.logits(capture.lvlm, capture.picture, question, gates, baseline=twins, batch=len(masks))[:, token]
    assert found == pytest.approx(expected.numpy(), abs=2e-5 * float(capture.logits.abs().max()))
    return found


def test_every_closing_equals_the_answer_key(pair):
    capture, other = pair
    components, masks, names = taken(capture)
    assert tuple(names) == ROUTES and isinstance(components, Components)
    found = agree(capture, other, QUESTION, components, masks)
    assert found[0] == pytest.approx(float(capture.logits.max()), abs=1e-4)
    # Each route does something, and nothing that another does.
    effects = (found[0] - found[1:-2]).reshape(len(names), -1)
    assert (np.abs(effects).max(1) > 1e-3).all() and len({tuple(np.round(row, 4)) for row in effects}) == len(names)


def test_several_routes_and_bands_at_once_equal_the_answer_key(pair):
    """Any mask has a meaning: bands may overlap, and routes are closed together."""
    capture, other = pair
    components, _, _ = taken(capture)
    agree(capture, other, QUESTION, components, np.random.default_rng(0).random((6, *components.shape)) < 0.6)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory):
    made: dict[str, tuple[Capture, Capture]] = {}

    def captures(name: str) -> tuple[Capture, Capture]:
        if name not in made:
            model = headflow.load(FAMILIES[name].build(Path(tmp_path_factory.mktemp(name))))
            width, height = FAMILIES[name].size
            made[name] = tuple(
                model.capture(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8), FAMILY_QUESTION) for seed in (1, 2)
            )
        return made[name]

    return captures


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_routes_of_other_families_equal_the_answer_key(family, name):
    capture, other = family(name)
    components, masks, names = taken(capture)
    assert capture.mode == FAMILIES[name].prefix
    if capture.mode == "cross":  # text reads no text in the layers that gates act on
        assert names == list(FROM_IMAGE)
    else:
        assert "question→role" in names and set(FROM_IMAGE) <= set(names)
    found = agree(capture, other, FAMILY_QUESTION, components, masks)
    closings = (found[0] - found[1:-2]).reshape(len(names), -1)
    # The text before a cross-attention layer's first question token may be shown nothing of the picture, but what follows is.
    assert (np.abs(closings).max(1) > 1e-4).all()
    everything = run_masks(capture, np.zeros((1, capture.lvlm.layers, capture.lvlm.heads), bool), baseline=swap_baseline(other),
                           target=Target("logit", capture.greedy_token()))  # fmt: skip
    assert found[-2] == pytest.approx(everything[0], abs=1e-4)  # both routes from the picture: what cutting every head does


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_single_tokens_of_other_families_equal_the_answer_key(family, name):
    capture, other = family(name)
    heads = np.zeros((capture.lvlm.layers, capture.lvlm.heads), bool)
    heads[:, ::2] = True
    random = np.random.default_rng(0)
    for chosen in (None, heads):
        components = single_tokens(capture.suffix, [(0, 1), (1, capture.lvlm.layers)], capture.lvlm.layers, chosen)
        found = agree(capture, other, FAMILY_QUESTION, components, random.random((4, *components.shape)) < 0.5)
        assert np.ptp(found) > 1e-3


def test_what_closes_a_route_written_out_by_hand(captures):
    capture, other = captures("mha")
    components, _, names = taken(capture, 1)
    roles = np.array(capture.roles)
    by_hand = {
        "question→role": Gate("nothing", queries=ends(roles, "role", "final")[-capture.suffix :], keys=ends(roles, "question")),
        "role→final": Gate("nothing", queries=ends(roles, "final")[-capture.suffix :], keys=ends(roles, "role")),
        "image→question": Gate(queries=ends(roles, "question")[-capture.suffix :]),
        "image→role": Gate(queries=ends(roles, "role", "final")[-capture.suffix :]),
    }
    bands = components.bands.float()
    for place, name in enumerate(names):
        for band in (0, len(bands) - 1):
            masks = np.ones((1, *components.shape), bool)
            masks[0, place, band] = False
            gate = dataclasses.replace(by_hand[name], layers=bands[band])
            expected = run_gates(capture, [gate], baseline=swap_baseline(other), target=TARGET)
            assert run_masks(capture, masks, baseline=swap_baseline(other), target=TARGET, components=components)[0] == pytest.approx(float(expected), abs=1e-5)


def ends(roles: np.ndarray, *wanted: str) -> torch.Tensor:
    return torch.from_numpy(np.isin(roles, wanted)).float()


def test_an_answer_that_is_fed_reads_as_the_final_token_does(captures):
    capture, _ = captures("gqa")
    fed = capture.lvlm.capture(capture.picture, QUESTION, capture.lvlm.answer_tokens(QUESTION, "a red house"))
    found = {route.name: route for route in routes(fed.roles, fed.suffix)}
    suffix = np.array(fed.roles)[-fed.suffix :]
    assert suffix[found["role→final"].readers].tolist() == ["final", "answer", "answer"]
    assert suffix[found["image→role"].readers].tolist() == ["role", "final", "answer", "answer"]
    assert set(np.array(fed.roles)[found["question→role"].sources]) == {"question"}


def test_closed_edges_from_the_picture_can_read_nothing(captures):
    """Whatever the run's baseline; edges between tokens of the text have none."""
    capture, other = captures("mha")
    nothing = Routes(routes(capture.roles, capture.suffix, reads="nothing"), torch.ones(1, capture.lvlm.layers, dtype=torch.bool))
    plain = Routes(routes(capture.roles, capture.suffix), nothing.bands)
    masks = ~np.eye(len(ROUTES), dtype=bool)[:, :, None]
    closed = run_masks(capture, masks, baseline=closed_baseline(), target=TARGET, components=plain)
    assert run_masks(capture, masks, baseline=swap_baseline(other), target=TARGET, components=nothing) == pytest.approx(closed, abs=1e-5)
    swapped = run_masks(capture, masks, baseline=swap_baseline(other), target=TARGET, components=plain)
    assert swapped[:2] == pytest.approx(closed[:2], abs=1e-5) and np.abs(swapped[2:] - closed[2:]).min() > 1e-3


def test_gradients_are_slopes(captures):
    capture, other = captures("gqa")
    components, _, _ = taken(capture)
    middle = np.random.default_rng(1).uniform(0.3, 0.7, (1, *components.shape)).astype(np.float32)
    _, slopes = gate_gradients(capture, middle, baseline=swap_baseline(other), target=TARGET, components=components)
    for place in [(0, 0), (1, 2), (2, 1), (3, 3)]:
        ends = np.repeat(middle, 2, 0)
        ends[(0, *place)] -= 0.02
        ends[(1, *place)] += 0.02
        low, high = run_masks(capture, ends, baseline=swap_baseline(other), target=TARGET, components=components)
        assert (high - low) / 0.04 == pytest.approx(slopes[(0, *place)], abs=0.02 * float(np.abs(slopes).max()))


def test_the_store_keeps_routes_apart(captures, tmp_path):
    capture, other = captures("mha")
    bands = torch.ones(1, capture.lvlm.layers, dtype=torch.bool)
    every = routes(capture.roles, capture.suffix)
    kinds = [Routes(every[2:3], bands), Routes(every[3:4], bands), Routes(routes(capture.roles, capture.suffix, reads="nothing")[3:4], bands),
             Routes(every[3:4], bands & (torch.arange(capture.lvlm.layers) > 0))]  # fmt: skip
    masks, found = np.array([True, False])[:, None, None], []
    with ResultStore(tmp_path / "store.sqlite") as store:
        for components in [*kinds, kinds[1]]:
            counts = []
            targets = run_example(
                store, "one", masks, lambda: (capture, swap_baseline(other), TARGET), components=components,
                done=lambda now, stored, counts=counts: counts.append(now),
            )  # fmt: skip
            found.append((float(targets[1]), sum(counts)))
    assert [count for _, count in found] == [2, 2, 2, 2, 0] and found[-1][0] == found[1][0]
    assert len({round(value, 5) for value, _ in found}) == 4


def test_routes_without_an_end_are_left_out_or_refused(captures):
    assert [route.name for route in routes(["image", "question", "final"], 2)] == ["question→role", "image→question", "image→role"]
    assert [route.name for route in routes(["image", "final"], 1)] == ["image→role"]
    nobody, bands = torch.zeros(2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(HeadflowError, match="routes: here without a token at one end"):
        Routes((Route("here", nobody, None, None),), bands)
    with pytest.raises(HeadflowError, match="routes: none is given, or all without"):
        Routes((), bands)
    with pytest.raises(HeadflowError, match="none of them empty"):
        Routes((Route("here", ~nobody, None, None),), bands & False)


def test_masks_of_another_shape_are_refused(captures):
    capture, _ = captures("mha")
    components, _, _ = taken(capture)
    with pytest.raises(HeadflowError, match=r"masks have shape \(1, 2\)"):
        run_masks(capture, np.ones((1, 2), bool), components=components)
