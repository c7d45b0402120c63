"""The whole pipeline on the embedded model: what runs again, what does not, and what comes out."""

import re
import sys
from pathlib import Path

import polars as pl
import pytest

from headflow.files import read_json
from headflow.tables.ablations import TARGETS
from headflow.tables.examples import FEATURES
from tests.pipeline.conftest import Project

MODEL_STAGES = (
    "prepare_model", "extract_features", "sample_masks", "run_ablations", "fit_attributions", "evaluate_faithfulness", "compare_baselines", "score_planted",
    "cluster_heads", "find_interactions", "trace_text", "trace_flow", "trace_image", "keep_image_tokens", "read_heads",
    "describe_images", "share_attention", "localise_objects", "knock_out_attention", "judge_descriptions", "score_knockouts", "compress_context",
    "render_report",
)  # fmt: skip
ALONE = {"list_imports", "prepare_examples", "find_planted", "compare_models"}


def test_it_runs_to_the_end_and_a_second_run_does_nothing(finished: Project) -> None:
    for page, least in (("index", 10), ("trust", 5), ("tokens", 5), ("descriptions", 5)):
        assert (finished.folder / f"reports/tiny/{page}.html").read_text().count('class="chart"') >= least
    assert finished.changed_stages() == set()
    again = finished.dvc("repro")
    assert "Running stage" not in again.stdout


def test_checks_and_counts_are_metrics(finished: Project) -> None:
    runs = read_json(finished.folder / "reports/metrics/run_ablations_tiny.json")
    features = read_json(finished.folder / "reports/metrics/extract_features_tiny.json")
    assert set(runs["checks"]) >= {"identity", "swap", "prefix", "effect"}
    assert runs["checks"]["identity"] <= 1e-5 and runs["checks"]["swap"] <= 1e-5
    assert features["explained"] + features["left_out"] == features["examples"] == 8
    shown = finished.dvc("metrics", "show").stdout
    assert "checks.identity" in shown and "mean_held_out_r" in shown


def test_targets_with_all_heads_intact_are_the_stock_targets(finished: Project) -> None:
    targets = TARGETS.read(finished.folder / "data/targets/tiny.parquet")
    masks = pl.read_parquet(finished.folder / "data/masks/tiny.parquet")
    features = FEATURES.read(finished.folder / "data/features/tiny/features.parquet").filter("explained")
    intact = masks.filter(pl.col("purpose") == "intact")["mask"]
    both = targets.filter(pl.col("mask").is_in(intact.implode())).join(features, on="id")
    assert len(both) == len(features)
    assert (both["target"] - both["stock_target"]).abs().max() < 1e-3


def test_a_clustering_param_runs_what_reads_clusters_and_can_be_an_experiment(project: Project) -> None:
    project.set_params(lambda params: params["clusters"].update(max_clusters=4))
    assert project.changed_stages() == {"cluster_heads@tiny", "read_heads@tiny", "render_report@tiny"}
    ran = re.findall(r"Running stage '([^']+)'", project.dvc("exp", "run", "--set-param", "clusters.max_clusters=3", "cluster_heads@tiny").stdout)
    assert ran == ["cluster_heads@tiny"]
    assert "clusters.max_clusters" in project.dvc("params", "diff").stdout
    assert project.dvc("metrics", "diff").returncode == 0
    assert Path(project.dvc("plots", "show").stdout.strip().splitlines()[-1].removeprefix("file://")).is_file()


@pytest.mark.parametrize("module", ["headflow/analysis/clusters.py", "headflow/gates.py"])
def test_an_edit_of_a_module_runs_exactly_the_stages_that_import_it(project: Project, module: str) -> None:
    with open(project.folder / module, "a") as file:
        file.write("\n# edited\n")
    assert project.directly_changed() == {"list_imports"}
    project.dvc("repro", "list_imports")
    importing = {name for name in (*MODEL_STAGES, *ALONE) if module in read_json(project.folder / f"data/imports/{name}.json")}
    assert project.directly_changed() == {f"{name}@tiny" if name in MODEL_STAGES else name for name in importing} and importing


@pytest.mark.parametrize("name", ["keep_image_tokens", "score_knockouts"])
def test_all_modules_that_a_stage_loads_when_it_runs_are_in_its_list(project: Project, name: str) -> None:
    code = f"import atexit, runpy, sys; sys.argv = ['{name}', 'tiny']; atexit.register(lambda: print(*(m.__file__ for m in list(sys.modules.values()) " \
           f"if getattr(m, '__file__', None)), sep='\\n')); runpy.run_module('stages.{name}', run_name='__main__', alter_sys=True)"  # fmt: skip
    loaded = {Path(line) for line in project.run(sys.executable, "-c", code).stdout.splitlines()}
    inside = {path.relative_to(project.folder).as_posix() for path in loaded if path.is_relative_to(project.folder) and path.read_text().strip()}
    listed = set(read_json(project.folder / f"data/imports/{name}.json"))
    assert f"stages/{name}.py" in listed and "headflow/params.py" in inside and inside - {"stages/__init__.py"} <= listed


def test_a_bad_param_stops_before_anything_is_touched(project: Project) -> None:
    project.set_params(lambda params: params["masks"].update(count=-1))
    done = project.dvc("repro", check=False)
    assert done.returncode != 0
    assert "masks.count = -1" in done.stderr + done.stdout and "Traceback" not in done.stderr
    assert (project.folder / "data/targets/tiny.parquet").exists()


def test_make_checks_the_params_before_the_run_and_sums_up_after_it(project: Project) -> None:
    said = project.run(sys.executable, "-m", "stages.summary").stdout
    assert "headflow: tiny" in said and f"{project.folder.resolve()}/reports/tiny/index.html" in said
    assert project.run(sys.executable, "-m", "stages.check_params").stderr == ""
    project.set_params(lambda params: params.update(mask={"count": 999}))
    done = project.run(sys.executable, "-m", "stages.check_params", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: unknown key mask") and "did you mean 'masks'?" in done.stderr
    (project.folder / "reports/metrics/fit_attributions_tiny.json").unlink()
    project.set_params(lambda params: params.pop("mask"))
    done = project.run(sys.executable, "-m", "stages.summary", check=False)
    assert done.returncode == 1 and "fit_attributions_tiny.json: missing" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_model_is_named_with_the_nearest(project: Project) -> None:
    done = project.run(sys.executable, "-m", "stages.sample_masks", "tinny", check=False)
    assert done.returncode == 1 and "did you mean 'tiny'" in done.stderr
