"""Writing files so that a reader never meets half of one."""

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
from polars.exceptions import PolarsError
from safetensors import SafetensorError

from headflow.errors import HeadflowError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    Raises:
        HeadflowError: the file could not be written (disk full, no permission); ``path`` is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except (OSError, PolarsError, SafetensorError) as error:  # a full disk comes in each of these classes
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise HeadflowError(f"{path}: could not be written ({reason}); free some space or check the permissions, then run again") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON with a stable key order."""
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


_FORMULA = r"^[\s\x00]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
"""What a spreadsheet takes for the beginning of a formula (OWASP, *CSV Injection*), blanks before it included."""


def write_csv(frame: pl.DataFrame, path: Path) -> None:
    """Write a table for `dvc plots`; numbers with six digits, as a plot needs no more.

    Text that a spreadsheet would run as a formula gets an apostrophe in front, in cells and in the header; numbers stay numbers.
    """
    texts = [frame[name].cast(pl.String) for name in frame.select(cs.string() | cs.categorical() | cs.enum()).columns]
    safe = frame.with_columns(pl.when(text.str.contains(_FORMULA)).then("'" + text).otherwise(text).alias(text.name) for text in texts)
    safe = safe.rename({name: f"'{name}" for name in safe.columns if re.match(_FORMULA, name)})
    write_atomically(path, lambda temporary: safe.write_csv(temporary, float_precision=6))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        HeadflowError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HeadflowError(f"{path}: missing; run `dvc repro` to make it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise HeadflowError(f"{path}: not readable as JSON ({error}); delete it and run `dvc repro` again") from error
