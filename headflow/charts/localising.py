"""Does the token that names an object look at it? Maps against the object's mask, layer by layer, head by head, and on some pictures."""

import io

import altair as alt
import numpy as np
import polars as pl
from PIL import Image

from headflow.charts import theme
from headflow.charts.head_maps import _MAGNITUDE, _SIGNED
from headflow.charts.heads import LAYER, LOWEST, grid_axes, grid_height
from headflow.charts.image_tokens import BETWEEN, CELL, GAP, LINE, _density, _painted, _sheet, _short
from headflow.charts.numbers import neighbours
from headflow.charts.pictures import data_uri
from headflow.tracing.image_tables import Objects

NAMES = {"attention": "attention of the naming token", "attention before": "attention of the position before it", "attribution": "attribution of the word"}
COLOURS = {"attention": "#cc79a7", "attention before": "#e69f00", "attribution": "#0072b2"}
STATISTICS = {
    "share": "share inside the object's mask", "auroc": "AUROC, tokens inside against outside", "pointing": "pointing game: share of largest tokens inside",
}  # fmt: skip
MASKS = {"own": "the object that is named", "other": "other objects of the picture"}
_COLUMNS = 2
_TOP = 32  # pixels


def share_by_layer(layers: pl.DataFrame) -> alt.LayerChart | None:
    """Share of each map inside the mask of the named object, by layer, with intervals over pictures; rules mark chance and the attribution of all layers.

    Args:
        layers: the table of localisation by layer.
    """
    rows = _own(layers, "share")
    if rows.is_empty():
        return None
    whole = _own(layers, "share", whole=True).filter(pl.col("what") == "attribution")
    low, high = _domain(rows)
    value = None if whole.is_empty() else float(whole["mean"][0])
    rules = [] if value is None else [_coloured_rule(value, "attribution, all layers", COLOURS["attribution"], left=value > (low + high) / 2)]
    return alt.layer(*rules, _by_layer(rows, "share", "what", NAMES, COLOURS, legend="top")).properties(width=560, height=_height(rows))


def ranks_by_layer(layers: pl.DataFrame) -> alt.HConcatChart | None:
    """The same by AUROC and by the pointing game, which do not depend on how much attention there is; the rules are chance levels."""
    panels = []
    for place, statistic in enumerate(("auroc", "pointing")):
        rows = _own(layers, statistic)
        if rows.is_empty():
            return None
        chart = _by_layer(rows, statistic, "what", NAMES, COLOURS, legend=None if place else "top", titled=not place)
        panels.append(chart.properties(width=270, height=_height(rows)))
    return alt.hconcat(*panels, spacing=26)


def own_and_others(layers: pl.DataFrame) -> alt.HConcatChart | None:
    """AUROC of every map against the mask of the named object and against those of the other objects of the picture, by layer. None where no picture
    with a named object shows another."""
    shown = layers.filter(pl.col("statistic") == "auroc", pl.col("layer").is_not_null(), pl.col("against") != "difference", pl.col("mean").is_not_null())
    if "other" not in set(shown["against"]):
        return None
    panels, names = [], [what for what in NAMES if what in set(shown["what"])]
    for place, what in enumerate(names):
        rows = shown.filter(pl.col("what") == what)
        colours = {"own": theme.ACCENT, "other": theme.RULE}
        chart = _by_layer(rows, "auroc", "against", MASKS, colours, legend=None if place else "bottom", titled=not place, domain=_domain(shown), title="AUROC")
        panels.append(chart.properties(width=510 // len(names), height=_height(rows), title=NAMES[what]))
    return alt.hconcat(*panels, spacing=20)


def head_grid(heads: pl.DataFrame) -> alt.LayerChart | None:
    """AUROC of every head's attention above or below chance; heads that differ from chance after correction are outlined."""
    rows = theme.drawable(heads.filter(pl.col("statistic") == "auroc"))
    if rows["mean"].drop_nulls().is_empty():
        return None
    rows = rows.with_columns((pl.col("p_holm") < 0.05).fill_null(False).alias("clear"))
    y, x = grid_axes(rows)
    tooltip = [
        alt.Tooltip("layer:O"), alt.Tooltip("head:O"), *(alt.Tooltip(f"{name}:Q", title=title, format=".3f") for name, title in (
            ("mean", "AUROC"), ("low", "interval from"), ("high", "to"), ("p_holm", "p, corrected"))), alt.Tooltip("mentions:Q"), alt.Tooltip("pictures:Q"),
    ]  # fmt: skip
    base = alt.Chart(rows).encode(y=y, x=x, tooltip=tooltip)
    cells = base.mark_rect(cornerRadius=2).encode(color=theme.signed("over", rows, "AUROC − 0.5"))
    outlined = base.mark_rect(cornerRadius=2, filled=False, stroke=theme.INK, strokeWidth=1.4).transform_filter("datum.clear")
    return alt.layer(cells, outlined).properties(width=theme.WIDTH, height=grid_height(rows), autosize=alt.AutoSizeParams(type="fit", contains="padding"))


def gallery(maps: pl.DataFrame, namings: pl.DataFrame, examples: pl.DataFrame) -> alt.LayerChart | None:
    """Some pictures with the object that is named outlined: where attention lies in the layer that finds objects best, and the attribution of the word.

    Args:
        maps: the localisation maps table.
        namings: the namings table.
        examples: ``id`` and ``image`` (bytes) of its examples.
    """
    known = maps.filter(pl.col("left").is_not_null().any().over("id", "name"))
    if known.is_empty():
        return None
    pictures = dict(examples.filter(pl.col("id").is_in(known["id"].unique().to_list())).select("id", "image").iter_rows())
    said = {(row["id"], row["name"]): row for row in namings.filter(pl.col("mask").is_not_null()).iter_rows(named=True)}
    keys = known.select("id", "name").unique(maintain_order=True).rows()
    kinds = [what for what in NAMES if what in set(known["what"])]
    drawn = {
        (*key, what): _density(part.sort("token").with_columns(pl.col("value").alias(what)), what, pictures[key[0]])
        for key in keys for what in kinds if not (part := known.filter(pl.col("id") == key[0], pl.col("name") == key[1], pl.col("what") == what)).is_empty()
    }  # fmt: skip
    images, texts = [], []
    step = (1 + len(kinds)) * CELL + len(kinds) * GAP + BETWEEN
    for place, key in enumerate(keys):
        row, column = divmod(place, _COLUMNS)
        x, y, picture = column * step, LINE + row * (CELL + LINE + 12), pictures[key[0]]
        objects = _outline(said[key]["mask"])
        example = {"example": f"{said[key]['word']} ({key[0]})"}
        images.append({"url": data_uri(picture, 2 * CELL), "x": x, "y": y, "what": "picture", "sum": "", **example})
        texts.append({"text": _short(f"“{said[key]['word']}”"), "x": x + CELL / 2, "y": y + CELL + LINE / 2})
        for at, what in enumerate(kinds, 1):
            if (*key, what) not in drawn:
                continue
            part = known.filter(pl.col("id") == key[0], pl.col("name") == key[1], pl.col("what") == what)
            total, signed = float(part["value"].sum()), what == "attribution"
            text = f"{total:+.2f} logits in all".replace("-", "−") if signed else f"{total:.2f} in all"
            density = drawn[(*key, what)]
            url = _painted(picture, density, float(np.abs(density).max()) or 1.0, objects, signed=signed)
            images.append({"url": url, "x": x + at * (CELL + GAP), "y": y, "what": NAMES[what], "sum": text, **example})
            texts.append({"text": text, "x": x + at * (CELL + GAP) + CELL / 2, "y": y + CELL + LINE / 2})
        if row == 0:
            for at, what in enumerate(("picture", *kinds)):
                layer = known.filter(pl.col("what") == what)["layer"].drop_nulls()
                title = what.split()[0] + (f", layer {layer[0]}" if len(layer) else "")
                texts.append({"text": title, "x": x + at * (CELL + GAP) + CELL / 2, "y": LINE / 2})
    signs = {"attention": (_MAGNITUDE, [0.0, 1.0]), "attribution": (_SIGNED, [-1.0, 0.0, 1.0])}
    legends = [(f"{what.split()[0]}, share of the map's largest", *signs[what.split()[0]], ".2~r") for what in kinds]
    return _sheet(images, texts, min(len(keys), _COLUMNS) * step - BETWEEN, LINE + -(-len(keys) // _COLUMNS) * (CELL + LINE + 12), legends)


def _own(layers: pl.DataFrame, statistic: str, *, whole: bool = False) -> pl.DataFrame:
    """Means against the named object's mask: of single layers, or of all together."""
    rows = layers.filter(pl.col("against") == "own", pl.col("statistic") == statistic, pl.col("mean").is_not_null())
    return rows.filter(pl.col("layer").is_null() if whole else pl.col("layer").is_not_null())


def _height(rows: pl.DataFrame) -> int:
    return max(LOWEST, 90 + min(26 * rows["layer"].n_unique(), 420))


def _room(rows: pl.DataFrame) -> float:
    """What is left free above the last layer for the names of two rules, in layers."""
    span, height = rows["layer"].max() - rows["layer"].min() + 0.3, _height(rows)
    return max(0.3, _TOP * span / (height - _TOP))


def _domain(rows: pl.DataFrame) -> list[float]:
    ends = [float(value) for name in ("mean", "low", "high", "chance") for value in rows[name].drop_nulls()] or [0.0, 1.0]
    return [min(ends), max(ends)] if max(ends) > min(ends) else [0.0, 1.0]


def _by_layer(
    rows: pl.DataFrame, statistic: str, by: str, names: dict[str, str], colours: dict[str, str], *, legend: str | None, titled: bool = True,
    domain: list[float] | None = None, title: str | None = None,
) -> alt.LayerChart:  # fmt: skip
    """A line for each value of ``by`` with its interval, layers upward; points alone where layers do not follow one another."""
    rows = theme.drawable(rows.sort("layer"))
    present = [name for name in names if name in set(rows[by])]
    rows = rows.with_columns(pl.col(by).replace_strict(names).alias("series"))
    layers = rows["layer"].unique().sort().to_list()
    ticks = layers[:: max(1, len(layers) // 16)]
    y = alt.Y(
        "layer:Q", title=LAYER if titled else None, scale=alt.Scale(domain=[layers[0] - 0.3, layers[-1] + _room(rows)], nice=False),
        axis=alt.Axis(values=ticks, format="d"),
    )  # fmt: skip
    colour = alt.Color(
        "series:N", title=None, scale=alt.Scale(domain=[names[name] for name in present], range=[colours[name] for name in present]),
        legend=legend and alt.Legend(orient=legend, symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1, labelLimit=260),
    )  # fmt: skip
    shares = statistic != "auroc"
    scale = alt.Scale(domain=_domain(rows) if domain is None else domain, nice=True)
    x = {"title": title or STATISTICS[statistic], "scale": scale, "axis": alt.Axis(format="%" if shares else ".1f", tickCount=5)}
    number = ".1%" if shares else ".3f"
    tooltip = [
        alt.Tooltip("series:N", title="of"), alt.Tooltip("layer:Q"), alt.Tooltip("mean:Q", format=number),
        alt.Tooltip("low:Q", title="interval from", format=number), alt.Tooltip("high:Q", title="to", format=number),
        alt.Tooltip("chance:Q", format=number), alt.Tooltip("p_holm:Q", title="p, corrected", format=".3f"), alt.Tooltip("mentions:Q"),
        alt.Tooltip("pictures:Q"),
    ]  # fmt: skip
    base = alt.Chart(rows).encode(y=y, color=colour)
    points = base.mark_point(size=44).encode(x=alt.X("mean:Q", **x), tooltip=tooltip)
    own = rows.filter(pl.col("against") == "own")["chance"]
    rules = [theme.rule_x(float(own.mean()), "chance")] if len(own.drop_nulls()) else []
    if not neighbours(layers):
        return alt.layer(*rules, base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", **x), x2="high:Q"), points)
    spans = base.mark_area(orient="horizontal", opacity=0.17).encode(x=alt.X("low:Q", stack=None, **x), x2="high:Q")
    means = base.mark_line(orient="horizontal", strokeWidth=2).encode(x=alt.X("mean:Q", **x), order="layer:Q")
    return alt.layer(*rules, spans, means, points)


def _coloured_rule(value: float, label: str, colour: str, *, left: bool) -> alt.LayerChart:
    data = alt.Chart(pl.DataFrame({"value": [value], "label": [label]}))
    # A line below the name of the chance level.
    text = data.mark_text(color=colour, align="right" if left else "left", baseline="top", dx=-4 if left else 4, dy=14).encode(
        text="label:N", x="value:Q", y=alt.value(0)
    )
    return data.mark_rule(strokeDash=[2, 2], color=colour).encode(x="value:Q") + text


def _outline(mask: bytes) -> Objects:
    with Image.open(io.BytesIO(mask)) as picture:
        return Objects(np.asarray(picture.convert("1")), [])
