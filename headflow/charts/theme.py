"""The one look of every figure: width, type, rules and colours. Importing it registers the theme with Altair."""

from collections.abc import Iterable

import altair as alt
import polars as pl
import polars.selectors as cs

WIDTH = 700
"""Outer width of a figure, pixels; axes and legends included."""

INK, QUIET, FAINT, RULE = "#22262b", "#5d6670", "#e6e8eb", "#8a929b"
ACCENT = "#1f5f8b"
FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"

SIGNED = "blueorange"
"""Every signed quantity: blue below zero, orange above; told apart by all common kinds of colour blindness."""

MAGNITUDE = "viridis"
"""Every magnitude and every depth: perceptually even, dark to light."""

DIGITS = 6
"""Significant digits of the numbers in a chart's data."""

KINDS = {"meaning": "#0f766e", "looks": "#a2417e"}
"""The two kinds of label, wherever they are compared."""

# Okabe and Ito's colours, which stay apart for colour-blind readers, then further hues for the rare long list.
_CATEGORIES = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#7a7a00", "#b15928", "#4d4d4d",
    "#1b9e9e", "#c51b7d", "#80b1d3", "#fb8072", "#66a61e", "#a6761d", "#bc80bd", "#9ebcda", "#d6604d", "#999999",
)  # fmt: skip
# A label that names a colour is drawn in it: darkened where the pure hue would vanish on white paper.
_NAMED = {
    "red": "#d3352c", "green": "#2f9e44", "blue": "#2b63d9", "yellow": "#e3b505", "orange": "#ee7a1a", "purple": "#7b3fb5",
    "violet": "#7b3fb5", "magenta": "#c930b0", "pink": "#ef7fb4", "cyan": "#18b4c9", "teal": "#0e8a86", "turquoise": "#18b4a4",
    "brown": "#8a5a33", "white": "#ededed", "grey": "#8f8f8f", "gray": "#8f8f8f", "black": "#1d1d1d", "lime": "#8fce00",
    "navy": "#1f2d7a", "maroon": "#7d1f2e", "olive": "#7d7d1c", "gold": "#d4a017", "silver": "#bdbdbd",
}  # fmt: skip


@alt.theme.register("headflow", enable=True)
def _theme() -> alt.theme.ThemeConfig:
    axis = {
        "labelColor": QUIET, "titleColor": INK, "titleFontWeight": "normal", "titlePadding": 8, "labelFontSize": 12, "titleFontSize": 13,
        "domainColor": RULE, "tickColor": RULE, "gridColor": FAINT, "tickSize": 4, "labelLimit": 200,
    }  # fmt: skip
    return {
        "config": {
            "background": "#ffffff",
            "font": FONT,
            "padding": 4,
            "view": {"stroke": None, "continuousWidth": 560, "continuousHeight": 320},
            "axis": axis,
            "axisX": {"tickCount": 8},
            "axisQuantitative": {"labelSeparation": 6},
            "axisBand": {"grid": False, "domain": False, "ticks": False, "labelPadding": 6},
            "legend": {
                "labelColor": QUIET,
                "titleColor": INK,
                "titleFontWeight": "normal",
                "labelFontSize": 12,
                "titleFontSize": 12,
                "titleLimit": 260,
                "labelLimit": 200,
                "gradientThickness": 10,
                "gradientLength": 180,
                "symbolStrokeWidth": 0.6,
            },
            "title": {"anchor": "start", "fontSize": 13, "fontWeight": "normal", "color": INK, "subtitleColor": QUIET, "offset": 8},
            "header": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontWeight": "normal"},
            "point": {"size": 55, "filled": True, "opacity": 1},
            "text": {"fontSize": 11, "color": INK, "font": FONT},
            "rule": {"color": RULE},
            "bar": {"color": ACCENT},
            "concat": {"spacing": 28},
        }
    }


# Tables are cut down to what an eye can take in before they are drawn, so Altair's own limit is not wanted.
alt.data_transformers.enable("default", max_rows=None)


def drawable(frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with NaN and infinities as nulls, which JSON can hold and Vega leaves out, and no digits that nobody can see.

    A model of a thousand heads fills several charts with them, and every digit stands on the page.
    """
    return frame.with_columns(pl.when(cs.float().is_finite()).then(cs.float().round_sig_figs(DIGITS)))


def signed(field: str, frame: pl.DataFrame, title: str, **legend: object) -> alt.Color:
    """Colour for a signed column: diverging and centred on zero, with both ends equally far from it."""
    values = frame[field].drop_nulls().drop_nans().abs()
    reach = float(values.max() or 0.0) or 1.0
    scale = alt.Scale(scheme=SIGNED, domain=[-reach, reach], domainMid=0)
    return alt.Color(f"{field}:Q", title=title, scale=scale, legend=alt.Legend(format="+.2~f", **legend))


def palette(values: Iterable[str | None]) -> dict[str, str]:
    """A colour for each different value; it depends on the set of values alone, so it is the same in every figure."""
    names = sorted({str(value) for value in values if value is not None})
    if names and all(name.lower() in _NAMED for name in names):
        return {name: _NAMED[name.lower()] for name in names}
    return {name: _CATEGORIES[place % len(_CATEGORIES)] for place, name in enumerate(names)}


def category(field: str, values: Iterable[str | None], title: str, **legend: object) -> alt.Color:
    """Colour for a category column, by :func:`palette`."""
    colours = palette(values)
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(f"{field}:N", title=title, scale=scale, legend=alt.Legend(**legend) if legend else alt.Undefined)


def rule_x(value: float, label: str = "", *, left: bool = False) -> alt.LayerChart | alt.Chart:
    """A vertical rule at a chance level, a stock value or zero, with its name beside it, on its left where there is no room on its right."""
    return _rule(value, label, "x", left=left)


def rule_y(value: float, label: str = "") -> alt.LayerChart | alt.Chart:
    """A horizontal rule at a chance level, a stock value or zero, with its name above it."""
    return _rule(value, label, "y")


def _rule(value: float, label: str, axis: str, *, left: bool = False) -> alt.LayerChart | alt.Chart:
    data = alt.Chart(pl.DataFrame({"value": [float(value)], "label": [label]}))
    place = {axis: "value:Q"}
    rule = data.mark_rule(strokeDash=[4, 3]).encode(**place)
    if not label:
        return rule
    # At the top of a vertical rule, at the right end of a horizontal one: rarely where the data are.
    side = {"y": alt.value(0)} if axis == "x" else {"x": alt.value("width")}
    across = {"align": "right" if left else "left", "baseline": "top", "dx": -4 if left else 4}
    shape = across if axis == "x" else {"align": "right", "baseline": "bottom", "dy": -3}
    return rule + data.mark_text(color=QUIET, **shape).encode(text="label:N", **place, **side)
