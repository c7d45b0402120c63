"""How few image tokens keep the answer, by what they are chosen by and by what becomes of the others."""

import altair as alt
import polars as pl

from headflow.charts import theme

NAMES = {"attribution": "attribution", "attention": "attention", "position": "place in the picture", "random": "chance"}
"""Selections as figures and sentences call them."""

COLOURS = {"attribution": "#0072b2", "attention": "#cc79a7", "position": "#009e73", "random": "#8a929b"}
"""A colour a selection, the same as that of the ranking of heads of this name; chance is grey."""

DASHES = {"attribution": [1, 0], "attention": [5, 4], "position": [1, 0], "random": [2, 3]}
SIZES = {"attribution": 70, "attention": 34, "position": 34, "random": 16}
"""Of lines and of points: where choices give the same, those drawn first show between and around the others."""

WAYS = {"baseline": "the others read the baseline", "closed": "the others closed to the text", "removed": "the others removed"}
MEASURES = {"accuracy": "right answers", "target": "target"}
_SHARES = [0.01, 0.03, 0.1, 0.3, 1.0]


def kept_curves(bands: pl.DataFrame, unit: str = "target, logits") -> alt.VConcatChart:
    """Accuracy and target against the share of image tokens that stay, a line a selection with its interval over pictures, a column a way.

    Rules mark what all tokens give (the stock model) and what none gives.

    Args:
        bands: the kept bands table.
        unit: name and unit of the target.
    """
    ways = [way for way in WAYS if way in set(bands["way"])]
    rows = []
    for measure in MEASURES:
        part = bands.filter(pl.col("measure") == measure)
        domain = _domain(part, measure)
        panels = [_panel(part.filter(pl.col("way") == way), way, measure, unit, domain, first=place == 0, wide=len(ways)) for place, way in enumerate(ways)]
        rows.append(alt.hconcat(*panels, spacing=18))
    return alt.vconcat(*rows, spacing=22)


def _domain(rows: pl.DataFrame, measure: str) -> list[float]:
    """One scale for all ways, with room for the names of the rules."""
    ends = [float(value) for column in ("mean", "low", "high") for value in rows[column].drop_nulls().drop_nans()] or [0.0, 1.0]
    if measure == "accuracy":
        ends = [0.0, 1.0]
    low, high = min(ends), max(ends)
    return [low - (0.0 if measure == "accuracy" else 0.02 * (high - low)), high + 0.1 * ((high - low) or 1.0)]


def _panel(rows: pl.DataFrame, way: str, measure: str, unit: str, domain: list[float], *, first: bool, wide: int) -> alt.LayerChart:
    names = [name for name in NAMES if name in set(rows["selection"])]
    ends = {percent: rows.filter(pl.col("percent") == percent)["mean"] for percent in (0.0, 100.0)}
    # Several k may come to the same number of tokens.
    drawn = rows.filter(pl.col("percent") > 0).unique(["selection", "share"], maintain_order=True)
    drawn = theme.drawable(drawn).with_columns(pl.col("selection").replace_strict(NAMES).alias("name"))
    accuracy = measure == "accuracy"
    axis = {"values": [0, 0.25, 0.5, 0.75, 1.0], "format": "%"} if accuracy else {"tickCount": 5}
    title = MEASURES["accuracy"] if accuracy else unit
    y = {
        "title": title if first else None, "scale": alt.Scale(domain=domain, nice=False, zero=False),
        "axis": alt.Axis(**axis, labels=first, ticks=first, domain=first),
    }  # fmt: skip
    x = alt.X(
        "share:Q", title=None if accuracy else "image tokens kept, share of all", scale=alt.Scale(type="log", domain=[_SHARES[0], 1.0], nice=False),
        axis=alt.Axis(values=_SHARES, format="~%", labels=not accuracy, labelOverlap=False),
    )  # fmt: skip
    colours = alt.Scale(domain=[NAMES[name] for name in names], range=[COLOURS[name] for name in names])
    legend = alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1, title="tokens chosen by", titleOrient="left", labelLimit=260)
    colour = alt.Color("name:N", title=None, scale=colours, legend=legend if accuracy else None)
    base = alt.Chart(drawn).encode(x=x, color=colour)
    number = ".1%" if accuracy else ".3f"
    tooltip = [
        alt.Tooltip("name:N", title="chosen by"), alt.Tooltip("share:Q", title="share kept", format=".1%"),
        alt.Tooltip("tokens:Q", title="tokens kept, mean", format=".1f"), alt.Tooltip("mean:Q", title=title, format=number),
        alt.Tooltip("low:Q", title="interval from", format=number), alt.Tooltip("high:Q", title="to", format=number), alt.Tooltip("pictures:Q"),
    ]  # fmt: skip
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", **y), y2="high:Q")
    dashes = alt.StrokeDash("name:N", scale=alt.Scale(domain=[NAMES[name] for name in names], range=[DASHES[name] for name in names]), legend=None)
    sizes = alt.Size("name:N", scale=alt.Scale(domain=[NAMES[name] for name in names], range=[SIZES[name] for name in names]), legend=None)
    line = base.mark_line(strokeWidth=2).encode(y=alt.Y("mean:Q", **y), strokeDash=dashes)
    points = base.mark_point().encode(y=alt.Y("mean:Q", **y), size=sizes, tooltip=tooltip)
    rules = [rule for percent, draw in ((100.0, _stock), (0.0, _none)) for rule in (draw(ends[percent]),) if rule is not None]
    width = {1: 560, 2: 280}.get(wide, 186)
    heading = alt.TitleParams(WAYS[way] if accuracy else "", frame="group")
    return alt.layer(*rules, band, line, points).properties(width=width, height=190 if accuracy else 170, title=heading)


def _none(values: pl.Series) -> alt.LayerChart | None:
    return theme.rule_y(float(values[0]), "no image token") if len(values) else None


def _stock(values: pl.Series) -> alt.LayerChart | None:
    """Named at the left end: at the right one all curves meet it."""
    if not len(values):
        return None
    data = alt.Chart(pl.DataFrame({"value": [float(values[0])], "label": ["stock model"]}))
    text = data.mark_text(color=theme.QUIET, align="left", baseline="bottom", dx=4, dy=-4).encode(text="label:N", y="value:Q", x=alt.value(0))
    return theme.rule_y(float(values[0])) + text
