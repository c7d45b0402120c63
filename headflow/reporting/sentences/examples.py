"""What the figures about examples show."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from headflow.charts import numbers
from headflow.charts.examples import plain
from headflow.reporting import targets
from headflow.reporting.sentences.trust import share_right
from headflow.reporting.words import chance, counted, number, percent

ALPHA = 0.05
ALIKE = 0.05
"""Two corrected shares of variance closer than this are called alike."""


def scenes(features: pl.DataFrame, confidence: float = 0.95) -> str:
    """How often the untouched model is right, and who is left out."""
    total, right = features.height, int(features["correct"].sum())
    if total == 0:
        return "No question was asked."
    start = f"The untouched model answers {share_right(right, total, confidence)} correctly"
    wrong_out = features.filter(~pl.col("explained") & ~pl.col("correct")).height
    right_out = features.filter(~pl.col("explained") & pl.col("correct")).height
    wrong_in = features.filter(pl.col("explained") & ~pl.col("correct")).height
    ends = []
    if wrong_out:
        ends.append(f"the {counted(wrong_out, 'example')} that it gets wrong {'is' if wrong_out == 1 else 'are'} left out of what follows")
    if right_out:
        ends.append(f"{counted(right_out, 'correct example')} {'is' if right_out == 1 else 'are'} left out for other reasons")
    if wrong_in:
        ends.append(f"{counted(wrong_in, 'wrong answer')} {'is' if wrong_in == 1 else 'are'} explained all the same")
    return f"{start}; {' and '.join(ends) if ends else 'none is left out'}."


def answered(features: pl.DataFrame, settings: Mapping[str, Any], confidence: float = 0.95) -> str:
    """How many questions the model answers rightly, and whose answer is explained. None right means that what is explained is no right answer.

    Args:
        features: the features table.
        settings: the params ``features``.
    """
    total, right, explained = features.height, int(features["correct"].sum()), int(features["explained"].sum())
    if total == 0:
        return "No question was asked."
    whose = targets.answer(settings)
    wrong = features.filter(pl.col("explained") & ~pl.col("correct")).height
    own = settings.get("answer") == "greedy"
    if right == 0:
        low, high = numbers.share_interval(0, total, confidence)
        start = f"The model answers none of {counted(total, 'question')} rightly (interval {percent(low)} to {percent(high)})"
        tail = "which is never a right one" if own else "which is never the one that it gives"
        return f"{start}: what is explained is {whose}, {tail}."
    start = f"The model answers {share_right(right, total, confidence)} rightly; what is explained is {whose}, in {counted(explained, 'example')}"
    if not wrong:
        return f"{start}{', all answered rightly' if explained > 1 else ''}."
    return f"{start}, {wrong:,} of {'it' if explained == 1 else 'them'} {'a wrong one' if own else 'answered wrongly'}."


def skipped(rows: pl.DataFrame, examples: pl.DataFrame) -> str:
    """How many rows of the data were faulty, and how many examples this model could not be asked."""
    parts = []
    if not rows.is_empty():
        parts.append(f"{counted(rows.height, 'row')} of the data {'was' if rows.height == 1 else 'were'} faulty")
    if not examples.is_empty():
        parts.append(f"{counted(examples.height, 'example')} could not be put to this model")
    if not parts:
        return "Nothing was skipped: no row of the data was faulty, and every example could be put to the model."
    one = rows.height + examples.height == 1
    return f"{' and '.join(parts)}: {'it is' if one else 'they are'} part of none of the numbers here."


def prompt(tokens: list[str], roles: list[str], image_start: int, image_stop: int, *, picture_in_prompt: bool = True) -> str:
    """How the prompt is made up, and which tokens can pass the picture on.

    Args:
        picture_in_prompt: False for models that read the picture beside the prompt, by cross-attention.
    """
    fed = roles.count("answer")
    answer = f"; the last {counted(fed, 'token')} {'is' if fed == 1 else 'are'} of the answer, fed to the model" if fed else ""
    if not picture_in_prompt:
        return f"The picture stands beside the prompt: all of its {counted(len(tokens), 'token')} can read it through layers of cross-attention{answer}."
    after = len(tokens) - image_stop
    return (
        f"Of {counted(len(tokens), 'token')}, {image_stop - image_start:,} stand for the picture and {after:,} "
        f"{'comes' if after == 1 else 'come'} after it: the only {'one' if after == 1 else 'ones'} through which a head can carry it to the answer{answer}."
    )


def example_map(table: pl.DataFrame, *, labelled: bool = True) -> str:
    """Which label an example shares with its nearest neighbours more often than chance gives.

    Args:
        labelled: whether the examples carry any label.
    """
    if not labelled:
        return (
            "The examples carry no labels, so nothing can be counted: pictures that lie close were carried by like heads, and what they share is for the eye."
        )
    rows = _corrected(table, "purity")
    if rows.is_empty():
        return "Whether neighbours share a label cannot be told: no label occurs often enough."
    found = rows.filter(pl.col("adjusted") < ALPHA).sort("above", descending=True)
    if found.is_empty():
        best = rows.sort("above", descending=True).row(0, named=True)
        return (
            f"No label is shared by neighbours more often than chance gives (nearest: {plain(best['label'])}, {percent(best['purity'])} against "
            f"{percent(best['purity_chance'])}, {_p(best, rows.height)})."
        )
    best = found.row(0, named=True)
    rest = rows.filter(pl.col("adjusted") >= ALPHA)["label"].to_list()
    text = (
        f"Examples lie nearest to others of the same {plain(best['label'])}: {percent(best['purity'])} of nearest neighbours share it, where "
        f"chance gives {percent(best['purity_chance'])} ({_p(best, rows.height)})"
    )
    return f"{text}; for {_or([plain(name) for name in rest])} no more than chance is found." if rest else f"{text}."


def separation(table: pl.DataFrame, *, labelled: bool = True) -> str:
    """Whether attributions go with meaning, with looks, with both, or whether it cannot be told.

    Judged by the share of variance explained, corrected for chance, with Holm's correction over all labels.

    Args:
        labelled: whether the examples carry any label.
    """
    if not labelled:
        return "It cannot be told: the examples carry no labels of meaning or looks (columns that begin with meaning_ or looks_)."
    rows = _corrected(table, "explained")
    if rows.is_empty():
        return "It cannot be told: no label occurs often enough to be tested."
    missing = [kind for kind in ("meaning", "looks") if kind not in set(rows["kind"])]
    if missing:
        other = "looks" if missing == ["meaning"] else "meaning"
        return f"It cannot be told: there are labels of {other} only, none of {missing[0]}."
    best = {kind: _best(rows, kind) for kind in ("meaning", "looks")}
    told = {kind: row["adjusted"] < ALPHA for kind, row in best.items()}
    if not any(told.values()):
        return (
            "It cannot be told: no label of either kind explains more of the attributions than chance does (closest: "
            f"{_evidence(max(best.values(), key=lambda row: row['above']))})."
        )
    if not all(told.values()):
        kind = "meaning" if told["meaning"] else "looks"
        other = "looks" if kind == "meaning" else "meaning"
        return (
            f"Attributions go with {kind}: {_evidence(best[kind])}; no label of {other} can be told from chance (closest: "
            f"{_evidence(best[other])}){_second_opinion(rows, kind)}."
        )
    gap = best["meaning"]["above"] - best["looks"]["above"]
    if abs(gap) < ALIKE:
        return f"Attributions go with meaning and with looks about alike: {_evidence(best['meaning'])}; {_evidence(best['looks'])}."
    kind = "meaning" if gap > 0 else "looks"
    other = "looks" if kind == "meaning" else "meaning"
    return (
        f"Attributions go with both, it seems more with {kind} (the two are not tested against each other): {_evidence(best[kind])}; "
        f"{_evidence(best[other])}{_second_opinion(rows, kind)}."
    )


def _corrected(table: pl.DataFrame, measure: str) -> pl.DataFrame:
    """Labels with a known ``measure``: ``above`` = its excess over chance as a share of what is possible, ``adjusted`` = Holm's p, ``labels`` = how many."""
    rows = numbers.with_adjusted(table, measure).rename({f"{measure}_adjusted": "adjusted"}).drop_nulls("adjusted")
    room = pl.max_horizontal(1 - pl.col(f"{measure}_chance"), pl.lit(1e-9))
    return rows.with_columns(((pl.col(measure) - pl.col(f"{measure}_chance")) / room).alias("above"), pl.lit(rows.height).alias("labels"))


def _p(row: dict, labels: int) -> str:
    """The corrected p-value: the one that is judged by."""
    return chance(row["adjusted"]) + (f" after correction for {labels} labels" if labels > 1 else "")


def _best(rows: pl.DataFrame, kind: str) -> dict:
    """The label of ``kind`` that explains most beyond chance, of those told from chance if there are any."""
    own = rows.filter(pl.col("kind") == kind)
    told = own.filter(pl.col("adjusted") < ALPHA)
    return (told if not told.is_empty() else own).sort("above", descending=True).row(0, named=True)


def _evidence(row: dict) -> str:
    return f"{plain(row['label'])} explains {percent(row['explained'])} of their variance, chance {percent(row['explained_chance'])}, {_p(row, row['labels'])}"


def _second_opinion(rows: pl.DataFrame, kind: str) -> str:
    """Say so where the silhouette points the other way."""
    silhouettes = {name: rows.filter((pl.col("kind") == name) & pl.col("silhouette").is_finite())["silhouette"].max() for name in ("meaning", "looks")}
    other = "looks" if kind == "meaning" else "meaning"
    if silhouettes[kind] is None or silhouettes[other] is None or silhouettes[kind] >= silhouettes[other]:
        return ""
    return (
        f"; the silhouette disagrees ({number(silhouettes[kind], signed=True)} for the best label of {kind}, "
        f"{number(silhouettes[other], signed=True)} for {other})"
    )


def _or(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " or " + items[-1]
