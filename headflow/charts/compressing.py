"""What a model still answers behind a part of its context, and what that part costs."""

import altair as alt
import polars as pl

from headflow.charts import theme

STRATEGIES = {
    "full": "whole prompt", "both": "query and image tokens", "image": "image tokens alone", "query": "query tokens alone",
    "description": "its own description", "none": "nothing for the picture",
}  # fmt: skip
"""What stays, as figures and sentences call it."""

CHOICES = {"attention": "attention", "attribution": "attribution", "random": "chance"}
COLOURS = {"attention": "#cc79a7", "attribution": "#0072b2", "random": "#8a929b"}
"""A colour a choice of image tokens, the same as where tokens are kept (headflow.charts.keeping)."""

ASKING = {"turn": "asked as the next turn", "fresh": "asked in the place of the first question"}
MEASURES = {"accuracy": ("accuracy", "low", "high", "right answers"), "plus": ("plus", "plus_low", "plus_high", "pictures with all answers right")}
_DASHES = {"both": [1, 0], "image": [5, 4]}
_MARKS = {"query": "diamond", "description": "square"}
_RULES = {"full": STRATEGIES["full"], "none": "chance"}
_BY = {name: f"image tokens by {text}" for name, text in CHOICES.items()}
_TICKS = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]
_MARK_COLOURS = {"query": "#009e73", "description": "#e69f00"}


def compressed_curves(summary: pl.DataFrame) -> alt.VConcatChart:
    """Accuracy and ACC+ against context tokens, a line a choice of image tokens (with and without the query tokens beside them), a column a way of
    asking; query tokens alone and the model's own description as points. Intervals are over pictures.

    Rules mark what the whole prompt gives, and what is given with nothing in the picture's place: chance.

    Args:
        summary: the compressed summary table.
    """
    rows = summary.filter(pl.col("category") == "all")
    ways = [way for way in ASKING if way in set(rows["asking"])]
    sizes = [float(value) for value in rows.filter(pl.col("asking").is_in(ways))["tokens"].drop_nulls() if value > 0] or [1.0]
    domain = [min(sizes) / 1.2, max(sizes) * 1.2]
    panels = []
    for measure in MEASURES:
        wide = [_panel(rows.filter(pl.col("asking") == way), way, measure, domain, first=place == 0, ways=len(ways)) for place, way in enumerate(ways)]
        panels.append(alt.hconcat(*wide, spacing=18))
    return alt.vconcat(*panels, spacing=22)


def _panel(rows: pl.DataFrame, way: str, measure: str, domain: list[float], *, first: bool, ways: int) -> alt.LayerChart:
    mean, low, high, title = MEASURES[measure]
    top = measure == next(iter(MEASURES))
    values = (pl.col(column).alias(name) for column, name in ((mean, "mean"), (low, "low"), (high, "high")))
    drawn = theme.drawable(rows.select("strategy", "chosen_by", "percent", "tokens", *values, "pictures")).with_columns(
        pl.col("strategy").replace_strict(STRATEGIES).alias("stays"),
        pl.coalesce(pl.col("chosen_by").replace_strict(_BY, default=None), pl.col("strategy").replace_strict(STRATEGIES)).alias("series"),
    )
    height = {
        "title": title if first else None, "scale": alt.Scale(domain=[0, 1.08], nice=False),
        "axis": alt.Axis(values=[0, 0.25, 0.5, 0.75, 1.0], format="%", labels=first, ticks=first, domain=first),
    }  # fmt: skip
    y, ends = alt.Y("mean:Q", **height), {"y": alt.Y("low:Q", **height), "y2": "high:Q"}
    marked = [value for value in _TICKS if domain[0] <= value <= domain[1]]
    x = alt.X(
        "tokens:Q", title=None if top else "context tokens", scale=alt.Scale(type="log", domain=domain, nice=False),
        axis=alt.Axis(values=marked, format=",d", labels=not top, labelOverlap=True),
    )  # fmt: skip
    choices = {_BY[name]: COLOURS[name] for name in CHOICES if name in set(rows["chosen_by"].drop_nulls())}
    marks = [name for name in _MARKS if name in set(rows["strategy"])]
    colours = {**choices, **{STRATEGIES[name]: _MARK_COLOURS[name] for name in marks}}
    lines = [name for name in _DASHES if name in set(rows["strategy"])]
    legend = {"orient": "top", "title": None, "symbolOpacity": 1, "labelLimit": 260}
    shown = alt.Legend(symbolType="circle", symbolSize=70, columns=2, **legend) if top else None
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=shown)
    dash = alt.StrokeDash(
        "stays:N", scale=alt.Scale(domain=[STRATEGIES[name] for name in lines], range=[_DASHES[name] for name in lines]),
        legend=alt.Legend(symbolType="stroke", symbolStrokeWidth=3, columns=1, **legend) if top else None,
    )  # fmt: skip
    number = ".1%"
    tooltip = [
        alt.Tooltip("stays:N", title="what stays"), alt.Tooltip("series:N", title="series"), alt.Tooltip("percent:Q", title="K, percent"),
        alt.Tooltip("tokens:Q", title="context tokens", format=".1f"), alt.Tooltip("mean:Q", title=title, format=number),
        alt.Tooltip("low:Q", title="interval from", format=number), alt.Tooltip("high:Q", title="to", format=number), alt.Tooltip("pictures:Q"),
    ]  # fmt: skip
    chosen = alt.Chart(drawn.filter(pl.col("chosen_by").is_not_null(), pl.col("tokens") > 0)).encode(x=x, color=colour)
    layers = [
        chosen.mark_area(opacity=0.1).encode(**ends, detail="stays:N"), chosen.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash),
        chosen.mark_point(size=28).encode(y=y, tooltip=tooltip),
    ]  # fmt: skip
    for name in marks:
        alone = alt.Chart(drawn.filter(pl.col("strategy") == name, pl.col("tokens") > 0)).encode(x=x, color=colour)
        layers += [alone.mark_rule(strokeWidth=1.5).encode(**ends), alone.mark_point(size=80, shape=_MARKS[name]).encode(y=y, tooltip=tooltip)]
    rules = [_rule(float(value), name) for strategy, name in _RULES.items() for value in drawn.filter(pl.col("strategy") == strategy)["mean"].drop_nulls()]
    heading = alt.TitleParams(ASKING[way] if top else "", frame="group")
    return alt.layer(*rules, *layers).properties(width=560 if ways == 1 else 285, height=200, title=heading)


def _rule(value: float, name: str) -> alt.LayerChart:
    """Named above its left end where it is high, and below its right end where it is low: the curves run from the lower left to the upper right."""
    data = alt.Chart(pl.DataFrame({"value": [value], "label": [name]}))
    high = name == _RULES["full"]
    low = {"align": "right", "baseline": "top", "dy": 3} if value > 0.12 else {"align": "right", "baseline": "bottom", "dy": -3}
    place = {"align": "left", "baseline": "bottom", "dx": 4, "dy": -3} if high else low
    text = data.mark_text(color=theme.QUIET, **place).encode(text="label:N", y="value:Q", x=alt.value(0 if high else "width"))
    return theme.rule_y(value) + text


def by_category(summary: pl.DataFrame, asking: str, chosen_by: str = "attention") -> alt.LayerChart:
    """Accuracy of every strategy in every category of questions, one way of asking; intervals are in the tooltips.

    Args:
        summary: the compressed summary table.
        asking: the way of asking that is shown.
        chosen_by: the choice of image tokens that is shown.
    """
    rows = summary.filter(pl.col("asking") == asking, pl.col("category") != "all", pl.col("chosen_by").is_null() | (pl.col("chosen_by") == chosen_by))
    order = labels(summary.filter(pl.col("asking") == asking), chosen_by)
    drawn = theme.drawable(rows.select("category", "accuracy", "low", "high", "pictures", label().alias("kept")))
    categories = drawn["category"].unique(maintain_order=True).to_list()
    base = alt.Chart(drawn).encode(
        x=alt.X("category:N", title="kind of question", sort=categories, axis=alt.Axis(orient="top", labelAngle=0 if len(categories) < 7 else -40)),
        y=alt.Y("kept:N", title="what stays of the context", sort=order),
    )
    scale = alt.Scale(scheme=theme.MAGNITUDE, domain=[0, 1])
    number = ".0%"
    tooltip = [
        alt.Tooltip("kept:N", title="what stays"), alt.Tooltip("category:N"), alt.Tooltip("accuracy:Q", format=number),
        alt.Tooltip("low:Q", title="interval from", format=number), alt.Tooltip("high:Q", title="to", format=number), alt.Tooltip("pictures:Q"),
    ]  # fmt: skip
    cells = base.mark_rect().encode(color=alt.Color("accuracy:Q", title="right answers", scale=scale, legend=alt.Legend(format=number)), tooltip=tooltip)
    ink = alt.condition("datum.accuracy > 0.6", alt.value(theme.INK), alt.value("#ffffff"))
    text = base.mark_text(fontSize=11).encode(text=alt.Text("accuracy:Q", format=number), color=ink)
    return (cells + text).properties(width=min(440, 90 * len(categories)), height=22 * len(order))


def costs(summary: pl.DataFrame, times: pl.DataFrame, asking: str) -> alt.HConcatChart:
    """Memory of the context's keys and values of every strategy and, where it was measured, the time of one follow-up question with its range over rounds.

    Args:
        summary: the compressed summary table.
        times: the compressed times table; may be empty.
        asking: the way of asking that is shown.
    """
    rows = summary.filter(pl.col("asking") == asking, pl.col("category") == "all")
    chosen = rows["chosen_by"].drop_nulls()
    # As many tokens stay, whatever they are chosen by.
    rows = rows.filter(pl.col("chosen_by").is_null() | (pl.col("chosen_by") == (chosen[0] if len(chosen) else "")))
    order = labels(rows, chosen[0] if len(chosen) else "")
    held = theme.drawable(rows.select("tokens", (pl.col("bytes") / 1024).alias("kib"), label().alias("kept")))
    measured = times.filter(pl.col("asking") == asking)
    panels = [_cost_bars(held, "kib", "keys and values, KiB", order, first=True, width=220 if len(measured) else 440)]
    if len(measured):
        milliseconds = (pl.col("seconds", "low", "high") * 1000).name.prefix("ms_")
        taken = theme.drawable(measured.select("tokens", milliseconds, label().alias("kept")))
        bars = _cost_bars(taken, "ms_seconds", "time of one question, ms", order, first=False, width=220)
        ends = alt.Chart(taken).mark_rule(color=theme.INK).encode(y=alt.Y("kept:N", sort=order), x="ms_low:Q", x2="ms_high:Q")
        panels.append(alt.layer(bars, ends))
    return alt.hconcat(*panels, spacing=18)


def _cost_bars(rows: pl.DataFrame, column: str, title: str, order: list[str], *, first: bool, width: int) -> alt.Chart:
    axis = alt.Axis(labels=first, ticks=False, domain=False, title="what stays of the context" if first else None, labelLimit=240)
    x = alt.X(f"{column}:Q", title=title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    tokens = alt.Tooltip("tokens:Q", title="context tokens", format=".1f")
    tooltip = [alt.Tooltip("kept:N", title="what stays"), tokens, alt.Tooltip(f"{column}:Q", title=title)]
    bars = alt.Chart(rows).mark_bar(color=theme.ACCENT, height=12).encode(y=alt.Y("kept:N", sort=order, axis=axis), x=x, tooltip=tooltip)
    return bars.properties(width=width, height=22 * len(order))


def label() -> pl.Expr:
    """What stays, with K where some image tokens do."""
    name = pl.col("strategy").replace_strict(STRATEGIES)
    return pl.when(pl.col("percent").is_null()).then(name).otherwise(pl.format("{}, {} %", name, pl.col("percent").map_elements(lambda k: f"{k:g}", pl.String)))


def labels(rows: pl.DataFrame, chosen_by: str) -> list[str]:
    """Labels from the whole prompt down to nothing."""
    some = rows.filter(pl.col("chosen_by").is_null() | (pl.col("chosen_by") == chosen_by)).unique(["strategy", "percent"], maintain_order=True)
    places = {name: place for place, name in enumerate(STRATEGIES)}
    ordered = some.with_columns(pl.col("strategy").replace_strict(places).alias("place")).sort(["place", "percent"], descending=[False, True])
    return ordered.select(label().alias("kept"))["kept"].to_list()
