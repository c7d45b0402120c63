"""What the figures about pairs of heads show."""

import polars as pl

from headflow.charts.numbers import interval as mean_interval
from headflow.reporting.words import chance, counted, interval, number, spelled


def top_pairs(table: pl.DataFrame, level: float = 0.05, unit: str = "logits", *, estimand: str = "banzhaf") -> str:
    """How many pairs were found of each kind, and the clearest; ``estimand`` is that of the masks."""
    if table.is_empty() and estimand == "shapley":
        return (
            "Which pairs of heads compensate for or need each other cannot be told from this run: masks for Shapley values, most of which cut nearly all heads "
            "or hardly any, say too little of a pair. Runs with the estimand banzhaf test pairs."
        )
    if table.is_empty():
        return (
            "No pair of heads stood out enough on the fit masks to be put to the test, so whether any two compensate for or need each other cannot be told: "
            "there may be none, or too few masks to see one."
        )
    found = table.filter(pl.col("kind") != "unclear")
    tested = counted(table.height, "pair")
    if found.is_empty():
        best = table.sort("p").row(0, named=True)
        return (
            f"Whether any two heads compensate for or need each other cannot be told: of {tested} tested none stands out (closest: {_pair(best)}, "
            f"{number(best['effect'], signed=True)} {unit}, {chance(best['p'])} before correction)."
        )
    parts = []
    for kind in ("compensate", "need each other"):
        some = found.filter(pl.col("kind") == kind)
        if some.is_empty():
            continue
        top = some.sort(pl.col("effect").abs(), descending=True).row(0, named=True)
        does = "need each other" if kind == "need each other" else "compensate for each other"
        largest = f"{'' if some.height == 1 else 'largest: '}{_pair(top)}, {number(top['effect'], signed=True)} {unit}"
        parts.append(
            f"in {spelled(some.height).lower()}{'' if parts else f' of {tested} tested'} the two heads {does} ({largest}, "
            f"{interval(top['low'], top['high'], signed=True)})"
        )
    text = ", and ".join(parts)
    return f"{text[0].upper()}{text[1:]}; of such findings at most about {level:.0%} are expected to be false."


def pair_places(table: pl.DataFrame) -> str:
    """Which head has a part in most of the pairs found, and how many of them join different layers; for a table with a clear pair."""
    found = table.filter(pl.col("kind") != "unclear")
    ends = pl.concat([found.select("layer", "head"), found.select(pl.col("other_layer").alias("layer"), pl.col("other_head").alias("head"))])
    most = ends.group_by("layer", "head").len().sort(["len", "layer", "head"], descending=[True, False, False]).row(0, named=True)
    across = found.filter(pl.col("layer") != pl.col("other_layer")).height
    if found.height == 1:
        return f"The two heads lie in {'different layers' if across else 'one layer'}."
    hub = f"L{most['layer']} H{most['head']} has a part in {_of(most['len'], found.height)} pairs" if most["len"] > 1 else "No head has a part in two pairs"
    return f"{hub}; {_of(across, found.height)} join heads of different layers."


def _of(count: int, total: int) -> str:
    if count == total:
        return "both" if total == 2 else f"all {total:,}"
    return f"{count or 'none'} of the {total:,}"


def pair_fits(fits: pl.DataFrame, confidence: float = 0.95) -> str:
    """Whether the pairs improve the held-out fit (paired over examples)."""
    known = fits.drop_nulls(["held_out_r", "held_out_r_pairs"])
    if known.is_empty():
        return "Whether pairs improve the fit cannot be told: no example has a held-out correlation."
    if known["held_out_r"].equals(known["held_out_r_pairs"]):
        return f"There is no pair to add, so the fit stays as it is (mean held-out correlation {float(known['held_out_r'].mean()):.3f})."
    before, after = float(known["held_out_r"].mean()), float(known["held_out_r_pairs"].mean())
    _, low, high = mean_interval((known["held_out_r_pairs"] - known["held_out_r"]).to_numpy(), confidence)
    start = f"With the pairs the mean held-out correlation is {after:.3f}, without them {before:.3f}"
    if low > 0:
        return f"{start}: they explain a part of what the sum over heads misses (difference {interval(low, high, signed=True)})."
    if high < 0:
        return f"{start}: they make the prediction worse (difference {interval(low, high, signed=True)})."
    return f"{start}: that they help cannot be told (difference {interval(low, high, signed=True)})."


def _pair(row: dict) -> str:
    return f"L{row['layer']} H{row['head']} and L{row['other_layer']} H{row['other_head']}"
