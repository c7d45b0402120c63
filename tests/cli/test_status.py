"""`headflow status` while a run goes on, after it died, and where there is nothing yet."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from headflow.cli.main import main
from headflow.cli.stored import StoreView, writers
from headflow.execution.store import ResultStore
from headflow.progress import FOLDER

ROOT = Path(__file__).resolve().parents[2]
STORE = Path(".headflow/results.sqlite")
RUN = """
import sys, time
from pathlib import Path
import numpy as np
from headflow.execution.store import ResultStore
from headflow.progress import progress, recording
path = Path(sys.argv[1])
with recording("run_ablations", "tiny", path), ResultStore(path) as store, progress("masked forwards (tiny)", 1000, "masks") as bar:
    for number in range(1000):
        store.put([(number.to_bytes(16, "big"), np.full(64, number, np.float32))])
        bar.advance()
        bar._keep("running")
        if number == 20:
            print("under way", flush=True)
        time.sleep(0.005)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"models": {"tiny": {}}}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(store: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", RUN, str(store)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert process.stdout.readline() == b"under way\n"
    return process


def test_nothing_yet(here, capsys):
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    assert "not there yet; no run has kept anything" in text and "its units cannot be listed yet: data/models/tiny/model.json: missing" in text
    assert not STORE.exists() and not STORE.parent.exists()


def test_a_run_that_goes_on_and_then_is_killed(here, capsys):
    process = start(STORE)
    try:
        assert writers(STORE) == [process.pid]
        with StoreView(STORE) as view:  # reading does not stop it
            first = len(view)
            deadline = time.monotonic() + 30
            while len(view) == first and time.monotonic() < deadline:
                time.sleep(0.02)
            assert len(view) > first >= 20
        assert main(["status"]) == 0
        text = capsys.readouterr().out
        assert f"last written now; open in process {process.pid}" in text
        assert "masked forwards (tiny)" in text and f"running in process {process.pid} on " in text and "/1,000 masks" in text
        assert main(["status", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["open_in"] == [process.pid] and found["records"] >= 20
        (known,) = found["runs"]
        assert known["alive"] and known["rate"] > 0 and known["left_s"] == pytest.approx((1000 - known["done"]) / known["rate"])
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert writers(STORE) == []
    assert main(["status", "tiny"]) == 0
    text = capsys.readouterr().out
    assert "no process of this machine has it open" in text and f"died (process {process.pid} on " in text and "run the same command to continue" in text
    assert main(["status", "--json"]) == 0
    (known,) = json.loads(capsys.readouterr().out)["runs"]
    assert not known["alive"] and known["left_s"] is None and known["state"] == "running"


def test_looking_leaves_the_store_to_its_run(here):
    """A run puts what it has while another process looks, and nothing waits for long."""
    with ResultStore(STORE) as store:
        store.put([(bytes(16), np.ones(2, np.float32))])
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-m", "headflow.cli.main", "status", "--json"], stdout=subprocess.PIPE, env=environment)
        number = 1
        while process.poll() is None:
            store.put([(number.to_bytes(16, "big"), np.ones(2, np.float32))])
            number += 1
        found = json.loads(process.stdout.read())
        assert process.returncode == 0 and 1 <= found["records"] <= len(store) == number
        assert found["open_in"] == [os.getpid()]


def test_hostile_text_beside_the_store_reaches_no_terminal(here, capsys):
    journals = STORE.parent / FOLDER
    journals.mkdir(parents=True)
    known = {
        "stage": "s", "model": "tiny", "title": "\x1b]0;title\x07[red]work[/red]\u202e", "unit": "masks", "done": 1, "total": 2, "rate": 1.0, "started": 1.0,
        "updated": 2.0, "state": "stopped", "host": "\x1b[31m", "pid": 1,
    }  # fmt: skip
    (journals / "a.json").write_text(json.dumps(known))
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text and "[red]work[/red]" in text


@pytest.mark.parametrize(("content", "message"), [(b"no store" * 99, "the result store cannot be read"), (b"", "the result store cannot be read")])
def test_a_file_that_is_no_store(content, message, here, capsys):
    STORE.parent.mkdir()
    STORE.write_bytes(content)
    assert main(["status"]) == 1
    assert message in capsys.readouterr().err
    assert STORE.read_bytes() == content
