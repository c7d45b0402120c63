"""Statistics of attention shares and maps, against plain sums and constructed models."""

import math

import numpy as np
import polars as pl
import pytest
from scipy.stats import t

from headflow.analysis.sharing import (
    Looked,
    fractions,
    head_means,
    layer_means,
    map_rows,
    no_maps,
    picture_rows,
    share_rows,
    spread,
    spread_contrast,
    spread_means,
    spread_rows,
)
from headflow.tables.sharing import (
    ATTENTION_MAPS,
    GROUPS,
    SHARE_FRACTIONS,
    SHARE_HEADS,
    SHARE_MEANS,
    SHARE_PICTURES,
    SHARES,
    SPREAD,
    SPREAD_CONTRAST,
    SPREAD_MEANS,
)

LAYERS, HEADS, IMAGE = 6, 2, 20


def look(scene: int, *, reading: list[int] | None = None, maps: np.ndarray | None = None, generated: int = 5) -> Looked:
    """One description of a random model; where not all layers read the picture, those that do attend to it alone."""
    random = np.random.default_rng([7, scene])
    shares = random.dirichlet(np.ones(3), (LAYERS, HEADS))
    even = np.tile([0.6, 0.3, 0.1], (LAYERS, 1))
    reading = list(range(LAYERS)) if reading is None else reading
    if len(reading) < LAYERS:
        shares[:, :, 1] += shares[:, :, 0]
        shares[:, :, 0] = 0
        shares[reading] = [1, 0, 0]
    maps = random.dirichlet(np.ones(IMAGE), len(reading)) if maps is None else maps
    tokens = np.ones(maps.shape[1], bool)
    tokens[-1] = False  # a line break
    return Looked(f"explain-{scene:05d}-object", scene, shares, even, (IMAGE, 10, generated), maps, reading, tokens)


def test_means_and_intervals_against_plain_ones():
    looked = [look(scene) for scene in range(8)]
    rows = SHARES.check(share_rows(looked), "rows")
    means, heads = SHARE_MEANS.check(layer_means(looked, 0.9), "means"), SHARE_HEADS.check(head_means(looked, 0.9), "heads")
    assert len(rows) == 8 * LAYERS * HEADS * 3 and len(means) == LAYERS * 3 and len(heads) == LAYERS * HEADS * 3
    for keys, found in ((["layer", "group"], means), (["layer", "head", "group"], heads)):
        for row in found.iter_rows(named=True):
            part = rows.filter(pl.col(key) == row[key] for key in keys).group_by("id").agg(pl.col("share").mean())["share"].to_numpy()
            reach = t.ppf(0.95, 7) * part.std(ddof=1) / math.sqrt(8)
            assert row["mean"] == pytest.approx(part.mean()) and row["pictures"] == 8 and not row["crosses"]
            assert (row["low"], row["high"]) == pytest.approx((max(0, part.mean() - reach), min(1, part.mean() + reach)))
    assert means.group_by("layer").agg(pl.col("mean").sum())["mean"].to_list() == pytest.approx([1] * LAYERS)
    assert means.filter(group="query")["even"].to_list() == pytest.approx([0.3] * LAYERS)


def test_the_fractions_table():
    looked = [look(scene, generated=scene + 1) for scene in range(6)]
    each = SHARE_PICTURES.check(picture_rows(looked), "each")
    found = SHARE_FRACTIONS.check(fractions(each, 0.95), "fractions")
    assert found["group"].to_list() == list(GROUPS) and set(found["layers"]) == {"all"}
    assert found["share"].sum() == pytest.approx(1) and found["token_share"].sum() == pytest.approx(1) and found["even"].sum() == pytest.approx(1)
    expected = np.mean([10 / (IMAGE + 10 + one.tokens[2]) for one in looked])
    query = found.row(1, named=True)
    assert query["token_share"] == pytest.approx(expected) and query["tokens"] == 10
    assert query["share"] == pytest.approx(np.mean([one.shares[..., 1].mean() for one in looked]))
    assert query["share_low"] < query["share"] < query["share_high"] and query["even_low"] == query["even_high"] == pytest.approx(0.3)


def test_layers_of_cross_attention_are_told_apart():
    looked = [look(scene, reading=[1, 4]) for scene in range(5)]
    found = fractions(picture_rows(looked), 0.95)
    share = {(row["layers"], row["group"]): row["share"] for row in found.iter_rows(named=True)}
    assert share["all", "image"] == pytest.approx(2 / LAYERS) and share["text", "image"] == 0
    assert share["text", "query"] + share["text", "generated"] == pytest.approx(1)
    means = layer_means(looked, 0.95)
    assert means.filter(pl.col("crosses"))["layer"].unique().sort().to_list() == [1, 4]
    assert spread_rows(looked, 0.01)["layer"].unique().sort().to_list() == [1, 4]
    assert not len(spread_contrast(spread_rows(looked, 0.01), 0.95))  # two layers have no middle


@pytest.mark.parametrize(("attention", "top", "effective", "held"), [
    (np.full(50, 0.3), 0.1, 1.0, 0.1),
    (np.eye(50)[3], 0.01, 1 / 50, 1.0),
    (np.repeat([2.0, 0.0], 25), 0.02, 0.5, 1 / 25),
    (np.array([3.0, 1.0]), 0.5, math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))) / 2, 0.75),
])  # fmt: skip
def test_spread_by_hand(attention, top, effective, held):
    assert spread(attention, top) == pytest.approx((effective, held))


def test_a_layer_that_shows_no_image_has_no_spread():
    maps = np.random.default_rng(0).dirichlet(np.ones(IMAGE), LAYERS)
    maps[2, :-1] = 0  # all that is left is structural
    rows = SPREAD.check(spread_rows([look(0, maps=maps)], 0.1), "spread")
    assert rows.filter(layer=2)["value"].to_list() == [None, None] and rows["value"].null_count() == 2
    assert rows.filter(measure="top")["even"].to_list() == pytest.approx([2 / 19] * LAYERS)
    assert rows.filter(layer=0, measure="effective")["value"][0] == pytest.approx(spread(maps[0, :-1], 0.1)[0])
    assert 2 not in SPREAD_MEANS.check(spread_means(rows, 0.95), "means")["layer"].to_list()


def test_a_model_of_outliers_early_and_late_is_found_and_no_other():
    """Planted: one token has nearly all in the first and last third of the layers, the middle is nearly even; and a model without depth."""

    def maps(scene: int, *, planted: bool) -> np.ndarray:
        random = np.random.default_rng([3, scene])
        found = random.dirichlet(np.full(IMAGE, 30.0), LAYERS)
        if planted:
            found[[0, 1, 4, 5], 3] += 4
        return found

    for planted in (True, False):
        rows = spread_rows([look(scene, maps=maps(scene, planted=planted)) for scene in range(12)], 0.05)
        found = {row["measure"]: row for row in SPREAD_CONTRAST.check(spread_contrast(rows, 0.95), "contrast").iter_rows(named=True)}
        effective, top = found["effective"], found["top"]
        assert effective["difference"] == pytest.approx(effective["middle"] - (effective["early"] + effective["late"]) / 2)
        if planted:
            assert effective["low"] > 0.5 and top["high"] < -0.5 and effective["p"] < 1e-6 and effective["pictures"] == 12
        else:
            assert effective["p"] > 0.05 and effective["low"] < 0 < effective["high"]


def test_maps_keep_their_boxes():
    one, boxes = look(2), np.arange(4.0 * IMAGE).reshape(IMAGE, 4)
    boxes[5] = np.nan
    rows = ATTENTION_MAPS.check(map_rows(one, boxes), "maps")
    assert len(rows) == LAYERS * IMAGE and rows["left"].null_count() == LAYERS and rows.filter(layer=3, token=7)["attention"][0] == one.maps[3, 7]
    assert rows.filter(layer=3, token=7).select("left", "top", "right", "bottom").row(0) == tuple(boxes[7]) and (~rows["image_token"]).sum() == LAYERS


def test_no_description_gives_empty_tables():
    rows, each = spread_rows([], 0.01), picture_rows([])
    found = [
        (SHARES, share_rows([])), (SHARE_PICTURES, each), (SHARE_MEANS, layer_means([], 0.95)), (SHARE_HEADS, head_means([], 0.95)),
        (SHARE_FRACTIONS, fractions(each, 0.95)), (SPREAD, rows), (SPREAD_MEANS, spread_means(rows, 0.95)),
        (SPREAD_CONTRAST, spread_contrast(rows, 0.95)), (ATTENTION_MAPS, no_maps()),
    ]  # fmt: skip
    assert all(len(table.check(frame, table.name)) == 0 for table, frame in found)


def test_one_picture_has_no_interval():
    one = [look(0)]
    rows = spread_rows(one, 0.01)
    for frame in (layer_means(one, 0.95), head_means(one, 0.95), spread_means(rows, 0.95), spread_contrast(rows, 0.95)):
        assert len(frame) and frame["low"].null_count() == frame["high"].null_count() == len(frame)
