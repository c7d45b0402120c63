"""From traced image tokens to tables: where on the picture the attribution lies, how few tokens hold it, which tokens of the background matter."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from PIL import Image
from scipy.stats import false_discovery_control, t

from headflow.analysis.picture_maps import covered, shares, sparsity
from headflow.attribution.budget import relative_error
from headflow.attribution.multiple import holm
from headflow.tables.image_tokens import IMAGE_BACKGROUND, IMAGE_CURVES, IMAGE_FITS, IMAGE_SHARE_MEANS, IMAGE_SHARES, IMAGE_SPARSITY, IMAGE_TOKENS
from headflow.tables.schema import Table
from headflow.tracing.image_tokens import Traced
from headflow.tracing.intervals import mean

HELD = 0.8
"""Share that the fewest tokens are to hold."""
PARTS = ("object", "others", "background")
WHAT = ("attribution", "positive", "net", "top heads", "attention", "even")
"""What is divided between parts of a picture: |attribution|, attribution above 0, its signed sum; |attribution| with the top heads alone; attention of
the final token; and the same for every token."""
_PERCENTS = (*range(1, 10), *range(10, 101, 5))


@dataclass(frozen=True)
class Objects:
    """What a picture shows, pixel by pixel.

    Attributes:
        main: the object that the question is about.
        others: the other known objects, possibly none.
    """

    main: Bool[np.ndarray, "height width"]
    others: list[Bool[np.ndarray, "height width"]]


def objects_of(entries: Sequence[dict]) -> Objects | None:
    """The objects of an examples table's row; None where its main object is not known."""
    main = [_mask(entry["mask"]) for entry in entries if entry["main"]]
    if not main:
        return None
    return Objects(np.logical_or.reduce(main), [_mask(entry["mask"]) for entry in entries if not entry["main"]])


def _mask(png: bytes) -> Bool[np.ndarray, "height width"]:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("1"))


@dataclass(frozen=True)
class PicturedExample:
    """One example with all that is known about its image tokens.

    Attributes:
        picture: number of its picture; several questions may be about one.
        traced: with all heads cut, and with the top ones alone.
        attention: of the final token on each image token in the stock model, mean over heads and layers, 0..1.
        boxes: left, top, right, bottom of what each token shows, pixels; nan = it shows none of the picture, or that is not known.
        objects: None where they are not known.
    """

    id: str
    picture: int
    traced: Traced
    top: Traced | None
    attention: Float[np.ndarray, " tokens"]
    boxes: Float[np.ndarray, "tokens 4"]
    objects: Objects | None

    @property
    def inside(self) -> Float[np.ndarray, "2 tokens"] | None:
        """Share of each token's box in the main object and in others, nan without a box; None where no object is known."""
        if self.objects is None:
            return None
        others = np.logical_or.reduce([np.zeros_like(self.objects.main), *self.objects.others]) & ~self.objects.main
        found = np.full((2, len(self.boxes)), np.nan)
        placed = np.isfinite(self.boxes).all(1)
        for row, mask in zip(found, (self.objects.main, others), strict=True):
            row[placed] = covered(self.boxes[placed], mask)
        return found


def tokens_table(examples: Sequence[PicturedExample], confidence: float) -> pl.DataFrame:
    """Every image token of every example as an IMAGE_TOKENS table."""
    frames = []
    for one in examples:
        low, high = one.traced.interval(confidence)
        nowhere = np.full(len(one.boxes), np.nan)
        inside = (nowhere, nowhere) if one.inside is None else one.inside
        columns = {
            "id": [one.id] * len(one.boxes), "token": np.arange(len(one.boxes)), "group": one.traced.partition, "group_tokens": one.traced.sizes,
            "attribution": one.traced.attribution, "standard_error": one.traced.error, "low": low, "high": high,
            "attribution_top_heads": nowhere if one.top is None else one.top.attribution,
            "standard_error_top_heads": nowhere if one.top is None else one.top.error,
            "attention": one.attention, "in_object": inside[0], "in_others": inside[1],
            **dict(zip(("left", "top", "right", "bottom"), one.boxes.T, strict=True)),
        }  # fmt: skip
        frames.append(_table(columns, IMAGE_TOKENS))
    return pl.concat(frames)


def fits_table(examples: Sequence[PicturedExample]) -> pl.DataFrame:
    """What each example took and how far it can be trusted, as an IMAGE_FITS table."""
    rows = []
    for one in examples:
        for heads, traced in (("all", one.traced), ("top", one.top)):
            if traced is None:
                continue
            agreeing, checked = split_agreement(traced)
            rows.append({
                "id": one.id, "heads": heads, "tokens": len(one.boxes), "components": int(traced.partition.max()) + 1,
                "estimator": traced.fitted.estimator_, "masks": traced.masks, "corners": traced.corners, "forwards": traced.forwards,
                "held_out_r": float(traced.fitted.held_out_r_), "held_out_r2": float(traced.fitted.held_out_r2_),
                "relative_error": float(relative_error(traced.fitted)), "intact": traced.intact, "ablated": traced.ablated,
                "sum": float(traced.attribution.sum()), "patches_checked": checked, "patches_agreeing": agreeing,
            })  # fmt: skip
    return _table({name: [row[name] for row in rows] for name in IMAGE_FITS.columns}, IMAGE_FITS)


def split_agreement(traced: Traced, confidence: float = 0.95) -> tuple[int, int]:
    """Patches of the search that were halved later and whose attribution is the sum of their parts' within error, and all that were halved."""
    agreeing = checked = 0
    for one in traced.rounds:
        for patch in range(len(one.attribution)):
            tokens = np.flatnonzero(one.partition == patch)
            parts = np.unique(traced.partition[tokens])
            if len(parts) < 2:
                continue
            whole, error = traced.fitted.attribution_[0][parts].sum(), np.hypot(one.error[patch], np.sqrt((traced.fitted.standard_error_[0][parts] ** 2).sum()))
            checked += 1
            reach = t.ppf((1 + confidence) / 2, max(float(traced.fitted.degrees_of_freedom_), 1.0)) * error
            agreeing += int(abs(one.attribution[patch] - whole) <= reach + 1e-9 * abs(whole))
    return agreeing, checked


def shares_table(examples: Sequence[PicturedExample]) -> pl.DataFrame:
    """How attribution, attention and plain area are divided between the parts of each picture with known objects and places: an IMAGE_SHARES table."""
    rows = []
    for one in examples:
        if one.objects is None or not np.isfinite(one.boxes).all(1).any():
            continue
        attribution = one.traced.attribution
        amounts = {"attribution": attribution, "positive": np.maximum(attribution, 0.0), "attention": one.attention, "even": np.ones(len(attribution))}
        if one.top is not None:
            amounts["top heads"] = one.top.attribution
        for what, values in amounts.items():
            found = shares(values, one.boxes, one.objects.main, one.objects.others)
            rows.append({"id": one.id, "what": what, "object": found.object, "others": found.others, "background": found.background, "placed": found.placed})
        rows.append({"id": one.id, "what": "net", **_net(one)})
        area = {"object": found.area_object, "others": found.area_others, "background": found.area_background, "placed": 1.0}
        rows.append({"id": one.id, "what": "area", **area})
    return _table({name: [row[name] for row in rows] for name in IMAGE_SHARES.columns}, IMAGE_SHARES)


def _net(one: PicturedExample) -> dict[str, float]:
    """Signed sums over the parts as shares of the sum over all placed tokens: errors of single tokens cancel. Nan where the sum is not above its error."""
    inside, values = one.inside, one.traced.attribution
    placed = np.isfinite(inside).all(0)
    total = values[placed].sum()
    # Errors of components that are cut in one regression hardly depend on each other.
    error = np.sqrt((one.traced.fitted.standard_error_**2).sum())
    if not total > 2 * error:
        return dict.fromkeys((*PARTS, "placed"), float("nan"))
    in_object, in_others = (float((share[placed] * values[placed]).sum() / total) for share in inside)
    return {"object": in_object, "others": in_others, "background": 1 - in_object - in_others, "placed": float(total / values.sum())}


def share_means_table(table: pl.DataFrame, pictures: dict[str, int], confidence: float) -> pl.DataFrame:
    """Means of an IMAGE_SHARES table over examples, and how far each lies above what all tokens alike would give, as an IMAGE_SHARE_MEANS table.

    Intervals count pictures (:func:`headflow.tracing.intervals.mean`); p-values are Holm-corrected over the three parts.
    """
    rows = []
    even = table.filter(pl.col("what") == "even")
    for what in (*WHAT, "area"):
        mine = table.filter(pl.col("what") == what)
        if mine.is_empty():
            continue
        both = mine.join(even, on="id", suffix="_even", maintain_order="left")
        numbers = np.array([pictures[name] for name in both["id"]])
        values, chance = (both.select([part + suffix for part in PARTS]).cast(pl.Float64).fill_null(np.nan).to_numpy() for suffix in ("", "_even"))
        found, over = mean(values, numbers, confidence), mean(values - chance, numbers, confidence)
        adjusted = holm(over.p)
        for place, part in enumerate(PARTS):
            rows.append({
                "what": what, "part": part, "mean": found.value[place], "low": found.low[place], "high": found.high[place],
                "over": over.value[place], "over_low": over.low[place], "over_high": over.high[place],
                "p": None if what in ("even", "area") else over.p[place], "p_holm": None if what in ("even", "area") else adjusted[place],
                "examples": int(np.isfinite(values[:, place]).sum()),
                "pictures": len(np.unique(numbers[np.isfinite(values[:, place])])),
            })  # fmt: skip
    return _table({name: [row[name] for row in rows] for name in IMAGE_SHARE_MEANS.columns}, IMAGE_SHARE_MEANS)


def sparsity_table(examples: Sequence[PicturedExample]) -> pl.DataFrame:
    """The fewest tokens that hold :data:`HELD` of each example's attribution and of its attention, as an IMAGE_SPARSITY table."""
    rows = []
    for one in examples:
        for what, values in _amounts(one).items():
            held = sparsity(values, HELD)
            rows.append({"id": one.id, "what": what, "tokens": held or None, "of": len(values), "share": held / len(values) if held else None})
    return _table({name: [row[name] for row in rows] for name in IMAGE_SPARSITY.columns}, IMAGE_SPARSITY)


def curves_table(examples: Sequence[PicturedExample], confidence: float) -> pl.DataFrame:
    """What the first k percent of the tokens hold, largest first, mean over examples, as an IMAGE_CURVES table."""
    numbers = np.array([one.picture for one in examples])
    rows = []
    for what in _amounts(examples[0]):
        held = np.stack([_held(_amounts(one)[what]) for one in examples])
        found = mean(held, numbers, confidence)
        for place, percent in enumerate(_PERCENTS):
            rows.append({"what": what, "percent": float(percent), "held": found.value[place], "low": found.low[place], "high": found.high[place]})
    return _table({name: [row[name] for row in rows] for name in IMAGE_CURVES.columns}, IMAGE_CURVES)


def background_table(examples: Sequence[PicturedExample], confidence: float) -> pl.DataFrame:
    """Tokens that lie wholly outside all known objects, strongest first, as an IMAGE_BACKGROUND table: those of an interval without zero."""
    rows = []
    for one in examples:
        if one.inside is None:
            continue
        low, high = one.traced.interval(confidence)
        values, errors, freedom = one.traced.attribution, one.traced.error, max(float(one.traced.fitted.degrees_of_freedom_), 1.0)
        outside = np.flatnonzero((one.inside < 1e-6).all(0))
        with np.errstate(divide="ignore", invalid="ignore"):
            p = np.where(errors > 0, 2 * t.sf(np.abs(values / errors), freedom), np.where(values == 0, 1.0, 0.0))
        rows += [
            {"id": one.id, "token": token, "attribution": values[token], "low": low[token], "high": high[token], "p": p[token],
             "attention": one.attention[token], **dict(zip(("left", "top", "right", "bottom"), one.boxes[token], strict=True))}
            for token in outside
        ]  # fmt: skip
    corrected = false_discovery_control([row["p"] for row in rows]) if rows else []
    kept = [row | {"q": q} for row, q in zip(rows, corrected, strict=True) if row["low"] > 0 or row["high"] < 0]
    kept.sort(key=lambda row: -abs(row["attribution"]))
    return _table({name: [row[name] for row in kept] for name in IMAGE_BACKGROUND.columns}, IMAGE_BACKGROUND)


def background_tested(examples: Sequence[PicturedExample]) -> int:
    """Tokens that :func:`background_table` had to choose from."""
    return sum(int((one.inside < 1e-6).all(0).sum()) for one in examples if one.inside is not None)


def _amounts(one: PicturedExample) -> dict[str, Float[np.ndarray, " tokens"]]:
    top = {} if one.top is None else {"top heads": one.top.attribution}
    return {"attribution": one.traced.attribution, **top, "attention": one.attention}


def _held(values: Float[np.ndarray, " tokens"]) -> Float[np.ndarray, " percents"]:
    """Share of all absolute values in the largest k percent, between whole tokens in proportion; nan where all are 0."""
    sizes = np.sort(np.abs(values))[::-1]
    if not sizes.any():
        return np.full(len(_PERCENTS), np.nan)
    held = np.concatenate([[0.0], np.cumsum(sizes) / sizes.sum()])
    return np.interp(np.array(_PERCENTS) / 100 * len(sizes), np.arange(len(held)), held)


def _table(columns: dict[str, object], table: Table) -> pl.DataFrame:
    schema = {name: column.dtype for name, column in table.columns.items()}
    frame = pl.DataFrame(columns, schema_overrides={name: dtype for name, dtype in schema.items() if dtype == pl.Float64}, strict=False)
    return frame.select(list(schema)).cast(schema).with_columns(pl.col(pl.Float64).fill_nan(None))
