"""Meaning or looks: which way it came out, from intervals alone, and when it cannot be told."""

from dataclasses import dataclass
from typing import Any

import polars as pl

MEANING, LOOKS, MORE_MEANING, MORE_LOOKS, BOTH, CANNOT_TELL = "meaning", "looks", "both, more meaning", "both, more looks", "both", "cannot tell"


@dataclass(frozen=True)
class Verdict:
    """The outcome, one of the constants above, and what it rests on: rows of a LOOK_CONTRASTS table by contrast.

    ``reason`` says why it cannot be told: 'labels' (one kind has none), 'pairs' (a group of pairs is empty or too small), or 'chance'.
    """

    outcome: str
    contrasts: dict[str, dict[str, Any]]
    reason: str | None = None


def verdict(contrasts: pl.DataFrame, look: str = "looks") -> Verdict:
    """Judge by three intervals of a LOOK_CONTRASTS table.

    Sharing the object, or the look, counts as found if its interval against pairs that share neither lies above zero. If both do, the direct
    comparison (same object in another look against another object in the same look) says which counts for more, if it can. If only one does, the direct
    comparison must not point the other way.
    """
    rows = {row["contrast"]: row for row in contrasts.filter(pl.col("look") == look).iter_rows(named=True)}
    if not rows:
        return Verdict(CANNOT_TELL, {}, "labels")
    if any(row["low"] is None for row in rows.values()):
        return Verdict(CANNOT_TELL, rows, "pairs")
    meaning, looks, direct = (rows[name] for name in ("meaning", "looks", "meaning - looks"))
    told = meaning["low"] > 0, looks["low"] > 0
    if told == (True, True):
        return Verdict(MORE_MEANING if direct["low"] > 0 else MORE_LOOKS if direct["high"] < 0 else BOTH, rows)
    if told == (True, False) and direct["low"] > 0:
        return Verdict(MEANING, rows)
    if told == (False, True) and direct["high"] < 0:
        return Verdict(LOOKS, rows)
    return Verdict(CANNOT_TELL, rows, "chance")
