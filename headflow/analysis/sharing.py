"""Attention shares and visual attention maps of generated tokens, over pictures (Kaduri et al. 2025, section 4): means, intervals, spread.

The attention itself is summed up by :mod:`headflow.models.spoken_attention`, which says whose attention is meant and what the groups are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from headflow.tables.schema import Table
from headflow.tables.sharing import (
    ATTENTION_MAPS,
    GROUPS,
    SHARE_FRACTIONS,
    SHARE_HEADS,
    SHARE_MEANS,
    SHARE_PICTURES,
    SHARES,
    SPREAD,
    SPREAD_CONTRAST,
    SPREAD_MEANS,
)
from headflow.tracing.intervals import Estimate, mean, numbered

MEASURES = ("effective", "top")
PUBLISHED = {"query_tokens": 0.05, "query_attention": 0.60}
"""Kaduri et al. 2025: query tokens are under this share of the tokens, and get over this share of the attention (LLaVA-1.5-7B, InternVL2-76B)."""


@dataclass(frozen=True)
class Looked:
    """Where the generated tokens of one description look.

    Attributes:
        id, scene: the picture.
        shares: of each layer and head for :data:`headflow.tables.sharing.GROUPS`, mean over generated tokens.
        even: the share of each group under even attention.
        tokens: of each group in the whole sequence.
        maps: attention to each of the picture's keys, mean over generated tokens and heads, for each layer that reads the picture.
        reading: the numbers of these layers; fewer than all under cross-attention.
        image_tokens: which of the picture's keys are image tokens; the others are structural, or show nothing.
    """

    id: str
    scene: int
    shares: Float[np.ndarray, "layers heads 3"]
    even: Float[np.ndarray, "layers 3"]
    tokens: tuple[int, int, int]
    maps: Float[np.ndarray, "reading image"]
    reading: Sequence[int]
    image_tokens: Bool[np.ndarray, " image"]

    @property
    def crosses(self) -> Bool[np.ndarray, " layers"]:
        """Layers of cross-attention: only where not every layer reads the picture."""
        found = np.zeros(len(self.shares), bool)
        if len(self.reading) < len(self.shares):
            found[list(self.reading)] = True
        return found


def share_rows(looked: Sequence[Looked]) -> pl.DataFrame:
    """Per picture × layer × head × group."""
    frames = []
    for one in looked:
        layers, heads, groups = one.shares.shape
        layer, head, group = (places.ravel() for places in np.indices((layers, heads, groups)))
        names = np.array(GROUPS)[group]
        frames.append(pl.DataFrame({"id": one.id, "scene": one.scene, "layer": layer, "head": head, "group": names, "share": one.shares.ravel().astype(float)}))
    return _table(SHARES, frames)


def picture_rows(looked: Sequence[Looked]) -> pl.DataFrame:
    """Per picture × group: its share of the tokens, of even attention and of the attention there is.

    Over all layers, and over those of text alone where others read the picture by cross-attention.
    """
    rows = []
    for one in looked:
        kinds = {"all": np.ones(len(one.shares), bool), **({"text": ~one.crosses} if one.crosses.any() else {})}
        for kind, layers in kinds.items():
            shares, even = one.shares[layers].mean((0, 1), dtype=float), one.even[layers].mean(0, dtype=float)
            for place, group in enumerate(GROUPS):
                rows.append(
                    {
                        "id": one.id, "scene": one.scene, "layers": kind, "group": group, "tokens": one.tokens[place],
                        "token_share": one.tokens[place] / sum(one.tokens), "even": float(even[place]), "share": float(shares[place]),
                    }
                )  # fmt: skip
    return _table(SHARE_PICTURES, rows)


def layer_means(looked: Sequence[Looked], confidence: float) -> pl.DataFrame:
    """Per layer × group: mean share over heads and pictures, with its interval over pictures."""
    return _means(SHARE_MEANS, looked, np.stack([one.shares.mean(1, dtype=float) for one in looked]) if looked else None, confidence)


def head_means(looked: Sequence[Looked], confidence: float) -> pl.DataFrame:
    """Per layer × head × group: mean share over pictures, with its interval."""
    return _means(SHARE_HEADS, looked, np.stack([one.shares for one in looked]).astype(float) if looked else None, confidence)


def fractions(pictures: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """The paper's table: of every group the share of the tokens and the share of the attention, each with its interval over pictures.

    Args:
        pictures: what :func:`picture_rows` gives.
        confidence: level of the intervals.
    """
    rows = []
    for kind in pictures["layers"].unique(maintain_order=True):
        for group in GROUPS:
            part = pictures.filter(pl.col("layers") == kind, pl.col("group") == group)
            row = {"layers": kind, "group": group, "tokens": float(part["tokens"].mean()), "pictures": part["scene"].n_unique()}
            for name in ("token_share", "even", "share"):
                found = _bounded(mean(part[name].to_numpy(), numbered(part["scene"].to_list()), confidence))
                row |= {name: float(found.value), f"{name}_low": float(found.low), f"{name}_high": float(found.high)}
            rows.append(row)
    return _table(SHARE_FRACTIONS, rows)


def spread(attention: Float[np.ndarray, " image"], top: float) -> tuple[float, float]:
    """How evenly attention is spread over the tokens of one map: their effective number as a share of all, and what the largest hold.

    The effective number is the exponential of the entropy of the map as a distribution: n where it is even, 1 where one token has it all (M. O.
    Hill, *Diversity and evenness*, Ecology 54, 1973). The largest are the share ``top`` of all tokens, to the nearest number, one at least.

    Returns:
        Both 0..1; nan where there is no attention.
    """
    total = attention.sum(dtype=float)
    if not total > 0:
        return float("nan"), float("nan")
    part = attention.astype(float) / total
    held = part[part > 0]
    return float(np.exp(-(held * np.log(held)).sum()) / len(part)), float(np.sort(part)[::-1][: largest(len(part), top)].sum())


def largest(tokens: int, top: float) -> int:
    """How many tokens the share ``top`` of them is."""
    return max(1, round(top * tokens))


def spread_rows(looked: Sequence[Looked], top: float) -> pl.DataFrame:
    """Per picture × layer that reads it × measure of spread; structural tokens are left out of the maps."""
    rows = []
    for one in looked:
        tokens = int(one.image_tokens.sum())  # none where a sliding window is shorter than the way back to the image
        evens = (1.0, largest(tokens, top) / tokens) if tokens else (None, None)
        for layer, attention in zip(one.reading, one.maps, strict=True):
            found = spread(attention[one.image_tokens], top)
            for measure, value, even in zip(MEASURES, found, evens, strict=True):
                known = value if np.isfinite(value) else None
                rows.append({"id": one.id, "scene": one.scene, "layer": layer, "measure": measure, "value": known, "even": even, "image_tokens": tokens})
    return _table(SPREAD, rows)


def spread_means(rows: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """Per layer × measure: mean over pictures, with its interval."""
    found = []
    for (layer, measure), part in rows.drop_nulls("value").group_by("layer", "measure", maintain_order=True):
        over = _bounded(mean(part["value"].to_numpy(), numbered(part["scene"].to_list()), confidence))
        ends = {"mean": float(over.value), "low": float(over.low), "high": float(over.high)}
        found.append({"layer": layer, "measure": measure, **ends, "even": float(part["even"].mean()), "pictures": part["scene"].n_unique()})
    return _table(SPREAD_MEANS, found)


def spread_contrast(rows: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """Whether the maps of the middle layers are spread otherwise than those of early and late ones: thirds of the layers, compared picture by picture.

    Empty where fewer than three layers read the picture.
    """
    layers = rows["layer"].unique().sort().to_list()
    third = len(layers) // 3
    if not third:
        return _table(SPREAD_CONTRAST, [])
    parts = {"early": layers[:third], "middle": layers[third:-third], "late": layers[-third:]}
    found = []
    for measure in MEASURES:
        of = rows.filter(pl.col("measure") == measure)
        each = of.group_by("scene", maintain_order=True).agg(
            *(pl.col("value").filter(pl.col("layer").is_in(part)).mean().alias(name) for name, part in parts.items())
        ).drop_nulls()  # fmt: skip
        if not len(each):
            continue
        over = mean((each["middle"] - (each["early"] + each["late"]) / 2).to_numpy(), numbered(each["scene"].to_list()), confidence)
        means = {name: float(each[name].mean()) for name in parts}
        ends = {"difference": float(over.value), "low": float(over.low), "high": float(over.high), "p": float(over.p)}
        found.append({"measure": measure, **means, **ends, "pictures": len(each)})
    return _table(SPREAD_CONTRAST, found)


def map_rows(one: Looked, boxes: Float[np.ndarray, "image 4"]) -> pl.DataFrame:
    """The maps of one picture, token by token.

    Args:
        one: its attention.
        boxes: left, top, right, bottom of each of the picture's keys, pixels; NaN where it has none.
    """
    reading, image = one.maps.shape
    layer, token = (places.ravel() for places in np.indices((reading, image)))
    sides = {name: pl.Series(boxes[token, place], dtype=pl.Float64).fill_nan(None) for place, name in enumerate(("left", "top", "right", "bottom"))}
    columns = {"layer": np.asarray(one.reading)[layer], "token": token, "attention": one.maps.ravel().astype(float), "image_token": one.image_tokens[token]}
    return _table(ATTENTION_MAPS, [pl.DataFrame({"id": one.id, "scene": one.scene, **columns, **sides})])


def no_maps() -> pl.DataFrame:
    """The maps table where no description has a word."""
    return _table(ATTENTION_MAPS, [])


def _means(table: Table, looked: Sequence[Looked], values: Float[np.ndarray, "pictures layers *heads 3"] | None, confidence: float) -> pl.DataFrame:
    if values is None:
        return _table(table, [])
    scenes = [one.scene for one in looked]
    over = _bounded(mean(values, numbered(scenes), confidence))
    places = [index.ravel() for index in np.indices(values.shape[1:])]
    layer, group = places[0], places[-1]
    columns = {"layer": layer, "crosses": looked[0].crosses[layer], "group": np.array(GROUPS)[group], "pictures": len(set(scenes))}
    columns |= {"mean": over.value.ravel(), "low": over.low.ravel(), "high": over.high.ravel()}
    columns |= {"head": places[1]} if len(places) == 3 else {"even": np.mean([one.even for one in looked], 0, dtype=float).ravel()}
    return _table(table, [pl.DataFrame(columns)])


def _bounded(found: Estimate) -> Estimate:
    """Intervals of shares end where shares do."""
    return Estimate(found.value, np.clip(found.low, 0, 1), np.clip(found.high, 0, 1), found.p)


def _table(table: Table, rows: list) -> pl.DataFrame:
    """Rows or frames as one frame with the columns of ``table``; nan, where there is no interval, as null."""
    schema = {name: column.dtype for name, column in table.columns.items()}
    frames = rows if rows and isinstance(rows[0], pl.DataFrame) else [pl.DataFrame(rows, schema=schema)]
    whole = pl.concat([frame.select(list(schema)).cast(schema) for frame in frames])
    return whole.with_columns(pl.col(name).fill_nan(None) for name, dtype in schema.items() if dtype == pl.Float64)
