"""Which of the project's own modules a file of it imports."""

from pathlib import Path

from headflow import imports

ROOT = Path(__file__).resolve().parent.parent


def local_imports(path: Path) -> set[Path]:
    """See :func:`headflow.imports.local_imports`."""
    return imports.local_imports(ROOT, path)


def import_closure(*paths: Path) -> set[Path]:
    """``paths`` and all that they import of the project's own, at any depth."""
    return set(imports.import_graph(ROOT, *paths))
