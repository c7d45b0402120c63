"""Mean F1 of a model's descriptions, with intervals over pictures."""

from typing import Any

import numpy as np
import polars as pl

from headflow.judging.table import STOCK
from headflow.tracing.intervals import mean, numbered


def mean_f1(judgements: pl.DataFrame, plan: pl.DataFrame, judge: str, confidence: float) -> dict[str, Any]:
    """Means over pictures: of the stock description against the truth, and of each route closed in all layers against both.

    Args:
        judgements: the judgements table.
        plan: the knockout plan, for what each knockout closes.
        judge: whose judgements.
        confidence: level of the intervals (Student's t).

    Returns:
        ``stock`` → mean against the truth, null where that is not known; ``all_layers_closed`` → route → last position → against → mean. A mean is
        its value with limits, the number of pictures, and of those without an F1.
    """
    rows = judgements.filter(pl.col("judge") == judge)
    closed: dict[str, Any] = {}
    for knockout, route, last in plan.filter(pl.col("kind") == "upward", pl.col("at") == -1).select("knockout", "route", "last_position").iter_rows():
        closed.setdefault(route, {})[last] = _means(rows.filter(pl.col("knockout") == knockout), confidence)
    return {"stock": _means(rows.filter(pl.col("knockout") == STOCK), confidence).get("truth"), "all_layers_closed": closed}


def _means(rows: pl.DataFrame, confidence: float) -> dict[str, dict[str, Any]]:
    """Against → mean."""
    return {against: _mean(part, confidence) for (against,), part in rows.group_by("against", maintain_order=True)}


def _mean(part: pl.DataFrame, confidence: float) -> dict[str, Any]:
    values = part["f1"].fill_null(np.nan).to_numpy()
    known = np.isfinite(values)
    estimate = mean(values, numbered(part["scene"].to_list()), confidence) if known.any() else None
    ends = {end: None if estimate is None or not np.isfinite(getattr(estimate, end)) else float(getattr(estimate, end)) for end in ("value", "low", "high")}
    return {**ends, "pictures": part["scene"].filter(known).n_unique(), "without": int((~known).sum())}
