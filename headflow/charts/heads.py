"""Figures of attribution per head and per layer."""

import altair as alt
import polars as pl

from headflow.charts import numbers, theme

LOWEST = 230
"""Height below which an axis title or a legend would be cut off, pixels."""
LAYER, HEAD = "layer (0 = nearest the input)", "head in its layer"


def grid_axes(frame: pl.DataFrame) -> tuple[alt.Y, alt.X]:
    """Layer up the y axis, head along x: the same for every layer × head grid. Layers that are not in ``frame`` read no picture and get no row."""
    layers, heads = sorted(frame["layer"].unique().to_list()), range(int(frame["head"].max() or 0) + 1)
    band = alt.Scale(domain=list(heads), paddingInner=0.1, paddingOuter=0.05)
    y = alt.Y("layer:O", title=LAYER, sort=None, scale=alt.Scale(domain=list(reversed(layers)), paddingInner=0.1, paddingOuter=0.05))
    x = alt.X("head:O", title=HEAD, scale=band, axis=alt.Axis(labelAngle=0, labelOverlap="greedy"))
    return y, x


def grid_height(frame: pl.DataFrame) -> int:
    """Height of a layer × head grid, pixels: roomy for few layers, but never too low for the axis title and the legend; bounded for many."""
    layers = max(1, frame["layer"].n_unique())
    return max(LOWEST, 60 + layers * max(12, min(40, 560 // layers)))


def head_tooltip(unit: str) -> list[alt.Tooltip]:
    """What hovering over a head tells."""
    return [
        alt.Tooltip("layer:O"), alt.Tooltip("head:O"),
        alt.Tooltip("mean:Q", title=f"mean attribution, {unit}", format="+.3f"),
        alt.Tooltip("low:Q", title="interval from", format="+.3f"),
        alt.Tooltip("high:Q", title="to", format="+.3f"),
        alt.Tooltip("single_mean:Q", title=f"effect when cut alone, {unit}", format="+.3f"),
        alt.Tooltip("examples:Q", title="examples"),
    ]  # fmt: skip


def head_grid(head_summary: pl.DataFrame, unit: str = "logits") -> alt.LayerChart:
    """Mean attribution of every head; heads whose interval excludes zero are outlined."""
    rows = theme.drawable(numbers.overall(head_summary))
    y, x = grid_axes(rows)
    base = alt.Chart(rows).encode(y=y, x=x, tooltip=head_tooltip(unit))
    cells = base.mark_rect(cornerRadius=2).encode(color=theme.signed("mean", rows, f"mean attribution, {unit}"))
    outlined = base.mark_rect(cornerRadius=2, filled=False, stroke=theme.INK, strokeWidth=1.4).transform_filter("datum.clear")
    return _fitted(cells + outlined, grid_height(rows))


def top_heads(head_summary: pl.DataFrame, unit: str = "logits", count: int = 12) -> alt.LayerChart:
    """The heads of largest absolute mean attribution, each with its interval; a hollow mark is its effect when cut alone."""
    rows = theme.drawable(numbers.strongest(head_summary, count))
    order = rows["name_of_head"].to_list()
    base = alt.Chart(rows).encode(y=alt.Y("name_of_head:N", sort=order, title="layer and head"), tooltip=head_tooltip(unit))
    spans = base.mark_rule(strokeWidth=2, color=theme.ACCENT).encode(x=alt.X("low:Q", title=f"attribution, {unit}", scale=alt.Scale(zero=True)), x2="high:Q")
    keys = {"mean": "mean attribution", "single_mean": "effect when cut alone"}
    shade = alt.Scale(domain=list(keys.values()), range=[theme.ACCENT, "#ffffff"])
    long = rows.unpivot(list(keys), index=["name_of_head", "layer", "head", "low", "high", "examples"], variable_name="measure", value_name="value")
    long = long.with_columns(pl.col("measure").replace_strict(keys)).drop_nulls("value")
    marks = (
        alt.Chart(long)
        .mark_point(size=75, strokeWidth=1.6)
        .encode(
            y=alt.Y("name_of_head:N", sort=order),
            x="value:Q",
            stroke=alt.value(theme.ACCENT),
            fill=alt.Fill("measure:N", title=None, scale=shade, legend=alt.Legend(orient="top")),
            tooltip=[alt.Tooltip("name_of_head:N", title="head"), alt.Tooltip("measure:N"), alt.Tooltip("value:Q", title=unit, format="+.3f"),
                     alt.Tooltip("low:Q", title="interval from", format="+.3f"), alt.Tooltip("high:Q", title="to", format="+.3f"), alt.Tooltip("examples:Q")],
        )
    )  # fmt: skip
    return _fitted(theme.rule_x(0) + spans + marks, 70 + 26 * rows.height)


def layer_profile(attributions: pl.DataFrame, confidence: float = 0.95, unit: str = "logits") -> alt.LayerChart:
    """Attribution summed over each layer's heads: mean over examples with its interval, as a band where layers follow one another, else as bars."""
    rows = theme.drawable(numbers.layer_sums(attributions, confidence))
    layers = rows["layer"].to_list() or [0]
    ticks = layers[:: max(1, len(layers) // 16)]
    y = alt.Y("layer:Q", title=LAYER, scale=alt.Scale(domain=[layers[0] - 0.3, layers[-1] + 0.3], nice=False), axis=alt.Axis(values=ticks, format="d"))
    tooltip = [alt.Tooltip("layer:Q"), alt.Tooltip("mean:Q", title=f"sum over heads, {unit}", format="+.3f"),
               alt.Tooltip("low:Q", title="interval from", format="+.3f"), alt.Tooltip("high:Q", title="to", format="+.3f")]  # fmt: skip
    base = alt.Chart(rows).encode(y=y, tooltip=tooltip)
    x = alt.X("low:Q", title=f"attribution of the whole layer, {unit}")
    if numbers.neighbours(layers):
        spans = base.mark_area(orient="horizontal", opacity=0.22, color=theme.ACCENT).encode(x=x, x2="high:Q")
        means = base.mark_line(orient="horizontal", color=theme.ACCENT, point={"color": theme.ACCENT, "size": 60}).encode(x="mean:Q", order="layer:Q")
    else:
        spans = base.mark_rule(strokeWidth=2, color=theme.ACCENT).encode(x=x, x2="high:Q")
        means = base.mark_point(color=theme.ACCENT, size=60).encode(x="mean:Q")
    return _fitted(theme.rule_x(0) + spans + means, max(LOWEST, 110 + min(26 * len(layers), 420)))


def _fitted(chart: alt.LayerChart, height: int) -> alt.LayerChart:
    """``chart`` at the common outer width, labels and legends included."""
    return chart.properties(width=theme.WIDTH, height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding"))
