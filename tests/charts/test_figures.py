"""Every figure validates, holds only JSON, can be drawn, and shows what it claims to show."""

import io
import json
from collections.abc import Callable

import altair as alt
import polars as pl
import pytest
from PIL import Image

from headflow import charts
from headflow.charts import attention, clusters, numbers, pictures, theme
from headflow.reporting.figure import LARGEST_PNG, png
from tests.reporting import synthetic_run, unlabelled_run

FIGURES: dict[str, Callable[[synthetic_run.Run], alt.TopLevelMixin]] = {
    "head_grid": lambda run: charts.head_grid(run.head_summary),
    "top_heads": lambda run: charts.top_heads(run.head_summary),
    "layer_profile": lambda run: charts.layer_profile(run.attributions),
    "effect_sums": lambda run: charts.effect_sums(run.attributions, run.fits, run.head_summary),
    "attention_scatter": lambda run: charts.attention_scatter(numbers.attention_by_head(run.attention, run.head_summary, run.fits["id"].to_list()), 0.75),
    "held_out": lambda run: charts.held_out(run.predictions, run.fits, pictures.with_pictures(run.examples)),
    "growth": lambda run: charts.growth(run.growth),
    "cluster_grid": lambda run: charts.cluster_grid(run.head_clusters, run.head_summary),
    "cluster_profiles": lambda run: charts.cluster_profiles(run.profiles, run.head_clusters),
    "example_map": lambda run: charts.example_map(run.example_map, labels(run), pictures.with_pictures(run.examples)),
    "separation": lambda run: charts.separation(run.separation),
}


def labels(run: synthetic_run.Run) -> pl.DataFrame:
    return run.examples.select("id", "^(meaning|looks)_.*$")


@pytest.fixture(scope="module")
def run() -> synthetic_run.Run:
    return synthetic_run.make()


def undefined(run: synthetic_run.Run) -> synthetic_run.Run:
    """The same run with every number that may be undefined made so: null in one half, NaN in the other."""

    def hollow(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
        holes = pl.when(pl.int_range(pl.len()) % 2 == 0).then(None).otherwise(float("nan"))
        return frame.with_columns(holes.alias(column) for column in columns)

    measures = [f"{name}{end}" for name in ("silhouette", "purity", "explained") for end in ("", "_p")]
    return run.but(
        head_summary=hollow(run.head_summary, "low", "high", "single_mean"),
        attributions=hollow(run.attributions, "single_head_effect"),
        fits=hollow(run.fits, "held_out_r", "held_out_r2"),
        growth=hollow(run.growth, "held_out_r", "agreement_r"),
        head_clusters=hollow(run.head_clusters, "silhouette"),
        separation=hollow(run.separation, *measures, "purity_chance", "explained_chance"),
    )


def emptied(run: synthetic_run.Run) -> synthetic_run.Run:
    """The same run with the tables empty that may be."""
    return run.but(
        growth=run.growth.clear(), separation=run.separation.clear(), head_clusters=run.head_clusters.with_columns(pl.lit(-1, pl.Int64).alias("cluster"))
    )


@pytest.mark.parametrize("name", FIGURES)
def test_figure_draws_as_one_picture_below_the_size_limit(name, run):
    spec = FIGURES[name](run).to_dict(validate=True)
    json.dumps(spec, allow_nan=False)
    drawn = png(spec)
    assert len(drawn) < LARGEST_PNG
    with Image.open(io.BytesIO(drawn)) as image:
        assert image.format == "PNG" and image.width >= theme.WIDTH
        assert len(image.convert("RGB").getcolors(1 << 24)) > 8, "the picture is blank"


@pytest.mark.parametrize("change", [undefined, emptied, lambda _: synthetic_run.make(scenes=1)], ids=["undefined numbers", "empty tables", "one example"])
@pytest.mark.parametrize("name", FIGURES)
def test_figure_of_poor_tables_is_still_valid(name, change, run):
    spec = FIGURES[name](change(run)).to_dict(validate=True)
    json.dumps(spec, allow_nan=False)


def encodings(spec: object, channel: str) -> list[dict]:
    """Every encoding of ``channel`` anywhere in a spec."""
    if isinstance(spec, dict):
        own = [spec["encoding"][channel]] if channel in spec.get("encoding", {}) else []
        return own + [found for part in spec.values() for found in encodings(part, channel)]
    return [found for part in spec for found in encodings(part, channel)] if isinstance(spec, list) else []


@pytest.mark.parametrize("name", ["head_grid", "cluster_grid"])
def test_layers_run_upward_and_heads_along_x(name, run):
    spec = FIGURES[name](run).to_dict()
    layers = [encoding["scale"]["domain"] for encoding in encodings(spec, "y")]
    heads = [encoding["scale"]["domain"] for encoding in encodings(spec, "x")]
    assert layers and all(domain == [5, 4, 3, 2, 1, 0] for domain in layers)
    assert heads and all(domain == list(range(8)) for domain in heads)


def test_layers_that_read_no_picture_get_no_row_and_no_line(run):
    apart = run.head_summary.with_columns(pl.col("layer").replace_strict(range(6), [3, 8, 13, 18, 23, 28]))
    assert next(encoding["scale"]["domain"] for encoding in encodings(charts.head_grid(apart).to_dict(), "y")) == [28, 23, 18, 13, 8, 3]
    sums = run.attributions.with_columns(pl.col("layer").replace_strict(range(6), [3, 8, 13, 18, 23, 28]))
    marks = {name: json.dumps(charts.layer_profile(frame).to_dict()) for name, frame in (("apart", sums), ("whole", run.attributions))}
    assert '"type": "line"' in marks["whole"] and '"type": "line"' not in marks["apart"] and '"values": [3, 8, 13, 18, 23, 28]' in marks["apart"]


def test_names_of_heads_lie_on_no_point_and_on_no_other_name(run):
    heads = numbers.attention_by_head(run.attention, run.head_summary, run.fits["id"].to_list())
    crowded = heads.with_columns(attention=pl.lit(0.5), mean=pl.int_range(pl.len()) * 1e-3, low=pl.lit(0.0), high=pl.lit(9.0))
    assert attention._apart(crowded, 1.0, 6).height == 2, "one spot leaves room on its two sides"
    assert attention._apart(heads, 1.0, 6).height > 1


def test_a_label_is_filled_by_its_corrected_p(run):
    spec = json.dumps(charts.separation(run.separation).to_dict())
    assert "datum.explained_adjusted !== null && datum.explained_adjusted < 0.05" in spec
    adjusted = numbers.with_adjusted(run.separation, "explained")["explained_adjusted"]
    assert (adjusted >= run.separation["explained_p"]).all() and (adjusted > run.separation["explained_p"]).any()


def test_a_panel_that_is_drawn_alone_is_as_wide_as_two(run):
    one = charts.growth(run.growth.with_columns(agreement_r=pl.lit(None, pl.Float64))).to_dict()
    assert [panel["width"] for panel in one["hconcat"]] == [theme.WIDTH - 80]
    assert [panel["width"] for panel in charts.growth(run.growth).to_dict()["hconcat"]] == [280, 280]


@pytest.mark.parametrize("name", ["head_grid", "cluster_profiles"])
def test_signed_colours_are_centred_on_zero(name, run):
    (colour,) = encodings(FIGURES[name](run).to_dict(), "color")
    low, high = colour["scale"]["domain"]
    assert low == -high < 0 and colour["scale"]["domainMid"] == 0 and colour["scale"]["scheme"] == theme.SIGNED


@pytest.mark.parametrize("name", FIGURES)
def test_every_drawn_axis_of_a_number_has_a_title(name, run):
    for channel in ("x", "y"):
        named = set()
        unnamed = []
        for encoding in encodings(FIGURES[name](run).to_dict(), channel):
            if encoding.get("type") != "quantitative" or encoding.get("axis", "") is None or encoding.get("axis", {}).get("labels") is False:
                continue
            (named.add if encoding.get("title") else unnamed.append)(encoding.get("field"))
        assert named or not unnamed


def test_units_reach_the_axes(run):
    spec = json.dumps(charts.top_heads(run.head_summary, unit="nats").to_dict())
    assert "attribution, nats" in spec and "logits" not in spec


def test_only_heads_clear_of_zero_are_outlined(run):
    spec = charts.head_grid(run.head_summary).to_dict()
    outline = next(layer for layer in spec["layer"] if layer["mark"].get("filled") is False)
    assert outline["transform"] == [{"filter": "datum.clear"}]
    data = spec["datasets"][spec.get("data", outline.get("data"))["name"]]
    assert {(row["layer"], row["head"]) for row in data if row["clear"]} >= {(3, 5), (4, 0), (2, 1)}
    assert sum(row["clear"] for row in data) < len(data)


def test_figures_of_a_large_model_stay_small():
    rng_run = synthetic_run.make()
    wide = pl.concat([rng_run.head_summary.with_columns(pl.col("layer") + 6 * i, pl.col("head") + 8 * j) for i in range(6) for j in range(4)])
    spec = charts.head_grid(wide).to_dict()
    assert spec["height"] < 800 and len(png(spec)) < LARGEST_PNG
    many = pl.concat([rng_run.predictions.with_columns(pl.col("mask") + 32 * i) for i in range(20)])
    assert len(json.dumps(FIGURES["held_out"](rng_run.but(predictions=many)).to_dict())) < 600_000


def test_a_value_has_one_colour_in_every_figure_and_colours_are_drawn_as_themselves():
    assert theme.palette(["b", "a", None, "b"]) == theme.palette(["a", "b"])
    assert theme.palette(["Red", "blue"]) == {"Red": "#d3352c", "blue": "#2b63d9"}
    mixed = theme.palette(["red", "striped"])
    assert mixed["red"] != "#d3352c", "a list that is not all colours must not half pretend to be"
    many = theme.palette([f"v{i:02d}" for i in range(20)])
    assert len(set(many.values())) == 20


def test_map_colours_follow_the_palette_of_the_whole_run(run):
    fills = [encoding["scale"] for encoding in encodings(FIGURES["example_map"](run).to_dict(), "fill")]
    drawn = [dict(zip(scale["domain"], scale["range"], strict=True)) for scale in fills]
    assert drawn == [theme.palette(labels(run)[name]) for name in labels(run).columns if name != "id"]


def test_columns_and_values_may_be_called_anything(run):
    odd = "looks_a.b[0]'\"\u2028`\\"
    odd_labels = labels(run).rename({"looks_style": odd}).with_columns(pl.col(odd).replace({"filled": odd}))
    odd_separation = run.separation.with_columns(pl.col("label").replace({"looks_style": odd}))
    odd_profiles = run.profiles.with_columns(pl.col("name").replace({"circle": odd}))
    for chart in (
        charts.example_map(run.example_map, odd_labels, pictures.with_pictures(run.examples)),
        charts.separation(odd_separation),
        charts.cluster_profiles(odd_profiles, run.head_clusters),
    ):
        png(chart.to_dict())


def test_tooltips_of_examples_carry_pictures(run):
    for name in ("held_out", "example_map"):
        spec = FIGURES[name](run).to_dict()
        fields = {tip["field"] for tips in encodings(spec, "tooltip") if isinstance(tips, list) for tip in tips}
        assert "image" in fields
        uris = {row["image"] for rows in spec["datasets"].values() for row in rows if "image" in row}
        assert uris and all(uri.startswith("data:image/png;base64,") for uri in uris)


@pytest.fixture(scope="module")
def photographs() -> synthetic_run.Run:
    return unlabelled_run.make()


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("growth", "separation")])
def test_figure_of_photographs_without_labels_and_many_heads(name, photographs):
    spec = FIGURES[name](photographs).to_dict(validate=True)
    assert len(png(spec)) < LARGEST_PNG
    assert len(json.dumps(spec, allow_nan=False)) < 600_000


def test_the_map_of_unlabelled_pictures_has_no_coloured_panels_and_shows_few_pictures_larger(photographs):
    spec = FIGURES["example_map"](photographs).to_dict()
    assert len(spec["vconcat"]) == 1
    marks = [layer["mark"] for layer in spec["vconcat"][0]["layer"]]
    assert {"type": "image", "width": 48, "height": 48} in marks


def test_profiles_show_the_most_frequent_of_many_names(run):
    rows = [
        {"layer": 0, "head": head, "name": f"thing {place:03d}", "attribution": 1.0, "examples": 3 if place % 5 == 0 else 1}
        for head in range(2) for place in range(200)
    ]  # fmt: skip
    heads = pl.DataFrame({"layer": [0, 0], "head": [0, 1], "cluster": [0, 1], "share": [0.6, 0.4], "silhouette": [0.5, 0.5]})
    shown = clusters.shown_names(pl.DataFrame(rows))
    assert shown == [f"thing {place:03d}" for place in range(0, 150, 5)] and len(shown) == clusters.MOST_NAMES
    assert clusters.shown_names(pl.DataFrame(rows), list(reversed(shown))) == shown[::-1]
    spec = charts.cluster_profiles(pl.DataFrame(rows), heads, noun="answer").to_dict()
    assert "thing 001" not in json.dumps(spec) and "thing 145" in json.dumps(spec)
    assert spec["layer"][0]["encoding"]["x"]["title"] == "answer"


def test_numbers_in_charts_carry_no_digits_that_nobody_can_see():
    frame = theme.drawable(pl.DataFrame({"x": [1 / 3, 123456.789, float("nan"), float("inf"), None], "n": [1234567, 1, 1, 1, 1]}))
    assert frame["x"].to_list() == [0.333333, 123457.0, None, None, None] and frame["n"][0] == 1234567


def test_the_name_of_a_rule_at_the_right_edge_stands_on_its_left():
    heads = pl.DataFrame({"layer": [0], "head": [0], "mean": [1.0], "low": [0.5], "high": [1.5], "single_mean": [0.1], "examples": [3], "clear": [True],
                          "name_of_head": ["L0 H0"], "attention": [0.4]})  # fmt: skip
    for share, side in ((0.95, "right"), (0.1, "left")):
        marks = json.dumps(charts.attention_scatter(heads, share).to_dict())
        assert f'"align": "{side}", "baseline": "top"' in marks
