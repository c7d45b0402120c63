"""Sentences about meaning and looks, pairs of heads and the stability of clusters say which way it came out, and no more."""

import numpy as np
import polars as pl
import pytest

from headflow.analysis.pairs import look_pairs, make_pairs, similarities
from headflow.analysis.permutations import Exchange
from headflow.analysis.unique_effects import unique_effects
from headflow.reporting.sentences import clusters, interactions, meaning
from headflow.tables.clusters import CLUSTER_NAMES, CLUSTERS
from headflow.tables.interactions import INTERACTION_FITS
from tests.analysis.test_pairs import world
from tests.charts.test_meaning import some_pairs

EXCHANGE = Exchange(range(60))


def made(**planted):
    vectors, labels, vision = world(np.random.default_rng(0), count=60, meanings=3, **planted)
    pairs = make_pairs(vectors, labels, EXCHANGE, vision)
    tables = look_pairs([str(index) for index in range(60)], pairs, EXCHANGE, draws=199)
    return tables, unique_effects(vectors, labels, EXCHANGE, permutations=99), similarities(pairs, EXCHANGE, permutations=19, draws=99)


@pytest.mark.parametrize(
    ("planted", "start"),
    [
        ({"meaning": 1.5}, "The heads follow what the thing is rather than how it looks"),
        ({"looks": 1.5}, "The heads follow how the thing looks rather than what it is"),
        ({"meaning": 1.5, "looks": 0.7}, "The heads follow both, but what the thing is more"),
        ({}, "Whether the heads follow what the thing is or how it looks cannot be told"),
    ],
)
def test_the_sentence_says_which_way_it_came_out(planted, start):
    assert meaning.look_pairs(*made(**planted)[0]).startswith(start)


def test_another_test_that_finds_what_the_pairs_do_not_is_named():
    tables, unique, _ = made(meaning=1.5)
    assert "looks count at all cannot be told from these pairs." in meaning.look_pairs(*tables, brief=True, beyond=unique)
    found = unique.with_columns(unique_p=pl.lit(0.002), unique_chance=pl.lit(0.10), unique=pl.when(pl.col("label") == "looks").then(0.16).otherwise("unique"))
    said = meaning.look_pairs(*tables, brief=True, beyond=found)
    assert said.endswith(
        "from these pairs, but beyond the labels of meaning, those of looks explain 6.0% of the variance more than chance does (p\u00a0=\u00a00.004)."
    )


def test_unique_effects_and_similarities():
    _, unique, alike = made(meaning=1.5)
    said = meaning.unique_effects(unique)
    assert said.startswith("Beyond the labels of looks, those of meaning explain")
    assert "that labels of looks explain more than chance" in said and said.endswith("do: name.")
    said = meaning.similarities(alike)
    assert "agreement in meaning (partial correlation" in said and "no such link" in said
    assert "cannot be told" in meaning.unique_effects(unique.clear())
    assert "cannot be told" in meaning.similarities(alike.clear())


def test_missing_labels_and_pairs_are_named():
    (groups, contrasts), *_ = made(meaning=1.5)
    assert "labels of both kinds" in meaning.look_pairs(groups.clear(), contrasts.clear())
    unknown = contrasts.with_columns(low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64))
    assert "missing or too few; more" in meaning.look_pairs(groups, unknown)
    lacking = groups.with_columns(pairs=pl.when(pl.col("same_meaning") & pl.col("same_look")).then(1).otherwise("pairs"))
    assert "too few (the same object in the same look); more" in meaning.look_pairs(lacking, unknown)


def test_pairs_of_heads():
    said = interactions.top_pairs(some_pairs())
    assert said.startswith("In two of 30 pairs tested the two heads compensate for each other (largest: L3 H3 and L5 H6, −1.30 logits")
    assert ", and in six the two heads need each other (largest: L" in said and said.endswith("of such findings at most about 5% are expected to be false.")
    assert "cannot be told" in interactions.top_pairs(some_pairs().with_columns(kind=pl.lit("unclear")))
    assert interactions.top_pairs(some_pairs(0)).startswith("No pair of heads stood out") and "cannot be told" in interactions.top_pairs(some_pairs(0))
    assert "cannot be told from this run" in interactions.top_pairs(some_pairs(0), estimand="shapley")


def test_where_pairs_lie():
    pairs = some_pairs(4)
    assert interactions.pair_places(pairs) == "No head has a part in two pairs; all 4 join heads of different layers."
    hub = pairs.with_columns(other_layer=pl.Series([0, 5, 5, 5]), other_head=pl.Series([1, 6, 6, 6]))
    assert interactions.pair_places(hub) == "L5 H6 has a part in 3 of the 4 pairs; 3 of the 4 join heads of different layers."
    assert interactions.pair_places(pairs.head(1)) == "The two heads lie in different layers."


def test_the_gain_from_pairs():
    schema = {name: column.dtype for name, column in INTERACTION_FITS.columns.items()}
    rows = [{"id": str(i), "held_out_r": 0.9 + i / 1000, "held_out_r2": 0.8, "held_out_r_pairs": 0.95 + i / 900, "held_out_r2_pairs": 0.9} for i in range(9)]
    fits = pl.DataFrame(rows, schema=schema)
    assert "explain a part of what the sum over heads misses" in interactions.pair_fits(fits)
    near = pl.Series([0.001, -0.001] * 4 + [0.0])
    assert "that they help cannot be told" in interactions.pair_fits(fits.with_columns(held_out_r_pairs=pl.col("held_out_r") + near))
    assert interactions.pair_fits(fits.with_columns(held_out_r_pairs="held_out_r")).startswith("There is no pair to add, so the fit stays as it is (mean")
    assert "cannot be told" in interactions.pair_fits(fits.clear())


def test_clusters():
    row = {"cluster": 0, "heads": 4, "share": 0.5, "silhouette": 0.6, "stability": 0.9}
    row |= {"first_layer": 1, "middle_layer": 1.5, "last_layer": 2, "layer": 1, "head": 0}
    table = pl.DataFrame([row, row | {"cluster": 1, "heads": 1, "last_layer": 1, "stability": 0.4}], schema={n: c.dtype for n, c in CLUSTERS.columns.items()})
    metrics = {"stability": 0.9, "stability_low": 0.7, "stability_high": 1.0, "split_half_silhouette_p": 0.001}
    said = clusters.stability(metrics, table)
    assert said.startswith("The clusters are stable") and "hold on the other" in said and said.endswith("cluster 1.")
    assert "do not hold" in clusters.stability(metrics | {"split_half_silhouette_p": 0.4}, table.head(1))
    assert clusters.stability({}, table.head(1)).startswith("No cluster structure")
    names = pl.DataFrame(
        [{"cluster": 0, "name": "cat", "examples": 5, "attribution": 3.0, "part": 0.6, "excess": 0.3, "p": 0.001, "q": 0.004}],
        schema={name: column.dtype for name, column in CLUSTER_NAMES.columns.items()},
    )
    said = clusters.contents(table, names)
    assert said == "Cluster 0 serves “cat” more than other objects; that cluster 1 serves some objects more than others cannot be told."
    assert clusters.contents(table, names.clear()) == "That any cluster serves some objects more than others cannot be told."
    less = pl.concat([names, names.with_columns(name=pl.lit("dog"), excess=-0.2), names.with_columns(name=pl.lit("cow"), excess=0.1)])
    assert clusters.contents(table, less).startswith("Cluster 0 serves “cat” and “cow” more and “dog” less than other objects; that cluster 1")
    assert clusters.contents(table.head(1), names) == "There is one group only, so no objects set it apart from another."
    made = [clusters.makeup(row) for row in table.iter_rows(named=True)]
    assert made[0] == "4 heads of layers 1 to 2, on average 1.5; strongest L1 H0; 50% of the summed size of all attributions; stability 0.90"
    assert made[1].startswith("1 head of layer 1; strongest")
