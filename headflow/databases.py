"""SQLite files that several processes use at once, and that a kill at any moment leaves whole."""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

_ASK_AT_ONCE = 500
_WAIT_FOR_LOCK_S = 60.0
Key = TypeVar("Key", bytes, str)


def open_shared(path: Path, schema: str) -> sqlite3.Connection:
    """Open the file, or make it with this schema, and its folder.

    Raises:
        sqlite3.Error, OSError: it cannot be opened or made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_WAIT_FOR_LOCK_S, isolation_level=None)
    # Write-ahead log: readers never wait for a writer, and a killed writer leaves the last commit intact.
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", schema):
        _when_unlocked(connection, statement)
    return connection


def rows_of(connection: sqlite3.Connection, table: str, key: str, columns: str, wanted: Iterable[Key]) -> Iterator[tuple]:
    """These columns of the rows with the wanted keys, asked for piece by piece."""
    keys = list(wanted)
    for start in range(0, len(keys), _ASK_AT_ONCE):
        part = keys[start : start + _ASK_AT_ONCE]
        yield from connection.execute(f"SELECT {columns} FROM {table} WHERE {key} IN ({','.join('?' * len(part))})", part)


def _when_unlocked(connection: sqlite3.Connection, statement: str) -> None:
    """Execute; wait while another process sets the same file up, for which SQLite's own time-out does not always hold."""
    deadline = time.monotonic() + _WAIT_FOR_LOCK_S
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
