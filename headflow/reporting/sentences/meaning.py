"""Meaning or looks, in one sentence, and what stands beside it."""

import polars as pl

from headflow.analysis.verdict import BOTH, LOOKS, MEANING, MORE_LOOKS, MORE_MEANING, verdict
from headflow.attribution.multiple import holm
from headflow.charts.examples import plain
from headflow.reporting.words import chance, correlation, interval, listed, number, percent

ALPHA = 0.05


def look_pairs(groups: pl.DataFrame, contrasts: pl.DataFrame, *, brief: bool = False, beyond: pl.DataFrame | None = None) -> str:
    """Which way it came out: do the heads follow meaning, looks, both, or can it not be told?

    ``brief``: without the two single contrasts. ``beyond``: a UNIQUE_EFFECTS table, another test, which is named where it finds what the pairs do not.
    """
    found = verdict(contrasts)
    if found.reason == "labels":
        return "Meaning or looks: it cannot be told, as the examples do not carry labels of both kinds with values that occur twice."
    if found.reason == "pairs":
        empty = groups.filter(pl.col("look") == "looks", pl.col("pairs") < 2).select("same_meaning", "same_look")
        kinds = [f"{'the same object' if same else 'another object'} in {'the same' if look else 'another'} look" for same, look in empty.iter_rows()]
        few = f" ({listed(kinds)})" if kinds else ""
        return f"Meaning or looks: it cannot be told, as some kinds of pairs are missing or too few{few}; more pictures of the same objects would help."
    means = {(row["same_meaning"], row["same_look"]): row["similarity"] for row in groups.filter(pl.col("look") == "looks").iter_rows(named=True)}
    meaning, looks, direct = (found.contrasts[name] for name in ("meaning", "looks", "meaning - looks"))
    evidence = (
        f"two pictures of the same object in different looks have attributions that are alike by {number(means[True, False])} (cosine), two of different "
        f"objects in the same look by {number(means[False, True])} (difference {interval(direct['low'], direct['high'], signed=True)})"
    )
    gains = f"two that share neither by {number(means[False, False])}; sharing the object adds {_span(meaning)}, sharing the look {_span(looks)}"
    start = {
        MEANING: "The heads follow what the thing is rather than how it looks",
        LOOKS: "The heads follow how the thing looks rather than what it is",
        MORE_MEANING: "The heads follow both, but what the thing is more than how it looks",
        MORE_LOOKS: "The heads follow both, but how the thing looks more than what it is",
        BOTH: "The heads follow both what the thing is and how it looks; which of the two more cannot be told",
    }.get(found.outcome, "Whether the heads follow what the thing is or how it looks cannot be told")
    caution = ""
    if found.outcome in (MEANING, LOOKS):
        other = "looks" if found.outcome == MEANING else "meaning"
        caution = f"; that {other} {'count' if other == 'looks' else 'counts'} at all cannot be told from these pairs{_found_beyond(beyond, other)}"
    return f"{start}: {evidence}{caution}." if brief else f"{start}: {evidence}, {gains}{caution}."


def _found_beyond(table: pl.DataFrame | None, kind: str) -> str:
    """What the labels of ``kind`` explain beyond the others, if that is more than chance."""
    if table is None:
        return ""
    kinds = [row for row in table.iter_rows(named=True) if row["label"] == row["kind"] and row["unique"] is not None and row["given"] is not None]
    for row, p in zip(kinds, holm([row["unique_p"] for row in kinds]) if kinds else [], strict=True):
        if row["kind"] == kind and p < ALPHA:
            gain = percent(row["unique"] - row["unique_chance"])
            return f", but beyond the labels of {row['given']}, those of {kind} explain {gain} of the variance more than chance does ({chance(p)})"
    return ""


def unique_effects(table: pl.DataFrame) -> str:
    """What each kind explains beyond the other, and which single labels do (Holm-corrected within the two questions)."""
    kinds = [row for row in table.iter_rows(named=True) if row["label"] == row["kind"] and row["unique"] is not None and row["given"] is not None]
    if not kinds:
        return "What meaning explains beyond looks cannot be told: too few examples for so many labels, or labels of one kind only."
    parts = []
    for row, p in zip(kinds, holm([row["unique_p"] for row in kinds]), strict=True):
        amount = f"{percent(row['unique'])} of the variance of attributions, where chance gives {percent(row['unique_chance'])} ({chance(p)})"
        if p < ALPHA:
            parts.append(f"beyond the labels of {row['given']}, those of {row['kind']} explain {amount}")
        else:
            parts.append(f"that labels of {row['kind']} explain more than chance beyond those of {row['given']} cannot be told: {amount}")
    text = "; ".join(parts)
    labels = [row for row in table.iter_rows(named=True) if row["label"] != row["kind"] and row["unique"] is not None]
    clear = [plain(row["label"]) for row, p in zip(labels, holm([row["unique_p"] for row in labels]) if labels else [], strict=True) if p < ALPHA]
    more = f" Single labels that do: {listed(clear)}." if clear else " No single label does after correction."
    return f"{text[0].upper()}{text[1:]}.{more}"


def similarities(table: pl.DataFrame) -> str:
    """Which similarities go with the similarity of attributions once the others are held constant."""
    names = {"meaning": "agreement in meaning", "looks": "agreement in looks", "vision": "likeness to the vision tower"}
    rows = [row for row in table.iter_rows(named=True) if row["what"] in names and row["partial_low"] is not None]
    if not rows:
        return "What goes with the similarity of attributions cannot be told: there are too few pairs, or only one kind of similarity."
    told = [row for row in rows if row["partial_low"] > 0 or row["partial_high"] < 0]
    rest = [names[row["what"]] for row in rows if row not in told]
    if not told:
        return f"Neither {' nor '.join(rest)} can be told to go with the similarity of attributions once the others are held constant."
    parts = []
    for goes, some in (("with", [row for row in told if row["partial"] > 0]), ("against", [row for row in told if row["partial"] <= 0])):
        found = [
            f"{names[row['what']]} (partial correlation {correlation(row['partial'])}, {interval(row['partial_low'], row['partial_high'])})" for row in some
        ]
        parts += [f"goes {goes} {listed(found)}"] if found else []
    text = f"That two pictures are served by like heads {listed(parts)}, the other likenesses held constant"
    return f"{text}; for {listed(rest)} no such link can be told." if rest else f"{text}."


def _span(row: dict) -> str:
    return f"{number(row['difference'], signed=True)} ({interval(row['low'], row['high'], signed=True)})"
