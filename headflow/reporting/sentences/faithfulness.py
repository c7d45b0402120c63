"""What the figures about rankings of heads show."""

import numpy as np
import polars as pl

from headflow.attribution.faithfulness import Leader, leader
from headflow.charts import numbers
from headflow.reporting.words import counted, interval, listed, percent

ORDERS = {
    "attribution": "head attribution", "ablation": "the effect of cutting a head alone", "restoration": "the effect of keeping a head alone",
    "attention": "attention on the picture", "gradient": "the gradient", "integrated": "integrated gradients", "random": "chance",
}  # fmt: skip
"""What the heads are ordered by, as a sentence says it."""


def faithfulness_curves(summary: pl.DataFrame, differences: pl.DataFrame, areas: pl.DataFrame, *, level: float = 0.8, confidence: float = 0.95) -> str:
    """Which ranking's first heads do most alone, whether that can be told, and how few of them suffice; then what was left out."""
    first = leader(summary, differences, scope="own", measure="faithfulness", alpha=1 - confidence)
    if first is None:
        return f"It cannot be told: no example was explained on which the heads together raise the target.{_left_out(areas)}"
    row = _row(summary, first.ranking, "own", "faithfulness")
    start = f"Most faithful is the order by {ORDERS[first.ranking]}: the area under its curve is {_estimate(row)}{_told(first)}"
    return f"{start}. {_few(summary, first, row, level)}{_beside_attribution(first, summary, differences, 1 - confidence)}{_left_out(areas)}"


def faithfulness_areas(summary: pl.DataFrame, differences: pl.DataFrame, areas: pl.DataFrame, *, confidence: float = 0.95) -> str:
    """Which ranking names the heads that cannot be spared, and whether one order for all examples does as well."""
    alpha = 1 - confidence
    first = leader(summary, differences, scope="own", measure="completeness", alpha=alpha)
    if first is None:
        return "It cannot be told: no example was explained on which the heads together raise the target."
    row = _row(summary, first.ranking, "own", "completeness")
    text = f"Cutting the first heads hurts soonest in the order by {ORDERS[first.ranking]}, with an area of {_estimate(row)}{_told(first)}."
    shared = leader(summary, differences, scope="shared", measure="faithfulness", alpha=alpha)
    if shared is None:
        return text
    best = _row(summary, shared.ranking, "shared", "faithfulness")
    return (
        f"{text} With one order for all examples the largest area of faithfulness is {_estimate(best)}, by {ORDERS[shared.ranking]}{_told(shared)}."
        f"{_own_against_shared(areas, confidence)}"
    )


def _own_against_shared(areas: pl.DataFrame, confidence: float) -> str:
    """Whether heads differ from example to example: the first ranking's own order against the one that all share, paired."""
    rows = areas.filter(pl.col("used"), pl.col("measure") == "faithfulness", pl.col("ranking") != "random")
    if rows.is_empty():
        return ""
    ranking = rows["ranking"][0]
    wide = rows.filter(pl.col("ranking") == ranking).pivot("scope", index="id", values="area")
    _, low, high = numbers.interval((wide["own"] - wide["shared"]).to_numpy(), confidence)
    start = f" Ordered by {ORDERS[ranking]},"
    if np.isnan(low):
        return f"{start} whether each example's own order does better than the shared one cannot be told."
    if low > 0:
        return f"{start} each example's own order does better than the shared one by {low:.3f} to {high:.3f}: which heads matter differs between examples."
    if high < 0:
        return f"{start} the shared order does better than each example's own by {-high:.3f} to {-low:.3f}."
    return f"{start} whether each example's own order does better than the shared one cannot be told (difference {interval(low, high, signed=True)})."


def area(value: float | None) -> str:
    """Areas crowd together below 1: three decimals tell them apart."""
    return "unknown" if value is None else f"{value:.3f}"


def _estimate(row: dict) -> str:
    ends = f"{area(row['low'])} to {area(row['high'])}" if row["low"] is not None else "no interval"
    return f"{area(row['area'])} ({ends})"


def _told(first: Leader) -> str:
    """Whether the lead is more than chance."""
    if not first.ahead_of and not first.level_with:
        return ", and no other was tried"
    if first.clear:
        return ", ahead of every other by more than chance explains" if len(first.ahead_of) > 1 else f", ahead of {_names(first.ahead_of)}"
    if not first.ahead_of and len(first.level_with) > 2:
        return ", but that it is ahead of any other cannot be told"
    if not first.ahead_of:
        return f", but that it is ahead of {_names(first.level_with)} cannot be told"
    return f", but that it is ahead of {_names(first.level_with)} cannot be told; it is clearly ahead of {_names(first.ahead_of)}"


def _few(summary: pl.DataFrame, first: Leader, row: dict, level: float) -> str:
    """How many heads reach the level, beside a random order."""
    text = f"On average the first {row['heads']:.1f} of {counted(row['of'], 'head')} alone reach {percent(level)} of the effect of all"
    if first.ranking == "random" or (chance := _row(summary, "random", "own", "faithfulness")) is None:
        return f"{text}."
    return f"{text}; in a random order it takes {chance['heads']:.1f}."


def _beside_attribution(first: Leader, summary: pl.DataFrame, differences: pl.DataFrame, alpha: float) -> str:
    """Where head attribution stands, if it does not lead."""
    row = _row(summary, "attribution", "own", "faithfulness")
    if row is None or first.ranking == "attribution":
        return ""
    ends = _difference(differences, first.ranking, "attribution", "own", "faithfulness")
    close = "which cannot be told from it" if "attribution" in first.level_with else "which is behind it"
    return f" Head attribution has {area(row['area'])}, {close} (difference {interval(*ends, signed=True)})."


def _left_out(areas: pl.DataFrame) -> str:
    """How many examples have no curve."""
    examples = areas.unique("id")
    out = examples.filter(~pl.col("used"))
    if out.is_empty():
        return ""
    negative = out.filter(pl.col("total_effect") <= 0).height
    why = "on which cutting all heads changes the target too little to be divided by"
    if negative == out.height:
        why = "on which cutting all heads does not lower the target"
    elif negative:
        why = f"on which cutting all heads changes the target too little to be divided by, or ({negative} of them) does not lower it"
    return f" Left out {'is' if out.height == 1 else 'are'} {out.height:,} of {counted(examples.height, 'example')}, {why}."


def _row(summary: pl.DataFrame, ranking: str, scope: str, measure: str) -> dict | None:
    rows = summary.filter(pl.col("ranking") == ranking, pl.col("scope") == scope, pl.col("measure") == measure, pl.col("area").is_not_null())
    return None if rows.is_empty() else rows.row(0, named=True)


def _difference(differences: pl.DataFrame, one: str, other: str, scope: str, measure: str) -> tuple[float | None, float | None]:
    """The ends of the interval of area of ``one`` minus area of ``other``."""
    rows = differences.filter(pl.col("scope") == scope, pl.col("measure") == measure)
    for ranking, against, low, high in rows.select("ranking", "other", "low", "high").iter_rows():
        if (ranking, against) == (one, other):
            return low, high
        if (ranking, against) == (other, one):
            return (None, None) if low is None or high is None else (-high, -low)
    return None, None


def _names(rankings: list[str]) -> str:
    return listed([ORDERS[name] for name in rankings])
