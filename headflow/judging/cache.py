"""Answers of language models, kept as text between runs: what was asked once is never paid for again.

A process that is killed at any moment leaves the last whole answer, and several may use one file.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from headflow.databases import open_shared, rows_of
from headflow.errors import HeadflowError

_SCHEMA = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, judge TEXT NOT NULL, answer TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID"


class AnswerCache:
    """Answers by key.

    Raises:
        HeadflowError: (any method) the file cannot be opened, read or written, or is no such cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            self._connection = open_shared(path, _SCHEMA)

    def get(self, keys: Iterable[str]) -> dict[str, str]:
        """The answers that are there; a damaged one counts as missing."""
        with self._explained():
            rows = rows_of(self._connection, "answers", "key", "key, answer, checksum", keys)
            return {key: answer for key, answer, checksum in rows if _checksum(key, answer) == checksum}

    def put(self, key: str, judge: str, answer: str) -> None:
        """Keep an answer, with the ``judge`` that gave it for those who read the file."""
        with self._explained():
            self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, judge, answer, _checksum(key, answer)))

    def close(self) -> None:
        self._connection.close()

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
