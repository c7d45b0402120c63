"""What is left of descriptions where the picture is knocked out: F1 against the layers in which it is."""

import altair as alt
import polars as pl

from headflow.analysis.knockout_scores import NAMES
from headflow.charts import theme

COLOURS = {"img→gen": "#0072b2", "img→query": "#e69f00", "img→both": "#4d4d4d"}
AGAINST = {"stock": "against the stock description", "truth": "against the true objects"}
_KINDS = {
    "below": ("Closed below L", "L, first layer left open"), "closed": ("Closed in a band only", "middle of the band, layer"),
    "open": ("Open in a band only", "middle of the band, layer"),
}  # fmt: skip
_RULES = {"stock": ("stock model", ("upward", "below")), "chance": ("chance: another picture", ("upward",))}
# Lines that lie on one another still show: those drawn first are thicker.
_WIDTHS = {"img→gen": 2.0, "img→query": 4.5, "img→both": 2.0}


def f1_against_layer(bands: pl.DataFrame, levels: pl.DataFrame, judge: str | None = None) -> alt.HConcatChart:
    """F1 against L, the route closed in every layer above L, a line a route with its interval over pictures (the figure of Kaduri et al. 2025).

    One panel a comparison: with the stock model's description and, where they are known, with the scenes' true objects. Rules mark the stock model
    and chance, the description of another picture.

    Args:
        bands: the knockout bands table.
        levels: the knockout levels table.
        judge: whose judgements; None = the first judge's.
    """
    bands, levels = _of(judge, bands, levels)
    shown = [against for against in AGAINST if against in set(bands["against"])]
    width = 560 if len(shown) == 1 else 268
    panels = [
        _panel(bands.filter(against=against), "upward", "L, last decoder layer left open", levels.filter(against=against), first=place == 0, lines=True)
        .properties(width=width, height=280, title=AGAINST[against])
        for place, against in enumerate(shown)
    ]  # fmt: skip
    return alt.hconcat(*panels, spacing=24)


def f1_of_bands(bands: pl.DataFrame, levels: pl.DataFrame, against: str = "stock", judge: str | None = None) -> alt.HConcatChart:
    """F1 with the route closed below a layer, in a single band of layers, and in all layers but a band; with intervals over pictures.

    Args:
        bands: the knockout bands table.
        levels: the knockout levels table.
        against: the comparison, ``stock`` or ``truth``.
        judge: whose judgements; None = the first judge's.
    """
    bands, levels = (frame.filter(against=against) for frame in _of(judge, bands, levels))
    panels = [
        _panel(bands, kind, title, levels, first=place == 0, lines=kind == "below").properties(width=178, height=240, title=heading)
        for place, (kind, (heading, title)) in enumerate(_KINDS.items())
    ]
    return alt.hconcat(*panels, spacing=16)


def _of(judge: str | None, *frames: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows of one judge."""
    name = judge if judge is not None else frames[0]["judge"][0] if len(frames[0]) else None
    return [frame.filter(pl.col("judge") == name) for frame in frames]


def _panel(bands: pl.DataFrame, kind: str, title: str, levels: pl.DataFrame, *, first: bool, lines: bool) -> alt.LayerChart:
    rows = bands.filter(kind=kind)
    configurations = [names for names in NAMES if len(rows.filter(route=names[0], last_position=names[1]))]
    names = [NAMES[each] for each in configurations]
    key = pl.concat_str("route", pl.lit(" "), "last_position")
    rows = theme.drawable(rows).with_columns(
        key.replace_strict({" ".join(each): name for each, name in NAMES.items()}, return_dtype=pl.String).alias("name"),
        pl.col("route").replace_strict(_WIDTHS, return_dtype=pl.Float64).alias("width"),
    )
    reach = [value for value in rows["at"].to_list() if value is not None] or [0.0, 1.0]
    # Intervals of several routes at one place stand side by side.
    nudge = 0.0 if lines else 0.12 * max(1.0, max(reach) - min(reach)) / 4
    places = {name: (place - (len(names) - 1) / 2) * nudge for place, name in enumerate(names)}
    rows = rows.with_columns((pl.col("at") + pl.col("name").replace_strict(places, default=0.0, return_dtype=pl.Float64)).alias("x"))
    room = 0.0 if lines else nudge * len(names)
    layers_axis = alt.Axis(
        values=_ticks(min(reach), max(reach)), tickMinStep=1, format="~g", labelFlush=False, labelExpr="datum.value == -1 ? 'none' : datum.label"
    )
    domain = [min(reach) - room, max(max(reach), min(reach) + 1) + room]
    x = alt.X("x:Q", title=title, axis=layers_axis, scale=alt.Scale(domain=domain, nice=False))
    scale = alt.Scale(domain=[0, 1.06], nice=False)
    y = {"title": "F1 of named objects" if first else None, "scale": scale, "axis": alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1.0], format=".1f")}
    colours = [COLOURS[route] for route, _ in configurations]
    dashes = [[1, 0] if NAMES[each] == each[0] else [5, 3] for each in configurations]
    legend = alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1, labelLimit=260, columns=3) if first else None
    colour = alt.Color("name:N", title=None, scale=alt.Scale(domain=names, range=colours), legend=legend)
    dash = alt.StrokeDash("name:N", scale=alt.Scale(domain=names, range=dashes), legend=None)
    thick = alt.StrokeWidth("width:Q", scale=None, legend=None)
    tooltip = [
        alt.Tooltip("name:N", title="closed"), alt.Tooltip("first_layer:Q", title="open from layer" if kind == "open" else "closed from layer"),
        alt.Tooltip("last_layer:Q", title="to layer"), alt.Tooltip("mean:Q", title="F1", format=".2f"),
        alt.Tooltip("low:Q", title="interval from", format=".2f"),
        alt.Tooltip("high:Q", title="to", format=".2f"), alt.Tooltip("lost:Q", title="objects lost, mean", format=".2f"),
        alt.Tooltip("invented:Q", title="objects invented, mean", format=".2f"), alt.Tooltip("tokens:Q", title="tokens, mean", format=".1f"),
        alt.Tooltip("ended:Q", title="descriptions that end", format=".0%"), alt.Tooltip("pictures:Q"),
    ]  # fmt: skip
    base = alt.Chart(rows).encode(x=x, color=colour)
    layers: list[alt.Chart | alt.LayerChart] = [*_rules(levels, kind)]
    if lines:
        layers.append(base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q", **y), y2="high:Q"))
        layers.append(base.mark_line(opacity=0.85).encode(y=alt.Y("mean:Q", **y), strokeDash=dash, strokeWidth=thick))
    else:
        layers.append(base.mark_rule(strokeWidth=2, opacity=0.6).encode(y=alt.Y("low:Q", **y), y2="high:Q"))
    layers.append(base.mark_point(size=34).encode(y=alt.Y("mean:Q", **y), tooltip=tooltip))
    return alt.layer(*layers)


def _ticks(low: float, high: float) -> list[int]:
    """Whole layers some steps apart, and −1, which stands for none; layer 0 makes room for it where they are crowded."""
    step = max(1, -(-int(high - low) // 8))
    layers = [layer for layer in range(0, int(high) + 1, step) if layer >= low]
    return [-1, *(layer for layer in layers if layer or step == 1)] if low == -1 else layers


def _rules(levels: pl.DataFrame, kind: str) -> list[alt.LayerChart | alt.Chart]:
    """Stock and chance, each with its name where curves leave room for it."""
    known = {row["level"]: row["mean"] for row in levels.iter_rows(named=True) if row["mean"] is not None}
    rules = [theme.rule_y(known[level], label if kind in named else "") for level, (label, named) in _RULES.items() if level in known]
    if kind == "below" and "chance" in known:  # at its right end all curves come down
        text = alt.Chart(pl.DataFrame({"value": [known["chance"]], "label": [_RULES["chance"][0]]}))
        rules.append(text.mark_text(color=theme.QUIET, align="left", baseline="bottom", dx=4, dy=-3).encode(text="label:N", y="value:Q", x=alt.value(0)))
    return rules
