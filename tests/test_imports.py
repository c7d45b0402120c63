"""Imports are found in the source, however they are written."""

import json
from pathlib import Path

import pytest

from headflow.errors import HeadflowError
from headflow.imports import closure, import_graph

SOURCES = {
    "headflow/__init__.py": "",
    "headflow/a.py": "import headflow.b.c",
    "headflow/b/__init__.py": "from headflow import d",
    "headflow/b/c.py": "from . import e\nfrom ..f import anything",
    "headflow/b/e.py": "import numpy, headflow.absent",
    "headflow/d.py": "from headflow import a  # a circle",
    "headflow/f.py": "def late():\n    from headflow.g import anything",
    "headflow/g.py": "COMMAND = 'python -m stages.h --fast'\nWORDS = 'python -m ', 'absent.ipynb'",
    "headflow/unused.py": "import headflow.a",
    "stages/h.py": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, source in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    return tmp_path


def names(root: Path, start: str) -> set[str]:
    graph = import_graph(root, root / start)
    assert closure(graph, root / start) == set(graph)
    return {path.relative_to(root).as_posix() for path in graph}


def test_every_way_to_import_is_followed(root: Path) -> None:
    assert names(root, "headflow/a.py") == set(SOURCES) - {"headflow/unused.py"}


def test_a_part_of_a_graph_is_what_that_file_alone_imports(root: Path) -> None:
    graph = import_graph(root, *(root / name for name in SOURCES))
    assert closure(graph, root / "headflow/g.py") == {root / "headflow/g.py", root / "stages/h.py"}
    assert len(closure(graph, root / "headflow/unused.py")) == len(SOURCES)


def test_a_notebook_imports_too(root: Path) -> None:
    cells = [{"cell_type": "markdown", "source": ["import headflow.a"]}, {"cell_type": "code", "source": ["import headflow.g\n", "x = 1"]}]
    page = root / "reports/templates/page.ipynb"
    page.parent.mkdir(parents=True)
    page.write_text(json.dumps({"cells": cells}))
    (root / "stages/render.py").write_text("run(TEMPLATES / 'page.ipynb')")
    assert names(root, "stages/render.py") == {"stages/render.py", "reports/templates/page.ipynb", "headflow/__init__.py", "headflow/g.py", "stages/h.py"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("headflow/d.py", "x = 1\ndef f(:\n", r"d\.py: line 2 is not Python"),
        ("headflow/d.py", "x\0", r"d\.py: "),
        ("page.ipynb", "{", r"page\.ipynb: neither Python nor a notebook"),
        ("page.ipynb", "{}", r"page\.ipynb: neither Python nor a notebook"),
        ("absent.py", None, r"absent\.py: cannot be read \(No such file"),
    ],
)
def test_what_cannot_be_read_is_named(root: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (root / name).write_text(content)
    with pytest.raises(HeadflowError, match=message):
        import_graph(root, root / "headflow/a.py", root / name)
