"""Attention weight against attribution."""

import altair as alt
import polars as pl

from headflow.charts import theme
from headflow.charts.heads import head_tooltip


def attention_scatter(heads: pl.DataFrame, even_share: float, unit: str = "logits", named: int = 6) -> alt.LayerChart:
    """Share of attention on the image against mean attribution, a point a head (``numbers.attention_by_head``).

    The dashed vertical rule is the share if attention were spread evenly over the prompt; the strongest heads are named.
    """
    rows = theme.drawable(heads)
    y = alt.Y("mean:Q", title=f"mean attribution, {unit}")
    reach = min(1.0, 1.05 * max(float(rows["attention"].max() or 0.0), even_share))
    x = alt.X(
        "attention:Q",
        title="attention of the last prompt token on the picture, share of its total",
        axis=alt.Axis(format=".0%"),
        scale=alt.Scale(domain=[0, reach]),
    )
    base = alt.Chart(rows).encode(x=x, y=y)
    tooltip = [*head_tooltip(unit), alt.Tooltip("attention:Q", title="attention on the picture", format=".1%")]
    points = base.mark_point(size=60, opacity=0.9).encode(
        color=alt.Color("layer:Q", title="layer", scale=alt.Scale(scheme=theme.MAGNITUDE), legend=alt.Legend(gradientLength=140, format="d")), tooltip=tooltip
    )
    spans = base.mark_rule(opacity=0.35, color=theme.QUIET).encode(y=alt.Y("low:Q", title=f"mean attribution, {unit}"), y2="high:Q")
    names = [_names(part, side) for side, part in _apart(rows, reach, named).group_by("side") if part.height]
    layers = alt.layer(theme.rule_y(0), theme.rule_x(even_share, "evenly spread", left=even_share > 0.7 * reach), spans, points, *names)
    return layers.properties(width=theme.WIDTH, height=380, autosize=alt.AutoSizeParams(type="fit", contains="padding"))


def _apart(rows: pl.DataFrame, reach: float, most: int) -> pl.DataFrame:
    """The strongest heads whose names do not run into one another, with the ``side`` of the point where there is room."""
    height = float((rows["mean"].max() or 0.0) - (rows["mean"].min() or 0.0)) or 1.0
    kept: list[dict] = []
    for row in rows.drop_nulls(["mean", "attention"]).sort(pl.col("mean").abs(), descending=True).head(2 * most).iter_rows(named=True):
        if all(abs(row["attention"] - other["attention"]) > reach / 7 or abs(row["mean"] - other["mean"]) > height / 20 for other in kept):
            kept.append(row)
    return pl.DataFrame(kept[:most], schema=rows.schema).with_columns(
        pl.when(pl.col("attention") > reach / 8).then(pl.lit("left")).otherwise(pl.lit("right")).alias("side")
    )


def _names(part: pl.DataFrame, side: tuple) -> alt.Chart:
    left = side[0] == "left"
    mark = alt.Chart(part).mark_text(align="right" if left else "left", dx=-8 if left else 8, color=theme.QUIET)
    return mark.encode(x="attention:Q", y="mean:Q", text="name_of_head:N")
