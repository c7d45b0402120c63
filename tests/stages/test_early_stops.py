"""Stopping examples early, through the stages and the store, on the embedded model: the same whatever the batch size, and a part of the long run."""

import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from headflow.files import read_json
from headflow.tables.ablations import EFFORT, GRADIENTS, MASKS, TARGETS
from tests.stages.test_attribution_stages import run

FIT = ("sample_masks", "run_ablations", "fit_attributions")


def configure(folder: Path, masks: dict, ablation: dict | None = None) -> None:
    params = {
        "examples": {"count": 5, "references": 4}, "models": {"tiny": {}}, "features": {"only_correct": False},
        "masks": {"count": 320, "held_out": 20, "corners": 8} | masks, "ablation": ablation or {},
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def go(folder: Path, *stages: str) -> None:
    for stage in stages:
        done = run(folder, stage)
        assert done.returncode in (0, None), done.stderr


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    configure(folder, {"precision": 0.1})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from headflow.params import read_params
        from stages import prepare_examples

        prepare_examples.main(read_params(Path("params.yaml")))
    go(folder, "prepare_model", "extract_features", *FIT)
    return folder


def tables(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    return EFFORT.read(folder / "data/attributions/tiny/effort.parquet"), TARGETS.read(folder / "data/targets/tiny.parquet")


def test_examples_stop_when_they_are_precise_enough(begun: Path) -> None:
    effort, targets = tables(begun)
    assert effort["masks"].n_unique() > 1 and effort["masks"].min() < 320
    assert effort.filter(pl.col("masks") < 320)["relative_error"].max() < 0.1
    counts = dict(targets.filter(pl.col("mask") >= 3_000_000).group_by("id").len().iter_rows())
    assert counts == dict(effort.select("id", "masks").iter_rows())
    assert (effort["forwards"] - effort["masks"] - 8 * 2.7).abs().max() < 1e-9
    gradients, masks = GRADIENTS.read(begun / "data/gradients/tiny.parquet"), MASKS.read(begun / "data/masks/tiny.parquet")
    assert gradients["mask"].unique().sort().to_list() == masks.filter(pl.col("purpose") == "corner")["mask"].to_list()
    assert read_json(begun / "reports/metrics/fit_attributions_tiny.json")["estimator"] == "prior"
    assert read_json(begun / "reports/metrics/run_ablations_tiny.json")["masked_forwards"] == len(targets)


def test_the_batch_size_does_not_change_what_is_run(begun: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(begun, tmp_path / "other", ignore=shutil.ignore_patterns(".headflow"))
    configure(folder, {"precision": 0.1}, {"batch_size": 7})
    go(folder, *FIT)
    before, after = tables(begun), tables(folder)
    assert after[0].select("id", "masks").equals(before[0].select("id", "masks"))
    assert (after[1]["target"] - before[1]["target"]).abs().max() < 1e-4


def test_a_stopped_run_goes_on_from_the_store(begun: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(begun, tmp_path / "other")
    configure(folder, {"precision": None})
    go(folder, *FIT)
    short, long = tables(begun)[1], tables(folder)[1]
    assert EFFORT.read(folder / "data/attributions/tiny/effort.parquet")["masks"].unique().to_list() == [320]
    both = short.join(long, on=["id", "mask"], suffix="_long")
    assert len(both) == len(short)
    assert (both["target"] == both["target_long"]).all()  # bit by bit: found, not computed anew
