"""Planted circuits, whose truth is known: what each ranking of heads finds and how far off its values are."""

import altair as alt
import polars as pl

from headflow.charts import theme
from headflow.charts.faithfulness import NAMES

CIRCUITS = {
    "additive": "heads that add up", "redundant": "either of two suffices", "joint": "two are both needed", "chain": "by way of the role token",
    "decoy": "lookers that say nothing", "cancelled": "taken back later", "category": "by category",
}  # fmt: skip
"""Circuits as figures and sentences call them."""

_CELL, _ROW = 34, 30


def planted_found(scores: pl.DataFrame) -> alt.HConcatChart:
    """By circuit and ranking: the share of the carrying heads among as many first heads, and the relative error of the values."""
    rows = scores.with_columns(pl.col("circuit").replace_strict(CIRCUITS).alias("planted"), pl.col("ranking").replace_strict(NAMES).alias("name"))
    in_logits = rows.filter(pl.col("relative_error").is_not_null())
    found = _panel(rows, "recall", "Carrying heads found", "share found", ".0%", first=True, reverse=False)
    # Beyond 1 an estimate is worse than saying that no head does anything.
    error = _panel(in_logits, "relative_error", "Relative error of the values", "error", ".2f", first=False, reverse=True)
    return alt.hconcat(found, error, spacing=20).resolve_scale(color="independent")


def _panel(rows: pl.DataFrame, field: str, title: str, short: str, digits: str, *, first: bool, reverse: bool) -> alt.LayerChart:
    rows = theme.drawable(rows)
    columns = [name for key, name in NAMES.items() if key in set(rows["ranking"])]
    order = [name for key, name in CIRCUITS.items() if key in set(rows["circuit"])]
    x = alt.X("name:N", title=None, sort=columns, axis=alt.Axis(orient="top", labelAngle=-40, labelLimit=150))
    y = alt.Y("planted:N", title=None, sort=order, axis=alt.Axis(labelLimit=220) if first else None)
    tooltip = [
        alt.Tooltip("planted:N", title="planted"), alt.Tooltip("name:N", title="ranking"), alt.Tooltip("recall:Q", title="carriers found", format=".0%"),
        alt.Tooltip("relative_error:Q", title="relative error", format=".4f"), alt.Tooltip("largest_error:Q", title="largest error, logits", format=".4f"),
        alt.Tooltip("rank_correlation:Q", title="rank correlation", format=".3f"), alt.Tooltip("examples:Q"),
    ]  # fmt: skip
    shade = alt.Color(f"{field}:Q", legend=None, scale=alt.Scale(scheme=theme.MAGNITUDE, domain=[0, 1], clamp=True, reverse=reverse))
    base = alt.Chart(rows).encode(x=x, y=y, tooltip=tooltip)
    light = f"datum.{field} < 0.6" if reverse else f"datum.{field} > 0.4"
    ink = alt.condition(light, alt.value(theme.INK), alt.value("#ffffff"))
    cells = base.mark_rect(cornerRadius=2).encode(color=shade)
    text = base.mark_text(fontSize=10).encode(text=alt.Text(f"{field}:Q", format=digits), color=ink)
    return alt.layer(cells, text).properties(width=_CELL * max(1, len(columns)), height=_ROW * max(1, len(order)), title=title)
