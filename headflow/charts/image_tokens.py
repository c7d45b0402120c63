"""Which image tokens give the picture: maps on the pictures, shares of object and background, how few tokens hold most."""

import io
from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from PIL import Image
from scipy.ndimage import binary_erosion

from headflow.analysis.picture_maps import to_pixels
from headflow.charts import theme
from headflow.charts.head_maps import _MAGNITUDE, _SIGNED, _coloured, _uri
from headflow.charts.pictures import data_uri
from headflow.tracing.image_tables import HELD, Objects, objects_of

NAMES = {
    "attribution": "attribution, size", "positive": "attribution above zero", "net": "attribution, signed sum", "top heads": "attribution, top heads alone",
    "attention": "attention",
}  # fmt: skip
COLOURS = {"attribution": "#0072b2", "top heads": "#56b4e9", "attention": "#cc79a7"}
"""Those of rankings and selections of the same names."""
PARTS = {"object": "in the main object", "others": "in other objects", "background": "in the background"}
MOST_EXAMPLES, MOST_BACKGROUND = 6, 6
CELL, GAP, BETWEEN, LINE = 102, 4, 26, 15
"""Pixels: a picture, between the pictures of one example, between examples, a line of text."""
_SHARP = 2  # painted pixels for each pixel of the figure
_SIDES = ["left", "top", "right", "bottom"]
_EDGE, _OTHER_EDGE, _TOKEN_EDGE = (20, 22, 25), (120, 125, 130), (255, 255, 255)


def token_maps(tokens: pl.DataFrame, examples: pl.DataFrame, unit: str = "logits") -> alt.LayerChart | None:
    """Picture, attribution and attention of some examples, the objects outlined; one scale over all. None where no token's place is known.

    Args:
        tokens: the image tokens table.
        examples: ``id``, ``image`` (bytes), ``answer`` and ``objects`` of its examples, as in the examples table.
        unit: of the target.
    """
    known = tokens.filter(pl.col("left").is_not_null().any().over("id"))
    names = _one_a_picture(known["id"].unique(maintain_order=True).to_list(), examples)[:MOST_EXAMPLES]
    if not names:
        return None
    rows = {name: known.filter(pl.col("id") == name).sort("token") for name in names}
    shown = {row["id"]: row for row in examples.filter(pl.col("id").is_in(names)).iter_rows(named=True)}
    maps = {(name, what): _density(part, what, shown[name]["image"]) for name, part in rows.items() for what in ("attribution", "attention")}
    reach = {what: max(float(np.abs(maps[name, what]).max()) for name in names) or 1.0 for what in ("attribution", "attention")}
    images, texts = [], []
    step, columns = 3 * CELL + 2 * GAP + BETWEEN, 2
    for place, name in enumerate(names):
        row, column = divmod(place, columns)
        x, y = column * step, LINE + row * (CELL + LINE + 12)
        picture, objects = shown[name]["image"], objects_of(shown[name]["objects"])
        said = {"example": f"{shown[name]['answer']} ({name})"}
        images.append({"url": data_uri(picture, _SHARP * CELL), "x": x, "y": y, "what": "picture", "sum": "", **said})
        for at, what in enumerate(("attribution", "attention"), 1):
            total = rows[name][what].sum()
            text = f"{total:+.2f} {unit} in all".replace("-", "−") if what == "attribution" else f"{total:.2f} in all"
            url = _painted(picture, maps[name, what], reach[what], objects, signed=what == "attribution")
            images.append({"url": url, "x": x + at * (CELL + GAP), "y": y, "what": what, "sum": text, **said})
            texts.append({"text": text, "x": x + at * (CELL + GAP) + CELL / 2, "y": y + CELL + LINE / 2})
        texts.append({"text": _short(shown[name]["answer"]), "x": x + CELL / 2, "y": y + CELL + LINE / 2})
        if row == 0:
            for at, what in enumerate(("picture", "attribution", "attention")):
                texts.append({"text": what, "x": x + at * (CELL + GAP) + CELL / 2, "y": LINE / 2})
    width = min(len(names), columns) * step - BETWEEN
    height = LINE + -(-len(names) // columns) * (CELL + LINE + 12)
    legends = (
        (f"attribution, {unit} on each percent of the picture", _SIGNED, [-reach["attribution"], 0.0, reach["attribution"]], ".2~r"),
        ("attention on each percent of the picture", _MAGNITUDE, [0.0, reach["attention"]], ".2~r"),
    )
    return _sheet(images, texts, width, height, legends)


def background_tokens(background: pl.DataFrame, examples: pl.DataFrame, unit: str = "logits") -> alt.LayerChart | None:
    """The strongest tokens outside all known objects, each framed on its picture, the objects outlined. None where there is none.

    Args:
        background: the image background table.
        examples: as for :func:`token_maps`.
    """
    rows = background.filter(pl.col("left").is_not_null()).head(MOST_BACKGROUND).to_dicts()
    if not rows:
        return None
    shown = {row["id"]: row for row in examples.filter(pl.col("id").is_in([row["id"] for row in rows])).iter_rows(named=True)}
    images, texts = [], []
    for place, row in enumerate(rows):
        x, example = place * (CELL + 14), shown[row["id"]]
        url = _framed(example["image"], [row[side] for side in _SIDES], objects_of(example["objects"]), positive=row["attribution"] > 0)
        span = f"{row['low']:+.2f} to {row['high']:+.2f}".replace("-", "−")
        images.append({"url": url, "x": x, "y": 0, "what": f"token {row['token']}", "example": f"{example['answer']} ({row['id']})", "sum": span})
        lines = (f"{row['attribution']:+.2f} {unit}".replace("-", "−"), span, _short(example["answer"]))
        texts += [{"text": text, "x": x + CELL / 2, "y": CELL + LINE * (line + 0.6)} for line, text in enumerate(lines)]
    return _sheet(images, texts, len(rows) * (CELL + 14) - 14, CELL + 3.4 * LINE, ())


def shares(means: pl.DataFrame) -> alt.HConcatChart:
    """Share of attribution and of attention in the main object, in other objects and in the background, with intervals; the rule is the tokens' even share.

    Args:
        means: the image share means table.
    """
    rows = theme.drawable(means.filter(pl.col("what").is_in(list(NAMES)), pl.col("mean").is_not_null()))
    rows = rows.with_columns(pl.col("what").replace_strict(NAMES).alias("name"), pl.col("what").replace_strict(_colours()).alias("colour"))
    order = [name for name in NAMES.values() if name in set(rows["name"])]
    even = {row["part"]: row["mean"] for row in means.filter(pl.col("what") == "even").iter_rows(named=True)}
    ends = [value for column in ("mean", "low", "high") for value in rows[column].drop_nulls()] + list(even.values()) + [0.0]
    domain = [min(ends), max(ends) + 0.03]
    panels = []
    for part, title in PARTS.items():
        x = alt.X("mean:Q", title="share", scale=alt.Scale(domain=domain, nice=True), axis=alt.Axis(format="%", tickCount=4))
        base = alt.Chart(rows.filter(pl.col("part") == part)).encode(
            y=alt.Y("name:N", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(labelLimit=190) if part == "object" else None),
            color=alt.Color("colour:N", scale=None),
        )
        spans = base.mark_rule(strokeWidth=4, opacity=0.5).encode(x=alt.X("low:Q", title="share"), x2="high:Q")
        tooltip = [
            alt.Tooltip("name:N", title="what"), *(alt.Tooltip(f"{name}:Q", format=".1%") for name in ("mean", "low", "high")),
            alt.Tooltip("over:Q", title="above the even share", format="+.1%"), alt.Tooltip("p_holm:Q", title="p, corrected", format=".3f"),
            alt.Tooltip("pictures:Q"),
        ]  # fmt: skip
        rule = theme.rule_x(even[part], "area" if part == "object" else "")
        panels.append(alt.layer(rule, spans, base.mark_point(size=34).encode(x=x, tooltip=tooltip)).properties(
            width=155, height=34 * max(1, len(order)) + 16, title=title))  # fmt: skip
    return alt.hconcat(*panels, spacing=16)


def held_curves(curves: pl.DataFrame) -> alt.LayerChart:
    """What the largest tokens hold together, against their share of all tokens; the dashed diagonal is all tokens alike, the rule the share asked for.

    Args:
        curves: the image curves table.
    """
    names = [name for name in COLOURS if name in set(curves["what"])]
    start = pl.DataFrame({"what": names, "percent": [0.0] * len(names), "held": [0.0] * len(names), "low": [0.0] * len(names), "high": [0.0] * len(names)})
    rows = theme.drawable(pl.concat([start, curves.select(start.columns)])).with_columns(
        (pl.col("percent") / 100).alias("share"), pl.col("what").replace_strict({name: NAMES[name].split(", size")[0] for name in names}).alias("name"),
        pl.col("low").clip(0, 1), pl.col("high").clip(0, 1),
    )  # fmt: skip
    x = alt.X("share:Q", title="image tokens, largest first, share of all", scale=alt.Scale(domain=[0, 1], nice=False), axis=alt.Axis(format="%", tickCount=6))
    scale, title = alt.Scale(domain=[0, 1.02], nice=False), "share that they hold"
    y = alt.Y("held:Q", title=title, scale=scale, axis=alt.Axis(format="%", values=[0, 0.2, 0.4, 0.6, 0.8, 1]))
    domain = rows["name"].unique(maintain_order=True).to_list()
    colour = alt.Color(
        "name:N", title=None, scale=alt.Scale(domain=domain, range=[COLOURS[name] for name in names]),
        legend=alt.Legend(orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1, labelLimit=260),
    )  # fmt: skip
    base = alt.Chart(rows).encode(x=x, color=colour)
    band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=title, scale=scale), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=y, tooltip=["name:N", alt.Tooltip("share:Q", format=".0%"), alt.Tooltip("held:Q", format=".1%")])
    alike = alt.Chart(pl.DataFrame({"share": [0.0, 1.0], "held": [0.0, 1.0]})).mark_line(strokeDash=[4, 3], strokeWidth=1, color=theme.RULE).encode(x=x, y=y)
    return alt.layer(alike, theme.rule_y(HELD, f"{HELD:.0%}"), band, line).properties(width=430, height=290)


def _colours() -> dict[str, str]:
    return {**dict.fromkeys(NAMES, COLOURS["attribution"]), **COLOURS}


def _one_a_picture(names: Sequence[str], examples: pl.DataFrame) -> list[str]:
    """The first example of each picture, those of different answers first."""
    rows = examples.filter(pl.col("id").is_in(list(names))).unique("image", keep="first", maintain_order=True)
    different = rows.unique("answer", keep="first", maintain_order=True)["id"].to_list()
    return [*different, *(name for name in rows["id"] if name not in different)]


def _size(picture: bytes) -> tuple[int, int, float]:
    """Painted width and height, and painted pixels for each of the picture."""
    with Image.open(io.BytesIO(picture)) as opened:
        width, height = opened.size
    scale = _SHARP * CELL / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale)), scale


def _density(part: pl.DataFrame, what: str, picture: bytes) -> Float[np.ndarray, "height width"]:
    """Values on the painted picture, in their unit for each percent of its area."""
    width, height, scale = _size(picture)
    boxes = part.select(_SIDES).cast(pl.Float64).fill_null(np.nan).to_numpy()
    return to_pixels(part[what].to_numpy(), boxes * scale, (width, height)) * width * height / 100


def _painted(picture: bytes, density: Float[np.ndarray, "height width"], reach: float, objects: Objects | None, *, signed: bool) -> str:
    """The picture in grey under the colours of ``density`` (±reach), objects outlined."""
    shares = (density / reach).clip(-1, 1)
    colours = _coloured((shares + 1) / 2 if signed else shares, _SIGNED if signed else _MAGNITUDE)
    cover = (0.2 + 0.7 * np.abs(shares) ** 0.7)[..., None]
    below = 110 + 0.55 * _opened(picture, grey=True)
    return _uri(_outlined((cover * colours + (1 - cover) * below).clip(0, 255), objects).astype(np.uint8))


def _framed(picture: bytes, box: Sequence[float], objects: Objects | None, *, positive: bool) -> str:
    """The picture with a token's box framed in the colour of its sign, and objects outlined."""
    pixels = _outlined(0.15 * 255 + 0.85 * _opened(picture, grey=False), objects)
    width, height, scale = _size(picture)
    left, top, right, bottom = (round(side * scale) for side in box)
    frame = np.zeros((height, width), bool)
    frame[max(0, top) : bottom, max(0, left) : right] = True
    white, coloured = frame & ~_eroded(frame, 5), frame & ~_eroded(frame, 3)
    pixels[white] = _TOKEN_EDGE
    pixels[coloured] = tuple(int(_SIGNED[-3 if positive else 2][at : at + 2], 16) for at in (1, 3, 5))
    return _uri(pixels.clip(0, 255).astype(np.uint8))


def _opened(picture: bytes, *, grey: bool) -> Float[np.ndarray, "height width 3"]:
    width, height, scale = _size(picture)
    with Image.open(io.BytesIO(picture)) as opened:
        image = opened.convert("L").convert("RGB") if grey else opened.convert("RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS), float)


def _outlined(pixels: Float[np.ndarray, "height width 3"], objects: Objects | None) -> Float[np.ndarray, "height width 3"]:
    if objects is None:
        return pixels
    pixels = pixels.copy()
    for mask, colour in [*((other, _OTHER_EDGE) for other in objects.others), (objects.main, _EDGE)]:
        large = np.asarray(Image.fromarray(mask).resize(pixels.shape[1::-1], Image.Resampling.NEAREST))
        pixels[large & ~_eroded(large, 3)] = colour
    return pixels


def _eroded(mask: Bool[np.ndarray, "height width"], by: int) -> Bool[np.ndarray, "height width"]:
    return binary_erosion(mask, iterations=by)


def _short(text: str, most: int = 16) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _sheet(images: list[dict], texts: list[dict], width: float, height: float, legends: Sequence[tuple]) -> alt.LayerChart:
    """Pictures and lines of text at their pixels, and the legends of what is painted."""
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, width], nice=False), axis=None)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[height, 0], nice=False), axis=None)
    frame = pl.DataFrame(images).with_columns(pl.col("x") + CELL / 2, pl.col("y") + CELL / 2)
    tooltip = [alt.Tooltip("what:N", title="shown"), alt.Tooltip("example:N"), alt.Tooltip("sum:N", title="attribution")]
    layers = [
        alt.Chart(frame).mark_image(width=CELL, height=CELL).encode(x=x, y=y, url="url:N", tooltip=tooltip),
        alt.Chart(pl.DataFrame(texts)).mark_text(baseline="middle", color=theme.QUIET, fontSize=11).encode(x=x, y=y, text="text:N"),
    ]
    for title, colours, ends, form in legends:
        # Nothing is drawn by this layer: it brings the legend.
        nothing = pl.DataFrame({"x": [0.0, 0.0], "y": [0.0, 0.0], "value": [ends[0], ends[-1]]})
        legend = alt.Legend(orient="bottom", direction="horizontal", titleLimit=340, values=ends, format=form)
        colour = alt.Color("value:Q", title=title, scale=alt.Scale(domain=[ends[0], ends[-1]], range=list(colours), interpolate="rgb"), legend=legend)
        layers.append(alt.Chart(nothing).mark_point(size=0, opacity=0).encode(x=x, y=y, color=colour))
    return alt.layer(*layers).resolve_scale(color="independent").properties(width=width, height=height, view=alt.ViewBackground(stroke=None))
