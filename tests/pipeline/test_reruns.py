"""Masked runs of the whole pipeline: extended, killed, under other baselines, on damaged files."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from headflow.errors import HeadflowError
from headflow.execution.store import ResultStore
from headflow.files import read_json
from headflow.tables.ablations import ATTRIBUTIONS, TARGETS
from tests.pipeline.conftest import Project


def test_more_masks_and_more_examples_compute_only_what_is_new(project: Project) -> None:
    def units() -> int:
        with ResultStore(project.folder / ".headflow/results.sqlite") as store:
            return len(store)

    before, old = units(), TARGETS.read(project.folder / "data/targets/tiny.parquet")
    explained = read_json(project.folder / "reports/metrics/run_ablations_tiny.json")["examples"]
    project.set_params(lambda params: params["masks"].update(count=192))
    project.stages("sample_masks", "run_ablations")
    # 112 fit masks are blocks of 32, 32 and 48; 192 are 32, 32, 64 and 64, of which two are new.
    assert units() - before == 2 * explained
    new = TARGETS.read(project.folder / "data/targets/tiny.parquet")
    both = old.join(new, on=["id", "mask"])
    assert len(both) == len(old) and (both["target"] - both["target_right"]).abs().max() < 1e-4

    before = units()
    project.set_params(lambda params: params["examples"].update(count=10))
    project.stages("prepare_examples", key=None)
    project.stages("extract_features", "run_ablations")
    more = read_json(project.folder / "reports/metrics/run_ablations_tiny.json")["examples"] - explained
    blocks = 2 + 1 + 1 + 4 + 2  # intact, ablated; 48 single heads; 32 held out; 192 fit masks; 16 corners
    assert 0 < more <= 2 and units() - before == more * blocks


def test_killed_runs_continue_and_end_the_same(project: Project, finished: Project) -> None:
    for path in (".headflow", "data/targets"):
        project.run("rm", "-rf", path)
    project.set_params(lambda params: params["ablation"].update(batch_size=1))  # slow enough to be killed in the middle
    command = [sys.executable, "-m", "stages.run_ablations", "tiny"]
    path = project.folder / "data/targets/tiny.parquet"
    with subprocess.Popen(command, cwd=project.folder, env=project.environment(), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and not _units(project) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    kept = _units(project)
    assert kept > 0 and not path.exists()
    project.set_params(lambda params: params["ablation"].update(batch_size="auto"))
    project.stages("run_ablations")
    assert _units(project) > kept
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
    project.stages("extract_features", "run_ablations")
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
    project.stages("prepare_model", "extract_features", "sample_masks", "run_ablations", "fit_attributions")
    assert ATTRIBUTIONS.read(project.folder / "data/attributions/tiny/attributions.parquet")["attribution"].is_finite().all()


def test_a_truncated_file_stops_with_one_line_that_names_it(project: Project) -> None:
    def halve(file: str) -> bytes:
        path = project.folder / file
        content = path.read_bytes()
        path.unlink()  # DVC may have linked it to its cache
        path.write_bytes(content[: len(content) // 2])
        return content

    halve("data/targets/tiny.parquet")
    done = project.run(sys.executable, "-m", "stages.fit_attributions", "tiny", check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "tiny.parquet" in last and "Traceback" not in done.stderr
    for file in ("data/features/tiny/features.parquet", "data/features/tiny/baseline.safetensors"):
        whole = halve(file)
        with pytest.raises(HeadflowError, match=Path(file).name):
            project.stages("run_ablations")
        (project.folder / file).write_bytes(whole)
