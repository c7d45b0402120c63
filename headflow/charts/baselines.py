"""What ablated heads read: the same heads under every baseline, how far the baselines agree, and what each does to the model."""

import altair as alt
import polars as pl

from headflow.charts import theme
from headflow.charts.heads import grid_axes

NAMES = {"mean": "mean picture", "blank": "blank picture", "swap": "another picture", "closed": "nothing"}
"""What ablated heads read under each baseline, as figures call it."""

COLOURS = {"mean": "#0072b2", "blank": "#56b4e9", "swap": "#d55e00", "closed": "#4d4d4d"}
"""A colour a baseline, on every page."""

CORRELATION, SHARE = "correlation", "share"
_SHAPES = {CORRELATION: "circle", SHARE: "diamond"}
_ROW = 27


def baselines(heads: pl.DataFrame, agreement: pl.DataFrame, summary: pl.DataFrame, unit: str = "logits") -> alt.VConcatChart:
    """Above: mean attribution of every head under each baseline, on one scale. Below: agreement of every two; fall of the target; departure.

    Args:
        heads, agreement, summary: tables BASELINE_HEADS, BASELINE_AGREEMENT and BASELINE_SUMMARY of one run.
        unit: of the target.
    """
    kinds = heads["baseline"].unique(maintain_order=True).to_list()
    order = [NAMES[kind] for kind in kinds]
    below = [_fall(summary, kinds, order, unit), _departure(summary, kinds, order)]
    if agreement["r"].drop_nulls().len():
        below.insert(0, _agreement(agreement))
    return alt.vconcat(_grids(heads, kinds, unit), alt.hconcat(*below, spacing=16), spacing=22)


def _grids(heads: pl.DataFrame, kinds: list[str], unit: str) -> alt.FacetChart:
    clear = ((pl.col("low") > 0) | (pl.col("high") < 0)).fill_null(False)
    examples = {kind: heads.filter(pl.col("baseline") == kind)["examples"][0] for kind in kinds}
    titles = {kind: f"{NAMES[kind]} ({number:,} {'example' if number == 1 else 'examples'})" for kind, number in examples.items()}
    rows = theme.drawable(heads.with_columns(clear.alias("clear"), pl.col("baseline").replace_strict(titles, return_dtype=pl.String).alias("reads")))
    y, x = grid_axes(rows)
    x.axis = alt.Axis(labelAngle=0, labelOverlap="greedy", titlePadding=4)
    tooltip = [
        alt.Tooltip("reads:N", title="cut heads read"), alt.Tooltip("layer:O"), alt.Tooltip("head:O"),
        alt.Tooltip("mean:Q", title=f"mean attribution, {unit}", format="+.3f"),
        alt.Tooltip("low:Q", title="interval from", format="+.3f"), alt.Tooltip("high:Q", title="to", format="+.3f"),
    ]  # fmt: skip
    colour = theme.signed("mean", rows, f"mean attribution, {unit}", orient="top", direction="horizontal", titleOrient="left", titleLimit=320)
    base = alt.Chart().encode(y=y, x=x, tooltip=tooltip)
    cells = base.mark_rect(cornerRadius=1.5).encode(color=colour)
    outlined = base.mark_rect(cornerRadius=1.5, filled=False, stroke=theme.INK, strokeWidth=1).transform_filter("datum.clear")
    layers = rows["layer"].n_unique() or 1
    panel = alt.layer(cells, outlined, data=rows).properties(width=_width(len(kinds)), height=max(110, min(320, 22 * layers)))
    column = alt.Column("reads:N", title="cut heads read …", sort=list(titles.values()), header=alt.Header(labelOrient="top", labelPadding=4))
    return panel.facet(column=column, spacing=12)


def _width(panels: int) -> int:
    """Inner width of one of several grids that together fill the page."""
    return max(60, min(260, (theme.WIDTH - 62 - 12 * panels) // max(1, panels)))


def _agreement(agreement: pl.DataFrame) -> alt.LayerChart:
    pairs = theme.drawable(agreement.drop_nulls("r")).sort("r", descending=True)
    names = pl.format("{}, {}", pl.col("baseline").replace_strict(NAMES), pl.col("other").replace_strict(NAMES))
    pairs = pairs.with_columns(names.alias("pair"), pl.lit(CORRELATION).alias("kind"))
    top = int(pairs["top"][0])
    shared = pairs.drop_nulls("overlap").with_columns(pl.lit(SHARE).alias("kind"))
    ends = [float(value) for column in ("r", "low", "overlap_low") for value in pairs[column].drop_nulls()]
    title = f"r over heads; share of the {top} largest in common" if top > 1 else "r over heads; whether the largest is the same"
    x = {"title": title, "scale": alt.Scale(domain=[min(0.0, *ends), 1.0], nice=False), "axis": alt.Axis(tickCount=5)}
    y = alt.Y("pair:N", title=None, scale=alt.Scale(domain=pairs["pair"].to_list()), axis=alt.Axis(labelLimit=220))
    base, common = alt.Chart(pairs).encode(y=y), alt.Chart(shared).encode(y=y)
    tooltip = [
        alt.Tooltip("pair:N", title="cut heads read"), alt.Tooltip("r:Q", format=".3f"), alt.Tooltip("low:Q", title="interval from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"), alt.Tooltip("ceiling:Q", title="r as far as noise allows", format=".3f"),
        alt.Tooltip("overlap:Q", title="largest heads in common, share", format=".2f"), alt.Tooltip("overlap_low:Q", title="interval from", format=".2f"),
        alt.Tooltip("overlap_high:Q", title="to", format=".2f"), alt.Tooltip("chance:Q", title="by chance", format=".2f"), alt.Tooltip("examples:Q"),
    ]  # fmt: skip
    layers = [
        theme.rule_x(float(pairs["chance"][0]), "chance (share)"),
        common.mark_rule(strokeWidth=1.5, color=theme.RULE, yOffset=5).encode(x=alt.X("overlap_low:Q", **x), x2="overlap_high:Q"),
        base.mark_rule(strokeWidth=2.5, color=theme.ACCENT, yOffset=-4).encode(x=alt.X("low:Q", **x), x2="high:Q"),
        base.mark_tick(color=theme.INK, thickness=1.5, height=10, yOffset=-4).encode(x=alt.X("ceiling:Q", **x)),
        common.mark_point(size=42, strokeWidth=1.4, filled=True, fill="#ffffff", color=theme.QUIET, yOffset=5, shape="diamond").encode(
            x=alt.X("overlap:Q", **x), tooltip=tooltip
        ),
        base.mark_point(size=60, color=theme.ACCENT, yOffset=-4, shape="circle").encode(x=alt.X("r:Q", **x), tooltip=tooltip),
    ]
    return alt.layer(*layers).properties(width=170, height=_ROW * pairs.height, title="Which heads matter: agreement")


def _fall(summary: pl.DataFrame, kinds: list[str], order: list[str], unit: str) -> alt.LayerChart:
    rows = _named(summary.filter(pl.col("measure") == "total_effect"))
    scale = alt.Scale(zero=True)
    y = alt.Y("name:N", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(labelLimit=120))
    base = alt.Chart(rows).encode(y=y, color=_colour(kinds))
    tooltip = [
        alt.Tooltip("name:N", title="cut heads read"), alt.Tooltip("mean:Q", title=f"fall of the target, {unit}", format="+.3f"),
        alt.Tooltip("low:Q", title="interval from", format="+.3f"), alt.Tooltip("high:Q", title="to", format="+.3f"), alt.Tooltip("examples:Q"),
    ]  # fmt: skip
    title = f"fall of the target, {unit}"
    spans = base.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q", title=title, scale=scale), x2="high:Q")
    dots = base.mark_point(size=60).encode(x=alt.X("mean:Q", title=title, scale=scale, axis=alt.Axis(tickCount=4)), tooltip=tooltip)
    return alt.layer(theme.rule_x(0.0), spans, dots).properties(width=105, height=_height(kinds), title="Every head cut")


def _departure(summary: pl.DataFrame, kinds: list[str], order: list[str]) -> alt.LayerChart:
    """Held-out r (circle), and the share of examples in which the model still says a candidate answer when every head is cut (diamond)."""
    shapes = {"held_out_r": CORRELATION, "candidate": SHARE}
    rows = _named(summary.filter(pl.col("measure").is_in(list(shapes))))
    rows = rows.with_columns(pl.col("measure").replace_strict(shapes, return_dtype=pl.String).alias("kind"))
    ends = [float(value) for column in ("mean", "low") for value in rows[column].drop_nulls()]
    x = {"title": "held-out r; share saying an answer", "scale": alt.Scale(domain=[min(0.0, *ends, 0.0), 1.0], nice=False), "axis": alt.Axis(tickCount=4)}
    y = alt.Y("name:N", title=None, scale=alt.Scale(domain=order), axis=None)
    tooltip = [
        alt.Tooltip("name:N", title="cut heads read"), alt.Tooltip("measure:N"), alt.Tooltip("mean:Q", format=".3f"),
        alt.Tooltip("low:Q", title="interval from", format=".3f"), alt.Tooltip("high:Q", title="to", format=".3f"), alt.Tooltip("examples:Q"),
    ]  # fmt: skip
    scale = alt.Scale(domain=list(_SHAPES), range=list(_SHAPES.values()))
    legend = alt.Legend(orient="bottom", symbolFillColor=theme.QUIET, symbolStrokeColor=theme.QUIET, columns=1, offset=6)
    layers = []
    for kind, offset in ((SHARE, 5), (CORRELATION, -4)):
        base = alt.Chart(rows.filter(pl.col("kind") == kind)).encode(y=y, color=_colour(kinds))
        layers.append(base.mark_rule(strokeWidth=2 if kind == CORRELATION else 1.2, yOffset=offset).encode(x=alt.X("low:Q", **x), x2="high:Q"))
        shape = alt.Shape("kind:N", title=None, scale=scale, legend=legend)
        fill = {} if kind == CORRELATION else {"fill": "#ffffff", "strokeWidth": 1.4}
        layers.append(base.mark_point(size=50, yOffset=offset, **fill).encode(x=alt.X("mean:Q", **x), shape=shape, tooltip=tooltip))
    return alt.layer(*layers).properties(width=130, height=_height(kinds), title="How far it throws the model off")


def _height(kinds: list[str]) -> int:
    return max(2 * _ROW, _ROW * (len(kinds) * (len(kinds) - 1) // 2))


def _named(rows: pl.DataFrame) -> pl.DataFrame:
    return theme.drawable(rows).with_columns(pl.col("baseline").replace_strict(NAMES, return_dtype=pl.String).alias("name"))


def _colour(kinds: list[str]) -> alt.Color:
    return alt.Color("baseline:N", scale=alt.Scale(domain=kinds, range=[COLOURS[kind] for kind in kinds]), legend=None)
