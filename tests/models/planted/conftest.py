"""Planted models, loaded from disk as the pipeline loads them, and pictures captured on each."""

from collections.abc import Callable

import polars as pl
import pytest

import headflow
from headflow.datasets.planted import make_examples
from headflow.models.baselines import Baseline, mean_baseline
from headflow.models.lvlm import LVLM

CHOSEN = 3


@pytest.fixture(scope="session")
def pictures() -> pl.DataFrame:
    """Sixteen pictures to explain and sixteen references."""
    return make_examples(count=16, references=16, seed=3)


@pytest.fixture(scope="session")
def chosen(pictures: pl.DataFrame) -> list[dict]:
    """Pictures of both categories."""
    explain = pictures.filter(pl.col("split") == "explain")
    stones, trees = (explain.filter(pl.col("meaning_category") == category).to_dicts() for category in ("stone", "tree"))
    return [stones[0], trees[0], trees[1]][:CHOSEN]


@pytest.fixture(scope="session")
def planted() -> Callable[[str], LVLM]:
    """``planted("additive")``, built on first use."""
    built: dict[str, LVLM] = {}

    def model(circuit: str) -> LVLM:
        if circuit not in built:
            built[circuit] = headflow.load(f"planted:{circuit}", device_map="cpu")
        return built[circuit]

    return model


@pytest.fixture(scope="session")
def mean(planted: Callable[[str], LVLM], pictures: pl.DataFrame) -> Callable[[str], Baseline]:
    """The mean over the references, circuit by circuit."""
    made: dict[str, Baseline] = {}

    def baseline(circuit: str) -> Baseline:
        if circuit not in made:
            references = pictures.filter(pl.col("split") == "reference")
            made[circuit] = mean_baseline(planted(circuit).capture(row["image"], row["question"]) for row in references.to_dicts())
        return made[circuit]

    return baseline


@pytest.fixture(scope="session")
def captured(planted: Callable[[str], LVLM], chosen: list[dict]) -> Callable[[str], list]:
    """The chosen pictures as a circuit's model sees them."""
    taken: dict[str, list] = {}

    def captures(circuit: str) -> list:
        if circuit not in taken:
            taken[circuit] = [planted(circuit).capture(row["image"], row["question"]) for row in chosen]
        return taken[circuit]

    return captures
