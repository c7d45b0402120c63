"""Attention weight against attribution."""

import altair as alt
import polars as pl

from headflow.charts import theme
from headflow.charts.heads import head_tooltip

PLOT = (560, 320)
"""Width and height inside the axes, pixels, about: for finding room for names."""


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
    names = [_names(part, side) for side, part in _apart(rows, reach, named).group_by("side", maintain_order=True) if part.height]
    layers = alt.layer(theme.rule_y(0), theme.rule_x(even_share, "evenly spread", left=even_share > 0.7 * reach), spans, points, *names)
    return layers.properties(width=theme.WIDTH, height=380, autosize=alt.AutoSizeParams(type="fit", contains="padding"))


def _apart(rows: pl.DataFrame, reach: float, most: int) -> pl.DataFrame:
    """The strongest heads that have room for a name beside them, clear of points and of other names, with the ``side`` where it is."""
    known = rows.drop_nulls(["mean", "attention"])
    ends = [value for name in ("mean", "low", "high") for value in known[name].drop_nulls().to_list()]
    across, up = PLOT[0] / reach, PLOT[1] / ((max(ends) - min(ends)) or 1.0) if ends else 1.0  # pixels a unit
    points = [(row["attention"] * across, row["mean"] * up) for row in known.iter_rows(named=True)]
    kept, taken = [], []
    for row in known.sort(pl.col("mean").abs(), descending=True).head(2 * most).iter_rows(named=True):
        x, y, width = row["attention"] * across, row["mean"] * up, 7 * len(row["name_of_head"])
        for side, start in (("left", x - 8 - width), ("right", x + 8)):
            stop = start + width
            free = start >= 0 and stop <= PLOT[0] and not any(start - 5 < px < stop + 5 and abs(py - y) < 11 for px, py in points)
            if free and not any(start < right and left < stop and abs(y - height) < 14 for left, right, height in taken):
                kept.append(row | {"side": side})
                taken.append((start, stop, y))
                break
    return pl.DataFrame(kept[:most], schema={**rows.schema, "side": pl.String})


def _names(part: pl.DataFrame, side: tuple) -> alt.Chart:
    left = side[0] == "left"
    mark = alt.Chart(part).mark_text(align="right" if left else "left", dx=-8 if left else 8, color=theme.QUIET)
    return mark.encode(x="attention:Q", y="mean:Q", text="name_of_head:N")
