"""Cutting heads one at a time against cutting many at once."""

import altair as alt
import polars as pl

from headflow.charts import numbers, theme
from headflow.charts.heads import head_tooltip

NAMES = {"total": "all heads cut at once", "attributions": "sum of attributions", "singles": "sum of single-head effects"}


def effect_sums(attributions: pl.DataFrame, fits: pl.DataFrame, head_summary: pl.DataFrame, confidence: float = 0.95, unit: str = "logits") -> alt.HConcatChart:
    """Left: fall of the target by three accounts, mean over examples with intervals. Right: the same two accounts head by head."""
    sums = numbers.effect_sums(attributions, fits)
    rows = [
        {"account": label, **dict(zip(("mean", "low", "high"), numbers.interval(sums[column].drop_nulls().to_numpy(), confidence), strict=True))}
        for column, label in NAMES.items()
    ]
    bars = theme.drawable(pl.DataFrame(rows, schema={"account": pl.String, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}))
    x = alt.X("mean:Q", title=f"fall of the target, {unit}")
    base = alt.Chart(bars).encode(
        y=alt.Y("account:N", sort=list(NAMES.values()), title=None, axis=alt.Axis(labelLimit=190)),
        tooltip=[
            "account:N",
            alt.Tooltip("mean:Q", format=".3f"),
            alt.Tooltip("low:Q", title="interval from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
        ],
    )
    colour = alt.Color("account:N", scale=alt.Scale(domain=list(NAMES.values()), range=["#9aa3ab", theme.ACCENT, "#a9cbe0"]), legend=None)
    total = bars["mean"][0]
    stock = theme.rule_x(total) if total is not None else theme.rule_x(0)
    left = base.mark_bar(height=24).encode(x=x, color=colour) + base.mark_rule(color=theme.INK, strokeWidth=1.4).encode(x="low:Q", x2="high:Q") + stock
    return alt.hconcat(left.properties(width=225, height=240, title="All heads together"), _per_head(head_summary, unit), spacing=24)


def _per_head(head_summary: pl.DataFrame, unit: str) -> alt.LayerChart:
    rows = theme.drawable(numbers.overall(head_summary))
    known = [value for column in ("mean", "single_mean") for value in rows[column].drop_nulls().to_list()] or [0.0, 1.0]
    low, high = min(0.0, *known), max(0.0, *known)
    ends = pl.DataFrame({"x": [low, high], "y": [low, high]})
    same = alt.Chart(ends).mark_line(color=theme.RULE, strokeDash=[4, 3], strokeWidth=1).encode(x="x:Q", y="y:Q")
    points = (
        alt.Chart(rows)
        .mark_point(size=48, opacity=0.9)
        .encode(
            x=alt.X("mean:Q", title=f"attribution (many heads cut), {unit}", axis=alt.Axis(tickCount=5)),
            y=alt.Y("single_mean:Q", title=f"effect when cut alone, {unit}"),
            color=alt.Color("layer:Q", title="layer", scale=alt.Scale(scheme=theme.MAGNITUDE), legend=alt.Legend(gradientLength=110, format="d")),
            tooltip=head_tooltip(unit),
        )
    )
    return (theme.rule_x(0) + theme.rule_y(0) + same + points).properties(width=225, height=240, title="Each head (dashed: the same either way)")
