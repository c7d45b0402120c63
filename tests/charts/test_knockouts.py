"""The figures of knockouts: every number is drawn inside its panel, under the names that sentences use."""

import numpy as np
import polars as pl
import pytest

from headflow.analysis.knockout_scores import NAMES, knockout_bands, knockout_levels
from headflow.charts.knockouts import f1_against_layer, f1_of_bands
from tests.analysis.test_knockout_scores import Drawn, rising_at
from tests.charts.test_keeping import parts


@pytest.fixture(scope="module")
def tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    drawn = Drawn(6, 0, rising_at(2), last=("query", "generated"))
    return knockout_bands(*drawn.tables), knockout_levels(*drawn.tables)


def drawn_rows(spec: dict, mark: str) -> list[tuple[dict, pl.DataFrame]]:
    found = [part for part in parts(spec) if part["mark"].get("type") == mark and "x" in part.get("encoding", {}) and "color" in part["encoding"]]
    return [(part, pl.DataFrame(spec["datasets"][part["data"]["name"]])) for part in found]


def inside(spec: dict) -> None:
    for part, rows in drawn_rows(spec, "point"):
        for axis, columns in (("x", ["x"]), ("y", ["mean", "low", "high"])):
            low, high = part["encoding"][axis]["scale"]["domain"]
            assert all(rows[column].drop_nulls().is_between(low, high).all() for column in columns if rows[column].dtype.is_numeric())


def test_f1_against_l(tables):
    bands, levels = tables
    spec = f1_against_layer(bands, levels).to_dict()
    inside(spec)
    points = drawn_rows(spec, "point")
    assert len(points) == 2  # against the stock description and against the truth
    for (_, rows), against in zip(points, ("stock", "truth"), strict=True):
        wanted = bands.filter(kind="upward", against=against)
        np.testing.assert_allclose(rows["mean"].to_numpy(), wanted["mean"].to_numpy(), atol=1e-5)
        assert rows["x"].to_list() == wanted["at"].to_list() and set(rows["name"]) == set(NAMES.values())
    text = str(spec)
    assert all(name in text for name in ("stock model", "chance: another picture", "F1 of named objects", "L, last decoder layer left open", *NAMES.values()))
    alone = f1_against_layer(bands.filter(against="stock"), levels.filter(against="stock")).to_dict()
    assert len(drawn_rows(alone, "point")) == 1


def test_f1_of_bands(tables):
    bands, levels = tables
    spec = f1_of_bands(bands, levels, "truth").to_dict()
    inside(spec)
    points = drawn_rows(spec, "point")
    assert [len(rows) for _, rows in points] == [len(bands.filter(kind=kind, against="truth")) for kind in ("below", "closed", "open")]
    for _, rows in points[1:]:  # intervals of several routes do not cover one another
        assert rows.select("x").n_unique() == len(rows)


def test_a_single_picture_and_many_layers():
    one = Drawn(1, 0)
    spec = f1_against_layer(knockout_bands(*one.tables), knockout_levels(*one.tables)).to_dict()
    assert len(drawn_rows(spec, "point")) == 2
    bands, levels = knockout_bands(*one.tables), knockout_levels(*one.tables)
    tall = bands.with_columns(pl.when(pl.col("at") > 0).then(pl.col("at") * 20).otherwise("at").alias("at"))
    (part, _), *_ = drawn_rows(f1_against_layer(tall, levels).to_dict(), "point")
    ticks = part["encoding"]["x"]["axis"]["values"]
    assert ticks[0] == -1 and 0 not in ticks and len(ticks) <= 10 and max(ticks) <= 80
