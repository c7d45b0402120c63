"""Real photographs through every stage: with a random checkpoint of each family that is no kin of LLaVA, and of pictures of several sizes."""

from pathlib import Path

import polars as pl
import pytest

from headflow.errors import HeadflowError
from headflow.params import Params
from headflow.reporting.figure import CHART
from tests.families import FAMILIES, llava
from tests.pipeline.photographed import REFERENCES, check, params, project_folder, run
from tests.pipeline.photographs import CROPS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project_folder(tmp_path_factory.mktemp("other_models"))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in {family.name for family in llava.FAMILIES}])
def test_photographs_through_every_stage(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, folder, tmp_path, monkeypatch)


def test_pictures_of_several_sizes_need_a_baseline_that_fits(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over pictures of one grid says nothing about another: told before any masked run; a blank picture does it."""
    checkpoint = str(FAMILIES["qwen2_vl"].build(tmp_path / "model"))
    settings = params("logit", sizes=checkpoint).model_dump()
    settings["examples"] |= {"picture_size": None, "count": len(CROPS) - REFERENCES}
    with pytest.raises(HeadflowError, match=r"one image size: set examples.picture_size, or use `baseline: blank`"):
        run(folder, Params.model_validate(settings), "sizes", monkeypatch)
    settings["features"]["baseline"] = "blank"
    metrics, shown = run(folder, Params.model_validate(settings), "sizes", monkeypatch)
    assert metrics["fit_attributions"]["largest_gap_intact_to_stock"] < 1e-4
    assert pl.read_parquet(folder / "data/features/sizes/features.parquet")["image_stop"].n_unique() > 1
    gaps = pl.read_parquet(folder / "data/baselines/sizes/gaps.parquet")
    assert gaps.filter(baseline="mean")["id"].to_list() == [None] and "one image size" in gaps.filter(baseline="mean")["reason"][0]
    assert metrics["compare_baselines"]["baselines"]["blank"]["examples"] == metrics["compare_baselines"]["baselines"]["closed"]["examples"] == 2
    assert sum(CHART in output for output in shown if isinstance(output, dict)) > 15
