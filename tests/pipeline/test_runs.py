"""The whole pipeline on the embedded model: what runs again, what does not, and what comes out."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml

from headflow.execution.store import ResultStore
from headflow.files import read_json
from headflow.tables import ATTRIBUTIONS, FEATURES, TARGETS
from tests.closure import ROOT, import_closure
from tests.pipeline.conftest import Project

MODEL_STAGES = (
    "prepare_model", "extract_features", "sample_masks", "run_ablations", "fit_attributions", "evaluate_faithfulness", "compare_baselines", "score_planted",
    "cluster_heads", "find_interactions", "trace_text", "trace_flow", "trace_image", "keep_image_tokens", "read_heads", "render_report",
)  # fmt: skip
ALONE = {"prepare_examples", "find_planted", "compare_models"}


def test_it_runs_to_the_end_and_a_second_run_does_nothing(finished: Project) -> None:
    assert (finished.folder / "reports/tiny/index.html").is_file()
    assert finished.changed_stages() == set()
    start = time.monotonic()
    again = finished.dvc("repro")
    assert "Running stage" not in again.stdout
    assert time.monotonic() - start < 30  # a bound against running it all again, not a measurement


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


def test_a_clustering_param_runs_clustering_and_report_only_and_can_be_an_experiment(project: Project) -> None:
    project.set_params(lambda params: params["clusters"].update(max_clusters=4))
    assert project.changed_stages() == {"cluster_heads@tiny", "render_report@tiny"}
    ran = re.findall(r"Running stage '([^']+)'", project.dvc("exp", "run", "--set-param", "clusters.max_clusters=3").stdout)
    assert ran == ["cluster_heads@tiny", "render_report@tiny"]
    assert "clusters.max_clusters" in project.dvc("params", "diff").stdout
    assert project.dvc("metrics", "diff").returncode == 0
    assert Path(project.dvc("plots", "show").stdout.strip().splitlines()[-1].removeprefix("file://")).is_file()


@pytest.mark.parametrize("module", ["headflow/analysis/clusters.py", "headflow/attribution/masks.py", "headflow/gates.py", "headflow/checks.py"])
def test_an_edit_of_a_module_runs_exactly_the_stages_that_import_it(project: Project, module: str) -> None:
    with open(project.folder / module, "a") as file:
        file.write("\n# edited\n")
    direct = {line.rstrip(":") for line in project.dvc("status").stdout.splitlines() if line.endswith(":") and not line.startswith((" ", "\t"))}
    importing = {
        f"{stage.stem}@tiny" if stage.stem in MODEL_STAGES else stage.stem
        for stage in (ROOT / "stages").glob("*.py")
        if "enter(main" in stage.read_text() and ROOT / module in import_closure(stage)
    }
    assert direct == importing and importing


def test_a_second_model_runs_only_its_own_stages_and_the_same_params_give_the_same_artifacts(project: Project) -> None:
    """The first model once more under another key, with nothing to go on from; and the examples anew."""

    def stages() -> dict[str, dict]:
        return yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]

    def digests(stage: str) -> list[str]:
        return [out["md5"] for out in stages()[stage]["outs"]]

    examples = digests("prepare_examples")
    project.run("rm", "-rf", ".headflow")
    project.dvc("repro", "--force", "--no-run-cache", "--single-item", "prepare_examples")
    assert digests("prepare_examples") == examples
    project.set_params(lambda params: params["models"].update(again=params["models"]["tiny"]))
    ran = set(re.findall(r"Running stage '([^']+)'", project.dvc("repro").stdout))
    assert ran == {"compare_models", *(f"{stage}@again" for stage in MODEL_STAGES)}
    assert set(stages()) == ALONE | {f"{stage}@{key}" for stage in MODEL_STAGES for key in ("tiny", "again")}
    for stage in set(MODEL_STAGES) - {"prepare_model", "render_report"}:  # which name the key, and when they were made
        assert digests(f"{stage}@again") == digests(f"{stage}@tiny"), stage


def test_more_masks_and_more_examples_compute_only_what_is_new(project: Project) -> None:
    def units() -> int:
        with ResultStore(project.folder / ".headflow/results.sqlite") as store:
            return len(store)

    before, old = units(), TARGETS.read(project.folder / "data/targets/tiny.parquet")
    explained = read_json(project.folder / "reports/metrics/run_ablations_tiny.json")["examples"]
    project.set_params(lambda params: params["masks"].update(count=192))
    project.dvc("repro", "run_ablations")
    # 112 fit masks are blocks of 32, 32 and 48; 192 are 32, 32, 64 and 64, of which two are new.
    assert units() - before == 2 * explained
    new = TARGETS.read(project.folder / "data/targets/tiny.parquet")
    both = old.join(new, on=["id", "mask"])
    assert len(both) == len(old) and (both["target"] - both["target_right"]).abs().max() < 1e-4

    before = units()
    project.set_params(lambda params: params["examples"].update(count=10))
    project.dvc("repro", "run_ablations")
    more = read_json(project.folder / "reports/metrics/run_ablations_tiny.json")["examples"] - explained
    blocks = 2 + 1 + 1 + 4 + 2  # intact, ablated; 48 single heads; 32 held out; 192 fit masks; 16 corners
    assert 0 < more <= 2 and units() - before == more * blocks


def test_killed_runs_continue_and_end_the_same(project: Project, finished: Project) -> None:
    for path in (".headflow", "data/targets"):
        project.run("rm", "-rf", path)
    project.set_params(lambda params: params["ablation"].update(batch_size=1))  # slow enough to be killed in the middle
    command = [sys.executable, "-m", "stages.run_ablations", "tiny"]
    kills, path = 0, project.folder / "data/targets/tiny.parquet"
    for _ in range(2):
        with subprocess.Popen(command, cwd=project.folder, env=project.environment(), stderr=subprocess.DEVNULL) as process:
            before = _units(project)
            deadline = time.monotonic() + 120
            while process.poll() is None and _units(project) <= before and time.monotonic() < deadline:
                time.sleep(0.02)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
    assert kills >= 1 and _units(project) > 0 and not path.exists()
    project.run(*command)
    old, new = TARGETS.read(finished.folder / "data/targets/tiny.parquet"), TARGETS.read(path)
    assert old.select("id", "mask").equals(new.select("id", "mask"))
    assert (old["target"] - new["target"]).abs().max() < 1e-4


def _units(project: Project) -> int:
    if not (project.folder / ".headflow/results.sqlite").exists():
        return 0
    with ResultStore(project.folder / ".headflow/results.sqlite") as store:
        return len(store)


def test_a_change_of_the_baseline_never_meets_old_records(project: Project) -> None:
    old = TARGETS.read(project.folder / "data/targets/tiny.parquet")
    project.set_params(lambda params: params["features"].update(baseline="closed"))
    project.dvc("repro", "run_ablations")
    new = TARGETS.read(project.folder / "data/targets/tiny.parquet")
    ablated = pl.read_parquet(project.folder / "data/masks/tiny.parquet").filter(pl.col("purpose") == "ablated")["mask"][0]
    both = old.join(new, on=["id", "mask"]).filter(pl.col("mask") == ablated)
    assert (both["target"] - both["target_right"]).abs().min() > 1e-3


@pytest.mark.parametrize(("baseline", "dtype"), [("blank", "float32"), ("swap", "bfloat16")])
def test_other_baselines_and_precisions_run_through(project: Project, baseline: str, dtype: str) -> None:
    def change(params: dict) -> None:
        params["features"].update(baseline=baseline, target="margin")
        params["masks"].update(count=16, design="antithetic")
        params["models"]["tiny"].update(dtype=dtype)

    project.set_params(change)
    project.dvc("repro", "fit_attributions")
    assert ATTRIBUTIONS.read(project.folder / "data/attributions/tiny/attributions.parquet")["attribution"].is_finite().all()


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ("run_ablations", "data/features/tiny/features.parquet"),
        ("run_ablations", "data/features/tiny/baseline.safetensors"),
        ("fit_attributions", "data/targets/tiny.parquet"),
    ],
)
def test_a_truncated_file_stops_with_one_line_that_names_it(project: Project, stage: str, file: str) -> None:
    path = project.folder / file
    content = path.read_bytes()
    path.unlink()  # DVC may have linked it to its cache
    path.write_bytes(content[: len(content) // 2])
    done = project.run(sys.executable, "-m", f"stages.{stage}", "tiny", check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and Path(file).name in last and "Traceback" not in done.stderr


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
