"""How much of a description is left where the picture is knocked out: F1 of the objects that are named (Kaduri et al. 2025).

F1 compares the objects of a description under a knockout with those of the stock model's, or with the scene's true ones, picture by picture: 2·TP /
(2·TP + FN + FP); where neither side names an object there is none, and the picture is left out. Pictures are the units of every interval.

Chance is what a description that says nothing of its own picture reaches: that of another picture. Beside it, each route has a test of its own: do the
descriptions without it say more of their own picture than of others (permutation of pictures)?
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
from jaxtyping import Float
from scipy import stats
from scipy.optimize import isotonic_regression

from headflow.attribution.multiple import holm
from headflow.errors import HeadflowError
from headflow.seeds import generator
from headflow.tables.knockouts import KNOCKOUT_BANDS, KNOCKOUT_DIFFERENCES, KNOCKOUT_LEVELS, KNOCKOUT_SUMMARY
from headflow.tables.schema import Table
from headflow.tracing.intervals import Estimate, bootstrap, mean

STOCK = -1
"""Knockout of the stock description in the judgements."""
NAMES = {
    ("img→gen", "query"): "img→gen", ("img→gen", "generated"): "img→gen, first token too",
    ("img→query", "query"): "img→query", ("img→query", "generated"): "img→query, first token spared",
    ("img→both", "query"): "img→both", ("img→both", "generated"): "img→both",
}  # fmt: skip
"""Routes as figures and sentences call them, by what the prompt's last position counts with; the plain names are the paper's."""
_CONFIGURATION = ("route", "last_position")
_DEFINED = 0.9  # share of bootstrap draws in which a number must exist for its interval to be given


@dataclass(frozen=True)
class _Scores:
    """Judgements of one judge and one comparison.

    Attributes:
        ids: the pictures.
        f1: nan where neither side names an object.
        said, expected: the objects of each description, and those that they are compared with.
        stock: F1 of the stock description; against itself 1.
        stock_said: the stock description's objects.
    """

    ids: list[str]
    f1: Float[np.ndarray, "pictures knockouts"]
    said: list[list[list[str]]]
    expected: list[list[str]]
    stock: Float[np.ndarray, " pictures"]
    stock_said: list[list[str]]

    @property
    def pictures(self) -> np.ndarray:
        return np.arange(len(self.ids))


def knockout_bands(judgements: pl.DataFrame, knocked_out: pl.DataFrame, plan: pl.DataFrame, *, confidence: float = 0.95) -> pl.DataFrame:
    """F1 of every route and set of layers, mean over pictures with its interval: a KNOCKOUT_BANDS table.

    Args:
        judgements: the judgements table.
        knocked_out: the knocked-out descriptions.
        plan: the knockout plan.

    Raises:
        HeadflowError: judgements of other descriptions.
    """
    spoken = knocked_out.group_by("knockout").agg(pl.col("ended").mean(), pl.col("tokens").list.len().mean())
    lengths = {knockout: {"ended": ended, "tokens": tokens} for knockout, ended, tokens in spoken.iter_rows()}
    counts = judgements.group_by("judge", "against", "knockout").agg(pl.col("true_positives", "false_negatives", "false_positives").mean())
    named = {tuple(row[:3]): dict(zip(("found", "lost", "invented"), row[3:], strict=True)) for row in counts.iter_rows()}
    rows = []
    for judge, against, scores in _each(judgements, knocked_out, plan):
        found = _clipped(mean(scores.f1, scores.pictures, confidence))
        known = np.isfinite(scores.f1).sum(0)
        for row in plan.iter_rows(named=True):
            at = row["knockout"]
            estimate = {"mean": found.value[at], "low": found.low[at], "high": found.high[at], "pictures": int(known[at])}
            rows.append({"judge": judge, "against": against, **row, **estimate, **named[judge, against, at], **lengths[at]})
    return _frame(rows, KNOCKOUT_BANDS)


def knockout_levels(judgements: pl.DataFrame, knocked_out: pl.DataFrame, plan: pl.DataFrame, *, confidence: float = 0.95) -> pl.DataFrame:
    """What the stock description reaches, and what the stock description of another picture does: a KNOCKOUT_LEVELS table.

    Objects of two pictures are compared by their names. Chance is a mean over pairs of pictures, so its standard error leaves out each picture in turn
    (B. Efron and C. Stein, *The jackknife estimate of variance*, Annals of Statistics 9, 1981).

    Raises:
        HeadflowError: judgements of other descriptions.
    """
    rows = []
    for judge, against, scores in _each(judgements, knocked_out, plan):
        shared = {"judge": judge, "against": against}
        stock, known = _clipped(mean(scores.stock[:, None], scores.pictures, confidence)), int(np.isfinite(scores.stock).sum())
        rows.append({**shared, "level": "stock", "mean": stock.value[0], "low": stock.low[0], "high": stock.high[0], "pictures": known})
        value, low, high = _over_pairs(f1_matrix(scores.stock_said, scores.expected), confidence)
        rows.append({**shared, "level": "chance", "mean": value, "low": low, "high": high, "pictures": len(scores.ids)})
    return _frame(rows, KNOCKOUT_LEVELS)


def knockout_summary(
    judgements: pl.DataFrame, knocked_out: pl.DataFrame, plan: pl.DataFrame, *, confidence: float = 0.95, draws: int = 999, permutations: int = 9999,
    seed: int = 0,
) -> pl.DataFrame:  # fmt: skip
    """What each route costs, at which layers its F1 rises most steeply, and which bands matter: a KNOCKOUT_SUMMARY table.

    The place of a largest step, of a half-rise depth or of a best band is chosen by the same pictures that measure it; its bootstrap over pictures chooses
    anew in each draw, and the share of draws that choose the same says how far the choice can be trusted. Depths are given where closing the route in all
    layers costs more than chance explains (sign flips, Holm), as few pictures with large losses make Student's t too sure.

    Args:
        draws: bootstrap draws.
        permutations: behind each p-value.

    Raises:
        HeadflowError: judgements of other descriptions.
    """
    frames = []
    for judge, against, scores in _each(judgements, knocked_out, plan):
        weights = bootstrap(scores.pictures, draws, seed, "knockout summary")
        rows = []
        for (route, last), part in _configurations(plan):
            up = part.filter(kind="upward").sort("closed", descending=True)
            blind, whole = scores.f1[:, up["knockout"][0]], scores.f1[:, up["knockout"][-1]]
            means, fall = mean(np.stack([blind, whole], 1), scores.pictures, confidence), mean((whole - blind)[:, None], scores.pictures, confidence)
            clipped, p = _clipped(means), sign_flip(whole - blind, permutations, seed)
            objects = [said[up["knockout"][0]] for said in scores.said]
            others, others_p = own_picture(f1_matrix(objects, scores.expected), permutations, seed)
            row = {
                "judge": judge, "against": against, "route": route, "last_position": last,
                "blind": clipped.value[0], "blind_low": clipped.low[0], "blind_high": clipped.high[0], "whole": clipped.value[1],
                "fall": fall.value[0], "fall_low": fall.low[0], "fall_high": fall.high[0], "fall_p": p, "others": others, "others_p": others_p,
                "pictures": int(np.isfinite(blind).sum()),
            }  # fmt: skip
            for name, kind, lowest in (("worst", "closed", True), ("best", "open", False)):
                row |= _choice(scores, part.filter(kind=kind), weights, confidence, name, lowest=lowest)
            rows.append(row)
        for name in ("fall_p", "others_p"):
            for row, corrected in zip(rows, holm([row[name] for row in rows]), strict=True):
                row[f"{name}_holm"] = corrected
        for row, (_, part) in zip(rows, _configurations(plan), strict=True):
            if row["fall"] > 0 and row["fall_p_holm"] < 1 - confidence:  # nan, of a single picture, is not
                row |= _rise(scores.f1, part.filter(kind="upward").sort("closed", descending=True), weights, confidence)
        frames += rows
    return _frame(frames, KNOCKOUT_SUMMARY)


def knockout_differences(
    judgements: pl.DataFrame, knocked_out: pl.DataFrame, plan: pl.DataFrame, *, confidence: float = 0.95, permutations: int = 9999, seed: int = 0
) -> pl.DataFrame:
    """Every two routes, closed in all layers, compared within pictures: a KNOCKOUT_DIFFERENCES table.

    Raises:
        HeadflowError: judgements of other descriptions.
    """
    frames = []
    for judge, against, scores in _each(judgements, knocked_out, plan):
        blind = {names: scores.f1[:, part.filter(kind="upward").sort("closed")["knockout"][-1]] for names, part in _configurations(plan)}
        rows = []
        for one, other in combinations(blind, 2):
            gap = blind[one] - blind[other]
            found = mean(gap[:, None], scores.pictures, confidence)
            rows.append({
                "judge": judge, "against": against, "route": one[0], "last_position": one[1], "other_route": other[0], "other_last_position": other[1],
                "difference": found.value[0], "low": found.low[0], "high": found.high[0], "p": sign_flip(gap, permutations, seed),
                "pictures": int(np.isfinite(gap).sum()),
            })  # fmt: skip
        for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row["p_holm"] = corrected
        frames += rows
    return _frame(frames, KNOCKOUT_DIFFERENCES)


def f1_matrix(said: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> Float[np.ndarray, "descriptions pictures"]:
    """F1 of every description's objects against those expected of every picture, as sets of names; nan where both are empty."""
    names = {name: place for place, name in enumerate(sorted({name for names in (*said, *expected) for name in names}))}
    held = [np.zeros((len(lists), len(names))) for lists in (said, expected)]
    for lists, table in zip((said, expected), held, strict=True):
        for row, objects in enumerate(lists):
            table[row, [names[name] for name in objects]] = 1
    sizes = held[0].sum(1)[:, None] + held[1].sum(1)[None]
    return np.divide(2 * held[0] @ held[1].T, sizes, out=np.full(sizes.shape, np.nan), where=sizes > 0)


def own_picture(matrix: Float[np.ndarray, "pictures pictures"], permutations: int, seed: int) -> tuple[float, float]:
    """Mean F1 of descriptions against other pictures' objects, and the p-value that they fit their own pictures no better than others'.

    The pictures are permuted against the descriptions (one-sided; the observed pairing counts as one of the draws). nan for a single picture.
    """
    count = len(matrix)
    away = matrix[~np.eye(count, dtype=bool)]
    if not np.isfinite(away).any():
        return float("nan"), float("nan")
    if not np.isfinite(np.diagonal(matrix)).any():
        return float(np.nanmean(away)), float("nan")
    random = generator(seed, "own picture")
    orders = random.permuted(np.tile(np.arange(count), (permutations, 1)), axis=1)
    drawn = _mean_known(matrix[np.arange(count)[None], orders])
    own = _mean_known(np.diagonal(matrix)[None])[0]
    return float(np.nanmean(away)), float((1 + (drawn >= own - 1e-12).sum()) / (1 + np.isfinite(drawn).sum()))


def sign_flip(gaps: Float[np.ndarray, " pictures"], permutations: int, seed: int) -> float:
    """Two-sided p-value that paired differences are as likely of one sign as of the other; all sign patterns where they are fewer than ``permutations``.

    nan for fewer than two differences.
    """
    gaps = gaps[np.isfinite(gaps)]
    if len(gaps) < 2:
        return float("nan")
    if not gaps.any():
        return 1.0
    result = stats.permutation_test(
        (gaps, np.zeros_like(gaps)), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", vectorized=True, n_resamples=permutations,
        random_state=generator(seed, "sign flips"),
    )  # fmt: skip
    return float(result.pvalue)


def half_rise(at: Float[np.ndarray, " steps"], curve: Float[np.ndarray, " steps"]) -> float:
    """Where a curve, made non-decreasing by least squares and joined by straight lines, is half way from its first value to its last."""
    fitted = isotonic_regression(curve).x
    low, high = fitted[0], fitted[-1]
    if not high > low:
        return float("nan")
    middle = (low + high) / 2
    place = int(np.argmax(fitted >= middle))
    below, above = fitted[place - 1], fitted[place]
    return float(at[place - 1] + (at[place] - at[place - 1]) * (middle - below) / (above - below))


def _rise(f1: Float[np.ndarray, "pictures knockouts"], up: pl.DataFrame, weights: np.ndarray, confidence: float) -> dict:
    """The largest step of the upward sweep, from all layers closed to none, and its half-rise depth."""
    f1, at, ends = f1[:, up["knockout"].to_numpy()], up["at"].to_numpy(), [(1 - confidence) / 2, (1 + confidence) / 2]
    curve, drawn = _weighted(f1, np.full((1, len(f1)), 1 / len(f1)))[0], _weighted(f1, weights)
    drawn = drawn[np.isfinite(drawn).all(1)]
    steps, drawn_steps = np.diff(curve), np.diff(drawn, axis=1)
    place, places = int(np.argmax(steps)), np.argmax(drawn_steps, 1)
    low, high = np.quantile(drawn_steps[:, place], ends)
    at_low, at_high = np.quantile(at[1:][places], ends, method="inverted_cdf")
    halves = np.array([half_rise(at, row) for row in drawn])
    half_low, half_high = np.nanquantile(halves, ends) if np.isfinite(halves).sum() >= _DEFINED * len(halves) else (None, None)
    return {
        "rise": steps[place], "rise_low": low, "rise_high": high, "rise_first": up["first_layer"][place], "rise_last": int(at[place + 1]),
        "rise_at_low": int(at_low), "rise_at_high": int(at_high), "rise_share": float((places == place).mean()),
        "half": half_rise(at, curve), "half_low": half_low, "half_high": half_high,
    }  # fmt: skip


def _choice(scores: _Scores, bands: pl.DataFrame, weights: np.ndarray, confidence: float, name: str, *, lowest: bool) -> dict:
    """The band whose mean F1 is lowest, or highest."""
    f1, sign = scores.f1[:, bands["knockout"].to_numpy()], 1 if lowest else -1
    found = _clipped(mean(f1, scores.pictures, confidence))
    if not np.isfinite(found.value).any():
        return {}
    place = int(np.nanargmin(sign * found.value))
    drawn = _weighted(f1, weights)
    places = np.argmin(np.where(np.isfinite(drawn), sign * drawn, np.inf), 1)
    return {
        name: found.value[place], f"{name}_low": found.low[place], f"{name}_high": found.high[place], f"{name}_first": bands["first_layer"][place],
        f"{name}_last": bands["last_layer"][place], f"{name}_share": float((places == place).mean()),
    }  # fmt: skip


def _each(judgements: pl.DataFrame, knocked_out: pl.DataFrame, plan: pl.DataFrame) -> list[tuple[str, str, _Scores]]:
    """Judgements by judge and comparison, in the order of the table.

    Raises:
        HeadflowError: they are of other descriptions than the knocked-out ones.
    """
    ids, knockouts = knocked_out["id"].unique(maintain_order=True).to_list(), sorted(knocked_out["knockout"].unique())
    if knockouts != sorted(plan["knockout"].unique()) or knockouts != list(range(len(knockouts))):
        raise HeadflowError("the knockout plan is of other descriptions than the knocked-out ones; run `dvc repro`")
    places, found = {id: place for place, id in enumerate(ids)}, []
    for (judge, against), part in judgements.group_by("judge", "against", maintain_order=True):
        rows, stock = part.filter(pl.col("knockout") != STOCK), part.filter(pl.col("knockout") == STOCK)
        mine = [id for id in ids if id in set(rows["id"])]
        wanted = {(id, knockout) for id in mine for knockout in knockouts}
        # Of a picture whose true objects are not known nothing is compared with them.
        if not set(rows["id"]) <= set(places) or set(rows.select("id", "knockout").iter_rows()) != wanted or len(rows) != len(wanted):
            raise HeadflowError(f"judgements of {judge} against {against}: of other descriptions than the knocked-out ones; run `dvc repro`")
        if not mine:
            continue
        ordered = rows.with_columns(pl.col("id").replace_strict(places, return_dtype=pl.Int64).alias("_place")).sort("_place", "knockout")
        shape = (len(mine), len(knockouts))
        f1 = ordered["f1"].to_numpy().astype(float).reshape(shape)
        said = [objects or [] for objects in ordered["objects"].to_list()]
        said = [said[at : at + shape[1]] for at in range(0, len(said), shape[1])]
        expected = [objects or [] for objects in ordered["expected"].to_list()[:: shape[1]]]
        if against == "stock":
            own, stock_said = np.where([bool(objects) for objects in expected], 1.0, np.nan), expected
        else:
            by_id = {row["id"]: row for row in stock.iter_rows(named=True)}
            if set(by_id) != set(mine):
                raise HeadflowError(f"judgements of {judge} against {against}: not every stock description is judged; run `dvc repro`")
            own = np.array([by_id[id]["f1"] for id in mine], float)
            stock_said = [by_id[id]["objects"] or [] for id in mine]
        found.append((judge, against, _Scores(mine, f1, said, expected, own, stock_said)))
    return found


def _configurations(plan: pl.DataFrame) -> list[tuple[tuple[str, str], pl.DataFrame]]:
    return [(names, part) for names, part in plan.group_by(*_CONFIGURATION, maintain_order=True)]


def _over_pairs(matrix: Float[np.ndarray, "pictures pictures"], confidence: float) -> tuple[float, float, float]:
    """Mean over ordered pairs of different pictures and its jackknife interval."""
    apart = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    known, count = np.isfinite(apart), len(matrix)
    if not known.any():
        return float("nan"), float("nan"), float("nan")
    values = np.where(known, apart, 0.0)
    total, number = values.sum(), known.sum()
    rest = number - known.sum(0) - known.sum(1)
    if count < 3 or (rest == 0).any():
        return total / number, float("nan"), float("nan")
    left_out = (total - values.sum(0) - values.sum(1)) / rest
    error = np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())
    reach = stats.t.ppf((1 + confidence) / 2, count - 1) * error
    return total / number, max(0.0, total / number - reach), min(1.0, total / number + reach)


def _weighted(values: Float[np.ndarray, "pictures columns"], weights: Float[np.ndarray, "draws pictures"]) -> Float[np.ndarray, "draws columns"]:
    """Means of each draw over the pictures that have a value."""
    known = np.isfinite(values)
    total = weights @ known.astype(float)
    return np.divide(weights @ np.where(known, values, 0.0), total, out=np.full(total.shape, np.nan), where=total > 0)


def _mean_known(values: Float[np.ndarray, "draws pictures"]) -> Float[np.ndarray, " draws"]:
    known = np.isfinite(values)
    return np.divide(np.where(known, values, 0.0).sum(1), known.sum(1), out=np.full(len(values), np.nan), where=known.any(1))


def _clipped(found: Estimate) -> Estimate:
    """An F1 is between 0 and 1."""
    return Estimate(found.value, np.clip(found.low, 0, 1), np.clip(found.high, 0, 1), found.p)


def _frame(rows: list[dict], table: Table) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in table.columns.items()}).fill_nan(None)
