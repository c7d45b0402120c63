"""The stage prepare_examples as DVC runs it, from every source."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from PIL import Image

from headflow.datasets import Examples, Selection, make_examples, read_coco, read_folder, read_huggingface
from headflow.datasets.records import ROLES
from headflow.datasets.scenes.examples import make_examples as make_scenes
from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.params import ExamplesParams, read_params
from headflow.tables.examples import EXAMPLES, SKIPPED
from tests.datasets.folders import picture, rows_for, write_folder

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"count": 3, "references": 2}


def run(folder: Path, **examples: Any) -> subprocess.CompletedProcess[str]:
    """The stage in a process of its own, which fails if it imports torch or transformers."""
    (folder / "params.yaml").write_text(yaml.safe_dump({"models": {"tiny": {}}, "examples": SMALL | examples}))
    code = """
import runpy, sys
try:
    runpy.run_module("stages.prepare_examples", run_name="__main__", alter_sys=True)
finally:
    assert not {"torch", "transformers", "datasets"} & set(sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def outputs(folder: Path) -> tuple[Examples, dict[str, int]]:
    found = Examples(EXAMPLES.read(folder / "data/examples.parquet"), SKIPPED.read(folder / "data/skipped.parquet"))
    return found, read_json(folder / "reports/metrics/prepare_examples.json")


def test_scenes(tmp_path: Path) -> None:
    done = run(tmp_path, questions=["object", "exists"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (table, skipped), metrics = outputs(tmp_path)
    assert table.equals(make_scenes(kinds=["object", "exists"], count=3, references=2)) and skipped.is_empty()
    assert metrics == {"scenes": 3, "references": 2, "examples": 6, "object_names": table.filter(split="explain")["meaning_name"].n_unique(), "skipped": 0}


def test_a_folder_with_a_faulty_row(tmp_path: Path) -> None:
    rows = rows_for(7)
    rows[3]["image"] = "gone.png"
    write_folder(tmp_path / "mine", rows)
    done = run(tmp_path, source="folder", path="mine")
    assert done.returncode == 1 and not (tmp_path / "data").exists()
    assert done.stderr.splitlines()[-2:] == [
        "  row 5: 'gone.png': there is no such file",
        "Correct them, or set examples.on_bad_example: skip to go on without these rows",
    ]
    done = run(tmp_path, source="folder", path="mine", on_bad_example="skip", picture_size=[6, 5])
    assert done.returncode == 0, done.stderr
    (table, skipped), metrics = outputs(tmp_path)
    assert skipped.rows() == [(5, "gone.png", "'gone.png': there is no such file")]
    assert metrics == {"scenes": 3, "references": 2, "examples": 3, "object_names": table.filter(split="explain")["answer"].n_unique(), "skipped": 1}
    assert not [name for name in table.columns if name.startswith(("meaning_", "looks_"))]


def test_coco(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    (tmp_path / "mine/images").mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}]}
    for id in range(5):
        Image.fromarray(picture(id)).save(tmp_path / f"mine/images/{id}.png")
        content["images"].append({"id": id, "file_name": f"{id}.png", "width": 10, "height": 8})
        content["annotations"].append({"image_id": id, "category_id": 1, "segmentation": [[0, 0, 6, 0, 6, 6, 0, 6]]})
    (tmp_path / "mine/all.json").write_text(json.dumps(content))
    done = run(tmp_path, source="coco", path="mine", coco={"annotations": "all.json", "question": "What?"})
    assert done.returncode == 0, done.stderr
    (table, _), metrics = outputs(tmp_path)
    assert table["question"].unique().to_list() == ["What?"] and table["objects"].list.len().to_list() == [1] * 5
    assert metrics == {"scenes": 3, "references": 2, "examples": 3, "object_names": 1, "skipped": 0}


def test_huggingface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    for index in range(6):
        place = tmp_path / "mine" / ("cat", "dog")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(index)).save(place / f"{index}.png")
    params = ExamplesParams.model_validate(
        SMALL | {"source": "huggingface", "huggingface": {"id": str(tmp_path / "mine"), "question": "Which?", "columns": {"answer": "label"}}}
    )
    table, skipped = make_examples(params)
    EXAMPLES.check(table, "table")
    assert table["split"].value_counts().sort("split").rows() == [("explain", 3), ("reference", 2)] and skipped.is_empty()
    assert set(table["answer"]) <= {"cat", "dog"}


FAULTS = {
    "no id": ({"source": "huggingface"}, "examples: source is huggingface, but huggingface.id names no data set"),
    "source": ({"source": "files"}, "examples.source = 'files': input should be 'scenes', 'folder', 'coco', 'huggingface' or 'planted'"),
    "size": ({"picture_size": [224]}, r"examples.picture_size = \[224\]: list should have at least 2 items"),
    "column": ({"folder": {"columns": {"anser": "x"}}}, "unknown key examples.folder.columns.anser.*did you mean 'answer'"),
    "share": ({"coco": {"least_share": 2}}, "examples.coco.least_share = 2: input should be less than or equal to 1"),
    "question": ({"questions": ["object", "object"]}, "examples: questions: object is listed twice"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_params_that_cannot_be(tmp_path: Path, fault: str) -> None:
    examples, message = FAULTS[fault]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"models": {"tiny": {}}, "examples": examples}))
    with pytest.raises(HeadflowError, match=message):
        read_params(tmp_path / "params.yaml")


def test_the_defaults_of_params_and_readers_agree() -> None:
    """So that a notebook and the pipeline do the same unless told otherwise."""
    params = ExamplesParams()
    for read, group in ((read_folder, params.folder), (read_coco, params.coco), (read_huggingface, params.huggingface)):
        for name, parameter in inspect.signature(read).parameters.items():
            if name in type(group).model_fields and name not in ("columns", "id"):
                value = getattr(group, name)
                assert parameter.default == (tuple(value) if isinstance(value, list) else value), (read, name)
    for name, value in vars(Selection()).items():
        assert value == getattr(params, name), name
    assert params.folder.columns.model_dump() == {role: role for role in ROLES}


def test_a_readers_table_is_what_other_stages_read(tmp_path: Path) -> None:
    """Types of every column, with and without rows that have objects, survive the file."""
    table, _ = make_examples(ExamplesParams.model_validate(SMALL | {"source": "folder", "path": str(ROOT / "data" / "pictures")}))
    EXAMPLES.write(table, tmp_path / "t.parquet")
    assert EXAMPLES.read(tmp_path / "t.parquet").equals(table)
    assert {name: dtype for name, dtype in table.schema.items() if name.startswith(("meaning_", "looks_"))} == {
        "meaning_category": pl.String, "looks_style": pl.String, "looks_colour": pl.String,
    }  # fmt: skip
