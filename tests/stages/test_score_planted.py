"""Planted models through the pipeline, like any other, up to what is told about how well they are found."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.models.planted.circuits import CIRCUITS
from headflow.models.prepared import read_prepared
from headflow.params import ModelParams, Params
from headflow.tables.ablations import ATTRIBUTIONS
from headflow.tables.planted import PLANTED_SCORES, TRUTHS
from stages import evaluate_faithfulness, extract_features, fit_attributions, prepare_examples, prepare_model, run_ablations, sample_masks, score_planted

STAGES = (prepare_model, extract_features, sample_masks, run_ablations, fit_attributions, evaluate_faithfulness, score_planted)
COUNT = 4


def params(circuit: str, **features: str) -> Params:
    return Params.model_validate(
        {
            "examples": {"source": "planted", "count": COUNT, "references": 8},
            "models": {circuit: {"id": "planted", "circuit": circuit, "device_map": "cpu"}},
            "features": features,
            "masks": {"count": 160, "held_out": 20},
            "faithfulness": {"points": 5},
        }
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a finished run on a circuit."""
    done: dict[str, Path] = {}

    def folder(circuit: str) -> Path:
        if circuit not in done:
            done[circuit], before, settings = tmp_path_factory.mktemp(circuit), Path.cwd(), params(circuit)
            os.chdir(done[circuit])
            try:
                prepare_examples.main(settings)
                for stage in STAGES:
                    stage.main(settings, circuit)
            finally:
                os.chdir(before)
        return done[circuit]

    return folder


def scores(folder: Path, circuit: str) -> dict[str, dict]:
    table = PLANTED_SCORES.read(folder / f"data/planted/{circuit}.parquet")
    return {row["ranking"]: row for row in table.iter_rows(named=True)}


def test_heads_that_depend_on_the_category(finished: Callable[[str], Path]) -> None:
    """Additive within each category: found to 1e-3 picture by picture, and every intervention is real."""
    folder = finished("category")
    found = scores(folder, "category")
    assert found["attribution"]["largest_error"] < 1e-3 and found["attribution"]["precision"] == found["attribution"]["recall"] == 1
    assert found["attribution"]["examples"] == COUNT and found["attribution"]["carriers"] == 4
    assert found["attention"]["recall"] < 1 and found["attention"]["largest_error"] is None and found["random"]["rank_correlation"] < 0.5
    metrics = read_json(folder / "reports/metrics/score_planted_category.json")
    assert metrics["circuit"] == "category" and metrics["no_truth"] is None and metrics["rankings"]["attribution"]["recall"] == 1
    assert read_json(folder / "reports/metrics/extract_features_category.json")["answered_correctly"] == 1
    examples = pl.read_parquet(folder / "data/examples.parquet").filter(pl.col("split") == "explain")
    assert examples["meaning_category"].n_unique() == 2


def test_single_head_ablation_misses_what_is_there_twice(finished: Callable[[str], Path]) -> None:
    folder, circuit = finished("redundant"), CIRCUITS["redundant"]
    found = scores(folder, "redundant")
    assert found["attribution"]["recall"] == 1 and found["attribution"]["relative_error"] < 0.05
    for rival in ("ablation", "gradient"):
        assert found[rival]["recall"] == pytest.approx(1 / 3) and found[rival]["relative_error"] > 0.5
    single = ATTRIBUTIONS.read(folder / "data/attributions/redundant/attributions.parquet")["single_head_effect"].to_numpy()
    assert np.abs(single.reshape(COUNT, circuit.layers, circuit.heads) - circuit.single_effects()).max() < 1e-3


def test_the_truth_lies_beside_the_model(finished: Callable[[str], Path]) -> None:
    folder = finished("redundant") / "data/models/redundant"
    described = read_prepared(folder)
    assert (described.id, described.circuit, described.layers, described.heads) == ("planted", "redundant", 5, 8)
    truth = TRUTHS.read(folder / "truth.parquet")
    assert truth["banzhaf"].sum() == pytest.approx(CIRCUITS["redundant"].banzhaf().sum())


@pytest.mark.parametrize(("features", "reason"), [({"target": "margin"}, "target 'logit', not 'margin'"), ({"baseline": "swap"}, "not for 'swap'")])
def test_where_the_truth_says_nothing_there_are_no_scores(
    features: dict[str, str], reason: str, finished: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    os.symlink(finished("redundant") / "data/models", tmp_path / "data/models")
    monkeypatch.chdir(tmp_path)
    score_planted.main(params("redundant", **features), "redundant")
    assert scores(tmp_path, "redundant") == {}
    assert reason in read_json(tmp_path / "reports/metrics/score_planted_redundant.json")["no_truth"]


def test_params_of_planted_models() -> None:
    with pytest.raises(ValueError, match="`circuit` names none of additive, redundant"):
        ModelParams(id="planted")
    with pytest.raises(ValueError, match="belongs to models with id 'planted' only"):
        ModelParams(circuit="joint")


def test_examples_that_do_not_balance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HeadflowError, match="a multiple of 8"):
        prepare_examples.main(Params.model_validate({"examples": {"source": "planted", "references": 9}, "models": {"a": {}}}))
