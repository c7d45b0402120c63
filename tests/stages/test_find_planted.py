"""What a run's settings find of the planted circuits; the expectations that headflow is judged by."""

from pathlib import Path

import polars as pl
import pytest

from headflow.attribution.proof import prove
from headflow.files import read_json
from headflow.models.planted.circuits import CIRCUITS
from headflow.params import Params
from headflow.tables.planted import PLANTED_SCORES
from stages import find_planted


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict]:
    """Scores by circuit and ranking, with few masks."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("found")
        patch.chdir(folder)
        find_planted.main(Params.model_validate({"models": {"any": {}}, "masks": {"count": 96, "design": "foldover_hadamard"}}))
        table = PLANTED_SCORES.read(Path("data/found_planted.parquet"))
        metrics = read_json(Path("reports/metrics/find_planted.json"))
    rows = {(row["circuit"], row["ranking"]): row for row in table.iter_rows(named=True)}
    assert len(rows) == len(table) == 7 * len(CIRCUITS) and {len(part) for part in metrics.values()} == {7}
    assert metrics["joint"]["restoration"]["recall"] == rows["joint", "restoration"]["recall"]
    return rows


@pytest.mark.parametrize("name", CIRCUITS)
def test_head_attribution_finds_every_circuit(name: str, found: dict[tuple[str, str], dict]) -> None:
    row = found[name, "attribution"]
    assert row["precision"] == row["recall"] == row["interval_recall"] == 1 and row["coverage"] >= 0.95
    assert row["relative_error"] < (1e-3 if CIRCUITS[name].response is None else 0.1) and row["rank_correlation"] > 0.9
    if name in ("additive", "chain", "decoy", "category"):
        assert row["largest_error"] < 1e-3


def test_what_the_rivals_miss(found: dict[tuple[str, str], dict]) -> None:
    """Cutting alone misses what is there twice, keeping alone what is needed together, attention the relay's source and the decoys' rivals."""
    assert found["redundant", "ablation"]["recall"] == found["redundant", "gradient"]["recall"] == pytest.approx(1 / 3)
    assert found["joint", "restoration"]["recall"] == pytest.approx(1 / 3)
    assert found["cancelled", "ablation"]["recall"] == found["cancelled", "restoration"]["recall"] == pytest.approx(3 / 4)
    assert found["decoy", "attention"]["recall"] == found["chain", "attention"]["recall"] == 0
    assert all(found[name, "random"]["recall"] < 0.5 for name in CIRCUITS)


def test_where_the_truth_does_not_hold_for_the_baseline_the_mean_stands_in() -> None:
    swapped = prove("additive", {"count": 96, "design": "foldover_hadamard", "corners": 16}, baseline="swap")
    assert swapped.row(0, named=True)["largest_error"] < 1e-3


@pytest.mark.parametrize("name", ["redundant", "cancelled"])
def test_shapley_values_are_found_too(name: str) -> None:
    table = prove(name, {"count": 384, "estimand": "shapley", "corners": 0})
    row = table.filter(table["ranking"] == "attribution").row(0, named=True)
    assert row["estimand"] == "shapley" and row["recall"] == 1 and row["relative_error"] < 1e-3


def test_masks_of_one_head_each_find_what_cutting_alone_finds() -> None:
    table = prove("redundant", {"count": 40, "design": "single", "corners": 0})
    rows = {row["ranking"]: row for row in table.iter_rows(named=True)}
    assert rows["attribution"]["recall"] == rows["ablation"]["recall"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["redundant", "joint"])
def test_another_ablation_probability_has_its_own_truth(name):
    """Where nine heads in ten are intact, either of two is hardly missed and both of two are nearly always needed."""
    table = prove(name, {"count": 384, "ablation_probability": 0.1, "corners": 0}, estimator="ridge")
    own = table.row(by_predicate=pl.col("ranking") == "attribution", named=True)
    assert own["recall"] == 1 and own["coverage"] >= 0.9
    assert own["relative_error"] < 0.3  # against the values at one half: 0.7 or more
