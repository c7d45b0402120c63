"""The result store: finished work units, found again by a fingerprint of all that their numbers depend on.

SQLite holds the records: it survives a kill at any moment, several processes may use one file, and a look-up costs the
same with ten records or ten million.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headflow.databases import open_shared, rows_of
from headflow.errors import HeadflowError

_SCHEMA = "CREATE TABLE IF NOT EXISTS results (unit BLOB PRIMARY KEY, checksum INTEGER NOT NULL, targets BLOB NOT NULL) WITHOUT ROWID"


class ResultStore:
    """Targets of finished work units, float32, keyed by fingerprint.

    Raises:
        HeadflowError: (any method) the file cannot be opened, read or written, or is not a store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            self._connection = open_shared(path, _SCHEMA)

    def get(self, units: Iterable[bytes]) -> dict[bytes, Float[np.ndarray, " masks"]]:
        """Records of those ``units`` that are finished; a damaged one counts as missing and is dropped."""
        with self._explained():
            found, damaged = read_records(self._connection, units)
            if damaged:
                self._connection.executemany("DELETE FROM results WHERE unit = ?", [(unit,) for unit in damaged])
        return found

    def put(self, records: Iterable[tuple[bytes, Float[np.ndarray, " masks"]]]) -> None:
        """Add finished units, all or none of them."""
        rows = [(unit, zlib.crc32(unit + (data := values.astype("<f4").tobytes())), data) for unit, values in records]
        with self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def __len__(self) -> int:
        with self._explained():
            return int(self._connection.execute("SELECT count(*) FROM results").fetchone()[0])

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "ResultStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = str(error)
            if "full" in reason:
                advice = "free some space and run again; finished work is kept"
            elif "locked" in reason:
                advice = "another run is writing to it; wait for that run to end"
            elif "readonly" in reason or "unable to open" in reason:
                advice = "check the permissions of the file and its folder, or name another with ablation.store"
            else:
                advice = "move the file away and run again to start a new store"
            raise HeadflowError(f"{self.path}: the result store cannot be used ({reason}); {advice}") from error


def read_records(connection: sqlite3.Connection, units: Iterable[bytes]) -> tuple[dict[bytes, Float[np.ndarray, " masks"]], list[bytes]]:
    """Those of ``units`` that a store's file holds, and those of them whose record is damaged.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    found: dict[bytes, np.ndarray] = {}
    damaged = []
    for unit, checksum, targets in rows_of(connection, "results", "unit", "unit, checksum, targets", units):
        # SQLite keeps whatever stands in a cell, of whatever kind.
        if isinstance(targets, bytes) and len(targets) % 4 == 0 and zlib.crc32(unit + targets) == checksum:
            found[unit] = np.frombuffer(targets, "<f4")
        else:
            damaged.append(unit)
    return found, damaged
