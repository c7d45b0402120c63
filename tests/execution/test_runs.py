"""Runs that are killed, interrupted, extended or changed: nothing is lost, nothing stale is met, nothing is computed twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from headflow.attribution.masks import sample_masks
from headflow.errors import HeadflowError
from headflow.execution import runs
from headflow.execution.fingerprint import ENGINE, digest, digest_files, digest_json, engine_version, unit_key
from headflow.execution.runs import BLOCK, blocks, run_example
from headflow.execution.store import ResultStore
from headflow.models.baselines import swap_baseline
from headflow.targets import Target
from tests.closure import local_imports
from tests.execution.disturbed_run import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path):
    with ResultStore(tmp_path / "results.sqlite") as store:
        yield store


class Run:
    """run_example with what it computed and found counted."""

    def __init__(self, store: ResultStore, prepare) -> None:
        self.store, self.prepare = store, prepare
        self.computed = self.found = self.prepared = 0

    def __call__(self, masks: np.ndarray, context: str = "context", **options) -> np.ndarray:
        self.computed = self.found = self.prepared = 0

        def done(computed: int, found: int) -> None:
            self.computed += computed
            self.found += found

        def prepare():
            self.prepared += 1
            return self.prepare()

        return run_example(self.store, context, masks, prepare, done=done, **options)


@pytest.fixture
def run(store, captures):
    capture, other = captures("mha")
    return Run(store, lambda: (capture, swap_baseline(other), Target("logit", 5)))


def masks(count: int, seed: int = 0) -> np.ndarray:
    return sample_masks(3, 4, count, design="bernoulli", seed=seed)


def test_a_second_run_computes_nothing_and_needs_no_model(run):
    first = run(masks(150))
    assert (run.computed, run.found, run.prepared) == (150, 0, 1)
    again = run(masks(150))
    assert (run.computed, run.found, run.prepared) == (0, 150, 0)
    np.testing.assert_array_equal(again, first)


def test_more_masks_compute_only_what_is_new(run):
    short = run(masks(2 * BLOCK))
    longer = run(masks(5 * BLOCK + 7))
    assert (run.computed, run.found) == (3 * BLOCK + 7, 2 * BLOCK)
    np.testing.assert_array_equal(longer[: 2 * BLOCK], short)
    with ResultStore(run.store.path.with_name("other.sqlite")) as other:
        fresh = Run(other, run.prepare)(masks(5 * BLOCK + 7))
    np.testing.assert_allclose(longer, fresh, rtol=0, atol=1e-5 * np.abs(fresh).max())


def test_more_masks_of_one_group_leave_the_other_groups_alone(run):
    """Held-out masks stand before the fit masks: more of them must not make the fit masks new."""
    held, fit = masks(BLOCK, 1), masks(3 * BLOCK, 2)
    run(np.concatenate([held, fit]), starts=(0, BLOCK))
    run(np.concatenate([held, masks(BLOCK + 30, 1)[BLOCK:], fit]), starts=(0, BLOCK + 30))
    assert (run.computed, run.found) == (30, 4 * BLOCK)


def test_more_examples_compute_only_the_new_ones(run):
    run(masks(100), "first example")
    run(masks(100), "second example")
    assert run.computed == 100
    for context in ("first example", "second example"):
        run(masks(100), context)
        assert run.computed == 0


@pytest.mark.parametrize("changed", ["context", "one bit of a mask", "order of masks"])
def test_a_changed_input_never_meets_a_stale_record(run, changed):
    before = masks(BLOCK)
    run(before)
    after = before.copy()
    if changed == "one bit of a mask":
        after[5, 1, 2] ^= True
    elif changed == "order of masks":
        after[[3, 4]] = after[[4, 3]]
    run(after, "context 2" if changed == "context" else "context")
    assert (run.computed, run.found) == (BLOCK, 0)


def test_contexts_and_masks_cannot_be_confused():
    a, b = masks(3), masks(4)
    assert unit_key("c", a) != unit_key("c", b)
    assert unit_key("c", a) != unit_key("d", a)
    assert unit_key("c", a.reshape(3, 4, 3)) != unit_key("c", a)
    assert unit_key("c", np.zeros((1, 3, 4), bool)) != unit_key("c", np.zeros((2, 3, 2), bool))
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1}) != digest_json({"a": 1, "b": "2"})


def test_files_are_told_apart_by_name_and_content(tmp_path):
    (tmp_path / "a").write_bytes(b"xy")
    (tmp_path / "b").write_bytes(b"z")
    before = digest_files([tmp_path / "a", tmp_path / "b"])
    assert before == digest_files([tmp_path / "b", tmp_path / "a"])
    (tmp_path / "a").write_bytes(b"x")
    assert digest_files([tmp_path / "a", tmp_path / "b"]) != before
    with pytest.raises(HeadflowError, match="cannot be read"):
        digest_files([tmp_path / "missing"])


def test_content_cannot_move_from_one_file_to_the_next(tmp_path):
    """Two folders whose files differ only in where one ends and the next begins."""
    for folder, contents in (("one", (b"1", b"2b\x003")), ("two", (b"1b\x002", b"3"))):
        (tmp_path / folder).mkdir()
        for name, content in zip("ab", contents, strict=True):
            (tmp_path / folder / name).write_bytes(content)
    assert digest_files((tmp_path / "one").iterdir()) != digest_files((tmp_path / "two").iterdir())


def test_the_engines_version_covers_every_module_that_a_masked_run_imports():
    """A module left out of the fingerprint could change the numbers and leave old records in use."""
    package = ROOT / "headflow"
    waiting, met = [package / name for name in ("ablation.py", "local_differences.py", "models/loading.py")], set()
    while waiting:
        file = waiting.pop()
        name = str(file.relative_to(package))
        if name in met or name.startswith("models/embedded/"):  # where the shipped weights lie; they have a fingerprint of their own
            continue
        met.add(name)
        waiting += local_imports(file)
    # Words of messages, writing of files, when modules are loaded, and which checkpoint to load: that has a fingerprint of its own.
    harmless = {"errors.py", "files.py", "lazy.py", "models/prepared.py"}
    assert {name for name in met - harmless if not name.endswith("__init__.py")} == set(ENGINE)
    assert len(engine_version()) == 64


def test_blocks_cover_every_mask_once():
    for count in (0, 1, 63, 64, 65, 200):
        for starts in ((0,), (), (0, 10), (0, 1, 70, 130)):
            spans = blocks(count, [start for start in starts if start <= count])
            assert [i for span in spans for i in range(span.start, span.stop)] == list(range(count))
            assert all(span.stop - span.start <= BLOCK for span in spans)


def test_a_record_of_another_length_is_computed_anew(run):
    run.store.put([(unit_key("context", masks(BLOCK)), np.zeros(3, np.float32))])
    values = run(masks(BLOCK))
    assert run.computed == BLOCK and np.abs(values).max() > 0


def test_a_damaged_record_is_computed_anew(run):
    expected = run(masks(3 * BLOCK))
    with run.store._connection as connection:
        unit, targets = connection.execute("SELECT unit, targets FROM results LIMIT 1").fetchone()
        flipped = bytes([targets[0] ^ 1]) + targets[1:]
        connection.execute("UPDATE results SET targets = ? WHERE unit = ?", (flipped, unit))
    again = run(masks(3 * BLOCK))
    assert (run.computed, run.found) == (BLOCK, 2 * BLOCK)
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    run(masks(3 * BLOCK))
    assert run.computed == 0


def test_targets_that_are_no_numbers_are_refused_and_finished_blocks_kept(run, monkeypatch):
    stream = runs.stream_masks

    def spoilt(*args, **options):
        for start, stop, values in stream(*args, **options):
            values = values.copy()
            if start >= 2 * BLOCK:
                values[1] = np.inf
            yield start, stop, values

    monkeypatch.setattr(runs, "stream_masks", spoilt)
    with pytest.raises(HeadflowError, match=f"target under mask {2 * BLOCK + 1} is not a finite number"):
        run(masks(4 * BLOCK), batch_size=BLOCK)
    assert len(run.store) == 2
    monkeypatch.undo()
    run(masks(4 * BLOCK))
    assert (run.computed, run.found) == (2 * BLOCK, 2 * BLOCK)


def test_the_mask_that_is_named_is_counted_among_all_masks(run, monkeypatch):
    run(masks(BLOCK))
    monkeypatch.setattr(runs, "stream_masks", lambda *args, **options: iter([(0, 4, np.array([0, 0, np.nan, 0], np.float32))]))
    with pytest.raises(HeadflowError, match=f"mask {BLOCK + 2} "):
        run(masks(2 * BLOCK))


@pytest.mark.parametrize("batch_size", [1, 48, 64, 100])
def test_an_interruption_keeps_finished_blocks(run, batch_size):
    """Ctrl-C at any moment, in whatever batches the work is done."""
    everything, progress = masks(4 * BLOCK), []

    def interrupt(computed: int, found: int) -> None:
        progress.append(computed)
        if sum(progress) >= 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_example(run.store, "context", everything, run.prepare, batch_size=batch_size, done=interrupt)
    kept = len(run.store)
    assert kept == sum(progress) // BLOCK
    run(everything)
    assert (run.computed, run.found) == ((4 - kept) * BLOCK, kept * BLOCK)


# --- in a process of its own


def start(store: Path, checkpoint: Path, out: Path, pause: float = 0.0) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.execution.disturbed_run", str(store), str(checkpoint), str(out), str(pause)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(process: subprocess.Popen, at_least: int) -> None:
    for line in process.stdout:
        if line.startswith("computed") and int(line.split()[1]) >= at_least:
            return
    raise AssertionError(process.stderr.read())


def test_a_run_that_is_interrupted_and_killed_goes_on_where_it_stopped(checkpoints, tmp_path, capsys):
    """Ctrl-C, then kill -9, then a run that finishes what is left: nothing is lost, nothing is wrong."""
    checkpoint, store = checkpoints("mha"), tmp_path / "results.sqlite"
    main(tmp_path / "undisturbed.sqlite", checkpoint, tmp_path / "expected.npy", 0)
    expected = np.load(tmp_path / "expected.npy")

    def stop(by: int, after: int) -> tuple[int, int]:
        process = start(store, checkpoint, tmp_path / "out.npy", pause=0.25)
        wait_for(process, after)
        process.send_signal(by)
        process.communicate()
        with ResultStore(store) as records:
            return process.returncode, len(records)

    status, kept = stop(signal.SIGINT, 80)
    assert status == 130 and kept >= 1
    status, more = stop(signal.SIGKILL, 240)  # 15 pauses of a quarter of a second: past a save
    assert status == -signal.SIGKILL and more > kept
    assert not (tmp_path / "out.npy").exists()

    capsys.readouterr()
    main(store, checkpoint, tmp_path / "out.npy", 0)
    assert int(capsys.readouterr().out.split()[-1]) == 640 - more * BLOCK
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    with ResultStore(store) as records:
        assert len(records) == 10
