"""What a table is: named columns with types and meanings, checked on write and on read."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException

from headflow.errors import HeadflowError
from headflow.files import write_atomically


@dataclass(frozen=True)
class Column:
    """One column: polars type, and what it means (with its unit)."""

    dtype: pl.DataType | type[pl.DataType]
    meaning: str


@dataclass(frozen=True)
class Table:
    """One kind of table. ``extra`` allows further columns whose names begin with one of these prefixes."""

    name: str
    columns: dict[str, Column]
    extra: tuple[str, ...] = ()

    def check(self, frame: pl.DataFrame, where: str) -> pl.DataFrame:
        """Return ``frame`` if it has this table's columns and types.

        Raises:
            HeadflowError: names the first column that is missing, unknown or of another type.
        """
        for name, column in self.columns.items():
            if name not in frame.columns:
                raise HeadflowError(f"{where}: the {self.name} table has no column {name!r} ({column.meaning})")
            if frame.schema[name] != column.dtype:
                raise HeadflowError(f"{where}: column {name!r} of the {self.name} table is {frame.schema[name]}, expected {column.dtype}")
        for name in frame.columns:
            if name not in self.columns and not name.startswith(self.extra or ("\0",)):
                raise HeadflowError(f"{where}: the {self.name} table has an unknown column {name!r}")
        return frame

    def write(self, frame: pl.DataFrame, path: Path) -> None:
        """Check ``frame`` and write it as Parquet in one step (a reader sees the old file or the new one)."""
        self.check(frame, str(path))
        write_atomically(path, lambda temporary: frame.write_parquet(temporary, compression="zstd"))

    def read(self, path: Path) -> pl.DataFrame:
        """Read and check a table.

        Raises:
            HeadflowError: the file is missing, truncated, not Parquet, or holds other columns.
        """
        try:
            frame = pl.read_parquet(path, use_pyarrow=False, memory_map=False)
        except FileNotFoundError:
            raise HeadflowError(f"{path}: missing; run `dvc repro` to make it") from None
        except (Exception, PanicException) as error:  # polars raises several unrelated classes for a damaged file
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise HeadflowError(f"{path}: not a readable Parquet file ({reason}); delete it and run `dvc repro` again") from error
        return self.check(frame, str(path))
