import json
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from headflow.errors import HeadflowError
from headflow.reporting import blocks
from headflow.reporting import run as runs
from headflow.reporting.provenance import commit, versions
from stages import render_report
from tests.reporting import synthetic_run

PARAMS = {"features": {"target": "logprob", "baseline": "mean"}, "fit": {"confidence": 0.9}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    synthetic_run.write(synthetic_run.make(), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load() -> runs.Run:
    return runs.load("tiny", render_report.inputs("tiny"), PARAMS)


def refused() -> str:
    with pytest.raises(HeadflowError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_run_is_read(folder):
    run = load()
    assert run.unit == "nats" and run.confidence == 0.9
    assert len(run.explained) == 37 and run.asked.height == 40
    assert run.checks == {"identity": 2.1e-7, "swap": 4.4e-7, "prefix": 1.1e-7, "effect": 0.74, "tolerance": 1e-5}
    assert run.name_order[:2] == ["left", "up"], "names of one category stand together"
    assert set(run.pictures["id"]) == set(run.explained)


def test_examples_without_names_go_by_their_answers(folder):
    path = folder / "data/examples.parquet"
    pl.read_parquet(path).drop("meaning_name", "meaning_category").write_parquet(path)
    assert set(load().names["name"]) == set(synthetic_run.CATEGORY)


def test_a_single_answer_names_nothing_and_examples_go_by_themselves(folder):
    path = folder / "data/examples.parquet"
    pl.read_parquet(path).drop("meaning_name", "meaning_category").with_columns(pl.lit("yes").alias("answer")).write_parquet(path)
    run = load()
    assert run.naming.plural == "examples" and run.names["name"].to_list() == run.explained == run.name_order


def test_labels_are_known_to_be_absent(folder):
    assert load().labelled
    path = folder / "data/examples.parquet"
    frame = pl.read_parquet(path)
    frame.drop([name for name in frame.columns if name.startswith(("meaning_", "looks_"))]).write_parquet(path)
    run = load()
    assert not run.labelled and run.naming.noun == "answer" and run.names["category"].equals(run.names["name"].rename("category"))


@pytest.mark.parametrize(("where", "mode"), [("model", "cross"), ("metrics", "recomputed"), (None, None)])
def test_the_prefix_mode_is_read_wherever_it_was_recorded(where, mode, folder):
    metrics, model = folder / "reports/metrics/run_ablations_tiny.json", folder / "data/models/tiny/model.json"
    metrics.write_text(json.dumps({"prefix_mode": mode} if where == "metrics" else {}))
    if where == "model":
        model.write_text(json.dumps(json.loads(model.read_text()) | {"prefix_mode": mode}))
    run = load()
    assert run.prefix_mode == mode and run.picture_in_prompt == (mode != "cross")


def test_metrics_are_optional(folder):
    for path in (folder / "reports/metrics").iterdir():
        path.unlink()
    assert load().metrics == {} and load().checks == {}


@pytest.mark.parametrize("name", [name for name in runs.TABLES if name not in runs.OPTIONAL])
def test_each_table_is_required_and_named_when_it_is_missing(name, folder):
    Path(render_report.inputs("tiny")[name]).unlink()
    assert refused().startswith(render_report.inputs("tiny")[name]) and "dvc repro" in refused()


@pytest.mark.parametrize("name", runs.OPTIONAL)
def test_a_table_that_may_be_absent_is_empty_then_and_told_when_it_is_damaged(name, folder):
    path = Path(render_report.inputs("tiny")[name])
    before = load()
    path.unlink(missing_ok=True)
    assert getattr(load(), name).is_empty() and getattr(load(), name).schema == getattr(before, name).schema
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no table")
    assert refused().startswith(str(path))


def test_a_truncated_table_and_a_broken_model_file_are_named(folder):
    path = folder / "data/attributions/tiny/fits.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refused().startswith("data/attributions/tiny/fits.parquet: not a readable Parquet file")
    path.write_bytes(whole)
    (folder / "data/models/tiny/model.json").write_text('{"id": "x"}')
    assert refused().startswith("data/models/tiny/model.json: has no 'dtype'")
    (folder / "data/models/tiny/model.json").write_text("[]")
    assert "model.json" in refused()


def test_damaged_metrics_are_named(folder):
    (folder / "reports/metrics/run_ablations_tiny.json").write_text('{"checks": ')
    assert refused().startswith("reports/metrics/run_ablations_tiny.json")


def test_tables_of_different_runs_are_refused(folder):
    run = synthetic_run.make()
    shifted = run.but(fits=run.fits.with_columns(pl.col("id") + "-old"))
    synthetic_run.write(shifted, folder)
    assert "different runs" in refused()
    synthetic_run.write(run.but(attributions=run.attributions.with_columns(pl.col("layer") + 6)), folder)
    assert "says the model has 6" in refused()


def test_a_run_that_explains_nothing_is_refused(folder):
    run = synthetic_run.make()
    synthetic_run.write(run.but(attributions=run.attributions.clear()), folder)
    assert "no example was explained" in refused()


def test_metrics_are_flattened_and_what_is_not_finite_left_out():
    assert runs.flat({"a": {"b": 1, "c": {"d": "x"}}, "e": float("nan"), "f": [1], "g": True, "h": None}) == {"a.b": 1, "a.c.d": "x", "g": True}
    assert runs.flat([1]) == {}


def test_provenance_outside_git_and_without_packages(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) == "not under git, or no commit yet"
    monkeypatch.setenv("PATH", "")
    assert commit(tmp_path) == "not under git, or no commit yet"
    found = versions()
    assert {"python", "headflow", "torch", "transformers"} <= set(found)


def test_provenance_tells_changed_files(tmp_path):
    import subprocess

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    assert commit(tmp_path).endswith(", unchanged")
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path).endswith(", with 1 changed file")


def test_layers_of_cross_attention_are_told_in_the_colophon(folder):
    model = folder / "data/models/tiny/model.json"
    model.write_text(json.dumps(json.loads(model.read_text()) | {"image_layers": [3, 8, 13, 18, 23, 28], "decoder_layers": 40, "prefix_mode": "cross"}))
    run = load()
    assert not run.picture_in_prompt
    text = blocks.colophon(run, folder)
    assert "40 layers, of which 6 read the picture, layers 3, 8, 13, 18, 23 and 28, with 8 heads each" in text
    assert "layers of cross-attention, whose keys all masked runs share" in text and "executed code" not in text


def titled(run: runs.Run) -> runs.Run:
    return replace(run, params=run.params | {"report": {"title": "Title"}})


def describe(folder: Path, **change: object) -> None:
    path = folder / "data/models/tiny/model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_layers_of_cross_attention_go_by_their_numbers_in_the_decoder(folder):
    before = load()
    describe(folder, image_layers=[3, 8, 13, 18, 23, 28], decoder_layers=40)
    run = load()
    pairs, groups = run.interactions, run.clusters
    assert pairs["layer"].to_list() == [8, 13, 18, 8, 13, 18] and pairs["other_layer"].to_list() == [18, 23, 18, 23, 18, 23]
    assert [groups[name].to_list() for name in ("first_layer", "last_layer", "layer")] == [
        [3 + 5 * layer for layer in before.clusters[name]] for name in ("first_layer", "last_layer", "layer")
    ]
    assert groups["middle_layer"].to_list() == pytest.approx([3 + 5 * layer for layer in before.clusters["middle_layer"]])
    assert groups.schema == before.clusters.schema
    for name in ("attributions", "attention", "head_summary", "head_clusters", "profiles"):
        old, new = getattr(before, name), getattr(run, name)
        assert new["layer"].to_list() == [3 + 5 * layer for layer in old["layer"]] and new.drop("layer").equals(old.drop("layer"))
    assert run.predictions.equals(before.predictions)
    text = blocks.header(titled(run))
    assert "Which of its 48 heads that read the picture" in text and "40 layers, of which 6 read the picture, layers 3, 8, 13, 18, 23 and 28" in text


@pytest.mark.parametrize("layers", [[3, 8], [28, 23, 18, 13, 8, 3], [3, 3, 8, 13, 18, 23]])
def test_a_description_that_names_other_layers_is_refused(layers, folder):
    describe(folder, image_layers=layers, decoder_layers=40)
    assert refused() == "data/models/tiny/model.json: image_layers does not name 6 layers in order; run `dvc repro`"


def test_the_header_counts_questions_and_pictures_and_names_the_model_by_its_key(folder):
    describe(folder, id="/somewhere/else/checkpoint")
    text = blocks.header(titled(load()))
    assert "Here tiny (6 layers of 8 heads) was asked" in text and "/somewhere" not in text
    assert re.search(r"was asked \d+ questions about \d+ pictures \(“", text)


def test_skipped_rows_are_listed_in_order_under_one_kind_of_name(folder):
    run = synthetic_run.make()
    rows, examples = synthetic_run.skipped((9, "ninth", "no file"), (2, "second", "no text")), synthetic_run.skipped((5, "explain-fifth", "too long"))
    synthetic_run.write(run.but(skipped_rows=rows, skipped_examples=examples), folder)
    text = blocks.skipped(load())
    assert text.index("second") < text.index("fifth") < text.index("ninth") and "explain-" not in text


def test_what_the_prefix_check_means_depends_on_how_the_prefix_is_treated():
    found = {"identity": 1e-7, "prefix": 0.86}
    assert "it does change, so every mask runs the whole sequence" in blocks.checks(found, "recomputed")
    assert "it must not change" in blocks.checks(found, "shared")
    assert "does not apply: the picture stands beside the text" in blocks.checks({"identity": 1e-7}, "cross")
