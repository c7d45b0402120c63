"""Where the tokens of a description look: shares by group, layer and head, maps on the pictures, and how far these are spread."""

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl

from headflow.charts import theme
from headflow.charts.head_maps import _MAGNITUDE
from headflow.charts.heads import LAYER, LOWEST, _fitted, grid_axes, grid_height
from headflow.charts.image_tokens import _SHARP, CELL, _density, _painted
from headflow.charts.pictures import data_uri

NAMES = {"image": "the image", "query": "the rest of the prompt", "generated": "what has been said"}
"""Groups of tokens as figures and sentences call them."""
COLOURS = {"image": "#0072b2", "query": "#e69f00", "generated": "#009e73"}
KINDS = {"token_share": "share of the tokens", "even": "attention, if it were even", "share": "attention"}
MOST_PICTURES, MOST_LAYERS = 6, 7
_GROUPED = "attention to (dashed: if it were even)"
_KNOWN = "isValid(datum.low)"  # one picture has no interval
_GAP, _MARGIN, _LINE = 4, 50, 16
"""Pixels: between maps, room for the names of layers, a line of text."""


def fraction_dots(fractions: pl.DataFrame) -> alt.LayerChart | None:
    """Of each group: its share of the tokens, of even attention and of the attention there is, with intervals over pictures. None for an empty table.

    Args:
        fractions: the attention fractions table.
    """
    rows = fractions.filter(pl.col("layers") == "all")
    if not len(rows):
        return None
    long = pl.concat(
        rows.select("group", "tokens", "pictures", pl.lit(name).alias("kind"), pl.col(kind).alias("mean"), pl.col(f"{kind}_low").alias("low"),
                    pl.col(f"{kind}_high").alias("high"))
        for kind, name in KINDS.items()
    )  # fmt: skip
    long = theme.drawable(long).with_columns(pl.col("group").replace_strict(NAMES).alias("name"))
    y = alt.Y("name:N", title=None, scale=alt.Scale(domain=list(NAMES.values())), axis=alt.Axis(labelLimit=190))
    scale, axis = alt.Scale(domain=[0, 1], nice=False), alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    title = "share, mean over layers, heads and pictures"
    kinds = alt.Scale(domain=list(KINDS.values()), range=["#8a929b", "#56b4e9", theme.ACCENT])
    colour = alt.Color("kind:N", title=None, scale=kinds, legend=alt.Legend(orient="top", labelLimit=260, symbolOpacity=1))
    offset = alt.YOffset("kind:N", scale=alt.Scale(domain=list(KINDS.values())))
    base = alt.Chart(long).encode(y=y, yOffset=offset, color=colour)
    tooltip = [
        alt.Tooltip("name:N", title="tokens"), alt.Tooltip("kind:N", title="what"), alt.Tooltip("mean:Q", title="share", format=".1%"),
        alt.Tooltip("low:Q", title="interval from", format=".1%"), alt.Tooltip("high:Q", title="to", format=".1%"),
        alt.Tooltip("tokens:Q", title="tokens, mean", format=".1f"), alt.Tooltip("pictures:Q"),
    ]  # fmt: skip
    spans = base.transform_filter(_KNOWN).mark_rule(strokeWidth=3, opacity=0.5).encode(x=alt.X("low:Q", title=title, scale=scale, axis=axis), x2="high:Q")
    points = base.mark_point(size=60).encode(x=alt.X("mean:Q", title=title, scale=scale), tooltip=tooltip)
    return _fitted(spans + points, LOWEST)


def layer_shares(means: pl.DataFrame) -> alt.LayerChart | None:
    """Share of attention by layer, a line a group with its interval over pictures; dashed, what even attention would give. None for an empty table.

    Layers of cross-attention, which attend to the picture alone, are hollow marks.

    Args:
        means: the attention shares of layers table.
    """
    if not len(means):
        return None
    rows = theme.drawable(means).with_columns(pl.col("group").replace_strict(NAMES).alias("name"))
    text, crossing = rows.filter(~pl.col("crosses")), rows.filter(pl.col("crosses"), pl.col("group") == "image")
    y, x = _layer_axis(rows["layer"].to_list()), {"title": "share of the generated tokens' attention", "scale": alt.Scale(domain=[0, 1], nice=False)}
    colour = _group_colour("name:N")
    base = alt.Chart(text).encode(y=y, color=colour)
    tooltip = [
        alt.Tooltip("layer:Q"), alt.Tooltip("name:N", title="attention to"), alt.Tooltip("mean:Q", title="share", format=".1%"),
        alt.Tooltip("low:Q", title="interval from", format=".1%"), alt.Tooltip("high:Q", title="to", format=".1%"),
        alt.Tooltip("even:Q", title="if it were even", format=".1%"), alt.Tooltip("pictures:Q"),
    ]  # fmt: skip
    axis = alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1])
    bands = base.transform_filter(_KNOWN).mark_area(orient="horizontal", opacity=0.2).encode(x=alt.X("low:Q", **x, axis=axis), x2="high:Q")
    lines = base.mark_line(orient="horizontal", strokeWidth=2).encode(x=alt.X("mean:Q", **x), order="layer:Q")
    points = base.mark_point(size=40).encode(x=alt.X("mean:Q", **x), tooltip=tooltip)
    even = base.mark_line(orient="horizontal", strokeWidth=1.2, strokeDash=[4, 3]).encode(x=alt.X("even:Q", **x), order="layer:Q")
    hollow = alt.Chart(crossing).mark_point(shape="diamond", filled=False, size=70).encode(y=y, color=colour, x=alt.X("mean:Q", **x), tooltip=tooltip)
    return _fitted(alt.layer(even, bands, lines, points, *([hollow] if len(crossing) else [])), _height(rows["layer"].to_list()))


def head_shares(heads: pl.DataFrame) -> alt.Chart | None:
    """Share of every head's attention that goes to the image. None for an empty table, and for models with cross-attention, whose heads see it alone or not.

    Args:
        heads: the attention shares of heads table.
    """
    if not len(heads) or heads["crosses"].any():
        return None
    wide = heads.pivot("group", index=["layer", "head", "pictures"], values="mean", maintain_order=True)
    ends = heads.filter(pl.col("group") == "image").select("layer", "head", "low", "high")
    rows = theme.drawable(wide.join(ends, on=["layer", "head"], how="left"))
    y, x = grid_axes(rows)
    legend = alt.Legend(format=".0%")
    colour = alt.Color("image:Q", title="attention to the image, share", scale=alt.Scale(scheme=theme.MAGNITUDE, domain=[0, 1]), legend=legend)
    tooltip = [
        alt.Tooltip("layer:O"), alt.Tooltip("head:O"), *(alt.Tooltip(f"{group}:Q", title=f"to {name}", format=".1%") for group, name in NAMES.items()),
        alt.Tooltip("low:Q", title="image: interval from", format=".1%"), alt.Tooltip("high:Q", title="to", format=".1%"), alt.Tooltip("pictures:Q"),
    ]  # fmt: skip
    return _fitted(alt.Chart(rows).mark_rect(cornerRadius=2).encode(y=y, x=x, color=colour, tooltip=tooltip), grid_height(rows))


def layer_maps(maps: pl.DataFrame, examples: pl.DataFrame) -> alt.LayerChart | None:
    """What the words look at on each picture, layer by layer: pictures side by side, layers upward. None where no token's place is known.

    Every map is drawn to its own largest value: a map of outliers is dark but for a few places, a spread one is light all over.

    Args:
        maps: the attention maps table.
        examples: ``id`` and ``image`` (bytes) of its pictures.
    """
    known = maps.filter(pl.col("left").is_not_null().any().over("id"))
    names = known["id"].unique(maintain_order=True).to_list()[:MOST_PICTURES]
    if not names:
        return None
    pictures = dict(examples.filter(pl.col("id").is_in(names)).select("id", "image").iter_rows())
    layers = _some(known["layer"].unique().sort().to_list())
    images, texts, step = [], [], CELL + _LINE + _GAP
    for row, layer in enumerate(reversed(layers)):
        texts.append({"text": f"layer {layer}", "x": 0, "y": row * step + CELL / 2, "left": True})
        for column, name in enumerate(names):
            part = known.filter(pl.col("id") == name, pl.col("layer") == layer).sort("token")
            density, whole, x = _density(part, "attention", pictures[name]), f"{part['attention'].sum():.0%}", _MARGIN + column * (CELL + _GAP)
            url = _painted(pictures[name], density, float(density.max()) or 1.0, None, signed=False)
            images.append({"url": url, "x": x, "y": row * step, "what": f"layer {layer}", "example": name, "sum": whole})
            texts.append({"text": whole, "x": x + CELL / 2, "y": row * step + CELL + _LINE / 2, "left": False})
    bottom = len(layers) * step
    for column, name in enumerate(names):
        uri = data_uri(pictures[name], _SHARP * CELL)
        images.append({"url": uri, "x": _MARGIN + column * (CELL + _GAP), "y": bottom, "what": "picture", "example": name, "sum": ""})
    return _sheet(images, texts, _MARGIN + len(names) * (CELL + _GAP) - _GAP, bottom + CELL)


def layer_spread(means: pl.DataFrame, top: float = 0.01) -> alt.HConcatChart | None:
    """How far the maps are spread, by layer, with intervals over pictures; the rule is an even map. None for an empty table.

    Args:
        means: the mean spread of attention maps table.
        top: share of the image tokens that counts as the largest ones.
    """
    if not len(means):
        return None
    rows, layers, panels = theme.drawable(means), means["layer"].to_list(), []
    titles = {"effective": "effective number of image tokens, share of all", "top": f"attention on the top {100 * top:.3g} % of tokens, share of the image's"}
    for place, (measure, title) in enumerate(titles.items()):
        part = rows.filter(pl.col("measure") == measure)
        even = float(part["even"].mean() or 0.0)
        reach = 1.0 if measure == "effective" else 1.08 * max([even, *part["mean"].to_list(), *part["high"].drop_nulls().to_list()])
        scale, axis = alt.Scale(domain=[0, reach], nice=False), alt.Axis(format="%", tickCount=5)
        y = _layer_axis(layers, named=place == 0)
        base = alt.Chart(part).encode(y=y, color=alt.value(theme.ACCENT))
        tooltip = [
            alt.Tooltip("layer:Q"), alt.Tooltip("mean:Q", title=title, format=".1%"), alt.Tooltip("low:Q", title="interval from", format=".1%"),
            alt.Tooltip("high:Q", title="to", format=".1%"), alt.Tooltip("even:Q", title="of an even map", format=".1%"), alt.Tooltip("pictures:Q"),
        ]  # fmt: skip
        spans = base.transform_filter(_KNOWN).mark_rule(strokeWidth=3, opacity=0.4).encode(x=alt.X("low:Q", title=title, scale=scale, axis=axis), x2="high:Q")
        lines = base.mark_line(orient="horizontal", strokeWidth=1.6).encode(x=alt.X("mean:Q", title=title, scale=scale), order="layer:Q")
        points = base.mark_point(size=50).encode(x=alt.X("mean:Q", title=title, scale=scale), tooltip=tooltip)
        rule = theme.rule_x(even, "even", left=measure == "effective")
        panels.append(alt.layer(rule, spans, lines, points).properties(width=285, height=_height(layers) - 70))
    return alt.hconcat(*panels, spacing=24)


def _some(layers: Sequence[int]) -> list[int]:
    """At most MOST_LAYERS of them, evenly over the depth, the first and the last among them."""
    places = np.unique(np.rint(np.linspace(0, len(layers) - 1, min(len(layers), MOST_LAYERS))).astype(int))
    return [layers[place] for place in places]


def _group_colour(field: str) -> alt.Color:
    legend = alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1, labelLimit=260, title=_GROUPED, titleLimit=400)
    return alt.Color(field, scale=alt.Scale(domain=list(NAMES.values()), range=list(COLOURS.values())), legend=legend)


def _layer_axis(layers: Sequence[int], *, named: bool = True) -> alt.Y:
    found = sorted(set(layers)) or [0]
    ticks = alt.Axis(values=found[:: max(1, len(found) // 16)], format="d")
    return alt.Y("layer:Q", title=LAYER if named else None, scale=alt.Scale(domain=[found[0] - 0.3, found[-1] + 0.3], nice=False), axis=ticks)


def _height(layers: Sequence[int]) -> int:
    return max(LOWEST + 60, 130 + min(26 * len(set(layers)), 460))


def _sheet(images: list[dict], texts: list[dict], width: float, height: float) -> alt.LayerChart:
    """Pictures and words at their pixels, and the legend of what is painted."""
    x, y = alt.X("x:Q", scale=alt.Scale(domain=[0, width], nice=False), axis=None), alt.Y("y:Q", scale=alt.Scale(domain=[height, 0], nice=False), axis=None)
    frame = pl.DataFrame(images).with_columns(pl.col("x") + CELL / 2, pl.col("y") + CELL / 2)
    tooltip = [alt.Tooltip("what:N", title="shown"), alt.Tooltip("example:N"), alt.Tooltip("sum:N", title="attention to the image")]
    words = pl.DataFrame(texts)
    layers = [alt.Chart(frame).mark_image(width=CELL, height=CELL).encode(x=x, y=y, url="url:N", tooltip=tooltip)]
    for left, align in ((True, "left"), (False, "center")):
        mark = alt.Chart(words.filter(pl.col("left") == left)).mark_text(baseline="middle", align=align, color=theme.QUIET, fontSize=11)
        layers.append(mark.encode(x=x, y=y, text="text:N"))
    # Nothing is drawn by this layer: it brings the legend of what is painted.
    ends = pl.DataFrame({"x": [0.0, 0.0], "y": [0.0, 0.0], "value": [0.0, 1.0]})
    legend = alt.Legend(orient="bottom", direction="horizontal", titleLimit=660, values=[0, 0.5, 1])
    scale = alt.Scale(domain=[0, 1], range=list(_MAGNITUDE), interpolate="rgb")
    title = "attention on a place, share of the map's largest; below each map: the whole image's share"
    colour = alt.Color("value:Q", title=title, scale=scale, legend=legend)
    layers.append(alt.Chart(ends).mark_point(size=0, opacity=0).encode(x=x, y=y, color=colour))
    return alt.layer(*layers).properties(width=width, height=height, view=alt.ViewBackground(stroke=None))
