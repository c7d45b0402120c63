"""The whole comparison of made-up models whose every text is hostile, of one model alone, and how the stage fails."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from headflow.reporting.comparison import OWN_TERMS, SHARED_TERMS
from stages import compare_models, door
from tests.reporting.compared_runs import Planted, write
from tests.stages.test_render_report import HOSTILE, ROOT, Page

MODELS = (
    Planted("tiny"),
    Planted("large_15-7b", layers=24, heads=16, centre=0.4, strong=30, r=0.6, alone=0.1, architecture="Qwen2_5_VLForConditionalGeneration"),
    Planted("cross", layers=3, heads=4, strong=3, image_layers=(3, 8, 13), decoder_layers=20, alone=None, architecture=f"M{HOSTILE}"),
)
FIGURES = ("models", "depth", "concentration", "held-out", "one-at-a-time")
DRAWN = FIGURES[1:]


def write_params(folder: Path, *keys: str) -> None:
    content = {"models": {key: {"id": f"somebody/{key}"} for key in keys}, "report": {"title": f"Title {HOSTILE}"}, "fit": {"confidence": 0.9}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def run_stage(folder: Path) -> subprocess.CompletedProcess:
    environment = {"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent), "HOME": str(folder)}
    return subprocess.run([sys.executable, "-m", "stages.compare_models"], cwd=folder, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which the stage has run; it holds the run of a model that is in the params no more."""
    folder = tmp_path_factory.mktemp("project")
    for planted in (*MODELS, Planted("taken-out-since", r=0.1)):
        write(planted, folder)
    about = folder / "data/models/cross/model.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"id": HOSTILE, "revision": HOSTILE, "dtype": HOSTILE, "fingerprint": HOSTILE}))
    stale = folder / "reports/comparison/figures/stale.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    write_params(folder, *(planted.key for planted in MODELS))
    done = run_stage(folder)
    assert done.returncode == 0, done.stderr
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def source(folder: Path) -> str:
    return (folder / "reports/comparison/index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_every_figure_has_a_question_a_sentence_and_how_it_was_computed(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert set(FIGURES) | {"in-short", "caveats", "definitions", "colophon"} <= set(ids) and len(ids) == len(set(ids))
    assert len(page.specs) == len(DRAWN)
    classes = [attributes.get("class") for _, attributes in page.elements]
    assert classes.count("says") == classes.count("how") == len(FIGURES) == len(page.all("h3"))


def test_every_link_leads_somewhere_on_the_page(page):
    ids = {attributes.get("id") for _, attributes in page.elements}
    targets = {attributes["href"] for attributes in page.all("a") if attributes.get("href")}
    reports = {f"../{planted.key}/index.html" for planted in MODELS}
    assert targets > reports and all(target.startswith("#") and target[1:] in ids for target in targets - reports)
    assert {f"term-{term}" for term in (*OWN_TERMS, *SHARED_TERMS)} <= ids


def test_exactly_the_models_of_the_params_are_shown(page, source):
    assert "taken-out-since" not in source, "a folder that was left behind is no model"
    for planted in MODELS:
        assert planted.key in page.text
    drawn = [{row["model"] for rows in spec["datasets"].values() for row in rows if "model" in row} for spec in page.specs]
    assert all(models == {planted.key for planted in MODELS} for models in drawn[:3])
    assert "Qwen2.5-VL" in page.text and "3 of 20 × 4" in page.text


def test_sentences_say_which_way_it_came_out(page):
    for text in ("attributions of large_15-7b deserve little trust", "single heads were not cut in cross", "nothing on this page is in its units"):
        assert text in page.text
    assert "90%" in page.text and "One model:" not in page.text


def test_nothing_is_loaded_from_anywhere_and_hostile_text_is_never_run(page):
    for name, attributes in page.elements:
        assert name not in ("link", "iframe", "object", "embed", "base", "form")
        assert not any(key.startswith("on") for key in attributes)
        assert attributes.get("src", "data:image/").startswith("data:image/")
    assert len(page.scripts) == len(DRAWN) + 2, "a script slipped in"
    assert page.text.count(HOSTILE) >= 5 and "Title 49" not in page.text
    (policy,) = (attributes["content"] for attributes in page.all("meta") if attributes.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_page_pictures_and_notebook_are_small_and_name_no_machine(folder, source):
    assert len(source.encode()) < 10_000_000
    pictures = {path.stem: path for path in (folder / "reports/comparison/figures").iterdir()}
    assert set(pictures) == set(DRAWN), "a figure is missing or an old one lingers"
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 300_000 for path in pictures.values())
    text = (folder / "reports/comparison/comparison.ipynb").read_text()
    assert str(folder) not in text
    outputs = [output for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "code" for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    assert "Warning" not in (folder / "stderr.txt").read_text()


def test_metrics_hold_every_model(folder):
    metrics = json.loads((folder / "reports/metrics/compare_models.json").read_text())
    assert set(metrics) == {planted.key for planted in MODELS}
    assert metrics["tiny"]["median_held_out_r"] == pytest.approx(0.95, abs=0.02) and metrics["tiny"]["single_effects_over_total"] == pytest.approx(
        0.3, abs=0.02
    )
    assert metrics["cross"]["single_effects_over_total"] is None and metrics["cross"]["layers"] == 3


def test_one_model_stands_alone_and_says_how_to_add_others(tmp_path):
    write(MODELS[0], tmp_path)
    write_params(tmp_path, "tiny")
    done = run_stage(tmp_path)
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "reports/comparison/index.html").read_text(encoding="utf-8"))
    assert "One model: add others from docs/catalogue.yaml" in page.text and "1 model" in page.text
    assert len(page.specs) == len(DRAWN)


def test_the_template_holds_no_outputs_and_short_cells():
    template = nbformat.read(ROOT / "reports/templates/comparison.ipynb", as_version=4)
    nbformat.validate(template)
    code = [cell for cell in template.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= 14


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "error: data/attributions/tiny/fits.parquet: missing; run `dvc repro` to make it"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "error: data/attributions/tiny/fits.parquet: not a readable Parquet file"),
    ],
)
def test_a_bad_input_is_one_line_and_status_1(damage, told, tmp_path, monkeypatch, capsys):
    write(MODELS[0], tmp_path)
    damage(tmp_path / "data/attributions/tiny/fits.parquet")
    write_params(tmp_path, "tiny")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare_models"])
    with pytest.raises(SystemExit) as caught:
        door.enter(compare_models.main, per_model=False)
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(told) and not (tmp_path / "reports").exists()
