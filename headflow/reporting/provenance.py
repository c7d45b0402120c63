"""What a page was made from and with, so that it can be made again."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from headflow import __version__

PACKAGES = ("torch", "transformers", "numpy", "polars", "scikit-learn", "altair", "vl-convert-python", "papermill", "nbconvert", "dvc")


def versions() -> dict[str, str]:
    """Version of Python, headflow and of each of PACKAGES that is installed; nothing is imported for it."""
    found = {"python": platform.python_version(), "headflow": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(folder: Path) -> str:
    """The git commit that ``folder`` is at, and whether files were changed since; or that there is none."""
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return "not under git, or no commit yet"
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if changed is None:
        return head
    # A run rewrites the lock file and the metrics itself; what counts is whether its inputs were changed.
    count = sum(not line.endswith(("dvc.lock", ".json", ".csv")) for line in changed.splitlines())
    return f"{head}, {'unchanged' if count == 0 else f'with {count} changed file' + ('s' if count > 1 else '')}"


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, or None where git or the repository is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
