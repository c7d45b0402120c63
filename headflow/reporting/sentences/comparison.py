"""What the figures that set models side by side show. Tables in, as ``headflow.analysis.comparison`` makes them."""

import math
from collections.abc import Sequence

import polars as pl

from headflow.analysis.comparison import HALF, MOST, difference
from headflow.reporting.sentences.trust import ROUGHLY, WELL
from headflow.reporting.words import correlation, counted, interval, listed, number, percent

MOST_NAMED = 3
"""More models than this are counted, not named."""


def depths(table: pl.DataFrame, confidence: float = 0.95) -> str:
    """Whether attribution lies later or earlier than an even spread, and whether the models differ in it (``mean_depths``)."""
    rows = [row for row in table.iter_rows(named=True) if row["later"] is not None and math.isfinite(row["later"])]
    if not rows:
        return "It cannot be told: no head of any model has an attribution."
    if len(rows) == 1:
        row = rows[0]
        start = f"In {row['model']}, attribution lies at a mean relative depth of {number(row['depth'])} ({interval(row['low'], row['high'])})"
        gap = f"{number(row['later'], signed=True)}, {interval(row['later_low'], row['later_high'], signed=True)}"
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
    gap, low, high = difference(first, last, "later", len(rows) * (len(rows) - 1) // 2, confidence)
    start = f"Against an even spread over the layers, attribution lies {listed(parts)}"
    ends = f"deepest in {last['model']} ({number(last['later'], signed=True)}), least deep in {first['model']} ({number(first['later'], signed=True)})"
    if low > 0:
        return f"{start}; {ends}, {number(gap)} of the depth apart ({interval(low, high)})."
    return f"{start}; {ends}, but that these two differ cannot be told ({interval(low, high, signed=True)})."


def _way(row: dict) -> str:
    return "later" if row["later_low"] > 0 else "earlier" if row["later_high"] < 0 else ""


def _named(keys: Sequence[str], total: int) -> str:
    if len(keys) == total > MOST_NAMED:
        return f"all {total} models"
    return listed(keys) if len(keys) <= MOST_NAMED else f"{len(keys)} of {total} models"


def concentration(needed: pl.DataFrame) -> str:
    """In how few heads attribution lies, and whether the models differ in that (``heads_needed``)."""
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
    if few["high"] is None or many["low"] is None:
        return f"{start}; with one example there is no interval, so whether they differ cannot be told."
    if few["high"] / few["of"] < many["low"] / many["of"]:
        return f"{start}; the two intervals do not overlap."
    return f"{start}; the two intervals overlap, so that the models differ in this cannot be told."


def _count(row: dict) -> str:
    return f"{row['heads']:,} of {counted(row['of'], 'head')}{_limits(row).replace(' (', ', ').replace(')', '')}"


def _limits(row: dict) -> str:
    return f" (interval {row['low']:,} to {row['high']:,})" if row["low"] is not None and row["high"] is not None else ""


def held_out(medians: pl.DataFrame) -> str:
    """How well a sum over heads predicts each model, and whose attributions deserve less trust (``median_fits``)."""
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
    if None in (best["low"], worst["high"]) or best["low"] <= worst["high"]:
        start += "; the two intervals overlap" if None not in (best["low"], worst["high"]) else "; there are too few examples for intervals"
    return f"{start}, so {_trust(rows, len(rows))}{tail}."


def _fit(row: dict) -> str:
    limits = f", {correlation(row['low'])} to {correlation(row['high'])}" if row["low"] is not None else ""
    return f"at a median r of {correlation(row['median'])}{limits}"


def _trust(rows: Sequence[dict], total: int) -> str:
    if poor := [row["model"] for row in rows if row["median"] < ROUGHLY]:
        return f"attributions of {_named(poor, total)} deserve little trust"
    if rough := [row["model"] for row in rows if row["median"] < WELL]:
        return f"attributions of {_named(rough, total)} describe the model only roughly"
    return "a plain sum over heads describes these runs well" if total == 1 else "a plain sum over heads describes the runs of all of them well"


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
    shows = [row["model"] for row in alone if _apart(row, accounts["attributions"][row["model"]]) < 0]
    if len(known) == 1:
        row, together = alone[0], many[0]
        start = (
            f"In {row['model']}, heads cut one at a time add up to {_share(row)} of the fall when all are cut at once, their attributions to {_share(together)}"
        )
        way = _apart(row, together)
        verdict = "a head cut alone shows less than among many" if way < 0 else "a head cut alone shows more than among many" if way > 0 else ""
        return f"{start}; {verdict or 'whether the two differ cannot be told, as their intervals overlap'}{tail}."
    ends = [percent(end(row["share"] for row in many)) for end in (min, max)]
    start = (
        f"Heads cut one at a time add up to between {_share(alone[0], alone[0]['model'])} and {_share(alone[-1], alone[-1]['model'])} of the fall "
        f"when all are cut at once, their attributions to {ends[0] if ends[0] == ends[1] else f'between {ends[0]} and {ends[1]}'}"
    )
    if shows:
        return f"{start}; a head cut alone shows less than among many in {_named(shows, len(keys))}{tail}."
    return f"{start}; that a head cut alone shows less than among many cannot be told for any of them{tail}."


def _apart(row: dict, other: dict) -> int:
    """−1 or +1 if the interval of ``row`` lies below or above that of ``other``, 0 if they overlap or are unknown."""
    ends = (row["low"], row["high"], other["low"], other["high"])
    if any(end is None or not math.isfinite(end) for end in ends):
        return 0
    return -1 if row["high"] < other["low"] else 1 if row["low"] > other["high"] else 0


def _share(row: dict, key: str = "") -> str:
    known = row["low"] is not None and math.isfinite(row["low"])
    notes = [key] * bool(key) + ([f"interval {percent(row['low'])} to {percent(row['high'])}"] if known else [])
    return f"{percent(row['share'])} ({', '.join(notes)})" if notes else percent(row["share"])
