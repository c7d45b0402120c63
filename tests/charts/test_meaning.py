"""Figures of meaning against looks, of pairs of heads and of clusters: valid, drawn, and showing what they claim to show."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.analysis.clusters import cluster_heads
from headflow.analysis.contents import cluster_names
from headflow.analysis.pairs import look_pairs, make_pairs, similarities
from headflow.analysis.permutations import Exchange
from headflow.analysis.unique_effects import unique_effects
from headflow.charts import clusters as cluster_charts
from headflow.charts import interactions as interaction_charts
from headflow.charts import meaning as charts
from headflow.reporting.figure import png
from headflow.tables.interactions import INTERACTIONS
from tests.analysis.test_clusters import NAMES, planted
from tests.analysis.test_pairs import world

ONE_EACH = Exchange(range(40))


@pytest.fixture(scope="module")
def tables():
    vectors, labels, vision = world(np.random.default_rng(0), meaning=1.5)
    pairs = make_pairs(vectors, labels, ONE_EACH, vision)
    groups, contrasts = look_pairs([f"e{index}" for index in range(40)], pairs, ONE_EACH, draws=50)
    drawn = {"permutations": 19}
    return {
        "look_pairs": groups, "contrasts": contrasts, "unique_effects": unique_effects(vectors, labels, ONE_EACH, **drawn),
        "similarities": similarities(pairs, ONE_EACH, draws=50, **drawn),
        "cluster_objects": cluster_names(planted(), NAMES, cluster_heads(planted(), NAMES), Exchange(range(20))),
    }  # fmt: skip


def some_pairs(count=30):
    random = np.random.default_rng(1)
    effect = random.normal(size=count)
    kinds = np.where(np.arange(count) >= 8, "unclear", np.where(effect < 0, "compensate", "need each other"))
    columns = {
        "layer": np.arange(count) % 6, "head": np.arange(count) % 8, "other_layer": (np.arange(count) + 2) % 6, "other_head": (np.arange(count) + 3) % 8,
        "effect": effect, "standard_error": np.full(count, 0.1), "low": effect - 0.2, "high": effect + 0.2, "p": np.full(count, 0.5),
        "q": np.full(count, 0.5), "kind": kinds.tolist(), "same_sign": np.full(count, 0.75),
    }  # fmt: skip
    return pl.DataFrame(columns, schema={name: column.dtype for name, column in INTERACTIONS.columns.items()})


SUMMARY = pl.DataFrame({"group": "all", "layer": np.repeat(np.arange(6), 8), "head": np.tile(np.arange(8), 6)})
FIGURES = {
    "look_pairs": lambda t: charts.look_pairs(t["look_pairs"]),
    "look_pairs_without_vision": lambda t: charts.look_pairs(t["look_pairs"].with_columns(vision=pl.lit(None, pl.Float64))),
    "unique_effects": lambda t: charts.unique_effects(t["unique_effects"]),
    "similarities": lambda t: charts.similarities(t["similarities"]),
    "cluster_objects": lambda t: cluster_charts.cluster_objects(t["cluster_objects"]),
    "top_pairs": lambda t: interaction_charts.top_pairs(some_pairs()),
    "pair_grid": lambda t: interaction_charts.pair_grid(some_pairs(), SUMMARY),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_valid_and_draw(name, tables):
    chart = FIGURES[name](tables)
    chart.to_dict()
    with Image.open(io.BytesIO(png(chart.to_dict()))) as picture:
        assert picture.width >= 600 or name == "look_pairs_without_vision"
        assert picture.convert("L").getextrema()[0] < 100  # something is drawn


@pytest.mark.parametrize("name", [name for name in FIGURES if "pair" not in name or name == "look_pairs"])
def test_figures_of_empty_tables_are_valid(name, tables):
    FIGURES[name]({key: table.clear() for key, table in tables.items()}).to_dict()


def test_figures_of_no_pairs_are_valid():
    interaction_charts.top_pairs(some_pairs(0)).to_dict()
    interaction_charts.pair_grid(some_pairs(0), SUMMARY).to_dict()


def test_pairs_found_come_first_and_only_they_are_drawn_in_the_grid():
    spec = interaction_charts.top_pairs(some_pairs()).to_dict()
    drawn = [row for rows in spec["datasets"].values() for row in rows if "pair" in row]
    assert len(drawn) == interaction_charts.MOST_PAIRS and [row["kind"] != "unclear" for row in drawn].index(False) == 8
    grid = interaction_charts.pair_grid(some_pairs(), SUMMARY).to_dict()
    lines = [row for rows in grid["datasets"].values() for row in rows if "other_layer" in row]
    assert len(lines) == 8 and all(row["kind"] != "unclear" for row in lines)


def test_the_groups_of_pairs_stand_in_their_order_with_their_counts(tables):
    spec = charts.look_pairs(tables["look_pairs"]).to_dict()
    domain = spec["hconcat"][0]["layer"][-1]["encoding"]["y"]["scale"]["domain"]
    assert [group.split(" (")[0] for group in domain] == [name for name, _ in charts.GROUPS.values()]
    counts = tables["look_pairs"].filter(look="looks", same_meaning=True, same_look=False)["pairs"][0]
    assert domain[1].endswith(f"({counts:,} pairs)")
