"""Executors: the same table byte for byte wherever it is made, and whatever happens to drivers and workers on the way."""

import ast
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from headflow.errors import HeadflowError
from headflow.execution.executors import Job, run_units
from headflow.execution.executors.messages import pack, records_message, records_of, unpack
from headflow.execution.store import ResultStore
from headflow.params import ExecutionParams
from tests.execution.jobs import BLOCKS, LENGTH, expected, table
from tests.execution.test_store import full_disk

ROOT = Path(__file__).parents[2]
UNITS = 6
HERE = ExecutionParams(workers=1, threads=1)
TWO = ExecutionParams(workers=2, threads=1)


@pytest.fixture
def store(tmp_path):
    with ResultStore(tmp_path / "results.sqlite") as store:
        yield store


def run(store, settings=TWO, units=UNITS, count=lambda computed, found: None, **arguments):
    return run_units(Job("tests.execution.jobs:Sums", arguments), range(units), store, settings, count)


def ours() -> list[psutil.Process]:
    """Worker processes that this process has started."""
    return [child for child in psutil.Process().children() if "headflow.execution.executors.process" in child.cmdline()]


# --- same numbers


def test_masked_runs_are_the_same_byte_for_byte_here_and_in_workers(checkpoints, tmp_path):
    """Also after a run that met numbers that are none: what was finished then is taken as it is."""
    spoilt = tmp_path / "spoilt"
    job = Job("tests.execution.jobs:MaskedRuns", {"checkpoint": str(checkpoints("mha")), "masks": 200, "spoilt": str(spoilt)})
    with ResultStore(tmp_path / "here.sqlite") as store:
        here = table(run_units(job, range(3), store, HERE))
    with ResultStore(tmp_path / "workers.sqlite") as store:
        spoilt.touch()
        with pytest.raises(HeadflowError, match=r"target under mask \d+ is not a finite number"):
            run_units(job, range(1, 2), store, HERE)
        kept = len(store)
        assert 1 <= kept < 4
        spoilt.unlink()
        assert table(run_units(job, range(3), store, TWO)).tobytes() == here.tobytes()
        assert not ours()
    assert len(np.unique(here)) > 500


def test_results_come_in_the_order_of_units_from_several_processes(store):
    counted = []
    results = run(store, pause_s=0.02, count=lambda computed, found: counted.append((computed, found)))
    assert [result["unit"] for result in results] == list(range(UNITS))
    assert len({result["pid"] for result in results} - {os.getpid()}) == 2
    assert table(results).tobytes() == expected(UNITS).tobytes()
    assert np.sum(counted, 0).tolist() == [UNITS * BLOCKS * LENGTH, 0]
    counted.clear()
    assert table(run(store, HERE, count=lambda computed, found: counted.append((computed, found)))).tobytes() == expected(UNITS).tobytes()
    assert np.sum(counted, 0).tolist() == [0, UNITS * BLOCKS * LENGTH]


def test_messages_are_plain_bytes():
    numbers = {"n": np.arange(6, dtype=np.int16).reshape(2, 3), "bits": np.array([True, False]), "e": np.zeros((0, 4))}
    message = {"say": "done", "text": "ä", "nothing": None, **numbers}
    found = unpack(pack(message))
    assert list(found) == list(message) and found["text"] == "ä" and found["nothing"] is None
    for name, array in numbers.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    records = [(bytes(range(16)), np.array([1.5, np.nan], np.float32)), (bytes(16), np.zeros(0, np.float32))]
    for (key, values), (back, kept) in zip(records, records_of(unpack(pack(records_message(records)))), strict=True):
        assert key == back and values.tobytes() == kept.tobytes()
    with pytest.raises(TypeError, match="do not travel"):
        pack({"objects": np.array([{}], object)})
    whole = pack(message)
    for damaged in (b"", whole[:7], whole[:20], whole[:-3], b"\xff" * 40, whole.replace(b"<i2", b"|O8")):
        with pytest.raises(HeadflowError, match="damaged"):
            unpack(damaged)


# --- faults


def test_the_unit_of_a_killed_worker_is_done_by_another(store, tmp_path, capfd):
    results = run(store, once=str(tmp_path))
    assert (tmp_path / "struck").exists()
    assert table(results).tobytes() == expected(UNITS).tobytes()
    assert "a worker has died (by SIGKILL" in capfd.readouterr().err


def test_a_unit_that_kills_every_worker_is_given_up_with_the_reason(store):
    with pytest.raises(HeadflowError, match=r"3 workers have died over one unit of work \(1\), the last one by SIGKILL.*finished work is kept"):
        run(store, always="killed")
    assert not ours()
    assert table(run(store)).tobytes() == expected(UNITS).tobytes()


def test_what_a_worker_refuses_ends_the_run_and_keeps_what_is_finished(store):
    with pytest.raises(HeadflowError, match="example 1: the target under mask 130 is not a finite number"):
        run(store, always="refused")
    assert len(store) >= 2 and not ours()
    assert table(run(store)).tobytes() == expected(UNITS).tobytes()


def test_an_error_that_nobody_foresaw_comes_with_the_workers_traceback(store):
    with pytest.raises(RuntimeError, match=r"(?s)unforeseen error.*in misfortune.*ZeroDivisionError: nobody foresaw this"):
        run(store, always="broken")


@pytest.mark.parametrize(
    ("function", "message"), [("tests.execution.jobs:Nothing", "there is no Nothing in"), ("tests.no_such:Sums", "a worker cannot import tests.no_such")]
)
def test_a_job_that_a_worker_cannot_find_is_explained(store, function, message):
    with pytest.raises(HeadflowError, match=message):
        run_units(Job(function, {}), [0, 1], store, TWO)


def test_a_worker_with_other_code_is_refused(store, monkeypatch):
    monkeypatch.setattr("headflow.execution.executors.driver.versions", lambda: {"engine": "older", "torch": None})
    with pytest.raises(HeadflowError, match="runs other code of headflow: its numbers would differ"):
        run(store)


# --- a driver in a process of its own


def drive(folder: Path, settings: ExecutionParams = TWO, units: int = UNITS, limit=None, path: Path | None = None, **arguments) -> subprocess.Popen:
    store = path or folder / "results.sqlite"
    command = [sys.executable, "-m", "tests.execution.driven", store, folder / "out.npy", settings.model_dump_json(), json.dumps(arguments), str(units)]
    return subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(process: subprocess.Popen, at_least: int) -> None:
    for line in process.stdout:
        if line.startswith("computed") and int(line.split()[1]) >= at_least:
            return
    raise AssertionError(process.stderr.read())


def finish(path: Path, units: int) -> int:
    """Run what is left; the table must be that of a run that nothing has disturbed. Returns how many blocks were left."""
    computed = []
    with ResultStore(path) as store:
        found = table(run(store, HERE, units, count=lambda now, _: computed.append(now)))
    assert found.tobytes() == expected(units).tobytes()
    return sum(computed) // LENGTH


def gone(processes: list[psutil.Process]) -> bool:
    """Whether they all end soon."""
    return not psutil.wait_procs(processes, timeout=10)[1]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_stopped_takes_its_workers_along_and_goes_on_where_it_stopped(tmp_path, by):
    process = drive(tmp_path, pause_s=0.1)
    wait_for(process, 4 * LENGTH)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    process.send_signal(by)
    began = time.monotonic()
    process.communicate(timeout=20)
    assert process.returncode == (130 if by == signal.SIGINT else -by) and time.monotonic() - began < 10
    assert gone(workers)
    with ResultStore(tmp_path / "results.sqlite") as store:
        kept = len(store)
    assert 4 <= kept < UNITS * BLOCKS
    assert finish(tmp_path / "results.sqlite", UNITS) == UNITS * BLOCKS - kept


def test_two_runs_at_once_on_one_store(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    processes = [drive(folder, pause_s=0.01, path=tmp_path / "results.sqlite") for folder in folders]
    for process, folder in zip(processes, folders, strict=True):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert np.load(folder / "out.npy").tobytes() == expected(UNITS).tobytes()


def test_a_disk_that_fills_up_ends_the_run_with_advice_and_what_is_finished_is_kept(tmp_path):
    folder = full_disk(tmp_path, 128 * 1024)  # None where this user may not mount one: then no file may grow beyond that
    try:
        path = (folder or tmp_path) / "results.sqlite"
        limit = None if folder else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024,) * 2)
        output, _ = drive(tmp_path, units=60, path=path, limit=limit).communicate()
        assert "results.sqlite: the result store cannot be used" in output
        assert folder is None or "free some space and run again; finished work is kept" in output
        with ResultStore(path) as store:
            kept = len(store)
        assert kept >= BLOCKS and not (tmp_path / "out.npy").exists()
        if folder:
            subprocess.run(["mount", "-o", "remount,size=4m", folder], check=True)
        assert finish(path, 60) == 60 * BLOCKS - kept
    finally:
        if folder:
            subprocess.run(["umount", folder], check=True)


def test_damaged_records_are_found_out_and_made_again(store):
    before = table(run(store, HERE))
    store._connection.execute("UPDATE results SET targets = zeroblob(256) WHERE unit IN (SELECT unit FROM results LIMIT 5)")
    counted = []
    after = table(run(store, TWO, count=lambda computed, found: counted.append(computed)))
    assert after.tobytes() == before.tobytes() and sum(counted) == 5 * LENGTH


def test_a_clock_that_jumps_changes_nothing(store, monkeypatch):
    """A day back, a day on: what the driver waits for and when it saves goes by the monotonic clock."""
    jumps, real, asked = itertools.cycle((-86_400.0, 86_400.0, 0.0)), time.time, []
    monkeypatch.setattr(time, "time", lambda: asked.append(1) or real() + next(jumps))
    time.time()
    assert table(run(store, pause_s=0.01)).tobytes() == expected(UNITS).tobytes()
    monkeypatch.undo()
    used = [
        f"{file.name}: {node.attr}"
        for file in (ROOT / "headflow" / "execution").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("time", "now", "today", "utcnow", "time_ns")
    ]
    assert not used
