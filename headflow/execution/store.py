"""The result store: finished work units, found again by a fingerprint of all that their numbers depend on.

SQLite holds the records: it survives a kill at any moment, several processes may use one file, and a look-up costs the
same with ten records or ten million.
"""

import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headflow.errors import HeadflowError

_SCHEMA = "CREATE TABLE IF NOT EXISTS results (unit BLOB PRIMARY KEY, checksum INTEGER NOT NULL, targets BLOB NOT NULL) WITHOUT ROWID"
_ASK_AT_ONCE = 500
_WAIT_FOR_LOCK_S = 60.0


class ResultStore:
    """Targets of finished work units, float32, keyed by fingerprint.

    Raises:
        HeadflowError: (any method) the file cannot be opened, read or written, or is not a store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_WAIT_FOR_LOCK_S, isolation_level=None)
            # Write-ahead log: readers never wait for a writer, and a killed writer leaves the last commit intact.
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", _SCHEMA):
                self._when_unlocked(statement)

    def get(self, units: Iterable[bytes]) -> dict[bytes, Float[np.ndarray, " masks"]]:
        """Records of those ``units`` that are finished; a damaged one counts as missing and is dropped."""
        wanted = list(units)
        found: dict[bytes, np.ndarray] = {}
        damaged = []
        for start in range(0, len(wanted), _ASK_AT_ONCE):
            part = wanted[start : start + _ASK_AT_ONCE]
            with self._explained():
                rows = self._connection.execute(f"SELECT unit, checksum, targets FROM results WHERE unit IN ({','.join('?' * len(part))})", part)
                for unit, checksum, targets in rows:
                    # SQLite keeps whatever stands in a cell, of whatever kind.
                    if isinstance(targets, bytes) and len(targets) % 4 == 0 and zlib.crc32(unit + targets) == checksum:
                        found[unit] = np.frombuffer(targets, "<f4")
                    else:
                        damaged.append((unit,))
        if damaged:
            with self._explained():
                self._connection.executemany("DELETE FROM results WHERE unit = ?", damaged)
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

    def _when_unlocked(self, statement: str) -> None:
        """Execute; wait while another process sets the same file up, for which SQLite's own time-out does not always hold."""
        deadline = time.monotonic() + _WAIT_FOR_LOCK_S
        while True:
            try:
                self._connection.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

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
