"""The figures of attention shares: drawn whole, for models of one layer and of many, with and without cross-attention."""

import io

import altair as alt
import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.analysis import sharing
from headflow.charts.sharing import MOST_LAYERS, MOST_PICTURES, NAMES, fraction_dots, head_shares, layer_maps, layer_shares, layer_spread
from headflow.reporting.figure import png
from tests.analysis.test_sharing import IMAGE, LAYERS, look
from tests.conftest import random_picture

BOXES = np.array([[8.0 * (place % 5), 8.0 * (place // 5), 8.0 * (place % 5) + 8, 8.0 * (place // 5) + 8] for place in range(IMAGE)])


def parts(spec: dict) -> list[dict]:
    """Every layer of every panel."""
    inside = [part for key in ("vconcat", "hconcat", "layer") for child in spec.get(key, ()) for part in parts(child)]
    return inside or [spec]


def drawn(chart: alt.TopLevelMixin, *, painted: bool = True) -> dict:
    spec = chart.to_dict()
    if not painted:
        return spec
    with Image.open(io.BytesIO(png(spec))) as image:
        assert image.width <= 1440 and np.asarray(image.convert("L")).std() > 10
    return spec


def pictures(count: int) -> pl.DataFrame:
    encoded = []
    for scene in range(count):
        buffer = io.BytesIO()
        Image.fromarray(random_picture(scene, 40)).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return pl.DataFrame({"id": [f"explain-{scene:05d}-object" for scene in range(count)], "image": encoded})


def test_fractions_and_layers_are_drawn_within_their_axes():
    looked = [look(scene) for scene in range(5)]
    spec = drawn(fraction_dots(sharing.fractions(sharing.picture_rows(looked), 0.95)))
    assert all(name in str(spec) for name in NAMES.values())
    assert [len(rows) for rows in spec["datasets"].values()] == [9]
    spec = drawn(layer_shares(sharing.layer_means(looked, 0.95)), painted=False)
    lines = [part for part in parts(spec) if part["mark"].get("type") == "line"]
    assert [part["encoding"]["x"]["field"] for part in lines] == ["even", "mean"] and len(parts(spec)) == 4
    assert lines[0]["encoding"]["y"]["scale"]["domain"] == [-0.3, LAYERS - 0.7]
    heads = drawn(head_shares(sharing.head_means(looked, 0.95)), painted=False)
    assert heads["encoding"]["y"]["scale"]["domain"] == list(range(LAYERS))[::-1]


def test_layers_of_cross_attention_stand_apart():
    looked = [look(scene, reading=[1, 4]) for scene in range(3)]
    spec = drawn(layer_shares(sharing.layer_means(looked, 0.95)))
    hollow = next(part for part in parts(spec) if part["mark"].get("shape") == "diamond")
    assert [row["layer"] for row in spec["datasets"][hollow["data"]["name"]]] == [1, 4]
    assert head_shares(sharing.head_means(looked, 0.95)) is None


def test_spread_has_a_rule_for_an_even_map():
    spec = drawn(layer_spread(sharing.spread_means(sharing.spread_rows([look(scene) for scene in range(4)], 0.1), 0.95), 0.1), painted=False)
    assert "top 10 % of tokens" in str(spec)
    for panel in spec["hconcat"]:
        high = max(row["high"] for data in spec["datasets"].values() for row in data if row.get("measure") == "top")
        domain = next(part["encoding"]["x"]["scale"]["domain"] for part in parts(panel) if part["mark"].get("type") == "line")
        assert domain[0] == 0 and (domain[1] == 1 or domain[1] >= high)


def test_maps_of_a_deep_model_show_some_layers_of_some_pictures():
    layers = 30
    maps = np.random.default_rng(0).dirichlet(np.ones(IMAGE), layers)
    looked = [look(scene) for scene in range(MOST_PICTURES + 2)]
    deep = [sharing.Looked(one.id, one.scene, one.shares, one.even, one.tokens, maps, list(range(layers)), one.image_tokens) for one in looked]
    spec = drawn(layer_maps(pl.concat([sharing.map_rows(one, BOXES) for one in deep]), pictures(len(deep))), painted=False)
    texts = [row["text"] for data in spec["datasets"].values() for row in data if str(row.get("text", "")).startswith("layer")]
    assert len(texts) == MOST_LAYERS and texts[0] == "layer 29" and texts[-1] == "layer 0"
    images = [row for data in spec["datasets"].values() for row in data if "url" in row]
    assert len(images) == MOST_PICTURES * (MOST_LAYERS + 1) and all(row["url"].startswith("data:image/") for row in images)


@pytest.mark.parametrize("count", [0, 1])
def test_no_picture_and_one(count):
    looked = [look(scene) for scene in range(count)]
    spread = sharing.spread_rows(looked, 0.01)
    figures = [
        fraction_dots(sharing.fractions(sharing.picture_rows(looked), 0.95)), layer_shares(sharing.layer_means(looked, 0.95)),
        head_shares(sharing.head_means(looked, 0.95)), layer_spread(sharing.spread_means(spread, 0.95)),
        layer_maps(sharing.map_rows(looked[0], BOXES) if looked else sharing.no_maps(), pictures(count)),
    ]  # fmt: skip
    assert [figure is None for figure in figures] == [count == 0] * 5
    for figure in figures[3:] if count else []:
        drawn(figure)


def test_tokens_without_a_known_place_give_no_maps():
    rows = sharing.map_rows(look(0), np.full((IMAGE, 4), np.nan))
    assert layer_maps(rows, pictures(1)) is None
