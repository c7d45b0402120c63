"""Whether the numbers can be trusted: held-out masks, the number of masks, the checks of the intervention."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from headflow.charts import numbers
from headflow.reporting.words import correlation, counted, interval, number, percent, spelled

WELL, ROUGHLY = 0.9, 0.7
LEVEL = 0.01
ASTRAY = 0.1
"""Share of the fall from intact to every head cut by which the sum may miss either end and still be said to hold there."""
TOLERANCE = 1e-5
"""Relative difference that rounding explains in float32; a run that used another records its own."""


def held_out(fits: pl.DataFrame, attributions: pl.DataFrame | None = None, unit: str = "logits") -> str:
    """How well the sum of heads predicts runs that the fit never saw, and, given attributions, the two ends that no mask comes near."""
    fine = fits.filter(pl.col("held_out_r").is_finite())
    if fine.is_empty():
        return "It cannot be told: the target does not vary over the held-out masks of any example."
    r, worst, explained = fine["held_out_r"].median(), fine["held_out_r"].min(), fine["held_out_r2"].median()
    many = fine.height > 1
    verdict = (
        "so a plain sum over heads describes these runs well"
        if r >= WELL
        else "so a plain sum over heads describes these runs only roughly"
        if r >= ROUGHLY
        else "so a plain sum over heads describes these runs poorly, and the attributions below deserve little trust"
    )
    return (
        f"On masks that the fit never saw, its predictions correlate with the model at r = {correlation(r)} in the {'median' if many else 'one'} example "
        f"({f'worst of {fine.height:,}: {correlation(worst)}; median ' if many else ''}R² {correlation(explained)}), {verdict}."
        f"{_ends(fits, attributions, unit)}"
    )


def _ends(fits: pl.DataFrame, attributions: pl.DataFrame | None, unit: str) -> str:
    """Whether the sum holds for the untouched model and for the one with every head cut, to within ASTRAY of their distance."""
    if attributions is None:
        return ""
    sums = attributions.group_by("id").agg(pl.col("attribution").sum())
    rows = fits.join(sums, on="id").select("intercept", "intact", "ablated", sum=pl.col("intercept") + pl.col("attribution"))
    said, true, floor, cut = (float(rows[name].mean() or 0.0) for name in ("sum", "intact", "intercept", "ablated"))
    if rows.is_empty():
        return ""
    off = max(abs(said - true), abs(floor - cut))
    verdict = "it holds too, to within a tenth of the fall" if off <= ASTRAY * abs(true - cut) else "the sum goes astray"
    return (
        f" Far from the masks it was fitted on {verdict}: for the untouched model it says {number(said)} {unit} where the model gives {number(true)}, "
        f"and with every head cut {number(floor)} for {number(cut)} (means)."
    )


def fall(fits: pl.DataFrame, confidence: float = 0.95, unit: str = "logits") -> str:
    """How much the picture matters: the target of the untouched model against that with every head cut."""
    falls = (fits["intact"] - fits["ablated"]).to_numpy()
    mean, low, high = numbers.interval(falls, confidence)
    if not np.isfinite(mean):
        return "How much the picture matters cannot be told: no example was explained."
    ends = f"from {number(fits['intact'].mean())} to {number(fits['ablated'].mean())} {unit}"
    if not np.isfinite(low):
        return f"With every head cut the target goes {ends}, a fall of {number(mean)}; with one example there is no interval."
    limits = interval(low, high)
    if low > 0:
        return f"With every head cut the target falls by {number(mean)} {unit} on average ({limits}), {ends}: so much hangs on the picture."
    if high < 0:
        return f"With every head cut the target rises by {number(-mean)} {unit} on average ({interval(-high, -low)}), {ends}: seeing the picture lowers it."
    return f"With every head cut the target goes {ends}, a mean fall of {number(mean)} ({limits}), so that the picture matters for it cannot be told."


def growth(table: pl.DataFrame, confidence: float = 0.95) -> str:
    """Whether more masks would have changed the answer, judged by each example's gain from the last step."""
    sizes = sorted(table["masks"].unique().to_list())
    if len(sizes) < 2:
        return "It cannot be told: only one number of masks was fitted."
    before, after = sizes[-2:]
    paired = table.filter(pl.col("masks") == after).join(table.filter(pl.col("masks") == before), on="id", suffix="_before")
    gains = (paired["held_out_r"] - paired["held_out_r_before"]).to_numpy()
    gain, low, high = numbers.interval(gains, confidence)
    last = numbers.growth_by_masks(table).filter(pl.col("masks") == after)
    medians = dict(zip(last["measure"], last["median"], strict=True))
    start = f"With {after:,} masks the median held-out r is {correlation(medians.get('held_out_r'))}"
    if "agreement_r" in medians:
        start += f" and two halves of the masks agree at r = {correlation(medians['agreement_r'])}"
    step = (
        f"going from {before:,} to {after:,} masks changed held-out r by {number(gain, signed=True)} on average ({number(low, signed=True)} to "
        f"{number(high, signed=True)})"
    )
    if not np.isfinite(low):
        return f"{start}; with one example it cannot be told whether more masks would help."
    if low > LEVEL:
        return f"{start}, and it is still rising: {step}, so more masks would sharpen the picture."
    if low > -LEVEL and high < LEVEL:
        return f"{start}, and it has levelled off: {step}."
    return f"{start}; whether it has levelled off cannot be told: {step}."


def checks(found: Mapping[str, Any], prefix_mode: str | None = None) -> str:
    """What the checks of the intervention found.

    Args:
        found: relative differences by check, ``effect`` (relative too) and ``tolerance``, each if there is a record of it.
        prefix_mode: how masked runs treated what stands before the text. Only where they share it must it be found unchanged.
    """
    kept = {name: value for name, value in found.items() if name != "prefix" or prefix_mode in (None, "shared")}
    values = {name: float(value) for name, value in kept.items() if isinstance(value, int | float)}
    tolerance, effect = values.pop("tolerance", TOLERANCE), values.pop("effect", None)
    said = []
    if values:
        worst = max(values, key=lambda name: abs(values[name]))
        size = abs(values[worst])
        verdict = (
            "which rounding explains"
            if size <= tolerance
            else f"more than the {number(tolerance)} that rounding explains, so find out why before believing what follows"
        )
        one = len(values) == 1
        said.append(
            f"{spelled(len(values))} {'check' if one else 'checks'} that should find no difference {'finds' if one else 'find'} at most "
            f"{number(size)} ({worst}), {verdict}"
        )
    if effect is not None:
        said.append(
            f"cutting every head moves the logits by {percent(effect)} of the largest logit"
            if effect
            else "cutting every head moves nothing, so nothing was cut"
        )
    if not said:
        return "The run kept no record of its checks."
    text = "; ".join(said)
    return text[0].upper() + text[1:] + "."


def share_right(right: int, total: int, confidence: float = 0.95) -> str:
    """``right`` of ``total`` with Wilson's interval, in words."""
    low, high = numbers.share_interval(right, total, confidence)
    return f"{right:,} of {counted(total, 'question')} ({percent(right / total) if total else 'none'}; interval {percent(low)} to {percent(high)})"
