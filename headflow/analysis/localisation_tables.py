"""From the maps of single mentions to tables: statistics of every layer and head, means over mentions with intervals over pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float
from PIL import Image

from headflow.analysis.localisation import STATISTICS, Naming, ceilings, chances, inside_of, placed
from headflow.attribution.multiple import holm
from headflow.datasets.pictures import png
from headflow.tables.localising import LOCALISED, LOCALISED_HEADS, LOCALISED_LAYERS, LOCALISED_MAPS, NAMINGS
from headflow.tables.schema import Table
from headflow.tracing.intervals import RESOLUTION, Estimate, mean

WHAT = ("attention", "attention before", "attribution")
"""What is measured: attention of the naming token; of the position that predicts it; and attribution of its logit."""
LEADING = {"token": "attention", "before": "attention before"}
"""The attention that is looked at head by head, by ``localising.position``."""
AGAINST = ("own", "other")


@dataclass(frozen=True)
class Localised:
    """One mention with all that is measured of it; the last layer of each array is all layers together.

    Attributes:
        id: the example that stands for the picture.
        scene: its picture.
        naming: what is named, and where.
        maps: of each of :data:`WHAT` that is measured, ``[layers + 1, tokens]``.
        statistics: ``[statistics, layers + 1]`` of (what, against); nan where they are not defined.
        heads: ``[statistics, layers, heads]`` of the leading attention against the own object.
        even: chance level of shares, by whose mask.
        most: the most that share and AUROC can reach.
        boxes: of the image tokens, pixels; nan = none.
    """

    id: str
    scene: int
    naming: Naming
    maps: dict[str, Float[np.ndarray, "layers tokens"]]
    statistics: dict[tuple[str, str], Float[np.ndarray, "statistics layers"]]
    heads: Float[np.ndarray, "statistics layers heads"]
    even: dict[str, float]
    most: tuple[float, float]
    boxes: Float[np.ndarray, "tokens 4"]


def localise(
    id: str, scene: int, naming: Naming, boxes: Float[np.ndarray, "tokens 4"], attention: dict[str, Float[np.ndarray, "layers heads tokens"]],
    attribution: Float[np.ndarray, "layers tokens"] | None,
) -> Localised:  # fmt: skip
    """All statistics of one mention.

    Args:
        id, scene: the example and its picture.
        naming: what is named.
        boxes: of the image tokens, pixels; nan = none.
        attention: of the token that names it and of the position before, by :data:`WHAT`; the leading one first.
        attribution: of its logit, layer by layer; None = not measured. A layer whose effects are rounding beside those of the others
            (:data:`headflow.tracing.intervals.RESOLUTION`) counts as one without any.
    """
    maps = {what: _with_all(weights.mean(1, dtype=float), np.mean) for what, weights in attention.items()}
    if attribution is not None:
        maps["attribution"] = _with_all(_above_rounding(attribution.astype(float)), np.sum)
    own = inside_of(boxes, naming.mask)
    others = [inside_of(boxes, mask) for mask in naming.others]
    found = {}
    for what, values in maps.items():
        found[what, "own"] = _stacked(values, own)
        found[what, "other"] = _average([_stacked(values, other) for other in others], (len(STATISTICS), len(values)))
    most, even = ceilings(own), [chances(other)["share"] for other in others]
    evens = {"own": chances(own)["share"], "other": float(_average([np.array(value) for value in even], ()))}
    heads = _stacked(next(iter(attention.values())), own)
    return Localised(id, scene, naming, maps, found, heads, evens, (most["share"], most["auroc"]), boxes)


def namings_table(localised: Sequence[Localised], unknown: Sequence[tuple[str, int, str]]) -> pl.DataFrame:
    """A NAMINGS table; ``unknown`` are id, scene and name of what is mentioned and has no mask."""
    rows = [
        {
            "id": one.id, "scene": one.scene, "name": one.naming.name, "word": one.naming.word, "start": one.naming.start, "stop": one.naming.stop,
            "token": one.naming.token, "objects": one.naming.objects, "others": len(one.naming.others), "area": float(one.naming.mask.mean()),
            "even": one.even["own"], "most": one.most[0], "most_auroc": one.most[1],
            "mask": png(Image.fromarray(one.naming.mask)),
        }
        for one in localised
    ] + [{"id": id, "scene": scene, "name": name, "objects": 0} for id, scene, name in unknown]  # fmt: skip
    return _table(rows, NAMINGS)


def localised_table(localised: Sequence[Localised], layers: Sequence[int]) -> pl.DataFrame:
    """A LOCALISED table; ``layers`` are the decoder layers that read the picture."""
    rows = []
    for one in localised:
        for (what, against), values in one.statistics.items():
            if against == "other" and not one.naming.others:
                continue
            for place, layer in enumerate((*layers, None)):
                rows.append({
                    "id": one.id, "name": one.naming.name, "what": what, "layer": layer, "against": against,
                    **dict(zip(STATISTICS, values[:, place].tolist(), strict=True)), "even": one.even[against],
                    "amount": float(one.maps[what][place].sum()),
                })  # fmt: skip
    return _table(rows, LOCALISED)


def layers_table(localised: Sequence[Localised], layers: Sequence[int], confidence: float) -> pl.DataFrame:
    """A LOCALISED_LAYERS table: means over mentions, and how far above chance.

    Mentions of one picture are no independent witnesses: errors are clustered by picture (:func:`headflow.tracing.intervals.mean`). p-values are
    corrected for the layers of one statistic of one kind of map (Holm); all layers together are a question of their own.
    """
    rows, pictures = [], _pictures(localised)
    for what in (what for what in WHAT if localised and what in localised[0].maps):
        values = {against: _values(localised, what, against) for against in AGAINST}
        chance = {against: _chance(localised, against) for against in AGAINST}
        over = {against: values[against] - chance[against] for against in AGAINST}
        values["difference"] = over["difference"] = over["own"] - over["other"]
        chance["difference"] = np.zeros_like(chance["own"])
        most = np.array([[one.most[0], one.most[1], one.most[0]] for one in localised])[..., None]
        for against, found in values.items():
            if not np.isfinite(found).any():
                continue
            at, above = mean(found, pictures, confidence), mean(over[against], pictures, confidence)
            at = _bounded(at, -1.0 if against == "difference" else 0.0)
            level = mean(np.where(np.isfinite(found), chance[against], np.nan), pictures, confidence).value
            reach = mean(np.where(np.isfinite(found), most, np.nan), pictures, confidence).value
            adjusted = np.concatenate([np.stack([holm(row[:-1]) for row in above.p]), above.p[:, -1:]], -1)
            for number, statistic in enumerate(STATISTICS):
                for place, layer in enumerate((*layers, None)):
                    here = (number, place)
                    known = np.isfinite(found[:, number, place])
                    rows.append({
                        "what": what, "layer": layer, "against": against, "statistic": statistic, "mean": at.value[here], "low": at.low[here],
                        "high": at.high[here], "chance": level[here], "over": above.value[here], "over_low": above.low[here],
                        "over_high": above.high[here], "p": above.p[here], "p_holm": adjusted[here], "most": reach[here] if against == "own" else None,
                        "mentions": int(known.sum()), "pictures": len(np.unique(pictures[known])),
                    })  # fmt: skip
    return _table(rows, LOCALISED_LAYERS)


def heads_table(localised: Sequence[Localised], layers: Sequence[int], confidence: float) -> pl.DataFrame:
    """A LOCALISED_HEADS table, p-values corrected for all heads."""
    rows, pictures = [], _pictures(localised)
    if not localised or not np.isfinite(values := np.stack([one.heads for one in localised])).any():
        return _table([], LOCALISED_HEADS)
    over = values - _chance(localised, "own")[..., None]
    at, above = _bounded(mean(values, pictures, confidence), 0.0), mean(over, pictures, confidence)
    known = np.isfinite(values)
    for number, statistic in enumerate(STATISTICS):
        adjusted = np.reshape(holm(above.p[number].ravel()), above.p[number].shape)
        for place, layer in enumerate(layers):
            for head in range(values.shape[-1]):
                here = (number, place, head)
                rows.append({
                    "layer": layer, "head": head, "statistic": statistic, "mean": at.value[here], "low": at.low[here], "high": at.high[here],
                    "over": above.value[here], "p": above.p[here], "p_holm": adjusted[place, head], "mentions": int(known[:, *here].sum()),
                    "pictures": len(np.unique(pictures[known[:, *here]])),
                })  # fmt: skip
    return _table(rows, LOCALISED_HEADS)


def best_layer(table: pl.DataFrame, what: str, statistic: str = "auroc") -> dict | None:
    """The row of the layer whose maps find the own object best on average; None where no statistic is defined."""
    rows = table.filter(pl.col("what") == what, pl.col("against") == "own", pl.col("statistic") == statistic, pl.col("layer").is_not_null())
    rows = rows.filter(pl.col("mean").is_not_null()).sort("mean", "layer", descending=[True, False])
    return rows.row(0, named=True) if rows.height else None


def above_chance(table: pl.DataFrame, what: str, confidence: float) -> pl.DataFrame:
    """Layers whose maps find the own object by AUROC better than chance, corrected for all layers."""
    own = table.filter(pl.col("what") == what, pl.col("against") == "own", pl.col("statistic") == "auroc", pl.col("layer").is_not_null())
    return own.filter(pl.col("over") > 0, pl.col("p_holm") < 1 - confidence)


def maps_table(localised: Sequence[Localised], layers: Sequence[int], best: tuple[str, int] | None, count: int) -> pl.DataFrame:
    """A LOCALISED_MAPS table of ``count`` mentions on different pictures, of different names as far as there are: one kind of attention in
    one layer (``best``), and the attribution of all layers."""
    frames = []
    for one in shown(localised, count):
        wanted = [] if best is None else [(*best, one.maps[best[0]][list(layers).index(best[1])])]
        wanted += [("attribution", None, one.maps["attribution"][-1])] if "attribution" in one.maps else []
        for what, layer, values in wanted:
            tokens = len(one.boxes)
            columns = {
                "id": [one.id] * tokens, "name": [one.naming.name] * tokens, "what": [what] * tokens, "layer": [layer] * tokens,
                "token": np.arange(tokens), "value": values, **dict(zip(("left", "top", "right", "bottom"), one.boxes.T, strict=True)),
            }  # fmt: skip
            frames.append(_frame(columns, LOCALISED_MAPS))
    return pl.concat(frames) if frames else _table([], LOCALISED_MAPS)


def shown(localised: Sequence[Localised], count: int) -> list[Localised]:
    """Mentions to be looked at: defined ones of one picture each, names that were not yet shown first."""
    left = [one for one in localised if np.isfinite(one.even["own"])]
    chosen: list[Localised] = []
    while left and len(chosen) < count:
        names = {one.naming.name for one in chosen}
        chosen.append(next((one for one in left if one.naming.name not in names), left[0]))
        left = [one for one in left if one.scene != chosen[-1].scene]
    return chosen


def _with_all(values: Float[np.ndarray, "layers tokens"], take) -> Float[np.ndarray, "layers_and_all tokens"]:
    return np.concatenate([values, take(values, 0)[None]])


def _above_rounding(effects: Float[np.ndarray, "layers tokens"]) -> Float[np.ndarray, "layers tokens"]:
    """Layers that are rounding beside all others as zeros: the order of their tokens says nothing."""
    sizes = np.abs(effects).sum(1)
    return np.where(sizes[:, None] > RESOLUTION * sizes.sum(), effects, 0.0)


def _stacked(maps: np.ndarray, inside: np.ndarray) -> np.ndarray:
    found = placed(maps, inside)
    return np.stack([found[statistic] for statistic in STATISTICS])


def _average(values: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Mean of those that are defined."""
    if not values:
        return np.full(shape, np.nan)
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(0) / known.sum(0)


def _values(localised: Sequence[Localised], what: str, against: str) -> Float[np.ndarray, "mentions statistics layers"]:
    return np.stack([one.statistics[what, against] for one in localised])


def _chance(localised: Sequence[Localised], against: str) -> Float[np.ndarray, "mentions statistics 1"]:
    return np.array([[one.even[against], 0.5, one.even[against]] for one in localised])[..., None]


def _bounded(found: Estimate, least: float) -> Estimate:
    """Intervals end where the statistics do."""
    return Estimate(found.value, np.clip(found.low, least, 1.0), np.clip(found.high, least, 1.0), found.p)


def _pictures(localised: Sequence[Localised]) -> np.ndarray:
    return np.unique([one.scene for one in localised], return_inverse=True)[1].ravel() if localised else np.zeros(0, int)


def _table(rows: Sequence[dict], table: Table) -> pl.DataFrame:
    return _frame({name: [row.get(name) for row in rows] for name in table.columns}, table)


def _frame(columns: dict[str, object], table: Table) -> pl.DataFrame:
    schema = {name: column.dtype for name, column in table.columns.items()}
    frame = pl.DataFrame({name: pl.Series(name, columns[name], dtype=dtype, strict=False) for name, dtype in schema.items()})
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))
