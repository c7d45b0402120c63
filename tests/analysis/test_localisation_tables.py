"""Means over mentions, intervals over pictures, and what is left out."""

import numpy as np
import polars as pl
import pytest

from headflow.analysis import localisation_tables as tables
from headflow.analysis.localisation import STATISTICS, Naming
from headflow.tables.localising import LOCALISED, LOCALISED_HEADS, LOCALISED_LAYERS, LOCALISED_MAPS, NAMINGS

# Nine tokens on a picture of 3 × 3 pixels.
BOXES = np.array([[column, row, column + 1, row + 1] for row in range(3) for column in range(3)], float)
LAYERS = (3, 8)


def naming(own=0, others=(8,), name="dog"):
    pixels = [np.arange(9).reshape(3, 3) == place for place in range(9)]
    return Naming(name, name, 2, 5, 1, 1, pixels[own], [pixels[other] for other in others])


def mention(id="a", scene=0, *, attention=None, attribution=None, boxes=BOXES, seed=0, **options):
    random = np.random.default_rng(seed)
    weights = random.exponential(size=(2, 4, 9)) if attention is None else attention
    return tables.localise(id, scene, naming(**options), boxes, {"attention": weights, "attention before": weights[::-1]}, attribution)


def test_one_mention_by_hand():
    attention = np.zeros((2, 2, 9))
    attention[0, 0, 0], attention[0, 1, 8], attention[1, :, 1] = 0.6, 0.2, 0.5
    attribution = np.array([[3.0, 0, 0, 0, 0, 0, 0, 0, -1], [0, 0, 0, 0, 1, 0, 0, 0, 0]])
    one = mention(attention=attention, attribution=attribution)
    table = tables.localised_table([one], LAYERS)
    LOCALISED.check(table, "test")
    own = {(row["what"], row["layer"]): row for row in table.filter(against="own").iter_rows(named=True)}
    assert own["attention", 3]["share"] == pytest.approx(0.75) and own["attention", 3]["pointing"] == 1 and own["attention", 3]["auroc"] == 1
    assert own["attention", 8]["share"] == 0 and own["attention", 8]["auroc"] == pytest.approx(3.5 / 8) and own["attention", 3]["amount"] == pytest.approx(0.4)
    assert own["attention", None]["share"] == pytest.approx(0.15 / 0.45)  # mean of the layers
    assert own["attention before", 8]["share"] == pytest.approx(0.75)  # it has the layers the other way round here
    assert own["attribution", None]["share"] == 3 / 4 and own["attribution", None]["amount"] == 3 and own["attribution", 3]["share"] == 1
    other = table.filter(against="other", what="attribution", layer=3).row(0, named=True)
    assert other["share"] == 0 and other["auroc"] == 0 and other["even"] == pytest.approx(1 / 9)
    heads = tables.heads_table([one], LAYERS, 0.95).filter(statistic="share")
    assert heads.select("layer", "head", "mean").rows() == [(3, 0, 1), (3, 1, 0), (8, 0, 0), (8, 1, 0)]


def test_means_and_contrasts():
    found = [mention(str(seed), seed // 2, seed=seed, others=() if seed == 5 else (8, 7), attribution=np.eye(9)[[0, 4]]) for seed in range(6)]
    table = tables.layers_table(found, LAYERS, 0.95)
    LOCALISED_LAYERS.check(table, "test")
    rows = {(row["what"], row["layer"], row["against"], row["statistic"]): row for row in table.iter_rows(named=True)}
    assert len(rows) == table.height == 3 * 3 * 3 * 3
    own = np.array([one.statistics["attention", "own"][0, 1] for one in found])
    row = rows["attention", 8, "own", "share"]
    assert row["mean"] == pytest.approx(own.mean()) and row["chance"] == pytest.approx(1 / 9) and row["over"] == pytest.approx(own.mean() - 1 / 9)
    # Three pictures of two mentions: the interval of the three pictures' means.
    means = own.reshape(3, 2).mean(1)
    assert row["high"] - row["mean"] == pytest.approx(4.302653 * means.std(ddof=1) / np.sqrt(3), rel=1e-5)
    assert (row["mentions"], row["pictures"], row["most"]) == (6, 3, 1)
    other = np.array([np.mean([one.statistics["attention", "other"][1, 0]]) for one in found])
    contrast = rows["attention", 3, "difference", "auroc"]
    assert contrast["mentions"] == 5 and contrast["pictures"] == 3 and contrast["chance"] == 0
    assert contrast["mean"] == pytest.approx(np.nanmean([one.statistics["attention", "own"][1, 0] for one in found] - other)) == pytest.approx(contrast["over"])
    exact = rows["attribution", 3, "own", "pointing"]
    assert exact["mean"] == exact["low"] == 1 and exact["p_holm"] < 1e-9 and tables.best_layer(table, "attribution")["layer"] == 3
    assert tables.above_chance(table, "attribution", 0.95)["layer"].to_list() == [3]


def test_no_more_findings_than_chance_where_mentions_of_a_picture_are_alike():
    """Maps of pure chance, the same for the three mentions of each picture: one in twenty is to be found, not one in three."""
    random, found = np.random.default_rng(0), 0
    for _ in range(40):
        localised = []
        for scene in range(8):
            attention = random.exponential(size=(1, 1, 9))
            localised += [mention(str(scene), scene, attention=attention)] * 3
        table = tables.layers_table(localised, [0], 0.95)
        found += table.filter(what="attention", layer=0, against="own", statistic="auroc")["p_holm"][0] < 0.05
    assert found <= 6  # of 40 at 5 %: more with probability 0.003; 10 are expected of one that counts mentions


def test_pictures_without_places_and_runs_without_mentions():
    lost = mention(boxes=np.full((9, 4), np.nan), attribution=np.ones((2, 9)))
    for localised in ([], [lost]):
        layers, heads = tables.layers_table(localised, LAYERS, 0.95), tables.heads_table(localised, LAYERS, 0.95)
        LOCALISED_LAYERS.check(layers, "test")
        LOCALISED_HEADS.check(heads, "test")
        assert layers.is_empty() and heads.is_empty() and tables.best_layer(layers, "attention") is None
        drawn = tables.maps_table(localised, LAYERS, None, 6)
        LOCALISED_MAPS.check(drawn, "test")
        assert drawn.is_empty()
        LOCALISED.check(tables.localised_table(localised, LAYERS), "test")
    names = tables.namings_table([lost], [("b", 4, "cat")])
    NAMINGS.check(names, "test")
    assert names.select("id", "scene", "name", "objects", "even", "token").rows() == [("a", 0, "dog", 1, None, 1), ("b", 4, "cat", 0, None, None)]


def test_one_picture_has_no_interval():
    table = tables.layers_table([mention(), mention(seed=1)], LAYERS, 0.95)
    assert table["low"].null_count() == table["p"].null_count() == table["p_holm"].null_count() == table.height and table["mean"].null_count() == 0
    assert table["against"].unique().sort().to_list() == ["difference", "other", "own"]


def test_intervals_end_where_statistics_do():
    far = [np.concatenate([np.eye(9)[[place]]] * 8).reshape(2, 4, 9) for place in (0, 4)]
    localised = [mention("a", 0, attention=far[0]), mention("b", 1, attention=far[1])]
    layers, heads = tables.layers_table(localised, LAYERS, 0.95), tables.heads_table(localised, LAYERS, 0.95)
    own, apart = layers.filter(pl.col("against") == "own"), layers.filter(pl.col("against") == "difference")
    for table, least in ((own, 0), (heads, 0), (apart, -1)):
        assert table["low"].min() == least and table["high"].max() == 1
    assert own["over_low"].min() < -1  # tests go by the errors, whatever their ends


def test_shown_mentions_are_of_different_pictures_and_names():
    names = ["dog", "dog", "cat", "dog", "bird"]
    found = [mention(str(place), scene, name=name, attribution=np.ones((2, 9))) for place, (name, scene) in enumerate(zip(names, (0, 0, 0, 1, 2), strict=True))]
    assert [one.id for one in tables.shown(found, 3)] == ["0", "4", "3"] and [one.id for one in tables.shown(found, 2)] == ["0", "4"]
    drawn = tables.maps_table(found, LAYERS, ("attention before", 8), 2)
    LOCALISED_MAPS.check(drawn, "test")
    assert drawn.height == 2 * 2 * 9 and drawn.filter(what="attribution")["layer"].null_count() == 18
    mine = drawn.filter(pl.col("id") == "4", pl.col("what") == "attention before")
    np.testing.assert_array_equal(mine["value"], found[4].maps["attention before"][1])
    assert set(mine["layer"]) == {8} and STATISTICS == ("share", "auroc", "pointing")
