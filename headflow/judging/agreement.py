"""How far two judges agree about the same descriptions.

Judges list objects in their own words, so these are first brought to the names of a vocabulary. Then, for every description:

- *decisions*: is an expected object named or not? Taken are the objects that both judges expect. Their agreement is the share of decisions that
  are the same; Cohen's kappa sets it beside what chance would give (J. Cohen, *A coefficient of agreement for nominal scales*, 1960).
- *objects*: what is each object that either judge lists on either side: found, missed, extra, or not listed? Stricter, as it also counts objects that
  one judge alone sees.
- *f1*: Pearson's correlation of the two F1 over descriptions.

Intervals draw whole pictures anew (bootstrap, percentiles).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from headflow.judging.match import mentions, name_of
from headflow.judging.vocabulary import Vocabulary
from headflow.seeds import generator
from headflow.tables.judgements import AGREEMENT

MEASURES = ("decisions", "kappa", "objects", "f1")
_FOUND, _MISSED, _EXTRA, _UNLISTED = range(4)


def agreement(judgements: pl.DataFrame, vocabulary: Vocabulary, *, draws: int = 999, confidence: float = 0.95, seed: int = 0) -> pl.DataFrame:
    """Agreement of the two judges of a judgements table, for each of the things that descriptions are held against.

    Args:
        judgements: the judgements table; empty result where it has one judge.
        vocabulary: brings the judges' words to common names.
        draws: bootstrap draws of pictures.
        confidence: level of the intervals.
        seed: of the draws.

    Returns:
        The agreement table: a row a measure and what descriptions are held against.
    """
    judges = judgements["judge"].unique(maintain_order=True).to_list()
    rows = []
    for against in judgements["against"].unique(maintain_order=True) if len(judges) == 2 else ():
        first, second = (judgements.filter(pl.col("judge") == judge, pl.col("against") == against) for judge in judges)
        both = first.join(second, on=["id", "scene", "knockout"], suffix="_second", maintain_order="left")
        counts = _Counts(both, vocabulary)
        for measure in MEASURES:
            rows.append({"first": judges[0], "second": judges[1], "against": against, **counts.row(measure, draws, confidence, seed)})
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in AGREEMENT.columns.items()})


class _Counts:
    """What each measure is made of, summed over each picture: a resample of pictures is then a weighted sum."""

    def __init__(self, both: pl.DataFrame, vocabulary: Vocabulary) -> None:
        pictures = {scene: index for index, scene in enumerate(both["scene"].unique(maintain_order=True))}
        self.pictures = len(pictures)
        self.confusion = np.zeros((self.pictures, 2, 2))
        self.labels = np.zeros((self.pictures, 2))
        self.moments = np.zeros((self.pictures, 6))
        self.decisions: list[tuple[int, int]] = []
        for row in both.iter_rows(named=True):
            picture = pictures[row["scene"]]
            one, other = (labels({name: row[name + suffix] for name in ("expected", "found", "extra")}, vocabulary) for suffix in ("", "_second"))
            for name in one.keys() | other.keys():
                a, b = one.get(name, _UNLISTED), other.get(name, _UNLISTED)
                self.labels[picture] += (a == b, 1)
                if a in (_FOUND, _MISSED) and b in (_FOUND, _MISSED):
                    self.confusion[picture, a, b] += 1
                    self.decisions.append((a, b))
            x, y = row["f1"], row["f1_second"]
            if x is not None and y is not None:
                self.moments[picture] += (1, x, y, x * x, y * y, x * y)

    def row(self, measure: str, draws: int, confidence: float, seed: int) -> dict[str, Any]:
        parts, statistic = self._statistic(measure)
        value = float(statistic(parts.sum(0)))
        if measure == "kappa":
            from sklearn.metrics import cohen_kappa_score

            value = float(cohen_kappa_score(*zip(*self.decisions, strict=True))) if np.isfinite(value) else np.nan
        weights = generator(seed, "agreement of judges").multinomial(self.pictures, np.full(self.pictures, 1 / max(self.pictures, 1)), draws)
        drawn = np.array([statistic(total) for total in np.tensordot(weights, parts, 1)])
        known = drawn[np.isfinite(drawn)]
        told = np.isfinite(value) and self.pictures > 1 and len(known) >= 0.9 * draws
        low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2]) if told else (None, None)
        count = {"objects": self.labels[:, 1].sum(), "f1": self.moments[:, 0].sum()}.get(measure, self.confusion.sum())
        ends = {"low": None if low is None else float(low), "high": None if high is None else float(high)}
        return {"measure": measure, "value": value if np.isfinite(value) else None, **ends, "count": int(count), "pictures": self.pictures}

    def _statistic(self, measure: str) -> tuple[Float[np.ndarray, "pictures *parts"], Callable[[np.ndarray], float]]:
        return {
            "decisions": (self.confusion, lambda c: _ratio(np.trace(c), c.sum())),
            "kappa": (self.confusion, _kappa),
            "objects": (self.labels, lambda c: _ratio(c[0], c[1])),
            "f1": (self.moments, _correlation),
        }[measure]


def labels(judgement: Mapping[str, Sequence[str]], vocabulary: Vocabulary) -> dict[str, int]:
    """What a judge says of each object: found, missed or extra, by common name. Where two of its objects come to one name, found goes before missed."""
    found: dict[str, int] = {}
    expected, named = list(judgement["expected"]), set(judgement["found"])
    for label, names in (
        (_FOUND, [name for name in expected if name in named]),
        (_MISSED, [name for name in expected if name not in named]),
        (_EXTRA, judgement["extra"]),
    ):
        for name in common_names(names, vocabulary):
            found.setdefault(name, label)
    return found


def common_names(names: Iterable[str], vocabulary: Vocabulary) -> list[str]:
    """The vocabulary's name for each object; the last that is named in it ("a red star" is a star), or its own words where there is none."""
    return [_common_name(name, vocabulary) for name in names]


def _common_name(name: str, vocabulary: Vocabulary) -> str:
    if (known := name_of(name, vocabulary)) is not None:
        return known
    found = mentions(name, vocabulary)
    return found[-1].name if found else name.casefold()


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else np.nan


def _kappa(confusion: Float[np.ndarray, "2 2"]) -> float:
    """Cohen's kappa of a table of decisions; nan where chance alone agrees, as all decisions are the same."""
    total = confusion.sum()
    if not total:
        return np.nan
    chance = float(confusion.sum(0) @ confusion.sum(1)) / total**2
    return _ratio(np.trace(confusion) / total - chance, 1 - chance) if 1 - chance > 1e-12 else np.nan


def _correlation(moments: Float[np.ndarray, "6"]) -> float:
    """Pearson's r from a count, two sums, two sums of squares and a sum of products; nan where one side does not vary."""
    n, x, y, xx, yy, xy = moments
    if n < 3:
        return np.nan
    spread_x, spread_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
    if min(spread_x, spread_y) < 1e-12:
        return np.nan
    return float(np.clip((xy / n - x * y / n**2) / np.sqrt(spread_x * spread_y), -1.0, 1.0))
