"""How well scores of heads agree with a known truth: are the right heads named, how far off are the values, is the order right?

A difference in the eighth digit of a logit is rounding, not a finding. Scores and ends of intervals within ``resolution`` of zero count as
zero here, so that heads that do nothing are all alike; by default that is 1/10000 of the whole effect, f(intact) − f(all ablated).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from headflow.attribution.frames import attribution_grid
from headflow.errors import HeadflowError
from headflow.tables.planted import PLANTED_SCORES

if TYPE_CHECKING:
    from headflow.models.planted.circuits import Circuit

RESOLUTION = 1e-4
"""What counts as zero, as a share of the whole effect."""

OTHER_UNITS = ("attention", "random")
"""Rankings whose scores are no logits, so that no error can be told."""

Intervals = tuple[Float[np.ndarray, "*examples layers heads"], Float[np.ndarray, "*examples layers heads"]]


@dataclass(frozen=True)
class Agreement:
    """Scores of all heads against the truth; nan where a number does not exist.

    Attributes:
        precision: share of carriers among the named heads: those with the k largest |score|, k = number of carriers, zeros left out. Heads with
            equal scores share the places that are left.
        recall: share of the carriers that are named.
        interval_precision, interval_recall: the same for heads whose interval leaves out zero.
        coverage: share of all heads whose interval holds the true value.
        largest_error: largest |score − truth|.
        relative_error: root mean square error over the root mean square of the truth.
        rank_correlation: Spearman correlation, ties sharing their mean rank; 0 for scores that are all alike.
    """

    precision: float
    recall: float
    interval_precision: float
    interval_recall: float
    coverage: float
    largest_error: float
    relative_error: float
    rank_correlation: float


def agreement(
    scores: Float[np.ndarray, "layers heads"],
    truth: Float[np.ndarray, "layers heads"],
    carrying: Bool[np.ndarray, "layers heads"] | None = None,
    *,
    interval: Intervals | None = None,
    resolution: float = 0.0,
    same_units: bool = True,
) -> Agreement:
    """Compare one array of scores with the truth.

    Args:
        scores: of every head.
        truth: exact values.
        carrying: the heads to be found; None = those whose true value is not zero.
        interval: lower and upper ends of each score's confidence interval.
        resolution: what counts as zero, in the scores' units.
        same_units: whether scores are in the truth's units; if not, there are no errors.

    Raises:
        HeadflowError: shapes differ, a score is not finite, or there is nothing to be found.
    """
    scores, truth = np.asarray(scores, float), np.asarray(truth, float)
    carrying = np.abs(truth) > 0 if carrying is None else np.asarray(carrying, bool)
    for what, array in (("truth", truth), ("carrying", carrying), *((f"interval end {i}", end) for i, end in enumerate(interval or ()))):
        if np.shape(array) != scores.shape:
            raise HeadflowError(f"scores {list(scores.shape)} and {what} {list(np.shape(array))} are about different heads")
    if not np.isfinite(scores).all():
        raise HeadflowError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are not finite")
    if not carrying.any():
        raise HeadflowError("no head carries anything: there is nothing to be found")
    settled = np.where(np.abs(scores) <= resolution, 0.0, scores)
    chance = _named(np.abs(settled).ravel(), int(carrying.sum())).reshape(scores.shape)
    precision, recall = _found(chance, carrying)
    interval_precision = interval_recall = coverage = np.nan
    if interval is not None:
        low, high = (np.asarray(end, float) for end in interval)
        interval_precision, interval_recall = _found(((low > resolution) | (high < -resolution)).astype(float), carrying)
        coverage = float(((low - resolution <= truth) & (truth <= high + resolution)).mean())
    error = scores - truth
    return Agreement(
        precision=precision,
        recall=recall,
        interval_precision=interval_precision,
        interval_recall=interval_recall,
        coverage=coverage,
        largest_error=float(np.abs(error).max()) if same_units else np.nan,
        relative_error=float(np.sqrt((error**2).sum() / (truth**2).sum())) if same_units and truth.any() else np.nan,
        rank_correlation=_spearman(settled.ravel(), truth.ravel()),
    )


def planted_scores(
    circuit: Circuit,
    estimates: Mapping[str, Float[np.ndarray, "*examples layers heads"]],
    *,
    categories: Sequence[str | None] | None = None,
    intervals: Mapping[str, Intervals] | None = None,
    estimand: str = "banzhaf",
    ablation_probability: float = 0.5,
    other_units: Collection[str] = OTHER_UNITS,
) -> pl.DataFrame:
    """How well every ranking finds a planted circuit: a PLANTED_SCORES table, one row for each of ``estimates``.

    Args:
        circuit: the circuit of the model.
        estimates: name of the ranking → score of every head, ``[layers, heads]`` or, example by example, ``[examples, layers, heads]``. Each
            example is compared with the truth for its category, and the mean over examples is reported.
        categories: category of each example; needed where the circuit depends on it.
        intervals: name of the ranking → lower and upper ends of its scores' confidence intervals.
        estimand: the truth: ``banzhaf`` or ``shapley``.
        ablation_probability: of the masks; what Banzhaf values are averaged by.
        other_units: rankings whose scores are not in logits.

    Raises:
        HeadflowError: arrays of another shape, an unknown category or estimand, or see :func:`agreement`.
    """
    from headflow.models.planted.circuits import truth_of

    rows = []
    for name, given in estimates.items():
        scores = np.asarray(given, float)
        scores = scores[None] if scores.ndim == 2 else scores
        kinds: list[str | None] = list(categories) if categories is not None else [None] * len(scores)
        if len(kinds) != len(scores):
            raise HeadflowError(f"planted scores of {name!r}: {len(scores)} examples, but {len(kinds)} categories")
        truths = truth_of(circuit, kinds, estimand, ablation_probability)
        ends = None if intervals is None or name not in intervals else [np.asarray(end, float).reshape(scores.shape) for end in intervals[name]]
        found = []
        for index, (score, truth, kind) in enumerate(zip(scores, truths, kinds, strict=True)):
            found.append(
                agreement(
                    score, truth, circuit.carrying(kind), interval=None if ends is None else (ends[0][index], ends[1][index]),
                    resolution=RESOLUTION * abs(circuit.total(kind)), same_units=name not in other_units,
                )
            )  # fmt: skip
        carriers = float(np.mean([circuit.carrying(kind).sum() for kind in kinds]))
        means = {key: _mean([asdict(one)[key] for one in found]) for key in asdict(found[0])}
        rows.append({"circuit": circuit.name, "ranking": name, "estimand": estimand, "examples": len(scores), "carriers": carriers, **means})
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in PLANTED_SCORES.columns.items()})


def scores_from_tables(
    circuit: Circuit, examples: pl.DataFrame, rankings: pl.DataFrame, attributions: pl.DataFrame, *, estimand: str = "banzhaf",
    ablation_probability: float = 0.5, confidence: float = 0.95,
) -> pl.DataFrame:  # fmt: skip
    """:func:`planted_scores` of a finished run.

    Args:
        examples: an EXAMPLES table; its label meaning_category is the category.
        rankings: a RANKINGS table; each example's own scores are taken.
        attributions: an ATTRIBUTIONS table; its standard errors give the intervals of the ranking ``attribution``, by the normal distribution.
        estimand, ablation_probability: see :func:`planted_scores`.
        confidence: level of the intervals.

    Raises:
        HeadflowError: tables of different examples, or see :func:`planted_scores`.
    """
    from scipy.stats import norm

    own = rankings.filter(pl.col("scope") == "own")
    estimates, orders = {}, []
    for name in own["ranking"].unique(maintain_order=True):
        ids, estimates[name] = attribution_grid(own.filter(pl.col("ranking") == name), "score")
        orders.append(ids)
    ids, centre = attribution_grid(attributions)
    _, error = attribution_grid(attributions, "standard_error")
    labels = dict(examples.select("id", "meaning_category").iter_rows())
    if any(order != ids for order in orders) or not set(ids) <= set(labels):
        raise HeadflowError("rankings, attributions and examples are of different examples; run `dvc repro`")
    reach = norm.ppf((1 + confidence) / 2) * error
    return planted_scores(
        circuit, estimates, categories=[labels[name] for name in ids], intervals={"attribution": (centre - reach, centre + reach)}, estimand=estimand,
        ablation_probability=ablation_probability,
    )  # fmt: skip


def asked(masks: Mapping[str, Any]) -> dict[str, Any]:
    """Estimand and ablation probability of the truth that these masks (arguments of :func:`headflow.attribution.masks.mask_table`) are about."""
    # Masks of the kernel are weighted to even draws where Banzhaf values are asked for; they take no probability.
    share = 0.5 if masks.get("design") == "kernel" else masks.get("ablation_probability", 0.5)
    return {"estimand": masks.get("estimand", "banzhaf"), "ablation_probability": share}


def _named(sizes: Float[np.ndarray, " heads"], count: int) -> Float[np.ndarray, " heads"]:
    """Chance of each head to be among the ``count`` largest when ties are broken at random; zeros are never named."""
    count = min(count, int((sizes > 0).sum()))
    if not count:
        return np.zeros_like(sizes)
    last = np.sort(sizes)[-count]
    above, level = sizes > last, sizes == last
    return above + level * (count - above.sum()) / level.sum()


def _found(chance: Float[np.ndarray, "layers heads"], carrying: Bool[np.ndarray, "layers heads"]) -> tuple[float, float]:
    """Precision (nan if nothing is named) and recall."""
    hits = float(chance[carrying].sum())
    return (hits / float(chance.sum()) if chance.any() else np.nan), hits / int(carrying.sum())


def _spearman(scores: Float[np.ndarray, " heads"], truth: Float[np.ndarray, " heads"]) -> float:
    from scipy.stats import spearmanr

    if np.ptp(truth) == 0:
        return np.nan
    return 0.0 if np.ptp(scores) == 0 else float(spearmanr(scores, truth).statistic)


def _mean(values: Sequence[float]) -> float | None:
    """Mean of those that exist."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None
