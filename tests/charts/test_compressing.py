"""Figures of compressed contexts: all numbers drawn inside, whatever was run."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.analysis.compression import summary
from headflow.charts.compressing import ASKING, STRATEGIES, by_category, compressed_curves, costs, labels
from headflow.reporting.figure import png
from headflow.tables.compressing import COMPRESSED_TIMES
from tests.analysis.test_compression import answers

VARIANTS = [
    ("full", None, None), ("query", None, None), ("description", None, None), ("none", None, None),
    *((strategy, chosen, k) for strategy in ("both", "image") for chosen in ("attention", "attribution", "random") for k in (2.0, 10.0)),
]  # fmt: skip


@pytest.fixture(scope="module")
def found() -> pl.DataFrame:
    random = np.random.default_rng(0)
    parts = [
        answers({(asking, *variant): random.random((8, 2)) < 0.7}, tokens=5 * place + 3)
        for asking in ("turn", "fresh", "new")
        for place, variant in enumerate(VARIANTS)
    ]
    return summary(pl.concat(parts))


def times() -> pl.DataFrame:
    rows = [("turn", *variant, 5.0 + place, 1000.0 * place, 0.02, 0.01, 0.03, 1) for place, variant in enumerate(VARIANTS[:8])]
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in COMPRESSED_TIMES.columns.items()}, orient="row")


def parts(spec: dict) -> list[dict]:
    """Every layer of every panel."""
    inside = [part for key in ("vconcat", "hconcat", "layer") for child in spec.get(key, ()) for part in parts(child)]
    return inside or [spec]


@pytest.mark.parametrize("ways", [["turn", "fresh", "new"], ["fresh"]])
def test_every_number_is_drawn_inside_its_panel(found, ways) -> None:
    spec = compressed_curves(found.filter(pl.col("asking").is_in(ways))).to_dict()
    drawn = [part for part in parts(spec) if part["mark"]["type"] == "line"]
    shown = [way for way in ways if way in ASKING]
    assert len(drawn) == 2 * len(shown) and all(ASKING[way] in str(spec) for way in shown)
    for part in drawn:
        rows = pl.DataFrame(spec["datasets"][part["data"]["name"]])
        low, high = part["encoding"]["x"]["scale"]["domain"]
        assert len(rows) == 12 and rows["tokens"].is_between(low, high).all() and rows["high"].max() <= 1.08
    rules = [part for part in parts(spec) if part["mark"]["type"] == "rule" and "strokeDash" in part["mark"]]
    assert len(rules) == 2 * 2 * len(shown)  # whole prompt and chance
    if len(ways) == 1:
        with Image.open(io.BytesIO(png(spec))) as picture:
            assert picture.width > 500 and np.asarray(picture.convert("L")).std() > 10


def test_categories_and_costs(found) -> None:
    spec = by_category(found, "turn").to_dict()
    rows = pl.DataFrame(next(iter(spec["datasets"].values())))
    assert len(rows) == 8 * 2 and rows["kept"].n_unique() == 8
    order = labels(found.filter(asking="turn"), "attention")
    assert order[0] == STRATEGIES["full"] and order[1:3] == ["query and image tokens, 10 %", "query and image tokens, 2 %"] and order[-1] == STRATEGIES["none"]
    spec = str(costs(found, times(), "turn").to_dict())
    assert "keys and values, KiB" in spec and "time of one question, ms" in spec
    assert "time of one question" not in str(costs(found, times().clear(), "turn").to_dict())
    assert compressed_curves(found.filter(pl.col("strategy") == "full")).to_dict()["vconcat"]
