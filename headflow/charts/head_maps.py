"""What single heads look at, pass on and write: maps on the picture, words, and what a head does by itself."""

import base64
import io
from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Float, UInt8
from PIL import Image

from headflow.analysis.picture_maps import to_pixels
from headflow.charts import theme
from headflow.charts.numbers import head_name
from headflow.charts.pictures import data_uri

MOST_EXAMPLES, MOST_HEADS, MOST_CLUSTERS, MOST_ANSWERS, WORDS = 4, 8, 8, 7, 3
LEFT, CELL, GAP, BETWEEN, LINE = 58, 74, 3, 12, 13
"""Pixels: the names of the rows, the width of a map, between the maps of a picture, between pictures, a line of text."""
# Vega's schemes `viridis` and `blueorange`: the maps are painted here, and the legends must say the same.
_MAGNITUDE = ("#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725")
_SIGNED = ("#134b85", "#2f78b3", "#5da2cb", "#9dcae1", "#d2e5ef", "#f2f0eb", "#fce0ba", "#fbbf74", "#e8932f", "#c5690d", "#994a07")
_SIDES = ("left", "top", "right", "bottom")


def head_grid(head_maps: pl.DataFrame, examples: pl.DataFrame, unit: str = "logits") -> alt.LayerChart | None:
    """Rows are heads, columns examples: where the head looks, and beside it where what it passes on comes from. None where no token's place is known.

    Args:
        head_maps: the head maps table; its first examples and heads are drawn.
        examples: ``id``, ``image`` (bytes) and ``answer`` of these.
    """
    rows = head_maps.with_columns(head_name("layer", "head").alias("row"))
    placed = _placed(rows)
    names = placed["id"].unique(maintain_order=True).head(MOST_EXAMPLES).to_list()
    heads = placed["row"].unique(maintain_order=True).head(MOST_HEADS).to_list()
    columns = [[(head, name) for name in names] for head in heads]
    return _grid(placed, columns, heads, examples, unit, on_top=names)


def cluster_grid(cluster_maps: pl.DataFrame, examples: pl.DataFrame, unit: str = "logits") -> alt.LayerChart | None:
    """The same for clusters of heads (means over the heads of each) on the examples that are most typical of each. None where no token's place is known."""
    rows = cluster_maps.with_columns(pl.format("cluster {}", "cluster").alias("row"))
    placed = _placed(rows).sort("cluster", "rank", "token")
    clusters = placed["row"].unique(maintain_order=True).head(MOST_CLUSTERS).to_list()
    columns = [[(row, name) for name in placed.filter(pl.col("row") == row)["id"].unique(maintain_order=True).head(MOST_EXAMPLES - 1)] for row in clusters]
    return _grid(placed, columns, clusters, examples, unit)


def _placed(rows: pl.DataFrame) -> pl.DataFrame:
    """Maps of the examples in which the place of any token is known."""
    return rows.filter(pl.col("left").is_not_null().any().over("id"))


def _grid(
    rows: pl.DataFrame, cells: Sequence[Sequence[tuple[str, str]]], labels: Sequence[str], examples: pl.DataFrame, unit: str, on_top: Sequence[str] = ()
) -> alt.LayerChart | None:
    """Pairs of maps, row by row; the pictures themselves stand on top where all rows show the same, else beside their maps."""
    if rows.is_empty():
        return None
    pictures = {name: (image, answer) for name, image, answer in examples.select("id", "image", "answer").iter_rows()}
    found = {key: part for key, part in rows.group_by("row", "id")}
    # Wide pictures leave no room empty below them.
    shapes = [_size(pictures[name][0]) for pairs in cells for _, name in pairs]
    tall = CELL * min(1.0, max(height / width for width, height in shapes))
    shown = 2 if on_top else 3
    step = shown * CELL + (shown - 1) * GAP + BETWEEN
    images, texts = [], []

    def write(text: str, x: float, y: float, kind: str = "small") -> None:
        texts.append({"text": text, "x": x, "y": y, "kind": kind})

    def show(url: str, x: float, y: float, **said: str) -> None:
        images.append({"url": url, "x": x + CELL / 2, "y": y + tall / 2, **said})

    top = (tall + 2 * LINE + 4 if on_top else 0) + LINE + 2
    for column, name in enumerate(on_top):
        x = LEFT + column * step
        image, answer = pictures[name]
        show(data_uri(image, 2 * CELL), x + (2 * CELL + GAP - CELL) / 2, LINE + 4, what=_short(answer, 60), example=name)
        write(_short(answer, 22), x + CELL + GAP / 2, LINE / 2)
    for column in range(max(map(len, cells))):
        for place, text in enumerate(("picture", "attention", "attribution")[3 - shown :]):
            write(text, LEFT + column * step + place * (CELL + GAP) + CELL / 2, top - LINE / 2)
    for row, (label, pairs) in enumerate(zip(labels, cells, strict=True)):
        y = top + row * (tall + LINE + 5)
        write(label, LEFT - 8, y + tall / 2, "row")
        for column, key in enumerate(pairs):
            x, part = LEFT + column * step, found[key].sort("token")
            image, answer = pictures[key[1]]
            said = {"what": label, "example": f"{_short(answer, 60)} ({key[1]})"}
            if not on_top:
                show(data_uri(image, 2 * CELL), x, y, **said)
                write(_short(answer, 12), x + CELL / 2, y + tall + LINE / 2)
                x += CELL + GAP
            attention, attribution = part["attention"].to_numpy(), part["attribution"].to_numpy()
            boxes = part.select(*_SIDES).to_numpy().astype(float)
            for place, (values, signed, total) in enumerate((
                (attention, False, f"{attention.sum():.2f}"), (attribution, True, f"{attribution.sum():+.2f}".replace("-", "−")),
            )):  # fmt: skip
                at = x + place * (CELL + GAP)
                meaning = f"attribution {total} {unit} in all" if signed else f"attention {total} in all"
                show(painted(image, values, boxes, signed=signed), at, y, **said, map=meaning)
                write(total, at + CELL / 2, y + tall + LINE / 2)
    width = LEFT + max(map(len, cells)) * step - BETWEEN
    height = top + len(labels) * (tall + LINE + 5)
    return _drawn(images, texts, width, height, tall, unit)


def _drawn(images: list[dict], texts: list[dict], width: float, height: float, tall: float, unit: str) -> alt.LayerChart:
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, width], nice=False), axis=None)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[height, 0], nice=False), axis=None)
    schema = {"url": pl.String, "x": pl.Float64, "y": pl.Float64, "what": pl.String, "example": pl.String, "map": pl.String}
    tooltip = [alt.Tooltip("what:N", title="shown"), alt.Tooltip("example:N"), alt.Tooltip("map:N", title="sum")]
    layers = [alt.Chart(pl.DataFrame(images, schema=schema)).mark_image(width=CELL, height=tall).encode(x=x, y=y, url="url:N", tooltip=tooltip)]
    written = pl.DataFrame(texts, schema={"text": pl.String, "x": pl.Float64, "y": pl.Float64, "kind": pl.String})
    for kind, style in (("small", {"color": theme.QUIET, "fontSize": 10}), ("row", {"align": "right", "fontSize": 12})):
        layers.append(alt.Chart(written.filter(pl.col("kind") == kind)).mark_text(baseline="middle", **style).encode(x=x, y=y, text="text:N"))
    for title, colours, low in (("attention, share of the map's largest", _MAGNITUDE, 0), (f"attribution ({unit}), share of the map's largest", _SIGNED, -1)):
        # Nothing is drawn by this layer: it brings the legend of what is painted.
        ends = pl.DataFrame({"x": [0.0, 0.0], "y": [0.0, 0.0], "share": [float(low), 1.0]})
        colour = alt.Color(
            "share:Q", title=title, scale=alt.Scale(domain=[low, 1], range=list(colours), interpolate="rgb"),
            legend=alt.Legend(orient="bottom", direction="horizontal", titleLimit=320, values=[low, 0, 1] if low else [0, 0.5, 1]),
        )  # fmt: skip
        layers.append(alt.Chart(ends).mark_point(size=0, opacity=0).encode(x=x, y=y, color=colour))
    return alt.layer(*layers).resolve_scale(color="independent").properties(width=width, height=height, view=alt.ViewBackground(stroke=None))


def painted(picture: bytes, values: Float[np.ndarray, " image"], boxes: Float[np.ndarray, "image 4"], *, signed: bool) -> str:
    """A grey picture with token values painted over it, as a data URI; colours are shares of the largest value, and small shares let the picture through."""
    with Image.open(io.BytesIO(picture)) as opened:
        grey = opened.convert("L").convert("RGB")
    scale = 2 * CELL / max(grey.size)
    size = (max(1, round(grey.width * scale)), max(1, round(grey.height * scale)))
    shares = to_pixels(values, boxes * np.array([size[0] / grey.width, size[1] / grey.height] * 2), size)
    shares = shares / max(float(np.abs(shares).max()), 1e-30)
    colours = _coloured((shares + 1) / 2 if signed else shares, _SIGNED if signed else _MAGNITUDE)
    cover = (0.2 + 0.7 * np.abs(shares) ** 0.7)[..., None]
    # Lightened, so that colours of the map can be told from the picture's own shades.
    below = 110 + 0.55 * np.asarray(grey.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS), float)
    mixed = (cover * colours + (1 - cover) * below).clip(0, 255)
    return _uri(mixed.astype(np.uint8))


def _size(picture: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(picture)) as opened:
        return opened.size


def _coloured(shares: Float[np.ndarray, "height width"], colours: Sequence[str]) -> Float[np.ndarray, "height width 3"]:
    """Between the colours, which stand evenly from 0 to 1."""
    stops = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours], float)
    where = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(shares, where, channel) for channel in stops.T], -1)


def _uri(pixels: UInt8[np.ndarray, "height width 3"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _short(text: str, most: int) -> str:
    """``text`` as it may be drawn: one line, no longer than ``most`` letters, and nothing that an SVG cannot hold."""
    drawn = "".join(letter if letter.isprintable() else "↵" if letter == "\n" else "�" for letter in text.strip(" ")) or "␣"
    return drawn if len(drawn) <= most else f"{drawn[: most - 1]}…"


def head_words(words: pl.DataFrame, most_heads: int = MOST_HEADS) -> alt.LayerChart:
    """For each head and answer the words that the picture makes the head raise most, mean over the examples of that answer; the answer's own is bold.

    Args:
        words: the head words table.
    """
    means = words.filter(pl.col("id").is_null(), pl.col("rank") <= WORDS).with_columns(head_name("layer", "head").alias("row"))
    heads = means["row"].unique(maintain_order=True).head(most_heads).to_list()
    counts = means.unique("answer", maintain_order=True).sort("examples", descending=True, maintain_order=True)
    names = {answer: _short(answer, 14) for answer in counts["answer"].head(MOST_ANSWERS)}
    # Two long answers may begin alike.
    names = {answer: f"{name} {place}" if list(names.values()).count(name) > 1 else name for place, (answer, name) in enumerate(names.items(), 1)}
    answers = list(names.values())
    cells = theme.drawable(means.filter(pl.col("row").is_in(heads), pl.col("answer").is_in(list(names)))).with_columns(
        pl.col("answer").replace_strict(names, return_dtype=pl.String),
        pl.col("word").map_elements(lambda word: _short(word, 60), return_dtype=pl.String),
        pl.format("{} {}", pl.col("word").map_elements(lambda word: _short(word, 8), return_dtype=pl.String),
                  pl.col("contribution").map_elements(lambda value: f"{value:+.1f}".replace("-", "−"), return_dtype=pl.String)).alias("text"),
    )  # fmt: skip
    y = alt.Y("row:N", title="layer and head", scale=alt.Scale(domain=heads, paddingInner=0.08))
    axis = alt.Axis(labelAngle=0, labelLimit=84, orient="top")
    x = alt.X("answer:N", title="answer of the examples", scale=alt.Scale(domain=answers, paddingInner=0.05), axis=axis)
    top = cells.filter(pl.col("rank") == 1)
    largest = max(float(top["contribution"].max() or 0.0), 1e-9)
    colour = alt.Color(
        "contribution:Q", title="largest contribution, logits above the mean of all words",
        scale=alt.Scale(domain=[0, largest], range=["#ffffff", "#9dcae1"], interpolate="rgb"),
        legend=alt.Legend(orient="bottom", direction="horizontal", titleLimit=360),
    )  # fmt: skip
    layers = [alt.Chart(top).mark_rect(cornerRadius=2).encode(x=x, y=y, color=colour)]
    for rank in range(1, WORDS + 1):
        for own in (True, False):
            rows = cells.filter(pl.col("rank") == rank, pl.col("answers") == own)
            style = {"fontWeight": "bold", "color": theme.INK} if own else {"color": theme.QUIET if rank > 1 else theme.INK}
            layers.append(
                alt.Chart(rows).mark_text(dy=(rank - (WORDS + 1) / 2) * 13, fontSize=11, **style).encode(
                    x=x, y=y, text="text:N",
                    tooltip=[alt.Tooltip("row:N", title="head"), alt.Tooltip("answer:N"), alt.Tooltip("rank:Q"), alt.Tooltip("word:N"),
                             alt.Tooltip("contribution:Q", format="+.3f"), alt.Tooltip("examples:Q")],
                )
            )  # fmt: skip
    return alt.layer(*layers).properties(width=theme.WIDTH, height=60 + 46 * max(1, len(heads)), autosize=alt.AutoSizeParams(type="fit", contains="padding"))


def direct_against_attribution(writing: pl.DataFrame, unit: str = "logits") -> alt.LayerChart:
    """What each head adds by itself against its attribution: on the diagonal heads need no help, on the horizontal rule everything goes through later parts.

    Args:
        writing: the head writing table.
    """
    rows = theme.drawable(writing.drop_nulls(["direct", "attribution"])).with_columns(head_name("layer", "head").alias("name"))
    # Names to the right and to the left in turn, so that those of neighbours do not meet.
    named = rows.drop_nulls("lead").sort("direct").with_row_index("turn")
    columns = ("attribution", "attribution_low", "attribution_high", "direct", "direct_low", "direct_high")
    ends = [0.0, *(value for name in columns for value in rows[name].drop_nulls())]
    reach = [min(ends), max(ends)] if len(ends) > 1 else [0.0, 1.0]
    margin = 0.04 * (reach[1] - reach[0] or 1.0)
    domain = [reach[0] - margin, reach[1] + margin]
    titles, scale = (f"attribution, {unit}", f"what the head adds by itself, {unit}"), alt.Scale(domain=domain, nice=False)
    x, y = alt.X("attribution:Q", title=titles[0], scale=scale), alt.Y("direct:Q", title=titles[1], scale=scale)
    diagonal = pl.DataFrame({"attribution": domain, "direct": domain})
    base = alt.Chart(rows)
    tooltip = [
        alt.Tooltip("name:N", title="head"), *(alt.Tooltip(f"{name}:Q", format="+.3f") for name in ("attribution", "direct")),
        *(alt.Tooltip(f"{name}:Q", format=".2f") for name in ("share", "share_low", "share_high")), alt.Tooltip("examples:Q"),
    ]  # fmt: skip
    layers = [
        alt.Chart(diagonal).mark_line(color=theme.RULE, strokeDash=[4, 3], strokeWidth=1).encode(x=x, y=y),
        theme.rule_y(0.0),
        base.mark_rule(strokeWidth=1, opacity=0.35, color=theme.ACCENT).encode(x=alt.X("attribution_low:Q", title=titles[0]), x2="attribution_high:Q", y=y),
        base.mark_rule(strokeWidth=1, opacity=0.35, color=theme.ACCENT).encode(x=x, y=alt.Y("direct_low:Q", title=titles[1]), y2="direct_high:Q"),
        base.mark_point(size=50, color=theme.ACCENT).encode(x=x, y=y, tooltip=tooltip),
        *(
            alt.Chart(named.filter(pl.col("turn") % 2 == odd)).mark_text(align=side, dx=away, dy=-7, fontSize=11).encode(x=x, y=y, text="name:N")
            for odd, side, away in ((0, "left", 6), (1, "right", -6))
        ),
    ]  # fmt: skip
    return alt.layer(*layers).properties(width=430, height=430)
