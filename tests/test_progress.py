"""Progress: one closing line, lines now and then where there is no terminal, found work kept out of the rate."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headflow.errors import HeadflowError
from headflow.progress import FOLDER, LIVE, Counter, Journal, duration, progress, read_journals, recording

ROOT = Path(__file__).resolve().parents[1]


def test_one_closing_line(capsys):
    with progress("masked forwards (tiny)", 1200, "masks") as bar:
        for _ in range(12):
            bar.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("masked forwards (tiny): 1,200/1,200 masks in ")


def test_an_error_shows_how_far_it_came(capsys):
    with pytest.raises(ValueError, match="no"), progress("work", 10, "units") as bar:
        bar.advance(3)
        raise ValueError("no")
    assert "work: 3/10 units in" in capsys.readouterr().err


def test_lines_now_and_then(capsys):
    counter = Counter("work", 100, "units", every_s=0.0)
    counter.advance(25, note="fast")
    time.sleep(0.01)
    counter.advance(25)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("work: 25/100  ") and "units/s fast" in lines[0] and lines[0].endswith("s left")
    counter = Counter("work", 100, "units", every_s=60.0)
    counter.advance(25)
    assert capsys.readouterr().err == ""


def test_found_work_is_done_but_no_part_of_the_rate():
    counter = Counter("work", 100, "units", done=10)
    counter.skip(40)
    assert counter.done == 50 and counter.rate == 0
    counter.advance(5)
    assert counter.done == 55
    time.sleep(0.02)
    assert 0 < counter.rate <= 5 / 0.02


def test_the_time_left_goes_by_the_last_minutes():
    counter = Counter("work", 1000, "units")
    counter._recent[0] = (time.monotonic() - 1000.0, 0)
    counter._start -= 1000.0
    counter.advance(100)
    assert counter.recent_rate == pytest.approx(0.1, rel=0.01) == counter.rate
    for number in range(60):  # ten minutes at ten times the speed push the slow start out
        counter._recent.append((time.monotonic() - 600.0 + 10 * number, 100 + 10 * number))
    counter.advance(600)
    assert counter.rate == pytest.approx(0.7, rel=0.01) and counter.recent_rate == pytest.approx(1.0, rel=0.02)


def test_times_in_words():
    assert [duration(s) for s in (0, 0.2, 42, 150, 12_000, 400_000, float("inf"))] == ["0 s", "< 1 s", "42 s", "2 min", "3.3 h", "4.6 days", "unknown time"]


def test_a_stage_leaves_behind_how_it_stands(tmp_path, capsys):
    store = tmp_path / "results.sqlite"
    with recording("run_ablations", "tiny", store):
        with progress("masked forwards (tiny)", 100, "masks") as bar:
            bar.skip(40)
            bar.advance(10)
            ((known, alive),) = read_journals(store)
            assert alive and known.state == "running" and known.pid == os.getpid()
        with pytest.raises(RuntimeError), progress("faithfulness (tiny)", 8, "examples") as bar:
            bar.advance(3)
            raise RuntimeError
    (stopped, also), (finished, alive) = sorted(read_journals(store), key=lambda one: one[0].title)
    assert not alive and not also
    assert (finished.stage, finished.model, finished.done, finished.total, finished.state) == ("run_ablations", "tiny", 50, 100, "finished")
    assert (stopped.done, stopped.total, stopped.unit, stopped.state) == (3, 8, "examples", "stopped")
    assert finished.started <= finished.updated
    before = sorted((tmp_path / FOLDER).iterdir())
    with progress("outside of a stage", 1, "units"):
        pass
    assert sorted((tmp_path / FOLDER).iterdir()) == before
    capsys.readouterr()


def test_a_killed_process_is_told_from_a_living_one(tmp_path):
    code = """
import sys, time
from pathlib import Path
from headflow.progress import progress, recording
with recording("run_ablations", "tiny", Path(sys.argv[1])), progress("work", 10, "units") as bar:
    bar.advance(4)
    bar._keep("running")
    print("ready", flush=True)
    time.sleep(60)
"""
    store = tmp_path / "results.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        ((known, alive),) = read_journals(store)
        assert alive and (known.done, known.pid) == (4, process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    ((known, alive),) = read_journals(store)
    assert not alive and (known.done, known.state) == (4, "running")


def test_two_runs_of_one_work_do_not_write_over_each_other(tmp_path):
    first, second = Journal(tmp_path / "a.json"), Journal(tmp_path / "a.json")
    assert first._file is not None and second._file is None
    second.close()
    first.close()


def test_a_journal_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    with recording("stage", None, tmp_path / "results.sqlite"), progress("work", 2, "units") as bar:
        bar.advance(2)
    assert read_journals(tmp_path / "results.sqlite") == []
    assert "work: 2/2" in capsys.readouterr().err


@settings(max_examples=40, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.dictionaries(
    st.sampled_from(["stage", "model", "title", "unit", "done", "total", "rate", "started", "updated", "state", "host", "pid", "x"]),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)),
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_whatever_stands_in_a_journal_is_read_or_passed_over(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("journals")
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "a.json").write_bytes(content)
    for known, alive in read_journals(folder / "results.sqlite"):
        assert not alive and known.total >= 0


def test_live_metrics(tmp_path, monkeypatch, capsys):
    pytest.importorskip("dvclive")
    monkeypatch.setenv(LIVE, str(tmp_path / "live"))
    monkeypatch.chdir(tmp_path)
    with recording("run_ablations", "tiny", tmp_path / "results.sqlite"), progress("masked forwards (tiny)", 10, "masks") as bar:
        bar.advance(10)
    folder = tmp_path / "live/run_ablations_tiny"
    shown = json.loads((folder / "metrics.json").read_text())
    assert shown["masked forwards (tiny)"]["done"] == 10
    assert [path.name for path in folder.rglob("done.tsv")] == ["done.tsv"]
    capsys.readouterr()


def test_live_metrics_without_their_package(tmp_path, monkeypatch):
    monkeypatch.setenv(LIVE, "1")
    monkeypatch.setitem(sys.modules, "dvclive", None)
    with pytest.raises(HeadflowError, match=r"pip install 'headflow\[live\]'"), recording("stage", None, tmp_path / "results.sqlite"):
        pass
