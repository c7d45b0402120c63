"""The figure of baselines: valid, drawn, and showing what it claims to show."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.analysis.baselines import Under, agreement, head_means, summarise
from headflow.charts import theme
from headflow.charts.baselines import COLOURS, baselines
from headflow.reporting.figure import png
from tests.analysis.test_baselines import KINDS, made


def tables(under: Under, top: int = 3) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    return head_means(under), agreement(under, top=top), summarise(under)


def part(under: Under, kinds: tuple[str, ...], examples: slice = slice(None)) -> Under:
    """Some baselines, some examples."""
    grids = [{kind: found[kind][examples] for kind in kinds} for found in (under.attributions, under.errors, *under.measures.values())]
    return Under(grids[0], grids[1], dict(zip(under.measures, grids[2:], strict=True)), under.pictures[examples])


WHOLE = made(noise=0.5, odd=0.6)
SAMPLES = {
    "four": WHOLE, "two": part(WHOLE, ("swap", "closed")), "one": part(WHOLE, ("blank",)), "one example": part(WHOLE, KINDS, slice(0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_it_is_valid_and_drawn_within_the_page(name: str) -> None:
    spec = baselines(*tables(SAMPLES[name])).to_dict()
    with Image.open(io.BytesIO(png(spec))) as picture:
        assert 2 * 340 < picture.width <= 2 * (theme.WIDTH + 15) and picture.convert("L").getextrema()[0] < 100


def test_a_large_model_and_a_model_without_answers_are_drawn() -> None:
    random = np.random.default_rng(0)
    grids = {kind: random.normal(size=(3, 40, 32)) for kind in KINDS}
    under = Under(grids, {kind: np.ones((3, 40, 32)) for kind in KINDS}, {"total_effect": dict.fromkeys(KINDS, np.array([-1.0, 1.0, 2.0]))}, np.arange(3))
    with Image.open(io.BytesIO(png(baselines(*tables(under)).to_dict()))) as picture:
        assert picture.width <= 2 * (theme.WIDTH + 15)


def test_heads_of_all_baselines_share_one_scale_and_clear_ones_are_outlined() -> None:
    heads, *others = tables(WHOLE)
    grids = baselines(heads, *others).to_dict()["vconcat"][0]
    cells, outlined = grids["spec"]["layer"]
    reach = float(heads["mean"].abs().max())
    assert cells["encoding"]["color"]["scale"]["domain"] == pytest.approx([-reach, reach], rel=1e-5)
    assert outlined["transform"] == [{"filter": "datum.clear"}]
    titles = grids["facet"]["column"]["sort"]
    assert [title.split(" ")[0] for title in titles] == list(KINDS) and titles[3] == "closed (20 examples)|reads nothing"


def test_pairs_stand_in_order_of_agreement_beside_their_ceiling() -> None:
    heads, pairs, summary = tables(WHOLE)
    spec = baselines(heads, pairs, summary).to_dict()
    panels = spec["vconcat"][1]["hconcat"]
    assert [panel["title"] for panel in panels] == ["Do they agree on the heads?", "With every head cut", "Is the model thrown off?"]
    fields = [layer["encoding"]["x"]["field"] for layer in panels[0]["layer"] if "x" in layer.get("encoding", {})]
    assert fields[-4:] == ["low", "ceiling", "overlap", "r"]
    order = panels[0]["layer"][-1]["encoding"]["y"]["scale"]["domain"]
    expected = pairs.sort("r", descending=True).select(pl.format("{}, {}", "baseline", "other")).to_series().to_list()
    assert order == expected and all("swap" in pair for pair in order[3:])
    colours = panels[1]["layer"][-1]["encoding"]["color"]["scale"]
    assert dict(zip(colours["domain"], colours["range"], strict=True)) == COLOURS


def test_without_a_pair_there_is_no_agreement_to_draw() -> None:
    spec = baselines(*tables(SAMPLES["one"])).to_dict()
    assert len(spec["vconcat"][1]["hconcat"]) == 2
