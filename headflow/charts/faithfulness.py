"""Rankings of heads put to the test: how soon their first heads carry the effect, and how soon it is lost without them."""

import altair as alt
import numpy as np
import polars as pl

from headflow.charts import theme

NAMES = {
    "attribution": "head attribution", "ablation": "cut alone", "restoration": "kept alone", "attention": "attention",
    "gradient": "gradient", "integrated": "integrated gradients", "random": "random order",
}  # fmt: skip
"""Rankings as figures and sentences call them."""

COLOURS = dict(zip(NAMES, ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a929b"), strict=True))
"""A colour a ranking, on every page; chance is grey."""

PANELS = {"faithfulness": "Faithfulness: only the first heads intact", "completeness": "Completeness: only the first heads cut"}
SCOPES = {"own": "each example's own order", "shared": "one order for all examples"}
MOST_POINTS = 150
_APART = 0.06
"""A curve is named beside it where it is this far from all others, in units of the y axis."""
_LINE, _LETTER = 0.075, 0.024
"""Room that a name takes: its height in units of the y axis, a letter's width in units of the x axis."""


def faithfulness_curves(curve_bands: pl.DataFrame, scope: str = "own") -> alt.HConcatChart:
    """Both measures against the share of heads, a line a ranking with its interval over examples; dashed: a straight line."""
    rows = curve_bands.filter(pl.col("scope") == scope)
    names = [name for name in NAMES if name in set(rows["ranking"])]
    panels = [_curves(rows.filter(pl.col("measure") == measure), names, title) for measure, title in PANELS.items()]
    return alt.hconcat(*panels, spacing=36)


def faithfulness_areas(area_summary: pl.DataFrame) -> alt.HConcatChart:
    """Area under each curve with its interval over examples: a circle for each example's own order, a diamond for one order for all."""
    names = [name for name in NAMES if name in set(area_summary["ranking"])]
    own = area_summary.filter(pl.col("scope") == "own", pl.col("measure") == "faithfulness").sort("area", descending=True, nulls_last=True)
    order = [NAMES[name] for name in own["ranking"]]
    parts = [(title, area_summary.filter(pl.col("measure") == measure)) for measure, title in PANELS.items()]
    return alt.hconcat(*(_areas(part, order, names, title, first=place == 0) for place, (title, part) in enumerate(parts)), spacing=20)


def _curves(rows: pl.DataFrame, names: list[str], title: str) -> alt.LayerChart:
    ks = np.array(rows["heads"].unique().sort())
    if len(ks) > MOST_POINTS:  # no eye sees more
        rows = rows.filter(pl.col("heads").is_in(ks[np.linspace(0, len(ks) - 1, MOST_POINTS).round().astype(int)].tolist()))
    rows = theme.drawable(rows)
    domain = [min(0.0, float(rows["mean"].min() or 0.0)), max(1.0, float(rows["mean"].max() or 1.0))]
    y_scale = alt.Scale(domain=domain, nice=False, clamp=True)
    x = alt.X("share:Q", title="first heads, share of all", axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(domain=[0, 1], nice=False))
    base = alt.Chart(_named(rows)).encode(x=x, color=_colour(names, legend=True))
    y_title = "share of the effect of all heads"
    tooltip = [
        alt.Tooltip("name:N", title="ranking"), alt.Tooltip("heads:Q", title="first heads"), alt.Tooltip("mean:Q", title="share of the effect", format=".3f"),
        alt.Tooltip("low:Q", title="interval from", format=".3f"), alt.Tooltip("high:Q", title="to", format=".3f"), alt.Tooltip("examples:Q"),
    ]  # fmt: skip
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=y_title, scale=y_scale), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=alt.Y("mean:Q", title=y_title, axis=alt.Axis(format="%"), scale=y_scale), tooltip=tooltip)
    even = alt.Chart(pl.DataFrame({"x": [0.0, 1.0]})).mark_line(color=theme.RULE, strokeDash=[4, 3], strokeWidth=1).encode(x="x:Q", y="x:Q")
    labels = alt.Chart(_labels(rows, names)).encode(x="share:Q", y="mean:Q", text="name:N")
    halo = labels.mark_text(align="left", baseline="top", dx=5, dy=3, stroke="#ffffff", strokeWidth=4)
    text = labels.mark_text(align="left", baseline="top", dx=5, dy=3).encode(color=_colour(names, legend=True))
    return alt.layer(even, band, line, halo, text).properties(width=290, height=290, title=title)


def _labels(rows: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Where names can stand: right below their curves, as far from the others as can be, and over none; curves that run together have no such place."""
    found: list[tuple[str, float, float]] = []
    known = rows.drop_nulls("mean")
    if known.is_empty():
        return pl.DataFrame(schema={"name": pl.String, "share": pl.Float64, "mean": pl.Float64})
    shares = np.linspace(0, 1, 201)
    curves = {name: np.interp(shares, *known.filter(pl.col("ranking") == name).sort("share").select("share", "mean").to_numpy().T) for name in names}
    for name, curve in curves.items():
        others = [other for key, other in curves.items() if key != name]
        free = np.min([np.abs(curve - other) for other in others], axis=0) if others else np.ones_like(curve)
        for place, (share, value) in enumerate(zip(shares, curve, strict=True)):
            right = share + _LETTER * len(NAMES[name])
            under = (shares > share + 0.015) & (shares < right)
            hit = right > 1 or value < _LINE or any(((c[under] > value - _LINE) & (c[under] < value - 0.005)).any() for c in curves.values())
            hit = hit or any(abs(share - x) < 0.3 and abs(value - y) < _LINE for _, x, y in found)
            free[place] = 0.0 if hit else free[place]
        best = int(np.argmax(free))
        if free[best] >= _APART:
            found.append((NAMES[name], float(shares[best]), float(curve[best])))
    return pl.DataFrame(found, schema={"name": pl.String, "share": pl.Float64, "mean": pl.Float64}, orient="row")


def _areas(rows: pl.DataFrame, order: list[str], names: list[str], title: str, *, first: bool) -> alt.LayerChart:
    rows = _named(theme.drawable(rows)).with_columns(pl.col("scope").replace_strict(SCOPES))
    ends = [float(value) for column in ("area", "low", "high") for value in rows[column].drop_nulls()] or [0.0, 1.0]
    scale = alt.Scale(domain=[min(0.45, min(ends) - 0.03), max([1.0, *(end + 0.02 for end in ends)])], nice=False, zero=False)
    x = alt.X("area:Q", title="area under the curve", scale=scale, axis=alt.Axis(tickCount=5))
    y = alt.Y("name:N", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(labelLimit=190) if first else None)
    shift = alt.YOffset("scope:N", scale=alt.Scale(domain=list(SCOPES.values()), paddingOuter=0.6))
    base = alt.Chart(rows).encode(y=y, yOffset=shift, color=_colour(names))
    spans = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title="area under the curve", scale=scale), x2="high:Q")
    shapes = alt.Scale(domain=list(SCOPES.values()), range=["circle", "diamond"])
    legend = alt.Legend(orient="top", labelLimit=260, symbolFillColor=theme.QUIET, symbolStrokeColor=theme.QUIET)
    tooltip = [
        alt.Tooltip("name:N", title="ranking"), alt.Tooltip("scope:N", title="order"), alt.Tooltip("area:Q", format=".4f"),
        alt.Tooltip("low:Q", title="interval from", format=".4f"), alt.Tooltip("high:Q", title="to", format=".4f"),
        alt.Tooltip("heads:Q", title="heads needed, mean", format=".1f"), alt.Tooltip("of:Q", title="of"), alt.Tooltip("examples:Q"),
    ]  # fmt: skip
    points = base.mark_point(size=45).encode(x=x, shape=alt.Shape("scope:N", title=None, scale=shapes, legend=legend), tooltip=tooltip)
    return alt.layer(theme.rule_x(0.5, "straight line"), spans, points).properties(width=250, height=max(80, 36 * len(order)), title=title)


def _named(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("ranking").replace_strict(NAMES).alias("name"))


def _colour(names: list[str], legend: bool = False) -> alt.Color:
    scale = alt.Scale(domain=[NAMES[name] for name in names], range=[COLOURS[name] for name in names])
    shape = alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1, columns=7, labelLimit=260) if legend else None
    return alt.Color("name:N", title=None, scale=scale, legend=shape)
