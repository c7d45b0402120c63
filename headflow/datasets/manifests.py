"""Reading a manifest, whatever is in it: CSV, JSON Lines or Parquet."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PanicException

from headflow.errors import HeadflowError

MOST_BYTES = 1_000_000_000
"""Size of a manifest's file."""
MOST_ROWS = 10_000_000
"""Of a Parquet manifest: a few bytes of it can stand for any number of rows."""

SPREADSHEET = "rows are numbered as a spreadsheet shows them: the header is row 1"
LINES = "rows are numbered as the lines of the file"


@dataclass(frozen=True)
class Manifest:
    """Rows with their numbers; ``faults`` are rows that could not be read as such, and are not among ``rows``."""

    columns: list[str]
    rows: list[tuple[int, dict[str, Any]]]
    numbering: str = SPREADSHEET
    faults: list[tuple[int, str]] = field(default_factory=list)


def read_manifest(path: Path) -> Manifest:
    """Read a .csv, .jsonl or .parquet file. Every cell of a CSV is text; blank rows count but hold nothing.

    Raises:
        HeadflowError: another kind of file, not readable as what it is named, or without rows.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise HeadflowError(f"{path}: a manifest is a .csv, .jsonl or .parquet file")
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise HeadflowError(f"{path}: takes {size:,} bytes; a manifest has at most {MOST_BYTES:,}: divide it")
        manifest = reader(path.read_bytes())
    except UnicodeDecodeError as error:
        raise HeadflowError(f"{path}: not UTF-8 text (byte {error.start + 1:,}); save it as UTF-8") from None
    except (OSError, MemoryError) as error:
        raise HeadflowError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'too large'})") from None
    except (ValueError, RecursionError, csv.Error, pl.exceptions.PolarsError, PanicException) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise HeadflowError(f"{path}: not readable as {path.suffix[1:].upper()} ({reason})") from None
    if not manifest.rows and not manifest.faults:
        raise HeadflowError(f"{path}: holds no rows")
    return manifest


def _read_csv(content: bytes) -> Manifest:
    lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    rows, faults, columns = [], [], None
    for number, cells in _numbered(lines):
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if columns is None:
            columns = _header(cells, number)
        elif len(cells) != len(columns):
            faults.append((number, f"has {len(cells)} cells, the header {len(columns)}; put texts with commas in double quotes"))
        else:
            rows.append((number, dict(zip(columns, cells, strict=True))))
    return Manifest(columns or [], rows, faults=faults)


def _numbered(lines: Any) -> Any:
    """Rows of a CSV reader with their numbers from 1; an error names the row that it is in."""
    number = 0
    while True:
        number += 1
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"row {number}: {error}") from None
        yield number, cells


def _header(cells: list[str], number: int) -> list[str]:
    if number != 1:
        raise ValueError("row 1, the header, is blank")
    if len(cells) == 1 and any(mark in cells[0] for mark in ";\t"):
        raise ValueError("cells are separated by semicolons or tabs; save it with commas")
    repeated = sorted({cell for cell in cells if cells.count(cell) > 1})
    if repeated:
        raise ValueError(f"the header has the column {repeated[0]!r} twice" if repeated[0] else "the header has columns without a name")
    return cells


def _read_jsonl(content: bytes) -> Manifest:
    rows, columns = [], {}
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f'line {number} is no object such as {{"image": …}}')
        columns |= dict.fromkeys(row)
        rows.append((number, row))
    return Manifest(list(columns), rows, LINES)


def _read_parquet(content: bytes) -> Manifest:
    rows = pl.scan_parquet(io.BytesIO(content)).select(pl.len()).collect().item()  # by what the file says of itself; nothing is unpacked
    if rows > MOST_ROWS:
        raise ValueError(f"{rows:,} rows; a manifest has at most {MOST_ROWS:,}: divide it")
    frame = pl.read_parquet(io.BytesIO(content), use_pyarrow=False)
    return Manifest(frame.columns, list(enumerate(frame.iter_rows(named=True), 2)))


_READERS: dict[str, Callable[[bytes], Manifest]] = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
