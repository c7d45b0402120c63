"""Does a ranking put the heads first that carry the picture? Faithfulness and completeness of its first k heads, for k = 0 … L·H.

With F(S) the target when only the heads in S are intact (METHOD.md section 3; after the circuit literature: Wang et al. 2023, arXiv
2211.00593, and Marks et al. 2024, arXiv 2403.19647):

    faithfulness(k) = (F(top-k) - F(none)) / (F(all) - F(none))        what the first k heads do alone
    completeness(k) = (F(all) - F(all but top-k)) / (F(all) - F(none))  what is lost without them

Both go from exactly 0 to exactly 1, not always by the shortest way: heads that lower the target, or stand in for others, carry a curve
beyond 1 or below 0. The area under a curve, over k/(L·H), says how soon it rises.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from headflow.attribution.groups import mean_interval
from headflow.attribution.multiple import holm, paired_p
from headflow.tables.faithfulness import AREA_DIFFERENCES, AREA_SUMMARY, AREAS, CURVE_BANDS, CURVES
from headflow.tables.schema import Table

MEASURES = ("faithfulness", "completeness")
NONE, ALL = 0, 1
"""The first two masks of every plan."""


def counts(total: int, points: int | None = None) -> Int[np.ndarray, " points"]:
    """The k at which curves are measured: 0 … ``total``, or about ``points`` of them, close together at small k where curves bend most.

    The steps grow evenly: k is ``total``·(i/points)², rounded, each value once.
    """
    if points is None or points > total:
        return np.arange(total + 1)
    return np.unique(np.rint(total * (np.arange(points + 1) / points) ** 2).astype(int))


@dataclass(frozen=True)
class Plan:
    """The masks that the curves of one example's rankings need, each of them once.

    Attributes:
        masks: all heads ablated, all intact, then what each ranking needs that no earlier one needed.
        top: place in ``masks`` of the mask that leaves only the first k heads intact.
        rest: place of the one that ablates only these.
        starts: where the masks of each ranking begin; rankings added at the end leave those before them as they are.
    """

    counts: Int[np.ndarray, " points"]
    masks: Bool[np.ndarray, "masks layers heads"]
    top: Int[np.ndarray, "rankings points"]
    rest: Int[np.ndarray, "rankings points"]
    starts: list[int]


def plan(places: Int[np.ndarray, "rankings layers heads"], ks: Int[np.ndarray, " points"]) -> Plan:
    """Which masks to run for these rankings (see :func:`headflow.attribution.rankings.places`) at these ``ks``."""
    shape = places.shape[1:]
    none, everything = np.zeros(shape, bool), np.ones(shape, bool)
    known = {none.tobytes(): NONE, everything.tobytes(): ALL}
    masks, starts, found = [none, everything], [], []

    def number(mask: Bool[np.ndarray, "layers heads"]) -> int:
        key = mask.tobytes()
        if key not in known:
            known[key] = len(masks)
            masks.append(mask)
        return known[key]

    for ranking in places:
        starts.append(len(masks))
        tops = ranking[None] < ks[:, None, None]
        # A mask next to its complement: every head is then intact in half of a batch, which runs fastest.
        found.append([(number(top), number(~top)) for top in tops])
    pairs = np.array(found, int).reshape(len(places), len(ks), 2)
    return Plan(ks, np.stack(masks), pairs[..., 0], pairs[..., 1], starts)


def curves(targets: Float[np.ndarray, " masks"], plan: Plan) -> tuple[Float[np.ndarray, "rankings points"], Float[np.ndarray, "rankings points"]]:
    """Faithfulness and completeness from the targets of a plan's masks; nan where F(all) equals F(none)."""
    targets = np.asarray(targets, float)
    none, everything = targets[NONE], targets[ALL]
    total = everything - none if everything != none else np.nan
    return (targets[plan.top] - none) / total, (everything - targets[plan.rest]) / total


def usable(total_effects: Float[np.ndarray, " examples"], least: float = 0.05) -> Bool[np.ndarray, " examples"]:
    """Examples whose total effect F(all) - F(none) is large enough to be divided by.

    A share of nothing is no share: examples on which cutting every head leaves the target as it is, or raises it, have no
    curves. They are those whose total effect is not above ``least`` times the median size of the total effects.
    """
    effects = np.asarray(total_effects, float)
    return effects > least * np.median(np.abs(effects)) if len(effects) else np.zeros(0, bool)


def areas(values: Float[np.ndarray, "*some points"], ks: Int[np.ndarray, " points"]) -> Float[np.ndarray, "*some"]:
    """Area under curves over k/(L·H), by the trapezoid rule; 1/2 for a straight line, 1 at most unless a curve goes beyond 1."""
    return np.trapezoid(values, ks / ks[-1], axis=-1)


def needed(values: Float[np.ndarray, "*some points"], ks: Int[np.ndarray, " points"], level: float = 0.8) -> Int[np.ndarray, "*some"]:
    """The smallest measured k whose value reaches ``level``; a curve ends at 1, so there always is one."""
    # Rounding of float32 targets may leave a value of 0.8 just below it.
    return ks[np.argmax(values >= level - 1e-6, axis=-1)]


def curves_table(
    ids: Sequence[str], orders: Sequence[tuple[str, str]], ks: Int[np.ndarray, " points"],
    top: Float[np.ndarray, "examples orders points"], rest: Float[np.ndarray, "examples orders points"],
    faithfulness: Float[np.ndarray, "examples orders points"], completeness: Float[np.ndarray, "examples orders points"],
    used: Bool[np.ndarray, " examples"],
) -> pl.DataFrame:  # fmt: skip
    """Every example's curves as a CURVES table.

    Args:
        orders: ranking and scope of each order.
        used: see :func:`usable`; curves of other examples are null.
    """
    examples, number, points = top.shape
    hole = np.where(used, 0.0, np.nan)[:, None, None]
    columns = {
        "id": np.repeat(np.asarray(ids, object), number * points),
        "ranking": np.tile(np.repeat(np.asarray([name for name, _ in orders], object), points), examples),
        "scope": np.tile(np.repeat(np.asarray([scope for _, scope in orders], object), points), examples),
        "heads": np.tile(ks, examples * number), "top": top.ravel(), "rest": rest.ravel(),
        "faithfulness": (faithfulness + hole).ravel(), "completeness": (completeness + hole).ravel(),
    }  # fmt: skip
    return _table(columns, CURVES)


def areas_table(
    ids: Sequence[str], orders: Sequence[tuple[str, str]], ks: Int[np.ndarray, " points"],
    faithfulness: Float[np.ndarray, "examples orders points"], completeness: Float[np.ndarray, "examples orders points"],
    total_effects: Float[np.ndarray, " examples"], used: Bool[np.ndarray, " examples"], level: float = 0.8,
) -> pl.DataFrame:  # fmt: skip
    """Every example's areas and smallest k as an AREAS table."""
    values = np.stack([faithfulness, completeness], 2)  # [examples, orders, measures, points]
    examples, number, kinds, _ = values.shape
    area, heads = areas(values, ks), needed(values, ks, level)
    known = np.repeat(used, number * kinds)
    columns = {
        "id": np.repeat(np.asarray(ids, object), number * kinds),
        "ranking": np.tile(np.repeat(np.asarray([name for name, _ in orders], object), kinds), examples),
        "scope": np.tile(np.repeat(np.asarray([scope for _, scope in orders], object), kinds), examples),
        "measure": np.tile(np.asarray(MEASURES, object), examples * number),
        "total_effect": np.repeat(total_effects, number * kinds), "used": known, "area": area.ravel(), "heads": heads.ravel().astype(np.int64),
    }  # fmt: skip
    return _table(columns, AREAS).with_columns(pl.when("used").then("area").alias("area"), pl.when("used").then("heads").alias("heads"))


Curves = Mapping[tuple[str, str, str], Float[np.ndarray, "examples points"]]
"""Curves of the usable examples by (ranking, scope, measure)."""


def bands(values: Curves, ks: Int[np.ndarray, " points"], confidence: float = 0.95) -> pl.DataFrame:
    """Mean curves with their Student-t interval over examples, as a CURVE_BANDS table."""
    frames = []
    for (ranking, scope, measure), curve in values.items():
        mean, low, high = _interval(curve, confidence)
        columns = {
            "ranking": [ranking] * len(ks), "scope": [scope] * len(ks), "measure": [measure] * len(ks), "heads": ks, "share": ks / ks[-1],
            "mean": mean, "low": low, "high": high, "examples": [len(curve)] * len(ks),
        }  # fmt: skip
        frames.append(_table(columns, CURVE_BANDS))
    return pl.concat([_table({}, CURVE_BANDS), *frames])


def area_summary(values: Curves, ks: Int[np.ndarray, " points"], *, level: float = 0.8, confidence: float = 0.95) -> pl.DataFrame:
    """Mean area and mean smallest k of every ranking, with Student-t intervals over examples, as an AREA_SUMMARY table."""
    rows = []
    for (ranking, scope, measure), curve in values.items():
        area, heads = _interval(areas(curve, ks), confidence), _interval(needed(curve, ks, level).astype(float), confidence)
        rows.append((ranking, scope, measure, *map(float, area), *map(float, heads), int(ks[-1]), len(curve)))
    return _table(dict(zip(AREA_SUMMARY.columns, zip(*rows, strict=True), strict=True)) if rows else {}, AREA_SUMMARY)


def area_differences(values: Curves, ks: Int[np.ndarray, " points"], *, confidence: float = 0.95) -> pl.DataFrame:
    """Differences in area between every two rankings of one scope and measure, as an AREA_DIFFERENCES table.

    All rankings see the same examples, so differences are taken within each example: Student's paired t. ``p_holm`` corrects for all
    pairs of the same scope and measure (S. Holm, Scandinavian Journal of Statistics 6, 1979), so that the largest of
    them may be looked up.
    """
    frames = [_table({}, AREA_DIFFERENCES)]
    for scope, measure in dict.fromkeys((scope, measure) for _, scope, measure in values):
        found = {ranking: areas(curve, ks) for (ranking, s, m), curve in values.items() if (s, m) == (scope, measure)}
        pairs = list(itertools.combinations(found, 2))
        if pairs:
            within = np.stack([found[one] - found[other] for one, other in pairs], 1)
            difference, low, high = _interval(within, confidence)
            p = paired_p(within)
            columns = {
                "scope": [scope] * len(pairs), "measure": [measure] * len(pairs), "ranking": [one for one, _ in pairs], "other": [two for _, two in pairs],
                "difference": difference, "low": low, "high": high, "p": p, "p_holm": holm(p),
            }  # fmt: skip
            frames.append(_table(columns, AREA_DIFFERENCES))
    return pl.concat(frames)


@dataclass(frozen=True)
class Leader:
    """The ranking of largest mean area, and which others it can be told from.

    Attributes:
        ahead_of: rankings whose area is smaller by more than chance explains (Holm).
        level_with: rankings that cannot be told from it.
    """

    ranking: str
    area: float
    ahead_of: list[str]
    level_with: list[str]

    @property
    def clear(self) -> bool:
        return not self.level_with


def leader(summary: pl.DataFrame, differences: pl.DataFrame, *, scope: str, measure: str, alpha: float = 0.05) -> Leader | None:
    """Who leads, by an AREA_SUMMARY and an AREA_DIFFERENCES table; None where there is no curve. Ties go to the first in the table."""
    rows = summary.filter(pl.col("scope") == scope, pl.col("measure") == measure, pl.col("area").is_not_null())
    if rows.is_empty():
        return None
    names = rows["ranking"].to_list()
    first = names[int(np.argmax(rows["area"].to_numpy()))]
    pairs = differences.filter(pl.col("scope") == scope, pl.col("measure") == measure)
    p = {frozenset(row[:2]): row[2] for row in pairs.select("ranking", "other", "p_holm").iter_rows()}
    told = {name for name in names if name != first and (found := p.get(frozenset((first, name)))) is not None and found < alpha}
    others = [name for name in names if name != first]
    area = float(rows.filter(pl.col("ranking") == first)["area"][0])
    return Leader(first, area, [name for name in others if name in told], [name for name in others if name not in told])


def _interval(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """mean_interval, nan where there is no example at all."""
    if len(values) == 0:
        nothing = np.full(values.shape[1:], np.nan)
        return nothing, nothing, nothing
    return mean_interval(values, confidence)


def _table(columns: Mapping[str, object], table: Table) -> pl.DataFrame:
    schema = {name: column.dtype for name, column in table.columns.items()}
    return pl.DataFrame(columns, schema=schema).fill_nan(None)
