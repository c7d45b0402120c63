"""Pairs of heads that compensate for or need each other."""

import altair as alt
import polars as pl

from headflow.charts import numbers, theme
from headflow.charts.heads import grid_axes, grid_height

MOST_PAIRS = 20
MOST_EXAMPLES = 300
KINDS = {"compensate": "#2166ac", "need each other": "#e08214", "unclear": theme.RULE}
"""The ends of the signed scale: blue below zero, orange above; what is unclear is grey."""


def top_pairs(table: pl.DataFrame, unit: str = "logits") -> alt.LayerChart:
    """The largest pairs with their intervals: clear ones first, at most MOST_PAIRS."""
    rows = table.with_columns(
        (pl.col("kind") == "unclear").alias("doubtful"),
        pl.format("L{} H{} – L{} H{}", "layer", "head", "other_layer", "other_head").alias("pair"),
    )
    rows = theme.drawable(rows.sort(["doubtful", pl.col("effect").abs()], descending=[False, True], maintain_order=True).head(MOST_PAIRS))
    title = f"interaction, {unit} (below zero: either suffices; above: both are needed)"
    base = alt.Chart(rows).encode(y=alt.Y("pair:N", title=None, scale=alt.Scale(domain=rows["pair"].to_list()), axis=alt.Axis(labelLimit=160)))
    colour = alt.Color("kind:N", title=None, scale=_scale(), legend=_legend(symbolType="circle"))
    spans = base.mark_rule(strokeWidth=2.5, opacity=0.55).encode(x=alt.X("low:Q", title=title, scale=alt.Scale(padding=8)), x2="high:Q", color=colour)
    dots = base.mark_point(size=80).encode(
        x=alt.X("effect:Q", title=title),
        color=colour,
        tooltip=["pair:N", "kind:N", alt.Tooltip("effect:Q", title=f"interaction, {unit}", format="+.3f"), alt.Tooltip("low:Q", format="+.3f"),
                 alt.Tooltip("high:Q", format="+.3f"), alt.Tooltip("q:Q", format=".3f"),
                 alt.Tooltip("same_sign:Q", title="examples of that sign", format=".0%")],
    )  # fmt: skip
    return (theme.rule_x(0.0) + spans + dots).properties(
        width=theme.WIDTH, height=90 + 19 * max(1, rows.height), autosize=alt.AutoSizeParams(type="fit", contains="padding")
    )


def pair_grid(table: pl.DataFrame, head_summary: pl.DataFrame) -> alt.LayerChart:
    """Every clear pair as a line between its two heads in the grid of layers and heads; thicker = larger."""
    everywhere = head_summary.filter(pl.col("group") == "all").select("layer", "head")
    found = theme.drawable(table.filter(pl.col("kind") != "unclear").with_columns(pl.col("effect").abs().alias("size")))
    ends = pl.concat([found.select("layer", "head"), found.select(pl.col("other_layer").alias("layer"), pl.col("other_head").alias("head"))]).unique(
        maintain_order=True
    )
    y, x = grid_axes(everywhere)
    cells = alt.Chart(everywhere).mark_rect(cornerRadius=2, color=theme.FAINT).encode(y=y, x=x, tooltip=["layer:O", "head:O"])
    dots = alt.Chart(ends).mark_circle(size=60, color=theme.INK, opacity=1).encode(y=y, x=x, tooltip=["layer:O", "head:O"])
    lines = (
        alt.Chart(found)
        .mark_rule(opacity=0.8, strokeCap="round")
        .encode(
            y=y,
            x=x,
            y2="other_layer:O",
            x2="other_head:O",
            color=alt.Color("kind:N", title=None, scale=_scale(), legend=_legend(values=list(KINDS)[:2], symbolStrokeWidth=3)),
            strokeWidth=alt.StrokeWidth("size:Q", scale=alt.Scale(range=[1.5, 6], domainMin=0), legend=None),
            tooltip=["layer:O", "head:O", "other_layer:O", "other_head:O", "kind:N", alt.Tooltip("effect:Q", format="+.3f"), alt.Tooltip("q:Q", format=".3f")],
        )
    )
    return (cells + lines + dots).properties(width=theme.WIDTH, height=grid_height(everywhere), autosize=alt.AutoSizeParams(type="fit", contains="padding"))


def pair_fits(fits: pl.DataFrame, pictures: pl.DataFrame) -> alt.LayerChart:
    """Held-out correlation of each example without the pairs and with them: above the dashed line they help.

    Args:
        fits: the interaction fits table.
        pictures: ``id`` and ``image`` (a data URI), shown on hover.
    """
    known = fits.filter(pl.col("held_out_r").is_finite() & pl.col("held_out_r_pairs").is_finite()).sort("id")
    rows = theme.drawable(numbers.thinned(known, MOST_EXAMPLES))
    values = [value for name in ("held_out_r", "held_out_r_pairs") for value in rows[name].to_list()] or [0.0]
    scale = alt.Scale(domain=[min(values), 1.0], nice=True, zero=False)
    ends = alt.Chart(pl.DataFrame({"x": [min(values), 1.0]})).mark_line(color=theme.INK, strokeDash=[4, 3], strokeWidth=1)
    same = ends.encode(x=alt.X("x:Q", scale=scale), y=alt.Y("x:Q", scale=scale))
    shown = pictures.filter(pl.col("id").is_in(rows["id"].to_list()))
    dots = (
        alt.Chart(rows)
        .transform_lookup("id", from_=alt.LookupData(data=shown, key="id", fields=["image"]))
        .mark_point(size=50, color=theme.ACCENT, opacity=0.75)
        .encode(
            x=alt.X("held_out_r:Q", title="held-out r of the sum over heads", scale=scale),
            y=alt.Y("held_out_r_pairs:Q", title="held-out r with the pairs added", scale=scale),
            tooltip=[alt.Tooltip("id:N", title="title"), "image:N", alt.Tooltip("held_out_r:Q", title="without pairs", format=".4f"),
                     alt.Tooltip("held_out_r_pairs:Q", title="with pairs", format=".4f")],
        )
    )  # fmt: skip
    return (same + dots).properties(
        width=theme.WIDTH, height=330, autosize=alt.AutoSizeParams(type="fit", contains="padding"), title="A dot an example (dashed: no difference)"
    )


def _scale() -> alt.Scale:
    return alt.Scale(domain=list(KINDS), range=list(KINDS.values()))


def _legend(**options: object) -> alt.Legend:
    return alt.Legend(orient="top", direction="horizontal", symbolOpacity=1, **options)
