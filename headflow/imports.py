"""Which of a project's own modules a file imports, directly or through others; found in the source, without importing anything."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from headflow.errors import HeadflowError

PACKAGES = ("headflow", "stages")
NOTEBOOKS = Path("reports/templates")


def import_graph(root: Path, *paths: Path) -> dict[Path, set[Path]]:
    """What each of ``paths``, and every module of the project in ``root`` that they import at any depth, imports directly.

    Raises:
        HeadflowError: see :func:`local_imports`.
    """
    graph: dict[Path, set[Path]] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path not in graph:
            graph[path] = local_imports(root, path)
            waiting += graph[path]
    return graph


def closure(graph: Mapping[Path, set[Path]], *paths: Path) -> set[Path]:
    """``paths`` and all that they import at any depth, by a graph of :func:`import_graph`."""
    seen: set[Path] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            waiting += graph[path]
    return seen


def local_imports(root: Path, path: Path) -> set[Path]:
    """Files of the modules in ``root`` that a Python file or notebook imports anywhere in it, packages' ``__init__`` included.

    What a string names counts too: a module as a command, ``"python -m stages.x"``, or a notebook of :data:`NOTEBOOKS`, ``"report.ipynb"``.

    Raises:
        HeadflowError: the file cannot be read, or is neither Python nor a notebook of Python.
    """
    try:
        source = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = [cell for cell in json.loads(source)["cells"] if cell["cell_type"] == "code"]
            source = "\n".join("".join(cell["source"]) for cell in cells)
        tree = ast.parse(source)
    except OSError as error:
        raise HeadflowError(f"{path}: cannot be read ({error.strerror})") from error
    except SyntaxError as error:
        raise HeadflowError(f"{path}: line {error.lineno} is not Python ({error.msg})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise HeadflowError(f"{path}: neither Python nor a notebook ({error})") from error
    package = path.relative_to(root).parent.parts if path.is_relative_to(root) else ()
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    commands = {command[1] for text in named if (command := re.match(r"python -m ([\w.]+)", text))}
    notebooks = {root / NOTEBOOKS / text for text in named if text.endswith(".ipynb") and "/" not in text}
    return {file for name in (*_imported(tree, package), *commands) for file in _files(root, name)} | {file for file in notebooks if file.is_file()}


def _imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            # `from package import module` imports the module too.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _files(root: Path, name: str) -> Iterator[Path]:
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return
    for depth in range(1, len(parts) + 1):
        base = root.joinpath(*parts[:depth])
        for file in (base / "__init__.py", base.with_suffix(".py")):
            if file.is_file():
                yield file
