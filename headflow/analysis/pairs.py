"""Pairs of pictures: are those served alike by the heads alike in meaning, in looks, or only in what the vision tower sees?

Every number is a weighted mean or correlation over pairs of examples of *different* pictures. Pairs that share a picture are no independent witnesses, so
intervals resample whole pictures: a picture drawn twice counts twice, and never makes a pair with itself (bootstrap percentiles). With w_i the times that
example i's picture is drawn, every such sum over pairs is the quadratic form wᵀMw, so all draws are one product of matrices.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from headflow.analysis.distances import cosine_distances
from headflow.analysis.permutations import Exchange
from headflow.seeds import generator
from headflow.tables.clusters import LOOK_CONTRASTS, LOOK_PAIRS, SIMILARITIES

KINDS = ("meaning", "looks")
ALIKE = 0.5
"""Share of the labels of looks that agree in a pair said to look the same."""
_CELLS = 4_000_000  # numbers held at once for a block of permutations: 32 MB
_DEFINED = 0.9  # share of bootstrap draws in which a number must exist for its interval to be given


@dataclass(frozen=True)
class Pairs:
    """What is known of every pair of examples.

    Attributes:
        attribution: cosine similarity of attribution vectors.
        labels: for each label column, 1.0 where both have the same value, 0.0 where not, nan where either has none.
        vision: cosine similarity of vision-tower features, centred over examples; None if there are none.
        different: whether the two examples are of different pictures.
    """

    attribution: Float[np.ndarray, "examples examples"]
    labels: dict[str, Float[np.ndarray, "examples examples"]]
    vision: Float[np.ndarray, "examples examples"] | None
    different: Bool[np.ndarray, "examples examples"]

    def of_kind(self, kind: str) -> list[str]:
        """The label columns of one kind."""
        return [name for name in self.labels if name.startswith(f"{kind}_")]

    def agreement(self, kind: str) -> Float[np.ndarray, "examples examples"]:
        """Share of the labels of one kind that agree, of those known of both; nan where there are none."""
        stack = np.array([self.labels[name] for name in self.of_kind(kind)])
        known = np.isfinite(stack)
        counts = known.sum(0)
        return np.divide(np.where(known, stack, 0.0).sum(0), counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def make_pairs(
    vectors: Float[np.ndarray, "examples size"], labels: pl.DataFrame, exchange: Exchange, vision: Float[np.ndarray, "examples features"] | None = None
) -> Pairs:
    """Compare every two examples; labels of a single value are left out, as they tell no pair from another."""
    shared = {}
    for name in labels.columns:
        values = labels[name].cast(pl.String)
        if values.drop_nulls().n_unique() < 2:
            continue
        codes = values.rank("dense").fill_null(0).to_numpy().astype(int)
        known = (codes > 0)[:, None] & (codes > 0)[None]
        shared[name] = np.where(known, codes[:, None] == codes[None], np.nan)
    seen = None
    if vision is not None:
        centred = np.asarray(vision, float) - np.asarray(vision, float).mean(0)
        seen = 1.0 - cosine_distances(centred)
    return Pairs(1.0 - cosine_distances(vectors), shared, seen, exchange.picture[:, None] != exchange.picture[None])


def similarities(
    pairs: Pairs, exchange: Exchange, *, permutations: int = 999, draws: int = 499, confidence: float = 0.95, seed: int = 0
) -> pl.DataFrame:
    """Correlation of attribution similarity with label and vision similarity, plain and partial: a SIMILARITIES table.

    The partial correlation of a label holds constant the agreement in the labels of the other kind and the vision tower's similarity; that of
    the vision tower, the agreement in either kind. p of the plain correlation is two-sided, over permutations of pictures (N. Mantel, Cancer
    Research 27, 1967). The partial correlation has no p-value, as permutations do not keep what it holds constant; see its interval.
    """
    whole = {kind: pairs.agreement(kind) for kind in KINDS if pairs.of_kind(kind)}
    if pairs.vision is not None:
        whole["vision"] = pairs.vision
    rows = [(kind, kind, values) for kind, values in whole.items()]
    rows += [(name, kind, pairs.labels[name]) for kind in KINDS for name in pairs.of_kind(kind)]
    orders = exchange.draw(generator(seed, "similarity permutations"), permutations)
    times = exchange.resample(generator(seed, "similarity draws"), draws).astype(float)
    found = []
    for what, kind, values in rows:
        others = [name for name in whole if name != kind]
        usable = pairs.different & np.isfinite(values)
        if usable.sum() < 6 or np.ptp(values[usable]) == 0:
            continue
        r = float(_correlations(pairs.attribution, values, usable, np.arange(len(values))[None])[0])
        chance = _correlations(pairs.attribution, values, usable, orders)
        low, high = _ends(_partial_correlations([pairs.attribution, values], usable, times), confidence, exchange.pictures)
        row = {"what": what, "kind": kind, "pairs": int(usable.sum()) // 2, "r": r, "low": low, "high": high}
        row["p"] = float((np.sum(np.abs(chance) >= abs(r) - 1e-12) + 1) / (permutations + 1))
        if others:
            usable = usable & np.all([np.isfinite(whole[name]) for name in others], axis=0)
            variables = [pairs.attribution, values, *(whole[name] for name in others)]
            once = np.ones((1, len(values)))
            row |= {"given": ", ".join(others), "partial": float(_partial_correlations(variables, usable, once)[0])}
            row["partial_low"], row["partial_high"] = _ends(_partial_correlations(variables, usable, times), confidence, exchange.pictures)
        found.append(row)
    return pl.DataFrame(found, schema={name: column.dtype for name, column in SIMILARITIES.columns.items()}).fill_nan(None)


def look_pairs(
    ids: list[str], pairs: Pairs, exchange: Exchange, *, draws: int = 999, confidence: float = 0.95, seed: int = 0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The same object in another look against another object in the same look: a LOOK_PAIRS and a LOOK_CONTRASTS table.

    Objects are told apart by the label of meaning with most values that two pictures share. Looks are the same by one label, or, as
    'looks', if at least half (ALIKE) of the labels of looks agree. Both tables are empty without labels of both kinds.
    """
    named = [name for name in pairs.of_kind("meaning") if (pairs.labels[name][pairs.different] == 1).any()]
    schemas = [{name: column.dtype for name, column in table.columns.items()} for table in (LOOK_PAIRS, LOOK_CONTRASTS)]
    if not named or not pairs.of_kind("looks"):
        return pl.DataFrame(schema=schemas[0]), pl.DataFrame(schema=schemas[1])
    meaning = min(named, key=lambda name: float(np.nanmean(pairs.labels[name][pairs.different])))  # the finest: fewest pairs agree
    object_ = pairs.labels[meaning]
    times = np.concatenate([np.ones((1, len(ids))), exchange.resample(generator(seed, "look pairs"), draws)])
    agreement = pairs.agreement("looks")
    looks = {"looks": np.where(np.isfinite(agreement), agreement >= ALIKE, np.nan)} | {name: pairs.labels[name] for name in pairs.of_kind("looks")}
    groups, contrasts = [], []
    for look, same in looks.items():
        means = {}
        for same_meaning, same_look in ((True, True), (True, False), (False, True), (False, False)):
            members = pairs.different & (object_ == same_meaning) & (same == same_look)
            means[same_meaning, same_look] = mean = _means(pairs.attribution, members, times)
            low, high = _ends(mean[1:], confidence, exchange.pictures)
            a, b = _typical(pairs.attribution, members)
            groups.append({
                "look": look, "same_meaning": same_meaning, "same_look": same_look, "meaning": meaning, "pairs": int(members.sum()) // 2,
                "similarity": mean[0], "low": low, "high": high,
                "vision": float(_means(pairs.vision, members, times[:1])[0]) if pairs.vision is not None else None,
                "id_a": ids[a] if a is not None else None, "id_b": ids[b] if b is not None else None,
            })  # fmt: skip
        neither = means[False, False]
        for contrast, difference in (
            ("meaning", means[True, False] - neither),
            ("looks", means[False, True] - neither),
            ("meaning - looks", means[True, False] - means[False, True]),
        ):
            low, high = _ends(difference[1:], confidence, exchange.pictures)
            contrasts.append({"look": look, "contrast": contrast, "difference": difference[0], "low": low, "high": high})
    return tuple(pl.DataFrame(rows, schema=schema).fill_nan(None) for rows, schema in zip((groups, contrasts), schemas, strict=True))


def _quadratic(matrix: Float[np.ndarray, "examples examples"], times: Float[np.ndarray, "draws examples"]) -> Float[np.ndarray, "draws"]:
    return ((times @ matrix) * times).sum(1)


def _means(values: np.ndarray, members: Bool[np.ndarray, "examples examples"], times: Float[np.ndarray, "draws examples"]) -> Float[np.ndarray, "draws"]:
    """Mean over the member pairs of each draw; nan where it has none."""
    counts = _quadratic(members.astype(float), times)
    return np.divide(_quadratic(np.where(members, values, 0.0), times), counts, out=np.full(len(times), np.nan), where=counts > 0)


def _partial_correlations(
    variables: list[np.ndarray], usable: Bool[np.ndarray, "examples examples"], times: Float[np.ndarray, "draws examples"]
) -> Float[np.ndarray, "draws"]:
    """Correlation of the first two variables given the others, over the usable pairs of each draw; nan where undefined."""
    cleaned = [np.where(usable, values, 0.0) for values in variables]
    size = len(cleaned)
    counts = _quadratic(usable.astype(float), times)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.stack([_quadratic(values, times) / counts for values in cleaned], 1)
        covariance = np.empty((len(times), size, size))
        for i in range(size):
            for j in range(i + 1):
                covariance[:, i, j] = covariance[:, j, i] = _quadratic(cleaned[i] * cleaned[j], times) / counts - means[:, i] * means[:, j]
        spread = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        correlation = covariance / spread[:, :, None] / spread[:, None, :]
    found = np.full(len(times), np.nan)
    fine = np.isfinite(correlation).all((1, 2)) & (spread > 1e-9).all(1)
    if size == 2:
        found[fine] = correlation[fine, 0, 1]
        return found
    fine[fine] = np.linalg.cond(correlation[fine]) < 1e10
    inverse = np.linalg.inv(correlation[fine])
    found[fine] = -inverse[:, 0, 1] / np.sqrt(inverse[:, 0, 0] * inverse[:, 1, 1])
    return found


def _correlations(
    a: Float[np.ndarray, "examples examples"], b: Float[np.ndarray, "examples examples"], usable: Bool[np.ndarray, "examples examples"],
    orders: Int[np.ndarray, "orders examples"],
) -> Float[np.ndarray, "orders"]:  # fmt: skip
    """Pearson correlation over the usable pairs with the examples of ``a`` in each of these orders; 0 where either does not vary."""
    one, other = np.nonzero(np.triu(usable))
    fixed = b[one, other] - b[one, other].mean()
    found = np.zeros(len(orders))
    step = max(1, _CELLS // max(len(one), 1))
    for start in range(0, len(orders), step):
        block = orders[start : start + step]
        moved = a[block[:, one], block[:, other]]
        moved = moved - moved.mean(1, keepdims=True)
        size = np.sqrt((moved**2).sum(1) * (fixed @ fixed))
        found[start : start + step] = np.divide(moved @ fixed, size, out=np.zeros(len(block)), where=size > 0)
    return found


def _ends(values: Float[np.ndarray, "draws"], confidence: float, pictures: int) -> tuple[float | None, float | None]:
    """Percentiles of the draws in which the number exists; none if those are too few.

    Percentiles are a little too narrow for few units; they are moved outwards as far as Student's t lies beyond the normal distribution (T. C. Hesterberg,
    *What teachers should know about the bootstrap*, Am. Stat. 69, 2015). Where neither meaning nor looks matters at all, the bootstrap of
    means over pairs overstates their error, so intervals are too wide then, never too narrow.
    """
    from scipy.stats import norm, t

    fine = values[np.isfinite(values)]
    if pictures < 3 or not len(values) or len(fine) < _DEFINED * len(values):
        return None, None
    tail = float(norm.sf(np.sqrt(pictures / (pictures - 1)) * t.ppf((1 + confidence) / 2, pictures - 1)))
    low, high = np.quantile(fine, [tail, 1 - tail])
    return float(low), float(high)


def _typical(values: np.ndarray, members: Bool[np.ndarray, "examples examples"]) -> tuple[int | None, int | None]:
    """The pair whose value is nearest to the mean of its group."""
    places: Int[np.ndarray, "pairs 2"] = np.argwhere(np.triu(members))
    if not len(places):
        return None, None
    some = values[places[:, 0], places[:, 1]]
    a, b = places[int(np.argmin(np.abs(some - some.mean())))]
    return int(a), int(b)
