"""Answers of language models, kept as text between runs: what was asked once is never paid for again.

SQLite holds them: a process that is killed at any moment leaves the last whole answer, and several may use one file.
"""

import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from headflow.errors import HeadflowError

_SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, judge TEXT NOT NULL, answer TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID"
_ASK_AT_ONCE = 500
_WAIT_FOR_LOCK_S = 60.0


class AnswerCache:
    """Answers by key.

    Raises:
        HeadflowError: (any method) the file cannot be opened, read or written, or is no such cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_WAIT_FOR_LOCK_S, isolation_level=None)
            # Write-ahead log: readers never wait for a writer, and a killed writer leaves the last commit intact.
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", _SCHEMA):
                self._when_unlocked(statement)

    def get(self, keys: Iterable[str]) -> dict[str, str]:
        """The answers that are there; a damaged one counts as missing."""
        wanted, found = list(keys), {}
        for start in range(0, len(wanted), _ASK_AT_ONCE):
            part = wanted[start : start + _ASK_AT_ONCE]
            with self._explained():
                rows = self._connection.execute(f"SELECT key, answer, checksum FROM answers WHERE key IN ({','.join('?' * len(part))})", part).fetchall()
            found |= {key: answer for key, answer, checksum in rows if _checksum(key, answer) == checksum}
        return found

    def put(self, key: str, judge: str, answer: str) -> None:
        """Keep an answer, with the ``judge`` that gave it for those who read the file."""
        with self._explained():
            self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, judge, answer, _checksum(key, answer)))

    def close(self) -> None:
        self._connection.close()

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
        except (sqlite3.Error, OSError, UnicodeError) as error:
            raise HeadflowError(
                f"{self.path}: the answers of judges cannot be kept there ({error}); check space and permissions, name another file with judging.cache, or "
                "move this one away to start anew"
            ) from error


def _checksum(key: str, answer: str) -> int:
    return zlib.crc32(f"{key}\0{answer}".encode())
