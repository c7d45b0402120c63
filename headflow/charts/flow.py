"""In what order text and picture arrive: the effect of closing a route against depth."""

import altair as alt
import polars as pl

from headflow.charts import theme

ROUTES = {
    "question→role": "question → role, final", "role→final": "role → final", "image→question": "picture → question", "image→role": "picture → role, final",
}  # fmt: skip
"""Routes as figures and sentences call them; the tokens of an answer go with the final one."""
COLOURS = dict(zip(ROUTES, ("#e69f00", "#cc79a7", "#009e73", "#0072b2"), strict=True))
CLOSED = {"from": "Closed from a layer on", "below": "Closed below a layer"}
_X = {"window": "middle of the window, decoder layer", "from": "first layer closed", "below": "first layer left open"}


def order_of_flow(bands: pl.DataFrame, depths: pl.DataFrame, unit: str = "logits", template: str | None = None) -> alt.VConcatChart:
    """Fall of the target against depth, a line a route with its interval; below, the mean depth of each route; then the two cumulative closings.

    Args:
        bands: the flow bands table.
        depths: the flow depths table.
        template: whose examples are meant; None = all.
    """
    bands, depths = (frame.filter(pl.col("template").eq_missing(pl.lit(template))) for frame in (bands, depths))
    names = [route for route in ROUTES if route in set(bands["route"])]
    widths = bands.filter(pl.col("closed") == "window").select(pl.col("last_layer") - pl.col("first_layer") + 1).to_series()
    wide = f"a window of {widths[0]} layers" if len(widths) and widths[0] > 1 else "a single layer"
    total = bands.filter(pl.col("route") == "picture")["mean"]
    stock = float(total[0]) if len(total) and total[0] is not None else None
    shown = bands.filter(pl.col("closed") == "window")
    last = _last(bands)
    top = _lines(shown, "window", names, unit, stock, last).properties(width=600, height=230, title=f"Closed in {wide}")
    below = _depths(depths, names, last).properties(width=600, height=24 * max(1, len(names)), title="Mean depth of each route")
    pair = [
        _lines(bands.filter(pl.col("closed") == closed), closed, names, unit, stock, last).properties(width=262, height=190, title=CLOSED[closed])
        for closed in ("from", "below")
    ]
    return alt.vconcat(top, below, alt.hconcat(*pair, spacing=40), spacing=22)


def _last(bands: pl.DataFrame) -> float:
    """The last layer that a route is closed in."""
    return float(bands["last_layer"].max() or 0) if len(bands) else 1.0


def _lines(rows: pl.DataFrame, closed: str, names: list[str], unit: str, stock: float | None, last: float) -> alt.LayerChart:
    rows = _named(theme.drawable(rows.filter(pl.col("route").is_in(names))))
    ends = [value for column in ("mean", "low", "high") for value in rows[column].drop_nulls().to_list()] + [0.0, stock or 0.0]
    scale = alt.Scale(domain=[min(ends), max(ends)] if max(ends) > min(ends) else [0, 1], nice=True)
    title = f"fall of the target, {unit}"
    across = alt.Scale(domain=[0, max(1.0, last + (closed == "below"))], nice=False)
    x = alt.X("at:Q", title=_X[closed], scale=across, axis=alt.Axis(tickMinStep=1, format="~g"))
    base = alt.Chart(rows).encode(x=x, color=_colour(names, legend=closed == "window"))
    tooltip = [
        alt.Tooltip("name:N", title="route"), alt.Tooltip("first_layer:Q", title="closed from layer"), alt.Tooltip("last_layer:Q", title="to layer"),
        alt.Tooltip("mean:Q", title=f"fall, {unit}", format="+.3f"), alt.Tooltip("low:Q", title="interval from", format="+.3f"),
        alt.Tooltip("high:Q", title="to", format="+.3f"), alt.Tooltip("share:Q", title="share of the picture's effect", format="+.1%"),
    ]  # fmt: skip
    band = base.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q")
    line = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=38)).encode(y=alt.Y("mean:Q", title=title, scale=scale), tooltip=tooltip)
    layers: list[alt.Chart | alt.LayerChart] = [theme.rule_y(0.0), band, line]
    if stock is not None:
        layers.insert(0, theme.rule_y(stock, "picture cut off everywhere" if closed == "window" else ""))
    return alt.layer(*layers)


def _depths(depths: pl.DataFrame, names: list[str], last: float) -> alt.LayerChart:
    """A dot a route at its mean depth, with its interval; the larger, the more closing the route costs."""
    rows = _named(theme.drawable(depths.filter(pl.col("route").is_in(names))))
    end = max(1.0, last)
    scale = alt.Scale(domain=[0, end], nice=False)
    y = alt.Y("name:N", title=None, scale=alt.Scale(domain=[ROUTES[name] for name in names]), axis=None)
    x = alt.X("depth:Q", title="decoder layer", scale=scale, axis=alt.Axis(tickMinStep=1, format="~g"))
    largest = float(rows["effect"].abs().max() or 0.0) or 1.0
    rows = rows.with_columns((35 + 85 * pl.col("effect").abs() / largest).alias("size"))
    known, unknown = rows.filter(pl.col("depth").is_not_null()), rows.filter(pl.col("depth").is_null())
    base = alt.Chart(known).encode(y=y, color=_colour(names))
    spans = base.mark_rule(strokeWidth=3, opacity=0.55).encode(x=alt.X("depth_low:Q", title="decoder layer", scale=scale), x2="depth_high:Q")
    dots = base.mark_point().encode(
        x=x,
        size=alt.Size("size:Q", scale=None, legend=None),
        tooltip=[
            alt.Tooltip("name:N", title="route"), alt.Tooltip("depth:Q", title="mean depth, layer", format=".2f"),
            alt.Tooltip("depth_low:Q", title="interval from", format=".2f"), alt.Tooltip("depth_high:Q", title="to", format=".2f"),
            alt.Tooltip("window_depth:Q", title="by windows", format=".2f"), alt.Tooltip("first:Q", title="first window that matters", format="~g"),
            alt.Tooltip("effect:Q", title="effect of the whole route", format="+.3f"),
        ],
    )  # fmt: skip
    labels = []
    for beyond, align in ((False, "left"), (True, "right")):
        place = pl.col("depth") > 0.6 * end
        rest = known.filter(place if beyond else ~place)
        side = "depth_low:Q" if beyond else "depth_high:Q"
        rest = rest.with_columns(pl.col("depth_low", "depth_high").fill_null(pl.col("depth")))
        text = alt.Chart(rest).mark_text(align=align, dx=-11 if beyond else 11, color=theme.QUIET)
        labels.append(text.encode(y=y, x=alt.X(side, title="decoder layer", scale=scale), text="name:N"))
    silent = alt.Chart(unknown.with_columns(pl.format("{}: no depth can be told", "name").alias("said"))).mark_text(align="left", color=theme.RULE, dx=11)
    return alt.layer(spans, dots, *labels, silent.encode(y=y, x=alt.value(0), text="said:N"))


def _named(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("route").replace_strict(ROUTES, default=None, return_dtype=pl.String).alias("name"))


def _colour(names: list[str], legend: bool = False) -> alt.Color:
    scale = alt.Scale(domain=[ROUTES[name] for name in names], range=[COLOURS[name] for name in names])
    shape = alt.Legend(orient="top", symbolType="circle", symbolOpacity=1, symbolSize=90, labelLimit=260, columns=4) if legend else None
    return alt.Color("name:N", title=None, scale=scale, legend=shape)
