"""A look into the result store that leaves it as it is, also while a run writes to it."""

import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jaxtyping import Float

from headflow.errors import HeadflowError
from headflow.execution.store import ResultStore, read_records


class StoreView:
    """What a result store holds; has the ``get`` of :class:`headflow.execution.store.ResultStore`, but drops nothing, and no file is no records.

    Raises:
        HeadflowError: (any method) the file cannot be read or is not a store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        if not path.exists():
            return
        with self._explained():
            self._connection = self._open("mode=ro")
            try:
                self._connection.execute("SELECT 1 FROM results LIMIT 1")
            except sqlite3.OperationalError as error:
                # Of a store in a folder that cannot be written, SQLite reads what lies in the file itself.
                if "unable to open" not in str(error) and "readonly" not in str(error):
                    raise
                self._connection.close()
                self._connection = self._open("mode=ro&immutable=1")
                self._connection.execute("SELECT 1 FROM results LIMIT 1")

    def get(self, units: Iterable[bytes]) -> dict[bytes, Float[np.ndarray, " numbers"]]:
        """Those records of ``units`` that are there and undamaged."""
        if self._connection is None:
            return {}
        with self._explained():
            return read_records(self._connection, units)[0]

    def __len__(self) -> int:
        if self._connection is None:
            return 0
        with self._explained():
            return int(self._connection.execute("SELECT count(*) FROM results").fetchone()[0])

    @property
    def size(self) -> int:
        """Bytes of the store's files."""
        return sum(path.stat().st_size for path in self._files())

    @property
    def written(self) -> float | None:
        """When it was last written, seconds since 1970; None if there is no store."""
        return max((path.stat().st_mtime for path in self._files()), default=None)

    def _files(self) -> list[Path]:
        """The store and its write-ahead log."""
        return [path for path in (self.path, Path(f"{self.path}-wal")) if path.exists()]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def __enter__(self) -> "StoreView":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, how: str) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(str(self.path.absolute()))}?{how}", uri=True, timeout=10.0, isolation_level=None)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise HeadflowError(f"{self.path}: the result store cannot be read ({reason}); a run would ask you to move it away") from error


def writers(path: Path) -> list[int]:
    """One of the processes of this machine, other than this one, that have the store open, if there are any.

    SQLite keeps a lock for each on the index of its log. To be asked before this process opens the store itself: closing a file lets go of all locks
    that a process has on it. Where the system knows no such locks, and for processes of other machines, nothing is found.
    """
    if sys.platform != "linux":
        return []
    import fcntl
    import struct

    # struct flock of Linux on 64 bits; the byte is SQLite's "dead man switch" (WIN_SHM_DMS / UNIX_SHM_DMS in os_unix.c).
    layout, byte = "hhqqi4x", 128
    try:
        with open(f"{path}-shm", "rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, fcntl.F_WRLCK, 0, byte, 1, 0))
    except (OSError, ValueError, struct.error):
        return []
    kind, _, _, _, pid = struct.unpack(layout, answer)
    return [pid] if kind != fcntl.F_UNLCK and pid > 0 else []


@cache
def bytes_per_record(numbers: int) -> float:
    """Disk that one record of so many numbers takes, its share of the index included; measured on a scratch store."""
    generator, count = np.random.default_rng(0), max(64, min(1000, 2**16 // max(numbers, 1)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scratch.sqlite"
        with ResultStore(path) as store:
            store.put((generator.bytes(16), np.zeros(numbers, np.float32)) for _ in range(count))
        return path.stat().st_size / count
