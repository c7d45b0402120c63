"""Figures of single heads: drawn, complete, and painting what the tables say."""

import base64
import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.charts import head_maps as charts
from headflow.charts.head_maps import painted
from headflow.reporting.figure import png
from headflow.tables.heads import CLUSTER_MAPS, HEAD_MAPS, HEAD_WORDS, HEAD_WRITING

SIDE = 4
BOXES = np.array([[8 * column, 8 * row, 8 * column + 8, 8 * row + 8] for row in range(SIDE) for column in range(SIDE)], float)
IDS = [f"e{number}" for number in range(6)]
HEADS = [(0, 1), (2, 0), (2, 3)]


def picture(seed=0, size=(32, 32)):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


ANSWERS = ["cat", "dog", '<b>"cup"</b>', "a very long answer \x18 that goes on", "e\x00", "f"]
EXAMPLES = pl.DataFrame({"id": IDS, "image": [picture(number) for number in range(6)], "answer": ANSWERS})


def typed(table, rows):
    return table.check(pl.DataFrame(rows, schema={name: column.dtype for name, column in table.columns.items()}), "here")


def maps(key, draws):
    for token, (left, top, right, bottom) in enumerate(BOXES):
        yield {**key, "token": token, "attention": draws.random() / 16, "attention_text": 0.0, "attribution": draws.normal(), "left": left, "top": top,
               "right": right, "bottom": bottom}  # fmt: skip


@pytest.fixture(scope="module")
def tables():
    draws = np.random.default_rng(0)
    heads = [row for name in IDS for layer, head in HEADS for row in maps({"id": name, "layer": layer, "head": head}, draws)]
    clusters = [row for cluster in (0, 1) for rank in (1, 2, 3) for row in maps({"cluster": cluster, "rank": rank, "id": IDS[3 * cluster + rank - 1]}, draws)]
    words = [
        {"id": None if name is None else name, "answer": answer, "examples": 3, "layer": layer, "head": head, "rank": rank, "word": word, "token": rank,
         "contribution": 3.0 / rank, "answers": word == answer}
        for name in (None, "e0") for answer in ("cat", "dog") for layer, head in HEADS for rank, word in enumerate((" cat", "dog", "\n\x18", "tree"), 1)
    ]  # fmt: skip
    writing = [
        {name: None for name in HEAD_WRITING.columns}
        | {"layer": layer, "head": head, "examples": 9, "attribution": 1.0 - layer / 4, "attribution_low": 0.5 - layer / 4, "attribution_high": 1.5 - layer / 4}
        | {"direct": 0.4 - head / 9, "direct_low": 0.3 - head / 9, "direct_high": 0.5 - head / 9, "lead": 1.0 if (layer, head) in HEADS else None}
        for layer in range(3) for head in range(4)
    ]  # fmt: skip
    return {
        "head_grid": typed(HEAD_MAPS, heads), "cluster_grid": typed(CLUSTER_MAPS, clusters), "head_words": typed(HEAD_WORDS, words),
        "direct_against_attribution": typed(HEAD_WRITING, writing),
    }  # fmt: skip


def draw(name, table):
    further = (EXAMPLES,) if name.endswith("grid") else ()
    return getattr(charts, name)(table, *further)


NAMES = ("head_grid", "cluster_grid", "head_words", "direct_against_attribution")


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_valid_and_draw(name, tables):
    with Image.open(io.BytesIO(png(draw(name, tables[name]).to_dict()))) as found:
        assert found.width >= 450 and found.convert("L").getextrema()[0] < 100


@pytest.mark.parametrize("name", NAMES)
def test_figures_of_empty_tables(name, tables):
    chart = draw(name, tables[name].clear())
    assert chart is None if name.endswith("grid") else chart.to_dict()


def data_of(chart, field):
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows if field in row]


def test_the_grid_shows_every_head_on_the_first_examples(tables):
    chart = draw("head_grid", tables["head_grid"])
    images = data_of(chart, "url")
    assert len(images) == charts.MOST_EXAMPLES * (1 + 2 * len(HEADS))
    said = [row for row in images if row["map"]]
    rows = tables["head_grid"].filter(id="e1", layer=2, head=3)
    mine = [row["map"] for row in said if row["what"] == "L2 H3" and row["example"] == "dog (e1)"]
    assert mine == [f"attention {rows['attention'].sum():.2f} in all", f"attribution {rows['attribution'].sum():+.2f} logits in all".replace("-", "−")]
    width, height = chart.to_dict()["width"], chart.to_dict()["height"]
    half = charts.CELL / 2  # the pictures are square
    assert all(half <= row["x"] <= width - half + 1 and half <= row["y"] <= height - half for row in images)
    places = {(row["x"], row["y"]) for row in images}
    assert len(places) == len(images)
    labels = [row["text"] for row in data_of(chart, "text") if row["kind"] == "row"]
    assert labels == ["L0 H1", "L2 H0", "L2 H3"]


def test_each_cluster_stands_beside_its_own_examples(tables):
    chart = draw("cluster_grid", tables["cluster_grid"])
    assert [row["text"] for row in data_of(chart, "text") if row["kind"] == "row"] == ["cluster 0", "cluster 1"]
    shown = {(row["what"], row["example"].split("(")[-1].rstrip(")")) for row in data_of(chart, "url")}
    assert shown == {(f"cluster {number // 3}", name) for number, name in enumerate(IDS)}


def test_examples_without_known_places_are_left_out(tables):
    table = tables["head_grid"].with_columns(pl.when(pl.col("id") != "e1").then(pl.col("left", "top", "right", "bottom")))
    shown = {row["example"] for row in data_of(draw("head_grid", table), "url") if row["map"]}
    assert shown == {f"{charts._short(answer, 60)} ({name})" for name, answer in list(zip(IDS, ANSWERS, strict=True))[:5] if name != "e1"}
    assert draw("head_grid", table.with_columns(left=pl.lit(None, pl.Float64))) is None


def colours(uri):
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as found:
        return np.asarray(found.convert("RGB"), int)


def test_maps_are_painted_where_the_tokens_lie():
    values = np.zeros(16)
    values[1], values[14] = 1.0, -0.9
    unplaced = BOXES.copy()
    unplaced[5] = np.nan  # a token that shows no part of the picture
    values[5] = 50.0
    found = colours(painted(picture(), values, unplaced, signed=True))
    side = found.shape[0] // SIDE
    middles = found[side // 2 :: side, side // 2 :: side]
    orange, blue, rest = middles[0, 1], middles[3, 2], np.delete(middles.reshape(16, 3), (1, 14), 0)
    assert orange[0] > orange[2] + 60 and blue[2] > blue[0] + 60
    assert np.abs(rest[:, 0] - rest[:, 2]).max() < 40
    wide = colours(painted(picture(size=(64, 16)), values[:2], np.array([[0, 0, 32, 16], [32, 0, 64, 16.0]]), signed=False))
    assert wide.shape[1] == 4 * wide.shape[0]
    assert wide[:, -20:, 1].mean() > wide[:, :20, 1].mean() + 40  # yellow beside dark blue


def test_the_answers_own_word_is_set_apart(tables):
    spec = draw("head_words", tables["head_words"]).to_dict()
    bold = [layer for layer in spec["layer"] if layer["mark"].get("fontWeight") == "bold"]
    texts = [row["text"] for layer in bold for row in spec["datasets"][layer["data"]["name"]]]
    assert set(texts) == {"dog +1.5"}  # " cat" is not the table's "cat": tokens, not texts, are compared by the table
    assert all(row["id"] is None for rows in spec["datasets"].values() for row in rows)


def test_letters_that_cannot_be_drawn():
    assert charts._short("  \x00a\nb\ud7ffc ", 9) == "�a↵b�c" and charts._short("", 3) == charts._short("   ", 3) == "␣"
    assert charts._short("abcdef", 4) == "abc…"


def test_long_answers_that_begin_alike_stay_apart(tables):
    long = {"cat": "the very same beginning, one", "dog": "the very same beginning, two"}
    chart = draw("head_words", tables["head_words"].with_columns(pl.col("answer").replace(long)))
    domain = chart.to_dict()["layer"][0]["encoding"]["x"]["scale"]["domain"]
    assert len(set(domain)) == 2 and all(len(name) < 18 for name in domain)


def test_the_diagonal_spans_what_is_drawn_and_only_top_heads_are_named(tables):
    spec = draw("direct_against_attribution", tables["direct_against_attribution"]).to_dict()
    texts = [row["name"] for layer in spec["layer"] if layer["mark"].get("type") == "text" for row in spec["datasets"][layer["data"]["name"]] if "name" in row]
    assert sorted(texts) == ["L0 H1", "L2 H0", "L2 H3"]
    domain = spec["layer"][0]["encoding"]["x"]["scale"]["domain"]
    table = tables["direct_against_attribution"]
    assert domain[0] <= table["direct_low"].min() and domain[1] >= table["attribution_high"].max()
