"""Figures of localisation: drawn whole, whatever is known, with chance levels as rules."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.analysis import localisation_tables as tables
from headflow.charts import localising
from headflow.datasets.pictures import png as picture_png
from headflow.reporting.figure import png
from tests.analysis.test_localisation_tables import mention


def made(layers=(0, 1, 2), count=6, attribution=True, others=(8, 7)) -> dict[str, pl.DataFrame]:
    """Tables of a run with ``count`` mentions, two a picture."""
    found = []
    for seed in range(count):
        random = np.random.default_rng(seed)
        effects = random.normal(size=(len(layers), 9)) if attribution else None
        attention = random.exponential(size=(len(layers), 4, 9))
        found.append(mention(str(seed // 2), seed // 2, attention=attention, attribution=effects, others=others, name=f"<b>dog {seed}</b>"))
    table = tables.layers_table(found, layers, 0.95)
    return {
        "layers": table, "heads": tables.heads_table(found, layers, 0.95), "namings": tables.namings_table(found, [("0", 0, "cat")]),
        "maps": tables.maps_table(found, layers, ("attention", layers[0]), 6),
        "examples": pl.DataFrame({"id": ["0", "1", "2"], "image": [picture_png(Image.new("RGB", (3, 3), (90, 20, 200)))] * 3}),
    }  # fmt: skip


def charts(found: dict[str, pl.DataFrame]) -> dict:
    by_layer = {name: getattr(localising, name)(found["layers"]) for name in ("share_by_layer", "ranks_by_layer", "own_and_others")}
    return {**by_layer, "head_grid": localising.head_grid(found["heads"]), "gallery": localising.gallery(found["maps"], found["namings"], found["examples"])}


def parts(spec: dict) -> list[dict]:
    inside = [part for key in ("vconcat", "hconcat", "layer") for child in spec.get(key, ()) for part in parts(child)]
    return inside or [spec]


def rules(spec: dict) -> dict[str, float]:
    """Values of rules by their names."""
    return {row["label"]: row["value"] for rows in spec["datasets"].values() for row in rows if "label" in row}


def test_what_is_drawn_fits_the_page():
    """The widest, at the scale of a page."""
    chart = localising.own_and_others(made()["layers"])
    with Image.open(io.BytesIO(png(chart.to_dict()))) as drawn:
        assert 380 < drawn.width / 2 <= 712 and np.asarray(drawn.convert("L")).std() > 5


def test_lines_rules_and_scales():
    found = made()
    spec = localising.share_by_layer(found["layers"]).to_dict()
    data = {name: pl.DataFrame(rows) for name, rows in spec["datasets"].items()}
    lines = [part for part in parts(spec) if part["mark"]["type"] == "line"]
    rows = data[lines[0]["data"]["name"]]
    assert len(lines) == 1 and rows.height == 3 * 3 and set(rows["series"]) == set(localising.NAMES.values())
    low, high = lines[0]["encoding"]["x"]["scale"]["domain"]
    assert low <= rows["low"].min() and rows["high"].max() <= high
    whole = found["layers"].filter(pl.col("layer").is_null(), pl.col("what") == "attribution", pl.col("against") == "own", pl.col("statistic") == "share")
    assert rules(spec) == pytest.approx({"chance": 1 / 9, "attribution, all layers": whole["mean"][0]}, rel=1e-5)
    spec = localising.ranks_by_layer(found["layers"]).to_dict()
    assert sorted(row["value"] for rows in spec["datasets"].values() for row in rows if row.get("label") == "chance") == pytest.approx([1 / 9, 0.5], rel=1e-5)


def test_layers_of_cross_attention_and_attention_alone():
    """Layers that do not follow one another are joined by no line."""
    found = charts(made(layers=(3, 8), attribution=False))
    for name in ("share_by_layer", "ranks_by_layer", "own_and_others"):
        spec = found[name].to_dict()
        assert not [part for part in parts(spec) if part["mark"]["type"] in ("line", "area")] and localising.NAMES["attribution"] not in str(spec)
    assert "attribution" not in {row["what"] for rows in found["gallery"].to_dict()["datasets"].values() for row in rows if "what" in row}


def test_one_picture_and_no_other_objects():
    found = charts(made(count=1, others=()))
    assert found.pop("own_and_others") is None
    for chart in found.values():
        assert chart.to_dict()["datasets"]


def test_many_layers_stay_low_enough():
    spec = localising.share_by_layer(made(layers=tuple(range(40)))["layers"]).to_dict()
    assert spec["height"] <= 510


def test_nothing_is_drawn_where_nothing_is_known():
    assert set(charts(made(count=0)).values()) == {None}
