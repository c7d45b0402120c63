"""The figure of kept image tokens: drawn whole, in every way that was tried, whatever the numbers are."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.analysis import keeping
from headflow.charts.keeping import NAMES, WAYS, kept_curves
from headflow.reporting.figure import png
from tests.analysis.test_keeping import PERCENTS, kept


@pytest.fixture(scope="module")
def bands() -> pl.DataFrame:
    random = np.random.default_rng(0)
    values = {name: np.sort(random.normal(size=(10, len(PERCENTS))), 1) for name in keeping.SELECTIONS}
    return keeping.bands(pl.concat([kept(values, way=way) for way in keeping.WAYS]))


def parts(spec: dict) -> list[dict]:
    """Every layer of every panel."""
    inside = [part for key in ("vconcat", "hconcat", "layer") for child in spec.get(key, ()) for part in parts(child)]
    return inside or [spec]


@pytest.mark.parametrize("ways", [keeping.WAYS, ("closed",), ("baseline", "removed")])
def test_every_number_is_drawn_inside_its_panel(bands, ways):
    chart = kept_curves(bands.filter(pl.col("way").is_in(ways)), "target, nats")
    spec = chart.to_dict()
    if len(ways) == 1:
        with Image.open(io.BytesIO(png(spec))) as drawn:
            assert drawn.width > 500 and np.asarray(drawn.convert("L")).std() > 10
    text = str(spec)
    assert all(WAYS[way] in text for way in ways) and all(name in text for name in NAMES.values()) and "target, nats" in text
    lines = [part for part in parts(spec) if part["mark"].get("type") == "line"]
    assert len(lines) == 2 * len(ways)
    for part in lines:
        rows = pl.DataFrame(spec["datasets"][part["data"]["name"]])
        low, high = part["encoding"]["y"]["scale"]["domain"]
        assert rows.height == len(keeping.SELECTIONS) * (len(PERCENTS) - 1)
        assert low <= rows["low"].min() and rows["high"].max() <= high and rows["share"].is_between(0.01, 1).all()
    rules = [part for part in parts(spec) if part["mark"].get("type") == "rule"]
    assert len(rules) == 4 * len(ways)  # all tokens and none, in both measures


def test_several_k_of_one_number_of_tokens_are_drawn_once(bands):
    doubled = pl.concat([bands, bands.filter(percent=1.0).with_columns(percent=pl.lit(2.0))])
    drawn = [len(rows) for rows in kept_curves(doubled).to_dict()["datasets"].values()]
    assert sorted(drawn) == sorted(len(rows) for rows in kept_curves(bands).to_dict()["datasets"].values())


def test_one_picture_has_no_interval_of_the_target_and_still_has_a_scale():
    one = keeping.bands(kept({"random": np.array([[0.0, 1.0, 2.0, 3.0]])}))
    assert one.filter(measure="target")["low"].null_count() == len(PERCENTS)
    lines = [part for part in parts(kept_curves(one).to_dict()) if part["mark"].get("type") == "line"]
    assert all(np.isfinite(part["encoding"]["y"]["scale"]["domain"]).all() for part in lines) and len(lines) == 2
