"""The figure about planted circuits and its sentence: drawable, and saying what the table says."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.attribution.scores import planted_scores
from headflow.charts import theme
from headflow.charts.planted import CIRCUITS, planted_found
from headflow.models.planted.circuits import CIRCUITS as PLANTED
from headflow.reporting.figure import png
from headflow.reporting.sentences.planted import planted_found as words
from headflow.tables.planted import PLANTED_SCORES

EMPTY = pl.DataFrame(schema={name: column.dtype for name, column in PLANTED_SCORES.columns.items()})


def scores(*names: str, wrong: float = 0.0) -> pl.DataFrame:
    """Head attribution off by ``wrong`` of the truth, cutting alone, and nothing but zeros."""
    tables = []
    for name in names:
        circuit = PLANTED[name]
        kinds = list(circuit.categories)
        truth = np.stack([circuit.banzhaf(kind) for kind in kinds])
        single = np.stack([circuit.single_effects(kind) for kind in kinds])
        found = {"attribution": truth * (1 + wrong), "ablation": single, "attention": 0 * truth}
        tables.append(planted_scores(circuit, found, categories=kinds, intervals={"attribution": (truth - 0.1, truth + 0.1)}))
    return pl.concat(tables)


def test_every_circuit_has_a_name() -> None:
    assert tuple(CIRCUITS) == tuple(PLANTED)


@pytest.mark.parametrize("table", [scores(*PLANTED), scores("redundant"), scores("chain", "decoy", wrong=3.0), EMPTY], ids=["all", "one", "wrong", "none"])
def test_the_figure_is_drawable_and_shows_the_table(table: pl.DataFrame) -> None:
    spec = planted_found(table).to_dict()
    width, height = Image.open(io.BytesIO(png(spec))).size
    assert width > 100 and height > 40
    drawn = [row for rows in spec["datasets"].values() for row in rows if "recall" in row]
    for name, ranking, recall in table.select("circuit", "ranking", "recall").iter_rows():
        assert any(row["circuit"] == name and row["ranking"] == ranking and row["recall"] == pytest.approx(recall, rel=1e-5) for row in drawn)


def test_the_figure_fits_the_page() -> None:
    picture = Image.open(io.BytesIO(png(planted_found(scores(*PLANTED)).to_dict())))
    assert picture.width <= 2 * (theme.WIDTH + 20)


def test_the_sentence_says_what_was_found() -> None:
    text = words(scores(*PLANTED))
    assert "finds every carrying head in 7 of 7 circuits; its values are right to 0.1%, and 100% of its intervals hold the exact value." in text
    assert "Cutting heads one at a time misses carrying heads in “either of two suffices” and “taken back later”;" in text
    assert "attention weight misses carrying heads in" in text
    assert "off by at most 0.50 of their size" in words(scores("additive", wrong=0.5))


def test_the_sentence_names_what_head_attribution_misses() -> None:
    table = scores("additive", "joint").with_columns(recall=pl.when(pl.col("circuit") == "joint").then(0.5).otherwise(pl.col("recall")))
    assert "in 1 of 2 circuits, not in “two are both needed”" in words(table)
    assert words(EMPTY) == "It cannot be told: no planted model was run."
    only = scores("additive").filter(pl.col("ranking") != "attention")
    assert words(only).endswith("No rival misses a carrying head.")
