"""What each stage is made of, in a small project."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.params import read_params
from stages import list_imports
from tests.closure import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    sources = {
        "stages/one.py": "import headflow.shared\n", "stages/two.py": "import stages.own\nPAGE = 'page.ipynb'\n", "stages/own.py": "X = 1\n",
        "stages/__init__.py": "", "headflow/__init__.py": "", "headflow/shared.py": "Y = 1\n",
        "reports/templates/page.ipynb": '{"cells": [{"cell_type": "code", "source": ["from headflow import shared"]}]}',
    }  # fmt: skip
    for name, source in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed() -> dict[str, dict[str, str]]:
    list_imports.main(read_params(ROOT / "params.yaml"))
    return {path.stem: read_json(path) for path in Path("data/imports").iterdir()}


def test_lists_name_what_a_stage_and_its_notebooks_import(folder: Path) -> None:
    found = listed()
    assert set(found["one"]) == {"stages/one.py", "headflow/shared.py"}  # empty modules say nothing
    assert set(found["two"]) == {"stages/two.py", "stages/own.py", "headflow/shared.py"}
    assert found == listed()


def test_an_edit_changes_the_lists_of_those_that_import_it_alone(folder: Path) -> None:
    before = listed()
    (folder / "stages/own.py").write_text("X = 2\n")
    after = listed()
    assert before["one"] == after["one"]
    assert {name for name in after["two"] if after["two"][name] != before["two"][name]} == {"stages/own.py"}
    (folder / "stages/own.py").write_text("X = 1\n")
    assert listed() == before
    (folder / "headflow/new.py").write_text("")
    (folder / "stages/one.py").write_text("import headflow.new\n")
    assert set(listed()["one"]) == {"stages/one.py"}


def test_a_stage_that_is_no_more_leaves_no_list(folder: Path) -> None:
    listed()
    (folder / "stages/one.py").unlink()
    assert set(listed()) == {"own", "two"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("stages/own.py", "X = (", r"stages/own.py: line 1 is not Python \('\(' was never closed\)"),
        ("headflow/shared.py", "X\0", r"headflow/shared.py: "),
        ("reports/templates/page.ipynb", "{", r"page.ipynb: neither Python nor a notebook"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_old_lists_stay(folder: Path, name: str, content: str, message: str) -> None:
    before = listed()
    Path(name).write_text(content)
    with pytest.raises(HeadflowError, match=message):
        listed()
    assert {path.stem: read_json(path) for path in Path("data/imports").iterdir()} == before


def test_a_folder_without_stages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HeadflowError, match="there are none here; run this from the project's folder"):
        listed()


def test_it_lists_this_project_without_torch(folder: Path) -> None:
    """It runs after every edit of any module, so it has to be quick."""
    for part in ("headflow", "stages", "reports/templates"):
        shutil.rmtree(folder / part, ignore_errors=True)
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys, stages.list_imports as stage; stage.main(stage.Params(models={'tiny': {}})); print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
    assert "headflow/ablation.py" in read_json(folder / "data/imports/run_ablations.json")
