"""Several models on one scale: shares and relative depth in place of logits and layers, each with its interval over examples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy import stats

HALF, MOST = 0.5, 0.8
"""Shares of the summed size of attributions for which the heads are counted."""
GROUPS = 100
"""Most groups of examples that are left out in turn."""


@dataclass(frozen=True)
class Subject:
    """One model, as far as it is compared.

    Attributes:
        key: its key in the params.
        depth: relative depth of each layer that reads the picture: layer / number of layers, 0 ≤ depth < 1.
        attribution: of every head for every explained example; target units.
        single: summed single-head effects of each example; NaN where single heads were not cut; target units.
        total: fall of the target when all heads are cut at once; target units.
        held_out_r: Pearson r on held-out masks; NaN where it is undefined.
        ids: the explained examples, by which those of two models are paired; empty if unknown.
        layers: numbers of the layers in the decoder; empty if it is all of them.
    """

    key: str
    depth: Float[np.ndarray, " layers"]
    attribution: Float[np.ndarray, "examples layers heads"]
    single: Float[np.ndarray, " examples"]
    total: Float[np.ndarray, " examples"]
    held_out_r: Float[np.ndarray, " examples"]
    ids: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """Values with their confidence limits and standard errors, all of one shape; limits and errors are NaN for a single example."""

    value: Float[np.ndarray, "*shape"]
    low: Float[np.ndarray, "*shape"]
    high: Float[np.ndarray, "*shape"]
    error: Float[np.ndarray, "*shape"]
    freedom: int


def jackknife(statistic: Callable[..., np.ndarray | float], samples: Sequence[np.ndarray], confidence: float) -> Estimate:
    """A function of means over examples, with the interval that leaving out groups of examples gives.

    Args:
        statistic: takes the mean over examples of each of ``samples``.
        samples: arrays with the examples along the first axis.
    """
    count = len(samples[0])
    means = [sample.mean(0) for sample in samples]
    value = np.asarray(statistic(*means), float)
    groups = min(count, GROUPS)
    if groups < 2:
        unknown = np.full_like(value, np.nan)
        return Estimate(value, unknown, unknown, unknown, 0)
    member = np.arange(count) % groups
    left_out = []
    for group in range(groups):
        out = member == group
        rest = count - out.sum()
        left_out.append(statistic(*((count * mean - sample[out].sum(0)) / rest for mean, sample in zip(means, samples, strict=True))))
    spread = np.asarray(left_out, float)
    error = np.sqrt((groups - 1) / groups * ((spread - spread.mean(0)) ** 2).sum(0))
    reach = stats.t.ppf(0.5 + confidence / 2, groups - 1) * error
    return Estimate(value, value - reach, value + reach, error, groups - 1)


def layer_shares(subjects: Sequence[Subject], confidence: float) -> pl.DataFrame:
    """``model, layer, depth, share, low, high``: a layer's summed attribution as a share of the summed |attribution| of all heads.

    Models with more layers have less in each, so shares are given per tenth of the depth: an even spread is 0.1 everywhere.
    """
    frames = []
    for subject in subjects:
        found = jackknife(lambda mean: _over(mean.sum(1), np.abs(mean).sum()) * len(mean) / 10, [subject.attribution], confidence)
        layers = len(subject.depth)
        frames.append(
            pl.DataFrame(
                {
                    "model": [subject.key] * layers,
                    "layer": subject.layers or range(layers),
                    "depth": subject.depth,
                    "share": found.value,
                    "low": found.low,
                    "high": found.high,
                }
            )
        )
    return pl.concat(frames)


def mean_depths(subjects: Sequence[Subject], confidence: float) -> pl.DataFrame:
    """``model, depth, low, high, even, later, later_low, later_high``.

    ``depth`` is the mean relative depth of the heads weighted by |mean attribution|; ``even`` the same if all heads had the same;
    ``later`` their difference, which is what can be compared: with few layers an even spread itself lies a little nearer the input.
    """
    rows = []
    for subject in subjects:
        found = jackknife(lambda mean, depth=subject.depth: _depth(mean, depth), [subject.attribution], confidence)
        value, low, high, even = float(found.value), float(found.low), float(found.high), float(subject.depth.mean())
        rows.append((subject.key, value, low, high, even, value - even, low - even, high - even))
    names = ("model", "depth", "low", "high", "even", "later", "later_low", "later_high")
    return pl.DataFrame(rows, schema=names, orient="row")


def _depth(mean: np.ndarray, depth: np.ndarray) -> np.ndarray | float:
    return _over((np.abs(mean).sum(1) * depth).sum(), np.abs(mean).sum())


def concentration(subjects: Sequence[Subject], confidence: float) -> pl.DataFrame:
    """``model, heads, of_heads, held, low, high``: the share of the summed |mean attribution| that the strongest ``heads`` heads hold.

    A row for every number of heads; ``of_heads`` is that number as a share of all.
    """
    frames = []
    for subject in subjects:
        found = jackknife(lambda mean: _over(np.sort(np.abs(mean).ravel())[::-1].cumsum(), np.abs(mean).sum()), [subject.attribution], confidence)
        heads = np.arange(1, found.value.size + 1)
        frames.append(
            pl.DataFrame(
                {"model": [subject.key] * len(heads), "heads": heads, "of_heads": heads / len(heads), "held": found.value,
                 "low": np.clip(found.low, 0, 1), "high": np.clip(found.high, 0, 1)}
            )
        )  # fmt: skip
    return pl.concat(frames)


def heads_needed(curves: pl.DataFrame, shares: Sequence[float] = (HALF, MOST)) -> pl.DataFrame:
    """``model, share, heads, low, high, of``: the least number of heads that hold each share; its limits are where the limits of the curve do."""
    rows = []
    for (model,), curve in curves.group_by("model", maintain_order=True):
        for share in shares:
            count, fewest, most = (_first(curve[name].to_numpy(), share) for name in ("held", "high", "low"))
            rows.append((model, share, count, fewest, most, curve.height))
    schema = {"model": pl.String, "share": pl.Float64, "heads": pl.Int64, "low": pl.Int64, "high": pl.Int64, "of": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def held_out(subjects: Sequence[Subject]) -> pl.DataFrame:
    """``model, r``: held-out Pearson r, a row an example; undefined ones are left out."""
    frames = [pl.DataFrame({"model": [subject.key] * len(subject.held_out_r), "r": subject.held_out_r}) for subject in subjects]
    return pl.concat(frames).filter(pl.col("r").is_finite())


def median_fits(fits: pl.DataFrame, keys: Sequence[str], confidence: float) -> pl.DataFrame:
    """``model, median, low, high, worst, examples`` of :func:`held_out`, a row for each of ``keys``; limits are order statistics, null for too few examples."""
    rows = []
    for key in keys:
        values = np.sort(fits.filter(pl.col("model") == key)["r"].to_numpy())
        low, high = median_limits(values, confidence)
        rows.append((key, float(np.median(values)) if len(values) else None, low, high, float(values[0]) if len(values) else None, len(values)))
    schema = {"model": pl.String, "median": pl.Float64, "low": pl.Float64, "high": pl.Float64, "worst": pl.Float64, "examples": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def median_limits(ordered: np.ndarray, confidence: float) -> tuple[float | None, float | None]:
    """Limits of a median that hold whatever the distribution: two of the values, found by the binomial distribution."""
    count = len(ordered)
    below = int(stats.binom.ppf((1 - confidence) / 2, count, 0.5)) if count else 0
    return (float(ordered[below - 1]), float(ordered[count - below])) if below > 0 else (None, None)


def falls(subjects: Sequence[Subject], confidence: float) -> pl.DataFrame:
    """``model, fall, low, high``: how far the target falls when all heads are cut, mean over examples; target units."""
    rows = []
    for subject in subjects:
        found = jackknife(lambda mean: mean, [subject.total], confidence)
        rows.append((subject.key, float(found.value), float(found.low), float(found.high)))
    return pl.DataFrame(rows, schema={"model": pl.String, "fall": pl.Float64, "low": pl.Float64, "high": pl.Float64}, orient="row")


def effect_shares(subjects: Sequence[Subject], confidence: float) -> pl.DataFrame:
    """``model, account, share, low, high, examples, gap, gap_low, gap_high``: summed attributions and single-head effects over the fall with all heads cut.

    All are means over examples; ``gap``, in the rows of single-head effects, is by how much they exceed the attributions of
    the same examples. Null where the fall itself cannot be told from zero or goes the other way, as a share of it would mean nothing.
    """
    rows = []
    for subject in subjects:
        fall = jackknife(lambda mean: mean, [subject.total], confidence)
        falls = bool(fall.low > 0) if fall.freedom else bool(fall.value > 0)
        for account, sums in (("attributions", subject.attribution.sum((1, 2))), ("singles", subject.single)):
            known = np.isfinite(sums)
            if not falls or not known.any():
                rows.append((subject.key, account, None, None, None, int(known.sum()), None, None, None))
                continue
            found = jackknife(_over, [sums[known], subject.total[known]], confidence)
            gap = (None, None, None)
            if account == "singles":
                beyond = jackknife(_over, [(sums - subject.attribution.sum((1, 2)))[known], subject.total[known]], confidence)
                gap = (float(beyond.value), float(beyond.low), float(beyond.high))
            rows.append((subject.key, account, float(found.value), float(found.low), float(found.high), int(known.sum()), *gap))
    numbers = dict.fromkeys(("gap", "gap_low", "gap_high"), pl.Float64)
    schema = {"model": pl.String, "account": pl.String, "share": pl.Float64, "low": pl.Float64, "high": pl.Float64, "examples": pl.Int64} | numbers
    return pl.DataFrame(rows, schema=schema, orient="row")


def contrasts(subjects: Sequence[Subject], confidence: float) -> pl.DataFrame:
    """``measure, first, second, gap, low, high, common``: ``first − second`` for every pair of models, with limits that allow for the number of pairs.

    Measures: ``later`` (how much later than an even spread attribution lies), ``half`` (share of the heads that hold half of it, between whole heads by
    interpolation) and ``r`` (mean held-out r). Models are asked about the same pictures, so where both explain at least half as many ``common`` examples
    as the smaller of them has, the difference is taken over those and they are left out together; else ``common`` is 0 and errors are independent.
    """
    pairs = list(combinations(subjects, 2))
    level = 1 - (1 - confidence) / max(len(pairs), 1)
    rows = [(measure, first.key, second.key, *_contrast(measure, first, second, level)) for first, second in pairs for measure in ("later", "half", "r")]
    schema = {"measure": pl.String, "first": pl.String, "second": pl.String, "gap": pl.Float64, "low": pl.Float64, "high": pl.Float64, "common": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _contrast(measure: str, first: Subject, second: Subject, level: float) -> tuple[float, float, float, int]:
    """``first − second`` with its limits and the number of common examples that it was taken over, 0 if it was not."""
    (values, at), (others, other_at) = _measured(measure, first), _measured(measure, second)
    if not len(values) or not len(others):
        return math.nan, math.nan, math.nan, 0
    statistic, other = _statistic(measure, first), _statistic(measure, second)
    common = [name for name in at if name in other_at]
    if len(common) >= max(2, min(len(values), len(others)) / 2):
        samples = [values[[at[name] for name in common]], others[[other_at[name] for name in common]]]
        found = jackknife(lambda mean, other_mean: statistic(mean) - other(other_mean), samples, level)
        return float(found.value), float(found.low), float(found.high), len(common)
    one, two = jackknife(statistic, [values], level), jackknife(other, [others], level)
    gap, freedom = float(one.value - two.value), min(one.freedom, two.freedom)
    if freedom < 1:
        return gap, math.nan, math.nan, 0
    reach = float(stats.t.ppf(0.5 + level / 2, freedom) * math.hypot(one.error, two.error))
    return gap, gap - reach, gap + reach, 0


def _measured(measure: str, subject: Subject) -> tuple[np.ndarray, dict[str, int]]:
    """The examples' values that ``measure`` is made of, and the place of each example among them."""
    values = subject.held_out_r if measure == "r" else subject.attribution
    fine = np.isfinite(values.reshape(len(values), -1)).all(1)
    names = [name for name, good in zip(subject.ids, fine, strict=True) if good] if subject.ids else []
    return values[fine], {name: place for place, name in enumerate(names)}


def _statistic(measure: str, subject: Subject) -> Callable[[np.ndarray], np.ndarray | float]:
    if measure == "later":
        return lambda mean: _depth(mean, subject.depth) - subject.depth.mean()
    return _half if measure == "half" else lambda mean: mean


def _half(mean: np.ndarray) -> float:
    """Share of the heads that hold half of the summed |mean attribution|; NaN where there is none."""
    held = np.concatenate([[0.0], np.sort(np.abs(mean).ravel())[::-1].cumsum()])
    return float(np.interp(HALF * held[-1], held, np.linspace(0, 1, len(held)))) if held[-1] > 0 else math.nan


def _over(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray | float:
    """A share, NaN where there is nothing to have a share of."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(whole) == 0, np.nan, np.divide(part, whole))


def _first(curve: np.ndarray, share: float) -> int | None:
    """The first number of heads at which ``curve`` reaches ``share`` (all, if it never does); None where the curve is unknown."""
    if not np.isfinite(curve).all():
        return None
    reached = np.flatnonzero(curve >= share - 1e-12)
    return int(reached[0]) + 1 if len(reached) else len(curve)


def metrics(subjects: Sequence[Subject], confidence: float) -> dict[str, dict[str, float | int | None]]:
    """The figures' main numbers of every model, by its key; null where one is unknown."""
    depths = mean_depths(subjects, confidence)
    needed = heads_needed(concentration(subjects, confidence))
    medians = median_fits(held_out(subjects), [subject.key for subject in subjects], confidence)
    shares = effect_shares(subjects, confidence)
    found = {}
    for subject in subjects:
        mine = pl.col("model") == subject.key
        depth, fit = depths.row(by_predicate=mine, named=True), medians.row(by_predicate=mine, named=True)
        counts = {share: heads for share, heads in needed.filter(mine).select("share", "heads").iter_rows()}
        effects = dict(shares.filter(mine).select("account", "share").iter_rows())
        values = {
            "examples": len(subject.attribution), "layers": subject.attribution.shape[1], "heads": subject.attribution.shape[2],
            "mean_depth": depth["depth"], "mean_depth_beyond_even": depth["later"],
            "heads_for_half": counts[HALF], "heads_for_most": counts[MOST], "median_held_out_r": fit["median"],
            "attributions_over_total": effects["attributions"], "single_effects_over_total": effects["singles"],
        }  # fmt: skip
        found[subject.key] = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()}
    return found
