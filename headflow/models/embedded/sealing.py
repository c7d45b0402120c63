"""Checksums of a checkpoint folder, in a file that ``sha256sum --check`` reads too."""

import hashlib
import shutil
from pathlib import Path

from headflow.errors import HeadflowError
from headflow.files import write_atomically

CHECKSUMS_FILE = "SHA256SUMS"


def seal(folder: Path) -> None:
    """Write the checksums of all files in ``folder``."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS_FILE)
    text = "".join(f"{_sha256(path)}  {path.name}\n" for path in files)
    write_atomically(folder / CHECKSUMS_FILE, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def verify(folder: Path) -> list[str]:
    """Check every file against the checksums; returns the names of the files.

    Raises:
        HeadflowError: the checksums are missing or garbled, or a file is missing or differs.
    """
    sums = folder / CHECKSUMS_FILE
    try:
        lines = [line.split("  ", 1) for line in sums.read_text(encoding="utf-8").splitlines()]
        expected = {name: checksum for checksum, name in lines}
    except (OSError, ValueError) as error:
        raise HeadflowError(f"{sums}: missing or not readable; the checkpoint is incomplete: restore it, or install headflow again") from error
    for name, checksum in expected.items():
        if not (folder / name).is_file():
            raise HeadflowError(f"{folder / name}: missing; the checkpoint is incomplete: restore it, or install headflow again")
        if (found := _sha256(folder / name)) != checksum:
            raise HeadflowError(f"{folder / name}: damaged (SHA-256 {found[:12]}…, expected {checksum[:12]}…): restore it, or install headflow again")
    return list(expected)


def copy_sealed(source: Path, target: Path) -> None:
    """Copy a sealed folder's files after checking them; the checksums come last, so that a copy cut short does not verify.

    Raises:
        HeadflowError: see :func:`verify`.
    """
    names = verify(source)
    target.mkdir(parents=True, exist_ok=True)
    for name in (*names, CHECKSUMS_FILE):
        shutil.copyfile(source / name, target / name)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
