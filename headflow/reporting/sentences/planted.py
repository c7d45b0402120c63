"""What headflow finds where the truth is known."""

import polars as pl

from headflow.charts.planted import CIRCUITS
from headflow.reporting.words import counted, listed, number, percent

_RIVALS = {
    "ablation": "cutting heads one at a time", "restoration": "keeping heads one at a time", "attention": "attention weight", "gradient": "the gradient",
    "integrated": "integrated gradients",
}  # fmt: skip


def planted_found(scores: pl.DataFrame, *, rivals: bool = True) -> str:
    """How many circuits head attribution finds whole, its largest error, how its intervals do, and (``rivals``) what the rivals miss."""
    if scores.is_empty():
        return "It cannot be told: no planted model was run."
    own = scores.filter(pl.col("ranking") == "attribution")
    text = [_own(own)] if len(own) else []
    if not rivals:
        return " ".join(text)
    misses = [
        f"{words} misses carrying heads in {_circuits(missed['circuit'].to_list())}"
        for ranking, words in _RIVALS.items()
        if len(missed := scores.filter(pl.col("ranking") == ranking, pl.col("recall") < 1 - 1e-9))
    ]
    if misses:
        listing = "; ".join(misses)
        text.append(f"{listing[0].upper()}{listing[1:]}.")
    elif set(scores["ranking"]) & set(_RIVALS):
        text.append("No rival misses a carrying head.")
    return " ".join(text)


def _own(rows: pl.DataFrame) -> str:
    whole = rows.filter(pl.col("recall") > 1 - 1e-9)
    worst = rows.sort("relative_error", descending=True, nulls_last=True).row(0, named=True)
    start = f"On models whose answer is known, head attribution finds every carrying head in {len(whole)} of {counted(len(rows), 'circuit')}"
    left = rows.filter(pl.col("recall") <= 1 - 1e-9)
    start += f", not in {_circuits(left['circuit'].to_list())}" if len(left) else ""
    error = worst["relative_error"]
    error_text = f"; its values are off by at most {number(error)} of their size" if error is not None and error >= 0.001 else "; its values are right to 0.1%"
    coverage = rows["coverage"].drop_nulls()
    covered = f", and {percent(float(coverage.mean()))} of its intervals hold the exact value" if len(coverage) else ""
    return f"{start}{error_text if error is not None else ''}{covered}."


def _circuits(names: list[str]) -> str:
    return listed([f"“{CIRCUITS[name]}”" for name in names])
