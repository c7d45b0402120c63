"""Interleaved timing and plain tables."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every work in every round; rounds go through all works, so that a slow spell of the machine hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        # Every other round backwards: whatever a work leaves behind in the caches is not always left to the same one.
        for name in list(works)[:: 1 if turn % 2 == 0 else -1]:
            taken[name].append(seconds(works[name]))
    return taken


def fastest(work: Callable[[int], object], sizes: Sequence[int]) -> int:
    """The batch size at which ``work`` is fastest; one call each, after one to warm up."""
    work(sizes[0])
    return min(sizes, key=lambda size: seconds(lambda: work(size)))


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median and range, in short."""
    return f"{np.median(values):.{digits}g} ({min(values):.{digits}g} … {max(values):.{digits}g})"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a plain table."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f"\n{title}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
