"""Everything that is wrong with the user's data, collected and told at once."""

import sys
from collections.abc import Callable
from typing import Literal

import polars as pl

from headflow.errors import HeadflowError
from headflow.tables.examples import SKIPPED

MOST_LINES = 50
"""Faults printed in full; of the rest only the number."""

OnBadExample = Literal["stop", "skip"]


class Fault(Exception):
    """One thing wrong with one example; the message is a short phrase."""


class Faults:
    """The faults of one data set.

    Args:
        where: the file or data set, as the user named it.
        numbering: how rows are numbered, in words.
        unit: what a row is called.
        on_bad: "stop" makes :meth:`settle` an error, "skip" a warning.
    """

    def __init__(self, where: str, numbering: str, on_bad: OnBadExample = "stop", unit: str = "row") -> None:
        self.where, self.numbering, self.on_bad, self.unit = where, numbering, on_bad, unit
        self._found: dict[int, list[str]] = {}
        self._ids: dict[int, str | None] = {}
        self._told = 0

    def __contains__(self, row: int) -> bool:
        return row in self._found

    def __len__(self) -> int:
        """Faulty rows."""
        return len(self._found)

    def add(self, row: int, id: str | None, reason: str) -> None:
        """Note what is wrong with a row; the same thing only once."""
        reasons = self._found.setdefault(row, [])
        if reason not in reasons:
            reasons.append(reason)
        self._ids[row] = self._ids.get(row) or id or None

    def guard(self, row: int, id: str | None, do: Callable[[], object]) -> object:
        """The result of ``do``, or None where it meets a :class:`Fault`, which is noted."""
        try:
            return do()
        except Fault as fault:
            self.add(row, id, str(fault))
            return None

    def settle(self, of: int | None = None) -> None:
        """Tell all faults found since the last time; ``of`` = rows looked at, if that says something.

        Raises:
            HeadflowError: there are any, and examples.on_bad_example is "stop".
        """
        if len(self._found) == self._told:
            return
        self._told = len(self._found)
        if self.on_bad == "stop":
            raise HeadflowError(f"{self._listed(of)}\nCorrect them, or set examples.on_bad_example: skip to go on without these {self.unit}s")

    def warn(self) -> None:
        """Say on stderr what was left out, if anything was."""
        if self._found:
            print(f"warning: left out: {self._listed(None)}", file=sys.stderr)

    def table(self) -> pl.DataFrame:
        """The faulty rows as a SKIPPED table, in order."""
        rows = [{"row": row, "id": self._ids[row], "reason": "; ".join(reasons)} for row, reasons in sorted(self._found.items())]
        return pl.DataFrame(rows, schema={name: column.dtype for name, column in SKIPPED.columns.items()})

    def _listed(self, of: int | None) -> str:
        lines = [f"  {self.unit} {row}: {reason}" for row, reasons in sorted(self._found.items()) for reason in reasons]
        count = len(self._found)
        total = f" of {of:,}" if of is not None else ""
        head = f"{self.where}: {count:,}{total} {self.unit}{'' if count == 1 and of is None else 's'} with faults ({self.numbering})"
        more = [f"  … and {len(lines) - MOST_LINES:,} more faults"] if len(lines) > MOST_LINES else []
        return "\n".join([head, *lines[:MOST_LINES], *more])


def shown(value: object, most: int = 80) -> str:
    """A value from the data, quoted on one line and cut to ``most`` characters: it may be anything."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except RecursionError:  # lists in lists in lists
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 1]}…"
