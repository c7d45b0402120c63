"""Which tokens of the text receive the picture, in one sentence a figure."""

import polars as pl

from headflow.charts.text_tokens import largest_template
from headflow.reporting.words import chance, correlation, counted, listed, number, percent

ALPHA = 0.05
_NAMED = 4  # tokens that are named
_SAME, _ALIKE = 0.1, 0.9  # a difference of shares and a cosine within which two sets of heads write to the same tokens
_LITTLE = 0.01  # share of the effect below which a token is not worth naming


def template_tokens(slots: pl.DataFrame, unit: str = "logits", template: str | None = None) -> str:
    """Which tokens of the most frequent template (or of ``template``) receive the picture, and how much of the effect the strongest hold."""
    name = template if template is not None else largest_template(slots)
    rows = slots.filter(pl.col("template").eq_missing(pl.lit(name)), pl.col("heads") == "all", pl.col("window").is_null())
    if rows.is_empty():
        return "Which tokens receive the picture cannot be told: no example was traced."
    if rows["p_holm"].drop_nulls().is_empty():
        first = rows.sort("mean", descending=True).row(0, named=True)
        return (
            f"Which tokens receive the picture in general cannot be told from one picture; here {_quoted(first)} gains most, {number(first['mean'])} {unit}, "
            f"with {_count(rows)}."
        )
    if rows["share"].drop_nulls().is_empty():
        first = rows.sort("size", descending=True, nulls_last=True).row(0, named=True)
        return (
            f"Which tokens receive the picture cannot be told from the mean: cut off from it, all tokens together change the target by no more than chance, "
            f"up in some examples and down in others; {_quoted(first)} has the attribution of largest size, {number(first['size'])} {unit} on average."
        )
    told = rows.filter((pl.col("p_holm") < ALPHA) & (pl.col("mean") > 0)).sort("mean", descending=True)
    if told.is_empty():
        return f"Which tokens receive the picture cannot be told: for none of {_count(rows)} does the attribution differ from nothing by more than chance."
    large = told.filter(pl.col("share").is_null() | (pl.col("share") >= _LITTLE))
    large = large if len(large) else told
    parts = [f"{_quoted(row)} ({_amount(row, unit)})" for row in large.head(_NAMED).iter_rows(named=True)]
    more = f", and {counted(len(large) - _NAMED, 'more token')}" if len(large) > _NAMED else ""
    rest = len(rows) - len(large)
    others = f"; that any of the {rest:,} others receives more than 1% of the effect cannot be told" if rest > 1 else ""
    return f"The picture is received by {listed(parts)}{more}{others}."


def role_shares(roles: pl.DataFrame, contrasts: pl.DataFrame, template: str | None = None) -> str:
    """Do the tokens after the question receive the picture, or those of the question itself? For all examples, or for those of ``template``."""
    roles, contrasts = (table.filter(pl.col("template").eq_missing(pl.lit(template))) for table in (roles, contrasts))
    rows = {row["role"]: row for row in roles.filter(pl.col("heads") == "all", pl.col("window").is_null()).iter_rows(named=True)}
    gap = _contrast(contrasts, "after - before")
    if "after" not in rows or "before" not in rows or gap is None:
        return "Whether the question or what comes after it receives the picture cannot be told: there are not tokens of both kinds."
    after, before = rows["after"], rows["before"]
    if after["share"] is None:
        return "Whether the question or what comes after it receives the picture cannot be told: cutting all tokens off from it changes the target too little."
    shares = f"tokens after the question hold {_share(after)} of the effect, those up to its end {_share(before)}"
    if gap["low"] is None:
        return f"With one picture it cannot be told in general whether the question or what comes after it receives the picture; here {shares}."
    if gap["low"] > 0:
        start = "The picture goes to the tokens after the question"
    elif gap["high"] < 0:
        start = "The picture goes to the tokens of the question"
    else:
        return f"Whether the question or what comes after it receives more of the picture cannot be told: {shares}."
    return f"{start}: {shares}."


def top_heads(contrasts: pl.DataFrame, top: int, of: int) -> str:
    """Do the top heads write to the same tokens as all heads together?"""
    contrasts = contrasts.filter(pl.col("template").is_null())
    alike, gap = _contrast(contrasts, "similarity"), _contrast(contrasts, "top - all")
    which = f"the first {counted(top, 'head')} of {of:,}" if top > 1 else f"the first head of {of:,}"
    if alike is None or gap is None or alike["value"] is None or gap["value"] is None:
        return f"Whether {which} write to the same tokens as all heads cannot be told: one of the two changes the target too little."
    profile = f"their attributions over tokens are alike by {correlation(alike['value'])} (cosine{_span(alike)})"
    if gap["low"] is None:
        return f"With one picture it cannot be told in general whether {which} write to the same tokens as all heads; here {profile}."
    change = f"{_points(gap['value'])} ({_points(gap['low'])} to {_points(gap['high'])})"
    start = f"{which[0].upper()}{which[1:]} write"
    if max(abs(gap["low"]), abs(gap["high"])) < _SAME and alike["low"] > _ALIKE:
        return f"{start} to the same tokens as all heads: {profile}, and their share of the tokens after the question differs by {change}."
    if gap["low"] <= 0 <= gap["high"]:
        return (
            f"That {which} write to other tokens than all heads do cannot be told: {profile}, and the share of the tokens after the question "
            f"differs by {change}."
        )
    where = "more to the tokens after the question" if gap["value"] > 0 else "less to the tokens after the question"
    return f"{start} {where} than all heads do, by {change} of the effect ({chance(gap['p'])}); {profile}."


def fits(table: pl.DataFrame) -> str:
    """How far a sum over tokens predicts the model."""
    known = table.drop_nulls("held_out_r").filter(pl.col("heads") == "all")
    if known.is_empty():
        return "How far a sum over tokens predicts the model cannot be told: the target does not change when tokens are cut."
    worst, middle = float(known["held_out_r"].min()), float(known["held_out_r"].median())
    exact = table.filter(pl.col("heads") == "all", pl.col("estimator") == "exhaustive").height
    how = "; all combinations of tokens were run" if exact == table.filter(pl.col("heads") == "all").height else ""
    r = f"a median r of {correlation(middle)} (worst example {correlation(worst)})"
    return f"On masks that it has not seen, a sum over tokens predicts the target with {r}{how}."


def _span(row: dict) -> str:
    return "" if row["low"] is None else f"; {correlation(row['low'])} to {correlation(row['high'])}"


def _contrast(contrasts: pl.DataFrame, name: str) -> dict | None:
    rows = contrasts.filter(pl.col("contrast") == name)
    return rows.row(0, named=True) if len(rows) else None


def _quoted(row: dict) -> str:
    text = row["text"].replace("\n", "↵").replace("▁", " ").replace("Ġ", " ").replace("Ċ", "↵").strip() or "␣"
    role = row["role"]
    return f"{text} ({role})" if text.startswith("⟨") else f"“{text}” ({role})"


def _amount(row: dict, unit: str) -> str:
    amount = f"{number(row['mean'])} {unit}"
    return amount if row["share"] is None else f"{amount}, {percent(row['share'])} of the effect"


def _count(rows: pl.DataFrame) -> str:
    return counted(len(rows), "token")


def _share(row: dict) -> str:
    if row["share_low"] is None:
        return percent(row["share"])
    return f"{percent(row['share'])} ({percent(row['share_low'])} to {percent(row['share_high'])})"


def _points(share: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{'+' if share > 0 else ''}{percent(share)}"
