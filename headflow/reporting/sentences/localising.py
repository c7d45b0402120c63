"""Whether the token that names an object looks at it, in words: against chance, against other objects, and what attribution says beside."""

import io

import numpy as np
import polars as pl
from PIL import Image

from headflow.analysis.localisation import inside_of, placed
from headflow.reporting.words import chance, counted, listed, number, percent

ALPHA = 0.05
NAMES = {
    "attention": "attention of the naming token", "attention before": "attention of the position before it", "attribution": "attribution of the word",
}  # fmt: skip
NOTHING = "cannot be told: no description names an object whose place is known."
_SIDES = ["left", "top", "right", "bottom"]


def named_objects(namings: pl.DataFrame) -> str:
    """What the statistics are about.

    Args:
        namings: the namings table.
    """
    known = namings.filter(pl.col("objects") > 0)
    if known.is_empty():
        return f"Whether words look at their objects {NOTHING}"
    several, seen = known.filter(pl.col("objects") > 1).height, known.filter(pl.col("even").is_not_null()).height
    text = f"The descriptions of {counted(known['scene'].n_unique(), 'picture')} name {counted(known.height, 'object')} whose place is known"
    text += f"; {_have(several, 'stands', 'stand')} for several objects of that name, whose masks are taken together" if several else ""
    missing = namings.height - known.height
    left = "no known object in the picture and {} left out".format("is" if missing == 1 else "are")
    text += f". {_have(missing, 'further name has', 'further names have')} {left}" if missing else ""
    unseen = known.height - seen
    return f"{text}. Of {unseen:,} no image token is known to show the object, so that nothing can be told of them." if unseen else f"{text}."


def share_by_layer(layers: pl.DataFrame) -> str:
    """How much of each map lies in the named object, where most, and in how many layers that is more than chance.

    Args:
        layers: the table of localisation by layer.
    """
    present = _present(layers, "share")
    if not present:
        return f"How much attention lies on the object that a token names {NOTHING}"
    parts, level = [], _whole(layers, present[0], "share")["chance"]
    for what in present:
        rows, best = _layers(layers, what, "share"), _best(layers, what, "share")
        parts.append(
            f"of the {NAMES[what]} {percent(best['mean'])} ({_span(best, percent)}) lies there in layer {best['layer']}, the layer with most, and "
            f"{percent(_whole(layers, what, 'share')['mean'])} over all layers ({_beyond(rows)})"
        )
    text = f"Chance would put {percent(level)} inside the object's mask. {'; '.join(parts)}."
    return text.replace(". of the", ". Of the", 1) + _beside(layers, present)


def ranks_by_layer(layers: pl.DataFrame) -> str:
    """Which map finds the object best by AUROC, and how often its largest token lies inside."""
    present = _present(layers, "auroc")
    if not present:
        return f"Whether the tokens that show an object come first {NOTHING}"
    parts = []
    for what in present:
        best, pointing = _best(layers, what, "auroc"), _best(layers, what, "pointing")
        told = "" if _side(best) else ", which may be chance"
        found = f"AUROC {number(best['mean'])}, {_span(best, number)}{told}; {_beyond(_layers(layers, what, 'auroc'))}"
        parts.append(
            f"the {NAMES[what]} finds the object best in layer {best['layer']} ({found}); "
            f"its largest token lies inside for {percent(pointing['mean'])} of the mentions in layer {pointing['layer']} (chance {percent(pointing['chance'])})"
        )
    text = ". ".join(part[0].upper() + part[1:] for part in parts)
    most = number(_best(layers, present[0], "auroc")["most"])
    return f"{text}. No map of these tokens could do better than AUROC {most}, as a token may show more than the object."


def own_and_others(layers: pl.DataFrame) -> str:
    """Whether maps are on the named object rather than on any object."""
    rows = layers.filter(pl.col("against") == "difference", pl.col("statistic") == "auroc", pl.col("mean").is_not_null())
    whole = {row["what"]: row for row in rows.filter(pl.col("layer").is_null()).iter_rows(named=True)}
    if not whole:
        start = "Whether maps are on the object that is named rather than on any object cannot be told"
        return f"{start}: no picture with a named object shows another one with a mask."
    parts = []
    for what in (what for what in NAMES if what in whole):
        row, single = whole[what], rows.filter(pl.col("what") == what, pl.col("layer").is_not_null())
        more, less = _sides(single)
        amount = f"{number(row['mean'], signed=True)} ({_span(row, lambda value: number(value, signed=True))}, {chance(row['p'])})"
        verdict = {1: "is on the named object more than on the others", -1: "is on the others more than on the named object"}.get(
            _side(row, "p"), "favours neither the named object nor the others, as far as can be told"
        )
        where = f"more in {more} of {counted(single.height, 'layer')}, less in {less}"
        parts.append(f"the {NAMES[what]} {verdict} over all layers (difference in AUROC {amount}; {where})")
    first = next(iter(whole.values()))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}. That is over {counted(first['mentions'], 'mention')} in {counted(first['pictures'], 'picture')} with other objects."


def head_grid(heads: pl.DataFrame) -> str:
    """How many heads look at what is named, and which most.

    Args:
        heads: the table of localisation by head.
    """
    rows = heads.filter(pl.col("statistic") == "auroc", pl.col("mean").is_not_null())
    if rows.is_empty():
        return f"Which heads look at the object that a token names {NOTHING}"
    more, less = _sides(rows)
    best = rows.sort("mean", descending=True).row(0, named=True)
    top = f"head {best['head']} of layer {best['layer']} finds it best (AUROC {number(best['mean'])}, {_span(best, number)})"
    if not more and not less:
        return f"No head can be told to look at the named object more or less than chance, of {rows.height:,} after correction; {top}."
    return f"After correction {more:,} of {counted(rows.height, 'head')} look at the named object more than chance, {less:,} less; {top}."


def gallery(maps: pl.DataFrame, namings: pl.DataFrame) -> str:
    """What the pictures show, and where the largest tokens of their maps lie.

    Args:
        maps: the localisation maps table.
        namings: the namings table.
    """
    keys = maps.filter(pl.col("left").is_not_null()).select("id", "name").unique(maintain_order=True).rows()
    if not keys:
        return f"Where the maps of single words lie {NOTHING}"
    masks = {(row["id"], row["name"]): row["mask"] for row in namings.filter(pl.col("mask").is_not_null()).iter_rows(named=True)}
    parts = []
    for what in (what for what in NAMES if what in set(maps["what"])):
        hits = [_hit(maps.filter(pl.col("id") == id, pl.col("name") == name, pl.col("what") == what).sort("token"), masks[id, name]) for id, name in keys]
        layer = maps.filter(pl.col("what") == what)["layer"].drop_nulls()
        where = f" in layer {layer[0]}" if len(layer) else ""
        parts.append(f"for {sum(hits)} by {NAMES[what]}{where}")
    return f"Of the {counted(len(keys), 'mention')} shown, the token that the map is largest on lies mostly in the outlined object {listed(parts)}."


def _hit(part: pl.DataFrame, mask: bytes) -> bool:
    boxes = part.select(_SIDES).cast(pl.Float64).fill_null(np.nan).to_numpy()
    with Image.open(io.BytesIO(mask)) as picture:
        inside = inside_of(boxes, np.asarray(picture.convert("1")))
    return bool(placed(part["value"].to_numpy()[None], inside).pointing[0] >= 0.5)


def _present(layers: pl.DataFrame, statistic: str) -> list[str]:
    return [what for what in NAMES if not _layers(layers, what, statistic).is_empty()]


def _layers(layers: pl.DataFrame, what: str, statistic: str) -> pl.DataFrame:
    """Single layers against the named object."""
    mine = layers.filter(pl.col("what") == what, pl.col("against") == "own", pl.col("statistic") == statistic)
    return mine.filter(pl.col("layer").is_not_null(), pl.col("mean").is_not_null())


def _whole(layers: pl.DataFrame, what: str, statistic: str) -> dict:
    mine = layers.filter(pl.col("what") == what, pl.col("against") == "own", pl.col("statistic") == statistic)
    return mine.filter(pl.col("layer").is_null()).row(0, named=True)


def _best(layers: pl.DataFrame, what: str, statistic: str) -> dict:
    return _layers(layers, what, statistic).sort("mean", "layer", descending=[True, False]).row(0, named=True)


def _side(row: dict, p: str = "p_holm") -> int:
    """Which side of chance it lies on, if that can be told."""
    if row[p] is None or not row[p] < ALPHA:
        return 0
    return 1 if row["over"] > 0 else -1


def _sides(rows: pl.DataFrame) -> tuple[int, int]:
    """Rows that are above chance, and below, after correction."""
    sides = [_side(row) for row in rows.iter_rows(named=True)]
    return sides.count(1), sides.count(-1)


def _beyond(rows: pl.DataFrame) -> str:
    more, less = _sides(rows)
    if not more and not less:
        return f"told from chance in none of {counted(rows.height, 'layer')}"
    return f"above chance in {more} of {counted(rows.height, 'layer')}" + (f", below it in {less}" if less else "")


def _beside(layers: pl.DataFrame, present: list[str]) -> str:
    """Whether attribution says more of the object than attention, over all layers."""
    if "attribution" not in present or len(present) < 2:
        return ""
    own, looked = _whole(layers, "attribution", "share"), _whole(layers, present[0], "share")
    if None in (own["low"], looked["low"]):
        return ""
    apart = own["low"] > looked["high"] or own["high"] < looked["low"]
    if not apart:
        return f" That attribution lies more or less on the object than the {NAMES[present[0]]} cannot be told over all layers."
    return f" Over all layers attribution lies {'more' if own['mean'] > looked['mean'] else 'less'} on the object than the {NAMES[present[0]]}."


def _span(row: dict, write) -> str:
    return "no interval" if row["low"] is None or row["high"] is None else f"{write(row['low'])} to {write(row['high'])}"


def _have(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
