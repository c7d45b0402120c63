"""What ablated heads read: the same heads under every baseline, how far the baselines agree, and what each does to the model."""

import altair as alt
import polars as pl

from headflow.charts import theme
from headflow.charts.heads import grid_axes

READ = {"mean": "the mean picture", "blank": "a grey picture", "swap": "another picture", "closed": "nothing"}
"""What ablated heads read under each baseline."""

COLOURS = {"mean": "#0072b2", "blank": "#56b4e9", "swap": "#d55e00", "closed": "#4d4d4d"}
"""A colour a baseline, on every page."""

DEPARTURE = ("held_out_r", "candidate")
"""Measures of how far a baseline throws the model off."""

_ROW = 27
_UP, _DOWN = -5, 5
"""Two estimates share a row: one a little above its middle, one below; pixels."""


def baselines(heads: pl.DataFrame, agreement: pl.DataFrame, summary: pl.DataFrame, unit: str = "logits") -> alt.VConcatChart:
    """Above: mean attribution of every head under each baseline, on one scale. Below: agreement of every two; fall of the target; departure.

    Args:
        heads, agreement, summary: tables BASELINE_HEADS, BASELINE_AGREEMENT and BASELINE_SUMMARY of one run.
        unit: of the target.
    """
    kinds = heads["baseline"].unique(maintain_order=True).to_list()
    below = [_fall(summary, kinds, unit)]
    if summary["measure"].is_in(DEPARTURE).any():
        below.append(_departure(summary, kinds))
    if agreement["r"].drop_nulls().len():
        below.insert(0, _agreement(agreement))
    return alt.vconcat(_grids(heads, kinds, unit), alt.hconcat(*below, spacing=16), spacing=22)


def _grids(heads: pl.DataFrame, kinds: list[str], unit: str) -> alt.FacetChart:
    clear = ((pl.col("low") > 0) | (pl.col("high") < 0)).fill_null(False)
    titles = {}
    for kind in kinds:
        number = int(heads.filter(pl.col("baseline") == kind)["examples"][0])
        titles[kind] = f"{kind} ({number:,} {'example' if number == 1 else 'examples'})|reads {READ[kind]}"
    rows = theme.drawable(heads.with_columns(clear.alias("clear"), pl.col("baseline").replace_strict(titles, return_dtype=pl.String).alias("reads")))
    y, x = grid_axes(rows)
    x.axis = alt.Axis(labelAngle=0, labelOverlap="greedy", labelSeparation=4)
    tooltip = [
        alt.Tooltip("baseline:N"), alt.Tooltip("layer:O"), alt.Tooltip("head:O"),
        alt.Tooltip("mean:Q", title=f"mean attribution, {unit}", format="+.3f"),
        alt.Tooltip("low:Q", title="interval from", format="+.3f"), alt.Tooltip("high:Q", title="to", format="+.3f"),
    ]  # fmt: skip
    colour = theme.signed("mean", rows, f"mean attribution, {unit}", orient="top", direction="horizontal", titleOrient="left", titleLimit=320)
    base = alt.Chart().encode(y=y, x=x, tooltip=tooltip)
    cells = base.mark_rect(cornerRadius=1.5).encode(color=colour)
    outlined = base.mark_rect(cornerRadius=1.5, filled=False, stroke=theme.INK, strokeWidth=1).transform_filter("datum.clear")
    layers = rows["layer"].n_unique() or 1
    panel = alt.layer(cells, outlined, data=rows).properties(width=_width(len(kinds)), height=max(110, min(320, 22 * layers)))
    header = alt.Header(labelExpr="split(datum.label, '|')", labelPadding=14, labelLineHeight=14)
    return panel.facet(column=alt.Column("reads:N", title=None, sort=list(titles.values()), header=header), spacing=12)


def _width(panels: int) -> int:
    """Inner width of one of several grids that together fill the page."""
    return max(60, min(260, (theme.WIDTH - 86 - 12 * (panels - 1)) // max(1, panels)))


def _agreement(agreement: pl.DataFrame) -> alt.LayerChart:
    """A circle: r over heads, the tick beside it as far as noise allows; a diamond: share of the largest heads in common."""
    pairs = theme.drawable(agreement.drop_nulls("r")).sort("r", descending=True).with_columns(pl.format("{}, {}", "baseline", "other").alias("pair"))
    top = int(pairs["top"][0])
    ends = [float(value) for column in ("r", "low") for value in pairs[column].drop_nulls()]
    title = ["dot: r over heads", f"diamond: share of the {top} largest in common" if top > 1 else "diamond: share with the same largest head"]
    x = {"title": title, "scale": alt.Scale(domain=[min(0.0, *ends), 1.0], nice=False)}
    y = alt.Y("pair:N", title=None, scale=alt.Scale(domain=pairs["pair"].to_list()))
    base, common = alt.Chart(pairs).encode(y=y), alt.Chart(pairs.drop_nulls("overlap")).encode(y=y)
    tooltip = [
        alt.Tooltip("pair:N", title="baselines"), alt.Tooltip("r:Q", format=".3f"), alt.Tooltip("low:Q", title="interval from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"), alt.Tooltip("ceiling:Q", title="r as far as noise allows", format=".3f"),
        alt.Tooltip("overlap:Q", title="largest heads in common, share", format=".2f"), alt.Tooltip("overlap_low:Q", title="interval from", format=".2f"),
        alt.Tooltip("overlap_high:Q", title="to", format=".2f"), alt.Tooltip("chance:Q", title="by chance", format=".2f"), alt.Tooltip("examples:Q"),
    ]  # fmt: skip
    layers = [
        theme.rule_x(float(pairs["chance"][0]), "chance (diamond)"),
        common.mark_rule(strokeWidth=1.2, color=theme.QUIET, yOffset=_DOWN).encode(x=alt.X("overlap_low:Q", **x), x2="overlap_high:Q"),
        base.mark_rule(strokeWidth=2.5, color=theme.ACCENT, yOffset=_UP).encode(x=alt.X("low:Q", **x), x2="high:Q"),
        base.mark_tick(color=theme.INK, thickness=1.5, height=11, yOffset=_UP).encode(x=alt.X("ceiling:Q", **x)),
        common.mark_point(**_DIAMOND, stroke=theme.QUIET).encode(x=alt.X("overlap:Q", axis=alt.Axis(tickCount=5), **x), tooltip=tooltip),
        base.mark_point(**_CIRCLE, color=theme.ACCENT).encode(x=alt.X("r:Q", **x), tooltip=tooltip),
    ]
    return alt.layer(*layers).properties(width=225, height=_ROW * max(4, pairs.height), title="Do they agree on the heads?")


_CIRCLE = {"size": 60, "shape": "circle", "yOffset": _UP}
_DIAMOND = {"size": 48, "shape": "diamond", "yOffset": _DOWN, "filled": True, "fill": "#ffffff", "strokeWidth": 1.4}


def _fall(summary: pl.DataFrame, kinds: list[str], unit: str) -> alt.LayerChart:
    rows = theme.drawable(summary.filter(pl.col("measure") == "total_effect"))
    y = alt.Y("baseline:N", title=None, scale=alt.Scale(domain=kinds))
    base = alt.Chart(rows).encode(y=y, color=_colour(kinds))
    title = ["fall of the target,", unit]
    tooltip = [
        alt.Tooltip("baseline:N"), alt.Tooltip("mean:Q", title=f"fall of the target, {unit}", format="+.3f"),
        alt.Tooltip("low:Q", title="interval from", format="+.3f"), alt.Tooltip("high:Q", title="to", format="+.3f"), alt.Tooltip("examples:Q"),
    ]  # fmt: skip
    spans = base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    dots = base.mark_point(size=60).encode(x=alt.X("mean:Q", title=title, axis=alt.Axis(tickCount=4)), tooltip=tooltip)
    return alt.layer(theme.rule_x(0.0), spans, dots).properties(width=105, height=_height(kinds), title="With every head cut")


def _departure(summary: pl.DataFrame, kinds: list[str]) -> alt.LayerChart:
    """A circle: held-out r; a diamond: share of examples in which the model still says one of the candidate answers when every head is cut."""
    rows = theme.drawable(summary.filter(pl.col("measure").is_in(DEPARTURE)))
    ends = [float(value) for column in ("mean", "low") for value in rows[column].drop_nulls()]
    title = ["dot: held-out r", "diamond: share that says", "some answer, all heads cut"]
    x = {"title": title, "scale": alt.Scale(domain=[min([0.0, *ends]), 1.0], nice=False)}
    y = alt.Y("baseline:N", title=None, scale=alt.Scale(domain=kinds), axis=None)
    told = [alt.Tooltip("baseline:N"), alt.Tooltip("low:Q", title="interval from", format=".3f"), alt.Tooltip("high:Q", title="to", format=".3f"),
            alt.Tooltip("examples:Q")]  # fmt: skip
    parts = {"candidate": ("share that says a candidate answer, every head cut", _DIAMOND, 1.2, "stroke"), "held_out_r": ("held-out r", _CIRCLE, 2.5, "color")}
    layers = []
    for measure, (name, mark, line, paint) in parts.items():
        base = alt.Chart(rows.filter(pl.col("measure") == measure)).encode(y=y)
        colour = _colour(kinds)
        layers.append(base.mark_rule(strokeWidth=line, yOffset=mark["yOffset"]).encode(x=alt.X("low:Q", **x), x2="high:Q", color=colour))
        shade = {"color": colour} if paint == "color" else {"stroke": alt.Stroke("baseline:N", scale=_colours(kinds), legend=None)}
        tooltip = [told[0], alt.Tooltip("mean:Q", title=name, format=".3f"), *told[1:]]
        layers.append(base.mark_point(**mark).encode(x=alt.X("mean:Q", axis=alt.Axis(tickCount=5), **x), tooltip=tooltip, **shade))
    return alt.layer(*layers).properties(width=150, height=_height(kinds), title="Is the model thrown off?")


def _height(kinds: list[str]) -> int:
    """As many rows as there are pairs."""
    return _ROW * max(4, len(kinds) * (len(kinds) - 1) // 2)


def _colour(kinds: list[str]) -> alt.Color:
    return alt.Color("baseline:N", scale=_colours(kinds), legend=None)


def _colours(kinds: list[str]) -> alt.Scale:
    return alt.Scale(domain=kinds, range=[COLOURS[kind] for kind in kinds])
