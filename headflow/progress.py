"""One progress display for all long work: what, done/total, rate, time left."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Counter:
    """Counts finished work; draws a bar on a terminal and prints a line now and then elsewhere."""

    def __init__(self, title: str, total: int, unit: str, done: int = 0, every_s: float = 10.0) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self._already, self._start, self._last, self._every = done, time.monotonic(), time.monotonic(), every_s
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
        text = f"{self.rate:,.0f} {self.unit}/s {note}".rstrip()
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, rate=text)
        elif now - self._last >= self._every:
            self._last = now
            left = (self.total - self.done) / self.rate if self.rate else float("inf")
            print(f"{self.title}: {self.done:,}/{self.total:,}  {text}  {left:,.0f} s left", file=sys.stderr, flush=True)

    def skip(self, amount: int) -> None:
        """Count ``amount`` units that an earlier run had finished: done, but no part of the rate."""
        self.done += amount
        self._already += amount
        if self._bar is not None:
            self._bar.update(self._task, advance=amount)

    @property
    def rate(self) -> float:
        """Units finished a second by this process."""
        return (self.done - self._already) / max(time.monotonic() - self._start, 1e-9)


@contextmanager
def progress(title: str, total: int, unit: str, done: int = 0) -> Iterator[Counter]:
    """Show a :class:`Counter` while the block runs and print one closing line with what was done and how fast."""
    counter = Counter(title, total, unit, done)
    try:
        if counter._bar is not None:
            counter._bar.start()
        yield counter
    finally:
        if counter._bar is not None:
            counter._bar.stop()
        elapsed = time.monotonic() - counter._start
        print(f"{title}: {counter.done:,}/{counter.total:,} {unit} in {elapsed:.1f} s", file=sys.stderr, flush=True)
