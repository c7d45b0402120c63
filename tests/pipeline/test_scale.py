"""DVC at scale, as docs/dvc-at-scale.md tells it: a remote, and queued experiments in copies of the project."""

from pathlib import Path

import polars as pl
import pytest
import yaml

from headflow.execution.store import ResultStore
from headflow.files import read_json
from headflow.tables.ablations import TARGETS
from tests.pipeline.conftest import Project


def test_a_fresh_clone_pulls_what_was_pushed_and_runs_nothing(project: Project, tmp_path: Path) -> None:
    project.dvc("remote", "add", "--default", "shared", str(tmp_path / "remote"))
    project.run("git", "commit", "--quiet", "--all", "--message", "remote")
    project.dvc("push", "--with-deps", "fit_attributions@tiny")
    project.run("git", "clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    said = clone.dvc("repro", "--pull", "fit_attributions").stdout
    assert "Pulling data for stage: 'run_ablations@tiny'" in said and "Running stage" not in said
    assert clone.run("git", "status", "--porcelain").stdout == ""
    for table in ("examples.parquet", "masks/tiny.parquet", "targets/tiny.parquet", "attributions/tiny/attributions.parquet"):
        assert (clone.folder / "data" / table).read_bytes() == (project.folder / "data" / table).read_bytes()


def test_queued_experiments_share_the_store_and_give_what_plain_runs_give(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC runs them in temporary copies of the project, which it deletes; what they finish stays in the project's store."""
    plain, own = project.copy(tmp_path / "plain"), project.folder / ".headflow/results.sqlite"
    before = units(own)
    explained = read_json(project.folder / "reports/metrics/run_ablations_tiny.json")["examples"]
    project.dvc("exp", "run", "--queue", "--set-param", "masks.seed=1,2", "run_ablations")
    project.dvc("exp", "run", "--run-all")
    # Another seed draws other held-out masks (1 record an example), fit masks (3) and corners (2); intact, ablated and single heads (3) are found.
    assert units(own) - before == 2 * explained * 6

    monkeypatch.setenv("HEADFLOW_STORE", str(tmp_path / "empty.sqlite"))
    plain.set_params(lambda params: params["masks"].update(seed=2))
    plain.stages("sample_masks", "run_ablations")
    assert units(tmp_path / "empty.sqlite") == explained * 9
    targets = TARGETS.read(plain.folder / "data/targets/tiny.parquet")
    names = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    queued = [targets_of(project, name) for name in names if name.count("/") == 4]
    assert len(queued) == 2 and all(one.select("id", "mask").equals(targets.select("id", "mask")) for one in queued)
    apart = sorted((one["target"] - targets["target"]).abs().max() for one in queued)
    assert apart[0] < 1e-4 and apart[1] > 0.1  # the experiment with this seed, and the one with the other


def units(path: Path) -> int:
    with ResultStore(path) as store:
        return len(store)


def targets_of(project: Project, experiment: str) -> pl.DataFrame:
    """The table that an experiment wrote, from DVC's cache."""
    lock = yaml.safe_load(project.run("git", "show", f"{experiment}:dvc.lock").stdout)
    digest = next(out["md5"] for out in lock["stages"]["run_ablations@tiny"]["outs"] if out["path"] == "data/targets/tiny.parquet")
    return pl.read_parquet(project.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:])
