"""How far a model can do with a part of its context: right answers against what is kept (Kaduri et al. 2025, "compressed context").

Questions about one picture are no independent draws: they are averaged first, and every interval and test is over pictures. ACC+ is MME's: a
picture counts only if all of its questions are answered rightly (Fu et al. 2023, arXiv 2306.13394).
"""

import string
from collections.abc import Sequence

import numpy as np
import polars as pl

from headflow.analysis.keeping import wilson
from headflow.attribution.groups import mean_interval
from headflow.attribution.multiple import holm, paired_p
from headflow.tables.compressing import COMPRESSED_DIFFERENCES, COMPRESSED_SUMMARY
from headflow.tables.schema import Table

VARIANT = ["asking", "strategy", "chosen_by", "percent"]
NEW = "new"
"""How the stock model is asked: in a new conversation."""
ENOUGH = 0.9
"""Accuracy of the full context from which on the comparison means something."""


def is_right(answer: str, expected: str) -> bool:
    """Whether an answer is the expected one: case, punctuation and white space at the ends do not count; where yes or no is expected, the first word
    decides."""
    given, wanted = _plain(answer), _plain(expected)
    if wanted in ("yes", "no"):
        given = _plain((given.split() or [""])[0])
    return given == wanted


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(string.punctuation + string.whitespace).casefold()


def summary(answers: pl.DataFrame, *, confidence: float = 0.95) -> pl.DataFrame:
    """Accuracy and ACC+ of every variant, in all and by category, as a COMPRESSED_SUMMARY table.

    Args:
        answers: a COMPRESSED_ANSWERS table.
    """
    rows = []
    for key, part in answers.group_by(VARIANT, maintain_order=True):
        for category in ["all", *part["category"].unique(maintain_order=True)]:
            some = part if category == "all" else part.filter(pl.col("category") == category)
            by_picture = some.group_by("picture", maintain_order=True).agg(pl.col("right").mean(), pl.col("right").all().alias("plus"))
            count = len(by_picture)
            shares = np.array([by_picture["right"].mean(), by_picture["plus"].cast(pl.Float64).mean()], float)
            (accuracy, plus), (low, plus_low), (high, plus_high) = wilson(shares, count, confidence)
            sizes = some.group_by("picture", maintain_order=True).agg(pl.col("tokens").first(), pl.col("bytes").first())
            rows.append((*key, category, accuracy, low, high, plus, plus_low, plus_high, sizes["tokens"].mean(), sizes["bytes"].mean(), count, len(some)))
    return _table(rows, COMPRESSED_SUMMARY)


def differences(answers: pl.DataFrame, *, confidence: float = 0.95) -> pl.DataFrame:
    """Every variant against the full context, against none, and against as many image tokens chosen by chance, as a COMPRESSED_DIFFERENCES table.

    The same questions are asked each time, so that differences are taken within each picture: Student's paired t. ``p_holm`` corrects for all
    comparisons of one way of asking with one other (S. Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    rows = []
    for (asking,), part in answers.filter(pl.col("asking") != NEW).group_by(["asking"], maintain_order=True):
        means = {
            key[1:]: some.group_by("picture", maintain_order=True).agg(pl.col("right").mean()).sort("picture")["right"].to_numpy()
            for key, some in part.group_by(VARIANT, maintain_order=True)
        }
        for against in ("full", "none", "random"):
            tested = []
            for (strategy, chosen_by, percent), values in means.items():
                other = (strategy, "random", percent) if against == "random" else (against, None, None)
                if other == (strategy, chosen_by, percent) or other not in means or (against == "random" and chosen_by is None):
                    continue
                within = values - means[other]
                mean, low, high = mean_interval(within, confidence)
                tested.append([asking, strategy, chosen_by, percent, against, float(mean), float(low), float(high), float(paired_p(within)), len(within)])
            adjusted = holm([row[8] for row in tested]) if tested else []
            rows += [(*row[:9], p, row[9]) for row, p in zip(tested, adjusted, strict=True)]
    return _table(rows, COMPRESSED_DIFFERENCES)


def told(found: pl.DataFrame) -> str | None:
    """The way of asking whose full context answers at least :data:`ENOUGH` of the questions, the first one; else that with the most right answers.

    Args:
        found: a COMPRESSED_SUMMARY table.
    """
    full = found.filter(pl.col("strategy") == "full", pl.col("category") == "all", pl.col("asking") != NEW)
    if full.is_empty():
        return None
    enough = full.filter(pl.col("accuracy") >= ENOUGH)
    return enough["asking"][0] if len(enough) else full.sort("accuracy", descending=True, maintain_order=True)["asking"][0]


def one(found: pl.DataFrame, asking: str, strategy: str, chosen_by: str | None = None, percent: float | None = None, category: str = "all") -> dict | None:
    """One row of a COMPRESSED_SUMMARY table, or None."""
    wanted = [pl.col("asking") == asking, pl.col("strategy") == strategy, pl.col("category") == category]
    wanted += [pl.col(name).eq_missing(pl.lit(value)) for name, value in (("chosen_by", chosen_by), ("percent", percent))]
    rows = found.filter(wanted)
    return rows.row(0, named=True) if len(rows) else None


def to_compare(found: pl.DataFrame, percents: Sequence[float] = (2.0, 5.0)) -> list[dict]:
    """Rows of this run that stand next to the paper's: ``strategy`` (full, both, query or description), ``percent``, accuracy and ACC+ in percent with
    their intervals, and context tokens.

    Image tokens chosen by attention, as in the paper; asked in the way of :func:`told`.
    """
    asking, rows = told(found), []
    for strategy, percent in [("full", None), *(("both", percent) for percent in sorted(percents, reverse=True)), ("query", None), ("description", None)]:
        row = None if asking is None else one(found, asking, strategy, None if percent is None else "attention", percent)
        if row is not None:
            scaled = {name: 100 * row[name] for name in ("accuracy", "low", "high", "plus", "plus_low", "plus_high")}
            rows.append({"asking": asking, "strategy": strategy, "percent": percent, **scaled, "tokens": row["tokens"], "pictures": row["pictures"]})
    return rows


def _table(rows: Sequence[Sequence[object]], table: Table) -> pl.DataFrame:
    schema = {name: column.dtype for name, column in table.columns.items()}
    return pl.DataFrame(rows, schema=schema, orient="row", strict=False).fill_nan(None) if rows else pl.DataFrame(schema=schema)
