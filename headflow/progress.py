"""One progress display for all long work: what, done/total, rate, time left.

On a terminal it is a bar; elsewhere a line now and then. Inside a stage (:func:`recording`) it is also kept in a small file beside the result
store, from which ``headflow status`` tells how a run stands from any terminal, and where it was when it died; and, if asked for, as live
metrics of DVCLive.
"""

import json
import math
import os
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from headflow.errors import HeadflowError

LIVE = "HEADFLOW_LIVE"
"""Environment variable: ``1`` or a folder asks for live metrics (headflow[live]); empty or 0 for none."""

FOLDER = "progress"
"""Where the files of :class:`Journal` lie, beside the store."""

_LINE_EVERY_S = 10.0
_KEPT_EVERY_S = 2.0
_RECENT = 60
# A journal is always this long, so that one write replaces it and a reader never meets half of it.
_JOURNAL_BYTES = 1024


@dataclass(frozen=True)
class Known:
    """What the file of one piece of work says.

    Attributes:
        stage, model: whose work; model is empty where there is none.
        title, unit: as shown.
        done, total: units; ``done`` includes those found in the store.
        rate: units a second, lately; 0 = not known.
        started, updated: seconds since 1970.
        state: ``running``, ``finished`` or ``stopped``, as the process last said.
        host, pid: of that process.
    """

    stage: str
    model: str
    title: str
    unit: str
    done: int
    total: int
    rate: float
    started: float
    updated: float
    state: str
    host: str
    pid: int

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at this rate."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


class Journal:
    """How one piece of work stands, in a file that is locked as long as the process lives. What cannot be written is left out: it stops no run."""

    def __init__(self, path: Path) -> None:
        self._file: int | None = None
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                _lock(file)
            except OSError:  # another run of the same work keeps it
                os.close(file)
            else:
                self._file = file

    def write(self, known: Known) -> None:
        """Replace what the file says."""
        if self._file is None:
            return
        content = json.dumps(asdict(known), ensure_ascii=True).encode()
        with suppress(OSError):
            if len(content) < _JOURNAL_BYTES:
                os.pwrite(self._file, content.ljust(_JOURNAL_BYTES - 1) + b"\n", 0)

    def close(self) -> None:
        """Let go of the file; its last words stay."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_journals(store: Path) -> list[tuple[Known, bool]]:
    """What the files beside the result store ``store`` say, and whether each one's process lives; in the order of their last change.

    A damaged file is passed over. Of a process on another host it is only known whether it wrote in the last minute.
    """
    found = []
    for path in sorted((store.parent / FOLDER).glob("*.json")):
        try:
            with open(path, "rb") as file:
                content = json.loads(file.read(_JOURNAL_BYTES))
                known = _checked(content)
                own = known.host == socket.gethostname()
                alive = _locked(file.fileno()) if own else time.time() - known.updated < 60
        except (OSError, ValueError, RecursionError, TypeError):
            continue
        found.append((known, alive and known.state == "running"))
    return sorted(found, key=lambda one: one[0].updated)


def _checked(content: Any) -> Known:
    known = Known(**content)
    for name, kind in Known.__annotations__.items():
        value = getattr(known, name)
        if not isinstance(value, int if kind is int else (int, float) if kind is float else str) or isinstance(value, bool):
            raise TypeError(name)
        if kind is not str and not (math.isfinite(value) and value >= 0):
            raise ValueError(name)
    return known


def _lock(file: int) -> None:
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _locked(file: int) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


@dataclass(frozen=True)
class _Recorder:
    stage: str
    model: str
    folder: Path
    live: Any


_recorder: _Recorder | None = None


@contextmanager
def recording(stage: str, model: str | None, store: Path) -> Iterator[None]:
    """Keep the progress of all work in the block in files beside the result store ``store``; with live metrics if ``HEADFLOW_LIVE`` says so.

    Raises:
        HeadflowError: live metrics are asked for and dvclive is not installed.
    """
    global _recorder
    before, live = _recorder, _open_live(f"{stage}_{model}" if model else stage)
    _recorder = _Recorder(stage, model or "", store.parent / FOLDER, live)
    try:
        yield
    finally:
        _recorder = before
        if live is not None:
            live.end()


def _open_live(name: str) -> Any:
    wanted = os.environ.get(LIVE, "")
    if wanted in ("", "0"):
        return None
    try:
        from dvclive import Live
    except ImportError:
        raise HeadflowError(f"{LIVE} asks for live metrics, which need the package `dvclive`: pip install 'headflow[live]'") from None
    folder = Path(".headflow/live" if wanted == "1" else wanted) / name
    return Live(str(folder), report=None, save_dvc_exp=False, dvcyaml=None, monitor_system=False)


class Counter:
    """Counts finished work; draws a bar on a terminal and prints a line now and then elsewhere."""

    def __init__(self, title: str, total: int, unit: str, done: int = 0, every_s: float = _LINE_EVERY_S) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._already, self._start, self._last, self._every = done, time.monotonic(), time.monotonic(), every_s
        self._began, self._kept, self._shown_live = time.time(), -math.inf, -math.inf
        # Times and units that this process had finished by then: long runs slow down and speed up with their workers.
        self._recent: deque[tuple[float, int]] = deque([(self._start, 0)], _RECENT)
        self._recorder = _recorder
        self._journal = None
        if self._recorder is not None:
            name = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{self._recorder.stage}-{self._recorder.model}-{title}")[:120]
            self._journal = Journal(self._recorder.folder / f"{name}.json")
            self._keep("running")
        self._bar: Progress | None = None
        console = Console(file=sys.stderr)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False), console=console,
            )  # fmt: skip
            self._task = self._bar.add_task(title, total=total, completed=done, rate="")

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count ``amount`` more units as done; ``note`` is shown beside the rate."""
        self.done += amount
        text = f"{_number(self.rate)} {self.unit}/s {note}".rstrip()
        now = time.monotonic()
        if now - self._recent[-1][0] >= self._every:
            self._recent.append((now, self.done - self._already))
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, rate=text)
        elif now - self._last >= self._every:
            self._last = now
            left = (self.total - self.done) / self.recent_rate if self.recent_rate else math.inf
            print(f"{self.title}: {self.done:,}/{self.total:,}  {text}  {duration(left)} left", file=sys.stderr, flush=True)
        if now - self._kept >= _KEPT_EVERY_S:
            self._keep("running")

    def skip(self, amount: int) -> None:
        """Count ``amount`` units that an earlier run had finished: done, but no part of the rate."""
        self.done += amount
        self._already += amount
        if self._bar is not None:
            self._bar.update(self._task, advance=amount)
        if time.monotonic() - self._kept >= _KEPT_EVERY_S:
            self._keep("running")

    @property
    def rate(self) -> float:
        """Units finished a second by this process."""
        return (self.done - self._already) / max(time.monotonic() - self._start, 1e-9)

    @property
    def recent_rate(self) -> float:
        """The same over the last ten minutes or so."""
        start, finished = self._recent[0]
        return (self.done - self._already - finished) / max(time.monotonic() - start, 1e-9)

    def close(self, state: str) -> None:
        """Write down how the work ended: ``finished`` or ``stopped``."""
        self._keep(state)
        if self._journal is not None:
            self._journal.close()

    def _keep(self, state: str) -> None:
        self._kept = time.monotonic()
        if self._journal is None or self._recorder is None:
            return
        self._journal.write(
            Known(
                self._recorder.stage, self._recorder.model, self.title[:200], self.unit[:40], self.done, self.total, round(self.recent_rate, 6),
                round(self._began, 3), round(time.time(), 3), state, socket.gethostname(), os.getpid(),
            )
        )  # fmt: skip
        live = self._recorder.live
        if live is not None and (state != "running" or self._kept - self._shown_live >= self._every):
            self._shown_live = self._kept
            live.log_metric(f"{self.title}/done", self.done)
            live.log_metric(f"{self.title}/total", self.total)
            live.log_metric(f"{self.title}/{self.unit} a second", self.recent_rate)
            live.next_step()


@contextmanager
def progress(title: str, total: int, unit: str, done: int = 0) -> Iterator[Counter]:
    """Show a :class:`Counter` while the block runs and print one closing line with what was done and how fast."""
    counter = Counter(title, total, unit, done)
    state = "stopped"
    try:
        if counter._bar is not None:
            counter._bar.start()
        yield counter
        state = "finished"
    finally:
        if counter._bar is not None:
            counter._bar.stop()
        counter.close(state)
        elapsed = time.monotonic() - counter._start
        print(f"{title}: {counter.done:,}/{counter.total:,} {unit} in {elapsed:.1f} s", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time in the unit that suits it: ``42 s``, ``12 min``, ``3.4 h``, ``2.1 days``."""
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 100:
        return "< 1 s" if 0 < seconds < 0.5 else f"{max(seconds, 0):.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.2g}"
