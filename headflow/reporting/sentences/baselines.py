"""How much hangs on what ablated heads read, from the numbers of the comparison of baselines."""

from collections.abc import Sequence

import polars as pl

from headflow.reporting.sentences.trust import ROUGHLY, WELL
from headflow.reporting.words import correlation, counted, interval, listed, number, percent

APART = 0.01
"""A baseline that agrees with the others by less than this much less than they do with each other is not said to stand apart, however sure it is."""


def baselines(
    agreement: pl.DataFrame, differences: pl.DataFrame, summary: pl.DataFrame, gaps: pl.DataFrame, *, own: str | None = None, confidence: float = 0.95,
    unit: str = "logits",
) -> str:  # fmt: skip
    """Whether the baselines agree on which heads matter, which stands apart, what each does to the model, and what was left out.

    Args:
        agreement, differences, summary, gaps: the tables of one run.
        own: baseline that the rest of the report uses.
        confidence: level of the intervals; differences are told at one minus this.
    """
    alpha = 1 - confidence
    parts = [_agreement(agreement), _own(agreement, own), _apart(differences, alpha), _fall(summary, differences, alpha, unit)]
    parts += [_fit(summary, differences, alpha), _answers(summary), _gaps(gaps)]
    return " ".join(part for part in parts if part)


def _agreement(agreement: pl.DataFrame) -> str:
    """By the least alike of all pairs: agree, roughly, not, or cannot be told."""
    known = agreement.drop_nulls("r")
    if known.is_empty():
        return "Whether the choice of baseline matters cannot be told: no example was run under two baselines under which its heads differ."
    row = known.sort("r").row(0, named=True)
    pair = f"{row['baseline']} and {row['other']}"
    least = f"the least alike, {pair}," if known.height > 1 else f"the two, {pair},"
    ends = "with one picture there is no interval" if row["low"] is None else interval(row["low"], row["high"])
    evidence = f"{least} give an example attributions that correlate at r = {correlation(row['r'])} over heads ({ends}{_ceiling(row)})"
    if row["overlap"] is not None:
        heads = "have the same largest head in" if row["top"] == 1 else f"share, of the {row['top']} largest heads,"
        evidence += f", and {heads} {percent(row['overlap'])} (chance: {percent(row['chance'])})"
    if row["low"] is None or _grade(row["low"]) != _grade(row["high"]):
        if row["low"] is not None and row["low"] >= ROUGHLY:
            return f"All baselines agree at least roughly on which heads matter, whether well cannot be told: {evidence}."
        return f"Whether the baselines agree on which heads matter cannot be told: {evidence}."
    verdict = {
        2: "The baselines agree on which heads matter",
        1: "The baselines agree on which heads matter, but only roughly",
        0: "Which heads matter depends on the baseline",
    }[_grade(row["r"])]
    return f"{verdict}: {'even ' if _grade(row['r']) == 2 and known.height > 1 else ''}{evidence}."


def _grade(r: float) -> int:
    return (r >= WELL) + (r >= ROUGHLY)


def _ceiling(row: dict) -> str:
    """What noise alone would leave of the correlation, where that is worth a word."""
    if row["ceiling"] is None or row["ceiling"] > 0.995:
        return ""
    if row["ceiling"] < row["r"]:  # the baselines share their masks and so a part of their noise, and errors of few masks are on the wide side
        return "; the estimates are too noisy to say how much of what is missing is their noise"
    return f"; the noise of the estimates alone would leave {correlation(row['ceiling'])}"


def _own(agreement: pl.DataFrame, own: str | None) -> str:
    """How the baseline of the report stands among the others."""
    rows = agreement.filter((pl.col("baseline") == (own or "")) | (pl.col("other") == (own or ""))).drop_nulls("r").sort("r")
    if rows.height < 2:
        return ""
    first, last = (rows["other"][place] if rows["baseline"][place] == own else rows["baseline"][place] for place in (0, -1))
    return f"This report uses {own}, which agrees with the others at r = {correlation(rows['r'][0])} ({first}) to {correlation(rows['r'][-1])} ({last})."


def _apart(differences: pl.DataFrame, alpha: float) -> str:
    """Which baselines agree with the others less than these do with each other."""
    rows = differences.filter(pl.col("measure") == "apart").sort("difference", descending=True)
    if rows.is_empty():
        return ""
    told = [row for row in rows.iter_rows(named=True) if row["p_holm"] is not None and row["p_holm"] < alpha and row["difference"] >= APART]
    if not told:
        return "No baseline can be told to stand apart from the others."
    first, *rest = told
    ends = interval(first["low"], first["high"])
    less = number(first["difference"])
    text = f"{first['baseline'].capitalize()} stands apart: it agrees with the others by {less} less than they do with each other ({ends})"
    if rest:
        text += f"; so, by less, {'does' if len(rest) == 1 else 'do'} {listed([row['baseline'] for row in rest])}"
    return f"{text}."


def _fall(summary: pl.DataFrame, differences: pl.DataFrame, alpha: float, unit: str) -> str:
    """How far the target falls with every head cut, and whether that differs."""
    rows = _measured(summary, "total_effect")
    if rows.height < 2:
        return ""
    low, high = rows.row(0, named=True), rows.row(-1, named=True)
    text = f"With every head cut the target falls by {number(low['mean'])} ({low['baseline']}) to {number(high['mean'])} {unit} ({high['baseline']})"
    return f"{text}, {_told(differences, 'total_effect', low['baseline'], high['baseline'], alpha)}."


def _fit(summary: pl.DataFrame, differences: pl.DataFrame, alpha: float) -> str:
    """Under which baseline a plain sum over heads predicts best and worst."""
    rows = _measured(summary, "held_out_r")
    if rows.height < 2:
        return ""
    worst, best = rows.row(0, named=True), rows.row(-1, named=True)
    text = f"A plain sum over heads fits best under {best['baseline']} (held-out r {correlation(best['mean'])}) and worst under {worst['baseline']} "
    return f"{text}({correlation(worst['mean'])}), {_told(differences, 'held_out_r', worst['baseline'], best['baseline'], alpha)}."


def _answers(summary: pl.DataFrame) -> str:
    """Whether the model, with every head cut, still says something that could be an answer: a sign that it is not thrown off what it knows."""
    rows = summary.filter(pl.col("measure") == "candidate").drop_nulls("mean").sort("mean", descending=True, maintain_order=True)
    if rows.is_empty():
        return ""
    shares = rows["mean"].to_list()
    if min(shares) == 1:
        return "With every head cut the model still says one of the candidate answers in every example, under every baseline: none throws it off altogether."
    if max(shares) == 0:
        return "With every head cut the model says none of the candidate answers under any baseline: all of them throw it off."
    each = listed([f"{percent(row['mean'])} ({row['baseline']})" for row in rows.iter_rows(named=True)])
    last = rows.row(-1, named=True)
    unlike = [row["baseline"] for row in rows.iter_rows(named=True) if row["low"] is not None and row["low"] > last["high"]]
    text = f"With every head cut the model still says one of the candidate answers in a share of the examples of {each}"
    return f"{text}: {last['baseline']} throws it off more than {listed(unlike)}." if unlike else f"{text}; that one throws it off more cannot be told."


def _gaps(gaps: pl.DataFrame) -> str:
    """Which baselines, or which examples of them, are lacking, and why."""
    said = []
    for kind in gaps["baseline"].unique(maintain_order=True):
        rows = gaps.filter(pl.col("baseline") == kind)
        reasons: Sequence[str] = rows["reason"].unique(maintain_order=True).to_list()
        some = f"Left out of {kind} {'is' if rows.height == 1 else 'are'} {counted(rows.height, 'example')}"
        what = f"Left out is {kind}" if rows["id"].null_count() else some
        said.append(f"{what} ({'; '.join(reasons[:2])}).")
    return " ".join(said)


def _measured(summary: pl.DataFrame, measure: str) -> pl.DataFrame:
    """The baselines by rising mean of a measure."""
    return summary.filter(pl.col("measure") == measure).drop_nulls("mean").sort("mean", maintain_order=True)


def _told(differences: pl.DataFrame, measure: str, one: str, other: str, alpha: float) -> str:
    """Whether two baselines differ in a measure, within pictures."""
    pair = {one, other}
    for row in differences.filter(pl.col("measure") == measure).iter_rows(named=True):
        if {row["baseline"], row["other"]} == pair:
            if row["p_holm"] is None:
                break
            return "more than chance explains" if row["p_holm"] < alpha else "a difference that cannot be told from chance"
    return "a difference that cannot be told"
