"""Gradient runs in the store: found again, independent of batch size, order of work and where a run stopped."""

import numpy as np
import pytest

from headflow.ablation import gate_gradients
from headflow.attribution.masks import sample_corners
from headflow.errors import HeadflowError
from headflow.execution import runs
from headflow.execution.runs import CORNER_BLOCK, run_example, run_gradients
from headflow.execution.store import ResultStore
from headflow.models.baselines import swap_baseline
from headflow.targets import Target

CORNERS = sample_corners(3, 4, 3 * CORNER_BLOCK + 2)


@pytest.fixture
def store(tmp_path):
    with ResultStore(tmp_path / "results.sqlite") as store:
        yield store


@pytest.fixture
def prepare(captures):
    capture, other = captures("mha")
    prepared = capture, swap_baseline(other), Target("logit", 5)
    return lambda: prepared


def counted(store, corners, prepare, context="context", **options):
    computed, found = [], []
    targets, gradients = run_gradients(store, context, corners, prepare, done=lambda now, before: (computed.append(now), found.append(before)), **options)
    return targets, gradients, sum(computed), sum(found)


def test_records_are_what_the_engine_gives_and_are_found_again(store, prepare):
    capture, baseline, target = prepare()
    targets, gradients, computed, found = counted(store, CORNERS, prepare)
    assert (computed, found) == (len(CORNERS), 0)
    expected = gate_gradients(capture, CORNERS, baseline=baseline, target=target)
    for mine, theirs in zip((targets, gradients), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5 * np.abs(theirs).max())
    again = counted(store, CORNERS, lambda: pytest.fail("nothing is left to prepare"))
    np.testing.assert_array_equal(again[0], targets)
    np.testing.assert_array_equal(again[1], gradients)
    assert again[2:] == (0, len(CORNERS))


def test_more_corners_extend_a_run_and_other_inputs_never_meet(store, prepare):
    counted(store, CORNERS[: 2 * CORNER_BLOCK], prepare)
    assert counted(store, CORNERS, prepare)[2:] == (CORNER_BLOCK + 2, 2 * CORNER_BLOCK)
    assert counted(store, CORNERS[:CORNER_BLOCK], prepare, context="another")[3] == 0
    # masked runs of the same corners have records of their own
    values = run_example(store, "context", CORNERS, prepare)
    np.testing.assert_allclose(values, counted(store, CORNERS, prepare)[0], atol=1e-4)


def test_batch_size_changes_nothing_but_rounding(store, prepare, tmp_path):
    one = counted(store, CORNERS, prepare, batch_size=1)
    with ResultStore(tmp_path / "other.sqlite") as other:
        all_at_once = counted(other, CORNERS, prepare, batch_size=64)
    np.testing.assert_allclose(one[1], all_at_once[1], atol=1e-5 * np.abs(one[1]).max())


def test_finished_blocks_survive_a_stop_and_bad_numbers_are_refused(store, prepare, monkeypatch):
    compute = runs.gate_gradients

    def spoilt(capture, corners, **options):
        targets, gradients = compute(capture, corners, **options)
        if (corners == CORNERS[CORNER_BLOCK : 2 * CORNER_BLOCK]).all():
            gradients[0, 0, 0] = np.inf
        return targets, gradients

    monkeypatch.setattr(runs, "gate_gradients", spoilt)
    with pytest.raises(HeadflowError, match=f"gradient at corners {CORNER_BLOCK} to {2 * CORNER_BLOCK - 1} is not finite"):
        counted(store, CORNERS[: 2 * CORNER_BLOCK], prepare)
    monkeypatch.undo()
    assert counted(store, CORNERS, prepare)[2:] == (len(CORNERS) - CORNER_BLOCK, CORNER_BLOCK)
