"""Figures of image tokens: valid, drawn, and showing what they claim to show."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.charts import image_tokens as charts
from headflow.datasets.pictures import object_entry
from headflow.datasets.pictures import png as as_png
from headflow.reporting.figure import png
from headflow.tables.examples import EXAMPLES
from headflow.tracing import image_tables as tables
from headflow.tracing.image_tables import PicturedExample
from tests.tracing.test_image_tables import traced

SIDE, CELLS = 48, 6


def boxes() -> np.ndarray:
    row, column = np.divmod(np.arange(CELLS**2), CELLS)
    return np.stack([column, row, column + 1, row + 1], 1) * (SIDE / CELLS)


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)


def masks(index: int) -> tuple[np.ndarray, np.ndarray]:
    main, other = np.zeros((2, SIDE, SIDE), bool)
    main[8:24, 8 : 24 + index], other[32:40, 32:48] = True, True
    return main, other


def example(index: int) -> PicturedExample:
    random = np.random.default_rng(index)
    main, other = masks(index)
    values = random.normal(0, 0.05, CELLS**2)
    values[[7, 8, 13, 14]] += 2
    values[30] = -1.5  # far from both objects
    return PicturedExample(f"e{index}", index, traced(values, 0.05), traced(values * 0.7, 0.05), random.random(36) / 40, boxes(), tables.Objects(main, [other]))


@pytest.fixture(scope="module")
def shown() -> pl.DataFrame:
    rows = []
    for index in range(7):
        main, other = masks(index)
        objects = [object_entry(main, name="cat", main=True), object_entry(other, name="dog", main=False)]
        answer = "<b>cat</b>" if index == 0 else f"a very long answer {index}"
        rows.append({"id": f"e{index}", "image": as_png(Image.fromarray(picture(index))), "answer": answer, "objects": objects})
    return pl.DataFrame(rows, schema={name: EXAMPLES.columns[name].dtype for name in ("id", "image", "answer", "objects")})


@pytest.fixture(scope="module")
def found() -> dict[str, pl.DataFrame]:
    examples = [example(index) for index in range(7)]
    shares = tables.shares_table(examples)
    return {
        "tokens": tables.tokens_table(examples, 0.95), "shares": shares, "curves": tables.curves_table(examples, 0.95),
        "means": tables.share_means_table(shares, {one.id: one.picture for one in examples}, 0.95), "background": tables.background_table(examples, 0.95),
        "sparsity": tables.sparsity_table(examples), "fits": tables.fits_table(examples),
    }  # fmt: skip


FIGURES = {
    "token_maps": lambda t, e: charts.token_maps(t["tokens"], e),
    "shares": lambda t, e: charts.shares(t["means"]),
    "held_curves": lambda t, e: charts.held_curves(t["curves"]),
    "background_tokens": lambda t, e: charts.background_tokens(t["background"], e),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn(found, shown, name):
    spec = FIGURES[name](found, shown).to_dict()
    with Image.open(io.BytesIO(png(spec))) as drawn:
        assert 300 < drawn.width < 1600 and len(drawn.convert("L").getcolors(1 << 16)) > 20
    assert len(str(spec)) < 400_000


def data(chart, column: str) -> list:
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows if column in row]


def painted(uri: str) -> np.ndarray:
    import base64

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"), float)


def test_maps_show_the_object_in_orange_and_its_outline(found, shown):
    rows = data(charts.token_maps(found["tokens"], shown), "url")
    assert len(rows) == 3 * charts.MOST_EXAMPLES and {row["what"] for row in rows} == {"picture", "attribution", "attention"}
    pixels = painted(next(row for row in rows if row["what"] == "attribution" and "e0" in row["example"])["url"])
    scale = len(pixels) / SIDE
    inside, outside = (pixels[int(y * scale), int(x * scale)] for y, x in ((16, 16), (28, 4)))
    assert inside[0] - inside[2] > 60 and abs(outside[0] - outside[2]) < 40
    negative = pixels[int(44 * scale), int(4 * scale)]
    assert negative[2] - negative[0] > 40  # blue
    assert pixels[int(16 * scale), int(8.3 * scale)].max() < 90  # the outline


def test_one_scale_over_all_examples(found, shown):
    louder = found["tokens"].with_columns(attribution=pl.when(pl.col("id") == "e3").then(10.0).otherwise(1.0) * pl.col("attribution"))
    quiet = [
        painted(next(row for row in data(charts.token_maps(table, shown), "url") if row["what"] == "attribution" and "e1" in row["example"])["url"])
        for table in (found["tokens"], louder)
    ]
    assert np.ptp(quiet[1][..., 0] - quiet[1][..., 2]) < 0.6 * np.ptp(quiet[0][..., 0] - quiet[0][..., 2])


def test_nothing_is_drawn_where_nothing_is_known(found, shown):
    nowhere = found["tokens"].with_columns(pl.lit(None, pl.Float64).alias(side) for side in ("left", "top", "right", "bottom"))
    assert charts.token_maps(nowhere, shown) is None
    assert charts.background_tokens(found["background"].clear(), shown) is None


def test_maps_without_objects(found, shown):
    bare = shown.with_columns(pl.lit([], shown.schema["objects"]).alias("objects"))
    assert len(data(charts.token_maps(found["tokens"], bare), "url")) == 18


def test_the_background_token_is_the_planted_one(found, shown):
    rows = data(charts.background_tokens(found["background"], shown), "url")
    assert len(rows) == charts.MOST_BACKGROUND and {row["what"] for row in rows} == {"token 30"}


def test_shares_show_even_shares_and_intervals(found):
    rows = data(charts.shares(found["means"]), "over")
    assert {row["part"] for row in rows} == {"object", "others", "background"} and all(row["low"] <= row["mean"] <= row["high"] for row in rows)
