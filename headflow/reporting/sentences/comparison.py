"""What the figures that set models side by side show. Tables in, as ``headflow.analysis.comparison`` makes them."""

import math
from collections.abc import Sequence

import polars as pl

from headflow.analysis.comparison import HALF, MOST
from headflow.reporting.sentences.trust import ROUGHLY, WELL
from headflow.reporting.words import correlation, counted, interval, listed, number, percent

MOST_NAMED = 3
"""More models than this are counted, not named."""
MOST_LISTED = 6
"""More models than this are not given a number each."""


def depths(table: pl.DataFrame, pairs: pl.DataFrame) -> str:
    """Whether attribution lies later or earlier than an even spread, and whether the models differ in it (``mean_depths``, ``contrasts``)."""
    rows = [row for row in table.iter_rows(named=True) if row["later"] is not None and math.isfinite(row["later"])]
    if not rows:
        return "It cannot be told: no head of any model has an attribution."
    if len(rows) == 1:
        row = rows[0]
        start = f"In {row['model']}, attribution lies at a mean relative depth of {number(row['depth'])} ({interval(row['low'], row['high'])})"
        gap = f"by {number(row['later'], signed=True)} of the depth, {interval(row['later_low'], row['later_high'], signed=True)}"
        way = _way(row)
        if way == "later":
            return f"{start}, later than an even spread over its layers would ({gap})."
        if way == "earlier":
            return f"{start}, earlier than an even spread over its layers would ({gap})."
        return f"{start}; that it differs from an even spread over its layers cannot be told ({gap})."
    parts = []
    for way, text in (("later", "later"), ("earlier", "earlier"), ("", "no different that can be told")):
        if keys := [row["model"] for row in rows if _way(row) == way]:
            parts.append(f"{text} in {_named(keys, len(rows))}")
    rows.sort(key=lambda row: row["later"])
    first, last = rows[0], rows[-1]
    gap, low, high, common = _contrast(pairs, "later", last["model"], first["model"])
    start = f"Against an even spread over the layers, attribution lies {listed(parts)}"
    ends = f"deepest in {last['model']} ({_beside(last['later'])}), least deep in {first['model']} ({_beside(first['later'])})"
    if low > 0:
        return f"{start}; {ends}, {number(gap)} of the depth apart ({interval(low, high)}; {common})."
    return f"{start}; {ends}, but that these two differ cannot be told (difference {interval(low, high, signed=True)}; {common})."


def _beside(later: float) -> str:
    """How far from an even spread, in words."""
    return f"{number(abs(later))} of the depth {'later' if later >= 0 else 'earlier'} than an even spread"


def _contrast(pairs: pl.DataFrame, measure: str, first: str, second: str) -> tuple[float, float, float, str]:
    """``first − second`` with its limits, NaN if unknown, and over which examples it was taken (``contrasts``)."""
    rows = pairs.filter((pl.col("measure") == measure) & pl.col("first").is_in([first, second]) & pl.col("second").is_in([first, second]))
    row = rows.row(0, named=True)
    gap, low, high = (row[name] if row[name] is not None else math.nan for name in ("gap", "low", "high"))
    note = f"paired over {row['common']:,} common examples" if row["common"] else "unpaired, as too few examples are common"
    return (gap, low, high, note) if row["first"] == first else (-gap, -high, -low, note)


def _way(row: dict) -> str:
    return "later" if row["later_low"] > 0 else "earlier" if row["later_high"] < 0 else ""


def _named(keys: Sequence[str], total: int) -> str:
    if len(keys) == total > MOST_NAMED:
        return f"all {total} models"
    return listed(keys) if len(keys) <= MOST_NAMED else f"{len(keys)} of {total} models"


def concentration(needed: pl.DataFrame, pairs: pl.DataFrame) -> str:
    """In how few heads attribution lies, and whether the models differ in that (``heads_needed``, ``contrasts``)."""
    half = {row["model"]: row for row in needed.filter(pl.col("share") == HALF).drop_nulls("heads").iter_rows(named=True)}
    if not half:
        return "It cannot be told: no head of any model has an attribution."
    if len(half) == 1:
        (row,) = half.values()
        start = f"In {row['model']}, {row['heads']:,} of {counted(row['of'], 'head')}{_limits(row)} hold {percent(HALF)} of the summed size of all attributions"
        most = needed.filter((pl.col("share") == MOST) & (pl.col("model") == row["model"])).row(0, named=True)
        return f"{start}, and {most['heads']:,}{_limits(most)} hold {percent(MOST)}."
    order = sorted(half.values(), key=lambda row: row["heads"] / row["of"])
    few, many = order[0], order[-1]
    start = (
        f"Attribution is most concentrated in {few['model']}, where {percent(few['heads'] / few['of'])} of the heads ({_count(few)}) hold {percent(HALF)} "
        f"of it, and least in {many['model']}, where it takes {percent(many['heads'] / many['of'])} ({_count(many)})"
    )
    _, low, high, common = _contrast(pairs, "half", many["model"], few["model"])
    if not math.isfinite(low):
        return f"{start}; with one example there is no interval, so whether they differ cannot be told."
    limits = f"difference {percent(low)} to {percent(high)} of the heads; {common}"
    return f"{start}; {'the two differ' if low > 0 else 'that these two differ cannot be told'} ({limits})."


def _count(row: dict) -> str:
    return f"{row['heads']:,} of {counted(row['of'], 'head')}{_limits(row).replace(' (', ', ').replace(')', '')}"


def _limits(row: dict) -> str:
    return f" (interval {row['low']:,} to {row['high']:,})" if row["low"] is not None and row["high"] is not None else ""


def held_out(medians: pl.DataFrame, pairs: pl.DataFrame) -> str:
    """How well a sum over heads predicts each model, and whose attributions deserve less trust (``median_fits``, ``contrasts``)."""
    rows = [row for row in medians.iter_rows(named=True) if row["median"] is not None]
    missing = [row["model"] for row in medians.iter_rows(named=True) if row["median"] is None]
    if not rows:
        return "It cannot be told: the target does not vary over the held-out masks of any example."
    rows.sort(key=lambda row: row["median"])
    worst, best = rows[0], rows[-1]
    tail = f"; for {_named(missing, len(missing) + len(rows))} it cannot be told, as the target does not vary" if missing else ""
    if len(rows) == 1:
        return f"A sum over heads predicts {worst['model']} {_fit(worst)}, so {_trust([worst], 1)}{tail}."
    start = f"A sum over heads predicts {best['model']} best ({_fit(best)}) and {worst['model']} worst ({_fit(worst)})"
    gap, low, high, common = _contrast(pairs, "r", best["model"], worst["model"])
    if not math.isfinite(low):
        start += "; with one example there is no interval of their difference"
    elif low > 0:
        start += f", with {number(gap)} between their means ({interval(low, high)}; {common})"
    else:
        start += f", but that these two differ cannot be told (difference of means {interval(low, high, signed=True)}; {common})"
    return f"{start}; {_trust(rows, len(rows))}{tail}."


def _fit(row: dict) -> str:
    limits = f", {correlation(row['low'])} to {correlation(row['high'])}" if row["low"] is not None else ""
    return f"at a median r of {correlation(row['median'])}{limits}"


def _trust(rows: Sequence[dict], total: int) -> str:
    if poor := [row["model"] for row in rows if row["median"] < ROUGHLY]:
        return f"attributions of {_named(poor, total)} deserve little trust{f' (median below {ROUGHLY})' if total > 1 else ''}"
    if rough := [row["model"] for row in rows if row["median"] < WELL]:
        return f"attributions of {_named(rough, total)} describe the model only roughly{f' (median below {WELL})' if total > 1 else ''}"
    return (
        "a plain sum over heads describes these runs well"
        if total == 1
        else f"each median is at least {WELL}, so a plain sum over heads describes them all well"
    )


def falls(table: pl.DataFrame, unit: str) -> str:
    """How much the picture matters to each model: the fall of its target when every head is cut (``falls``)."""
    said = {row["model"]: f"{row['model']} {number(row['fall'])} ({interval(row['low'], row['high'])})" for row in table.iter_rows(named=True)}
    clear = [row["model"] for row in table.iter_rows(named=True) if math.isfinite(row["low"]) and row["low"] > 0]
    unclear = [key for key in said if key not in clear]
    start = (
        f"With every head cut the target falls on average by, in {unit}: {listed(list(said.values()))}"
        if len(said) <= MOST_LISTED
        else (f"With every head cut the target falls clearly in {len(clear)} of {len(said)} models")
    )
    doubt = f"; that the picture matters for it cannot be told in {_named(unclear, len(said))}" if unclear else ""
    return f"{start}{doubt}{'; scales differ between models, so these are not to be compared' if 1 < len(said) <= MOST_LISTED else ''}."


def effects(table: pl.DataFrame) -> str:
    """Whether cutting one head at a time shows what cutting many does (``effect_shares``)."""
    accounts = {name: {row["model"]: row for row in table.filter(pl.col("account") == name).iter_rows(named=True)} for name in ("attributions", "singles")}
    keys = list(accounts["attributions"])
    undefined = [key for key in keys if accounts["attributions"][key]["share"] is None]
    known = [key for key in keys if key not in undefined and accounts["singles"][key]["share"] is not None]
    uncut = [key for key in keys if key not in undefined and key not in known]
    tail = ""
    if undefined:
        tail += f"; in {_named(undefined, len(keys))} cutting all heads does not lower the target, so there is nothing to have a share of"
    if uncut:
        tail += f"; single heads were not cut in {_named(uncut, len(keys))}"
    if not known:
        return f"It cannot be told{tail.replace(';', ':', 1)}."
    alone = sorted((accounts["singles"][key] for key in known), key=lambda row: row["share"])
    many = [accounts["attributions"][key] for key in known]
    shows = [row["model"] for row in alone if _apart(row) < 0]
    if len(known) == 1:
        row, together = alone[0], many[0]
        start = (
            f"In {row['model']}, heads cut one at a time add up to {_share(row)} of the fall when all are cut at once, their attributions to {_share(together)}"
        )
        way = _apart(row)
        verdict = "a head cut alone shows less than among many" if way < 0 else "a head cut alone shows more than among many" if way > 0 else ""
        known = row["gap_low"] is not None and math.isfinite(row["gap_low"])
        limits = f"difference {percent(row['gap_low'])} to {percent(row['gap_high'])}" if known else "with one example there is no interval"
        return f"{start}; {verdict or 'whether the two differ cannot be told'} ({limits}){tail}."
    ends = [percent(end(row["share"] for row in many)) for end in (min, max)]
    start = (
        f"Heads cut one at a time add up to between {_share(alone[0], alone[0]['model'])} and {_share(alone[-1], alone[-1]['model'])} of the fall "
        f"when all are cut at once, their attributions to {ends[0] if ends[0] == ends[1] else f'between {ends[0]} and {ends[1]}'}"
    )
    if shows:
        return f"{start}; a head cut alone shows less than among many in {_named(shows, len(keys))}{tail}."
    return f"{start}; that a head cut alone shows less than among many cannot be told for any of them{tail}."


def _apart(row: dict) -> int:
    """−1 or +1 if single heads show clearly less or more than attributions of the same examples, 0 if that cannot be told."""
    if any(row[end] is None or not math.isfinite(row[end]) for end in ("gap_low", "gap_high")):
        return 0
    return -1 if row["gap_high"] < 0 else 1 if row["gap_low"] > 0 else 0


def _share(row: dict, key: str = "") -> str:
    known = row["low"] is not None and math.isfinite(row["low"])
    notes = [key] * bool(key) + ([f"interval {percent(row['low'])} to {percent(row['high'])}"] if known else [])
    return f"{percent(row['share'])} ({', '.join(notes)})" if notes else percent(row["share"])
