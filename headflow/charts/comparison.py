"""Models side by side: a colour a model, the same in every figure."""

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl

from headflow.charts import theme
from headflow.charts.effects import NAMES

MOST_BANDS = 4
"""With more models than this, bands would only cover one another; the limits stay in what hovering tells."""
MOST_POINTS = 150
MOST_DOTS = 200
DEPTH = "relative depth (layer / number of layers; 0 = nearest the input)"


def layer_shares(shares: pl.DataFrame, depths: pl.DataFrame, keys: Sequence[str]) -> alt.VConcatChart:
    """Above: each model's attribution by relative depth. Below: its mean depth with interval; the tick is an even spread over its layers.

    Args:
        shares, depths: ``comparison.layer_shares`` and ``comparison.mean_depths``.
        keys: the models, in the order in which they are listed.
    """
    x = alt.X("depth:Q", title=None, scale=alt.Scale(domain=[0, 1], nice=False), axis=alt.Axis(tickCount=10, labels=False))  # the panel below has them
    rows = theme.drawable(shares)
    base = alt.Chart(rows).encode(x=x, color=_colour(keys, legend=True))
    title = ["signed attribution per tenth of depth,", "share of the summed size of all heads"]
    y = alt.Y("share:Q", title=title, axis=alt.Axis(format="%"))
    tooltip = [alt.Tooltip("model:N"), alt.Tooltip("layer:Q"), alt.Tooltip("depth:Q", title="relative depth", format=".2f"),
               *_tips("share", "share per tenth of depth")]  # fmt: skip
    band = base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y, tooltip=tooltip)
    dots = base.mark_point(size=34).encode(y=y, tooltip=tooltip)
    layers = [theme.rule_y(0), theme.rule_y(0.1, "evenly spread"), *([band] if len(keys) <= MOST_BANDS else []), line, dots]
    above = alt.layer(*layers).properties(width=_inner(keys) - 18, height=300)  # its title has two lines

    middle = theme.drawable(depths)
    names = _names(keys)
    spots = alt.Chart(middle).encode(y=names, color=_colour(keys))
    tooltip = [alt.Tooltip("model:N"), *_tips("depth", "mean depth"), alt.Tooltip("even:Q", title="evenly spread", format=".3f")]
    x = alt.X("depth:Q", title=DEPTH, scale=alt.Scale(domain=[0, 1], nice=False), axis=alt.Axis(tickCount=10, format=".1f"))
    ticks = alt.Chart(middle).mark_tick(color=theme.INK, thickness=2, height=16).encode(y=names, x=alt.X("even:Q", title=DEPTH))
    spans = spots.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    points = spots.mark_point(size=85).encode(x=x, tooltip=tooltip)
    below = alt.layer(ticks, spans, points).properties(width=_inner(keys) - 18, height=_rows(keys), title="Mean depth (tick: if spread evenly over its layers)")
    return alt.vconcat(above, below, spacing=42, bounds="flush")


def concentration(curves: pl.DataFrame, needed: pl.DataFrame, keys: Sequence[str]) -> alt.HConcatChart:
    """Left: share of all |attribution| held by the strongest heads. Right: the share of heads that half and most of it need, with their number."""
    rows = theme.drawable(pl.concat([_thin(part) for _, part in curves.group_by("model", maintain_order=True)]))
    base = alt.Chart(rows).encode(x=alt.X("of_heads:Q", title="strongest heads, share of all", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])))
    tooltip = [alt.Tooltip("model:N"), alt.Tooltip("heads:Q", title="strongest heads"), alt.Tooltip("of_heads:Q", title="of all", format=".1%"),
               *_tips("held", "hold", ".1%")]  # fmt: skip
    title = "share of all |attribution| that they hold"
    scale = alt.Scale(domain=[0, 1])
    band = base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q", color=_colour(keys, legend=True))
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("held:Q", title=title, scale=scale, axis=alt.Axis(format="%")), color=_colour(keys, legend=True), tooltip=tooltip
    )
    levels = [theme.rule_y(share) for share in needed["share"].unique().sort()]
    even = alt.Chart(pl.DataFrame({"x": [0.0, 1.0]})).mark_line(color=theme.RULE, strokeDash=[4, 3], strokeWidth=1).encode(x="x:Q", y="x:Q")
    left = alt.layer(*levels, even, *([band] if len(keys) <= MOST_BANDS else []), line).properties(width=310, height=300)

    counts = theme.drawable(needed).with_columns(
        (pl.col("heads") / pl.col("of")).alias("needed"), (pl.col("low") / pl.col("of")).alias("from"), (pl.col("high") / pl.col("of")).alias("to"),
        pl.format("{} of {}", "heads", "of").alias("count"), pl.format("hold {}%", (pl.col("share") * 100).round().cast(pl.Int64)).alias("level"),
    )  # fmt: skip
    reach = max([0.05, *(float(value) for name in ("needed", "to") for value in counts[name].drop_nulls())])
    panels = [_counts(part, keys, reach) for _, part in counts.sort("share").group_by("share", maintain_order=True)]
    return alt.hconcat(left, alt.vconcat(*panels, spacing=16), spacing=26)


def _counts(part: pl.DataFrame, keys: Sequence[str], reach: float) -> alt.LayerChart:
    title = f"Heads that {part['level'][0]}, share of all"
    x = alt.X("needed:Q", title=None, axis=alt.Axis(format="%", tickCount=4), scale=alt.Scale(domain=[0, 1.45 * reach], nice=False))
    base = alt.Chart(part).encode(y=_names(keys, 110))
    tooltip = [alt.Tooltip("model:N"), alt.Tooltip("count:N", title="heads"), alt.Tooltip("low:Q", title="interval from"), alt.Tooltip("high:Q", title="to")]
    spans = base.mark_rule(strokeWidth=2).encode(x="from:Q", x2="to:Q", color=_colour(keys))
    points = base.mark_point(size=70).encode(x=x, color=_colour(keys), tooltip=tooltip)
    # Beyond the interval's end, so that number and rule do not cross.
    words = (
        base.mark_text(align="left", dx=9, color=theme.QUIET).encode(x=alt.X("end:Q"), text="count:N").transform_calculate(end="max(datum.to, datum.needed)")
    )
    return alt.layer(spans, points, words).properties(width=165, height=max(50, 26 * len(keys)), title=title)


def held_out(fits: pl.DataFrame, medians: pl.DataFrame, keys: Sequence[str]) -> alt.LayerChart:
    """Held-out r of every example, a strip a model; the box spans the middle half, the line its median."""
    rows = theme.drawable(pl.concat([_even(part, MOST_DOTS) for _, part in fits.group_by("model", maintain_order=True)]) if fits.height else fits)
    # Spread sideways only to keep the dots apart: a golden-ratio sequence never lines up.
    rows = rows.with_columns(((pl.int_range(pl.len()) * 0.618034) % 1.0 - 0.5).alias("aside"))
    lowest = min(0.0, float(rows["r"].min() or 0.0))
    title = "Pearson r within an example, on masks that the fit never saw"
    x = alt.X("r:Q", title=title, scale=alt.Scale(domain=[lowest, 1.0], nice=False))
    quarters = fits.group_by("model", maintain_order=True).agg(pl.col("r").quantile(0.25).alias("lower"), pl.col("r").quantile(0.75).alias("upper"))
    boxes = alt.Chart(quarters).mark_bar(height=26, opacity=0.2, cornerRadius=2).encode(y=_names(keys), x=x, x2="upper:Q", color=_colour(keys))
    boxes = boxes.encode(x=alt.X("lower:Q", title=title))
    dots = (
        alt.Chart(rows)
        .mark_point(size=20, opacity=0.55)
        # The boxes' colours: beside an offset, Vega-Lite would paste the names of a colour scale of its own into code.
        .encode(y=_names(keys), yOffset=alt.YOffset("aside:Q", scale=alt.Scale(domain=[-1.1, 1.1])), x=x, color="model:N",
                tooltip=[alt.Tooltip("model:N"), alt.Tooltip("r:Q", format=".3f")])
    )  # fmt: skip
    middle = (
        alt.Chart(theme.drawable(medians))
        .mark_tick(color=theme.INK, thickness=2, height=30)
        .encode(
            y=_names(keys), x="median:Q", tooltip=[alt.Tooltip("model:N"), *_tips("median", "median r"), alt.Tooltip("worst:Q", format=".3f"), "examples:Q"]
        )
    )
    return alt.layer(theme.rule_x(0), boxes, dots, middle).properties(width=_inner(keys), height=max(80, 44 * len(keys)))


def effect_shares(shares: pl.DataFrame, keys: Sequence[str]) -> alt.LayerChart:
    """Summed attributions and summed single-head effects of each model, as shares of the fall when all heads are cut at once (the rule at 100 %)."""
    rows = theme.drawable(shares).with_columns(pl.col("account").replace_strict(NAMES)).drop_nulls("share")
    accounts = [NAMES["attributions"], NAMES["singles"]]
    title = "share of the fall when all heads are cut at once"
    x = alt.X("share:Q", title=title, axis=alt.Axis(format="%"))
    base = alt.Chart(rows).encode(y=_names(keys), yOffset=alt.YOffset("account:N", scale=alt.Scale(domain=accounts, paddingOuter=0.6)))
    fill = alt.Fill("account:N", title=None, scale=alt.Scale(domain=accounts, range=[theme.ACCENT, "#ffffff"]), legend=alt.Legend(orient="top"))
    spans = base.mark_rule(strokeWidth=2, color=theme.ACCENT).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    points = base.mark_point(size=80, strokeWidth=1.6).encode(
        x=x, fill=fill, stroke=alt.value(theme.ACCENT),
        tooltip=[alt.Tooltip("model:N"), alt.Tooltip("account:N"), *_tips("share", "share", ".1%"), alt.Tooltip("examples:Q")],
    )  # fmt: skip
    return alt.layer(theme.rule_x(0), theme.rule_x(1), spans, points).properties(width=_inner(keys), height=max(70, 40 * len(keys)))


def _colour(keys: Sequence[str], legend: bool = False) -> alt.Color:
    colours = theme.palette(keys)
    scale = alt.Scale(domain=list(keys), range=[colours[key] for key in keys])
    longest = max(map(len, keys))
    shape = {"orient": "top", "symbolType": "circle", "symbolSize": 90, "symbolOpacity": 1, "labelLimit": 300, "columns": 5 if longest < 14 else 3}
    return alt.Color("model:N", title=None, scale=scale, legend=alt.Legend(**shape) if legend and len(keys) > 1 else None)


def _names(keys: Sequence[str], limit: int = 170) -> alt.Y:
    # Order by domain, not by `sort`: that would put the names into an expression.
    return alt.Y("model:N", title=None, scale=alt.Scale(domain=list(keys)), axis=alt.Axis(labelLimit=limit))


def _tips(field: str, title: str, form: str = ".3f") -> list[alt.Tooltip]:
    return [
        alt.Tooltip(f"{field}:Q", title=title, format=form),
        alt.Tooltip("low:Q", title="interval from", format=form),
        alt.Tooltip("high:Q", title="to", format=form),
    ]


def _inner(keys: Sequence[str]) -> int:
    """Width of the plot area that leaves room for the models' names inside the common outer width, pixels."""
    return theme.WIDTH - 30 - max(62, min(170, 7 * max(map(len, keys))))


def _rows(keys: Sequence[str]) -> int:
    return max(40, 26 * len(keys))


def _even(part: pl.DataFrame, most: int) -> pl.DataFrame:
    """At most ``most`` rows, evenly spaced by rank, so that both ends are drawn."""
    ordered = part.sort("r")
    return ordered if part.height <= most else ordered[np.linspace(0, part.height - 1, most).round().astype(int).tolist()]


def _thin(curve: pl.DataFrame) -> pl.DataFrame:
    """A curve from no heads to all, at no more points than the eye can use: close together where it bends."""
    places = sorted({int(place) - 1 for place in np.geomspace(1, curve.height, MOST_POINTS).round()}) if curve.height > MOST_POINTS else range(curve.height)
    none = curve[:1].with_columns(pl.lit(0, curve.schema["heads"]).alias("heads"), *(pl.lit(0.0).alias(name) for name in ("of_heads", "held", "low", "high")))
    return pl.concat([none, curve[list(places)]])
