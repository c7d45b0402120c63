"""How few image tokens keep the answer, and which choice of tokens gets by with the fewest.

Tokens are ordered by a score and the first k percent of them stay. The *position prior* of an example is the mean attribution of the other
examples' tokens at the same place: what can be known of a picture before it is seen. A curve is summed up by its mean height over the
logarithm of the share of tokens kept, so that from 1 to 10 percent counts as much as from 10 to 100; and by the smallest share from which
on it holds what it is asked to hold. Examples that ask about one picture are no independent draws: they are averaged first, and every interval
is over pictures.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from headflow.attribution import faithfulness
from headflow.attribution.faithfulness import Leader
from headflow.attribution.groups import mean_interval
from headflow.attribution.multiple import holm, paired_p
from headflow.errors import HeadflowError
from headflow.seeds import generator
from headflow.tables.keeping import KEPT, KEPT_BANDS, KEPT_DIFFERENCES, KEPT_SUMMARY
from headflow.tables.schema import Table

SELECTIONS = ("attribution", "attention", "position", "random")
WAYS = ("baseline", "closed", "removed")
MEASURES = ("accuracy", "target")
_COLUMNS = {"accuracy": "right", "target": "target"}


def attribution_scores(table: pl.DataFrame, ids: Sequence[str], selectable: Sequence[Bool[np.ndarray, " image"]]) -> list[Float[np.ndarray, " image"]]:
    """Scores of every example's image span from a table of image-token attributions; structural tokens get none (nan).

    Args:
        table: columns ``id``, ``token`` (place in the image span, 0 = its first) and ``attribution``.
        selectable: which places of each image span are image tokens.

    Raises:
        HeadflowError: an example or one of its image tokens is not in the table, or is there twice, or its attribution is not a number.
    """
    parts = table.select("id", "token", "attribution").partition_by("id", as_dict=True)
    found = []
    for name, wanted in zip(ids, selectable, strict=True):
        part = parts.get((name,))
        scores = np.full(len(wanted), np.nan)
        if part is not None:
            tokens = part["token"].to_numpy()
            if len(np.unique(tokens)) < len(tokens) or (len(tokens) and not 0 <= tokens.min() <= tokens.max() < len(wanted)):
                raise HeadflowError(f"image-token attributions of example {name}: tokens are listed twice, or lie beyond its {len(wanted)} image places")
            scores[tokens] = part["attribution"].cast(pl.Float64).to_numpy()
        if np.isnan(scores[wanted]).any():
            place = int(np.flatnonzero(wanted & np.isnan(scores))[0])
            raise HeadflowError(f"image-token attributions of example {name} lack the image token at place {place}; run `dvc repro`")
        found.append(np.where(wanted, scores, np.nan))
    return found


def position_priors(table: pl.DataFrame, ids: Sequence[str], sizes: Sequence[object], pictures: Sequence[object]) -> list[Float[np.ndarray, " places"] | None]:
    """For each example the mean attribution at each place over the examples of all *other* pictures whose image tokens stand as its own do.

    They do where the same places are listed, and, in a table in which not all examples list the same, where the pictures have one size too.

    Args:
        table: image-token attributions, as in :func:`attribution_scores`.
        sizes: size of each example's picture.
        pictures: examples with the same entry ask about one picture.

    Returns:
        Scores up to the last place listed anywhere, nan where a place is not listed; None for an example that has no such other.
    """
    length = int(table["token"].max() or 0) + 1 if len(table) else 0
    parts = {name: part.select("token", "attribution").to_numpy() for (name,), part in table.partition_by("id", as_dict=True).items()}
    scores = np.full((len(ids), length), np.nan)
    for row, name in zip(scores, ids, strict=True):
        if name in parts:
            row[parts[name][:, 0].astype(int)] = parts[name][:, 1]
    patterns = [row.tobytes() for row in np.isfinite(scores)]
    layouts = patterns if len(set(patterns)) == 1 else list(zip(patterns, sizes, strict=True))
    found: list[np.ndarray | None] = []
    for layout, picture in zip(layouts, pictures, strict=True):
        others = [score for score, a, b in zip(scores, layouts, pictures, strict=True) if a == layout and b != picture]
        found.append(np.mean(others, 0) if others else None)
    return found


def random_scores(ids: Sequence[str], selectable: Sequence[Bool[np.ndarray, " image"]], *, seed: int) -> list[Float[np.ndarray, " image"]]:
    """A random order of the places; it depends on the seed and the example's id alone."""
    return [generator(seed, f"keep tokens {name}").permutation(len(places)).astype(float) for name, places in zip(ids, selectable, strict=True)]


@dataclass(frozen=True)
class Plan:
    """The sets of image tokens that one example's curves need, each of them once.

    Attributes:
        percents: k, from 0 (no image token) to 100.
        sets: no image token, all of them, then what each selection needs that no earlier one needed.
        place: which set each selection takes at each k.
        kept: image tokens in each set.
    """

    percents: Sequence[float]
    sets: Bool[np.ndarray, "sets image"]
    place: dict[str, Int[np.ndarray, " percents"]]
    kept: Int[np.ndarray, " sets"]


def plan(sets: Mapping[str, Sequence[Bool[np.ndarray, " image"]]], percents: Sequence[float]) -> Plan:
    """Number the sets that each selection keeps at each of ``percents``."""
    first = next(iter(sets.values()))
    kept = [np.zeros_like(first[0]), first[-1]]
    known = {row.tobytes(): number for number, row in enumerate(kept)}
    place = {}
    for name, rows in sets.items():
        for row in rows:
            if row.tobytes() not in known:
                known[row.tobytes()] = len(kept)
                kept.append(row)
        place[name] = np.array([known[row.tobytes()] for row in rows])
    stacked = np.stack(kept)
    return Plan(percents, stacked, place, stacked.sum(1))


def kept_rows(id: str, picture: int, way: str, wanted: Plan, results: Float[np.ndarray, "sets 3"]) -> pl.DataFrame:
    """One example's results in one way, as a KEPT table; columns of ``results``: target, first token right, whole answer right."""
    frames = []
    total = int(wanted.kept.max())
    for selection, places in wanted.place.items():
        columns = {
            "id": [id] * len(places), "picture": [picture] * len(places), "way": [way] * len(places),
            "selection": [selection] * len(places), "percent": list(wanted.percents),
            "kept": wanted.kept[places], "of": [total] * len(places), "target": results[places, 0].astype(float),
            "first_right": results[places, 1] > 0.5, "right": results[places, 2] > 0.5,
        }  # fmt: skip
        frames.append(_table(columns, KEPT))
    return pl.concat(frames)


@dataclass(frozen=True)
class _Curves:
    """All examples of one way and selection.

    Attributes:
        share: of the image tokens that stay.
        accuracy, target: of each example.
    """

    ids: list[str]
    pictures: Int[np.ndarray, " examples"]
    percents: Float[np.ndarray, " percents"]
    share: Float[np.ndarray, "examples percents"]
    tokens: Float[np.ndarray, "examples percents"]
    accuracy: Float[np.ndarray, "examples percents"]
    target: Float[np.ndarray, "examples percents"]

    def by_picture(self, values: Float[np.ndarray, "examples *rest"]) -> Float[np.ndarray, "pictures *rest"]:
        return by_picture(values, self.pictures)


def by_picture(values: Float[np.ndarray, "examples *rest"], pictures: Int[np.ndarray, " examples"]) -> Float[np.ndarray, "pictures *rest"]:
    """Mean of each picture's examples."""
    _, place, counts = np.unique(pictures, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, place, values)
    return sums / counts.reshape(-1, *[1] * (values.ndim - 1))


def _curves(kept: pl.DataFrame) -> dict[tuple[str, str], _Curves]:
    found = {}
    for (way, selection), part in kept.group_by("way", "selection", maintain_order=True):
        part = part.sort("id", "percent", maintain_order=True)
        ids = part["id"].unique(maintain_order=True).to_list()
        shaped = {name: part[name].cast(pl.Float64).to_numpy().reshape(len(ids), -1) for name in ("percent", "kept", "of", "target", "right")}
        pictures, share = part["picture"].to_numpy().reshape(len(ids), -1)[:, 0], shaped["kept"] / shaped["of"]
        found[way, selection] = _Curves(ids, pictures, shaped["percent"][0], share, shaped["kept"], shaped["right"], shaped["target"])
    return found


def bands(kept: pl.DataFrame, *, confidence: float = 0.95) -> pl.DataFrame:
    """Accuracy with Wilson's interval and mean target with Student's, over pictures, as a KEPT_BANDS table."""
    rows = []
    for (way, selection), curves in _curves(kept).items():
        accuracy, target = curves.by_picture(curves.accuracy), curves.by_picture(curves.target)
        count = len(target)
        found = {"accuracy": wilson(accuracy.mean(0), count, confidence), "target": mean_interval(target, confidence)}
        for place, percent in enumerate(curves.percents):
            where = (way, selection, float(percent), float(curves.share[:, place].mean()), float(curves.tokens[:, place].mean()))
            rows += [(*where, measure, *(float(end[place]) for end in found[measure]), count) for measure in MEASURES]
    return _rows(rows, KEPT_BANDS)


def wilson(
    shares: Float[np.ndarray, " some"], count: int, confidence: float = 0.95
) -> tuple[Float[np.ndarray, " some"], Float[np.ndarray, " some"], Float[np.ndarray, " some"]]:
    """A share in ``count`` draws with Wilson's interval (E. B. Wilson, JASA 22, 1927); where a draw is a mean of several answers, it is too wide."""
    from scipy.stats import norm

    z2 = norm.ppf((1 + confidence) / 2) ** 2
    middle = (shares + z2 / (2 * count)) / (1 + z2 / count)
    reach = np.sqrt(z2 * (shares * (1 - shares) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return shares, np.clip(middle - reach, 0, 1), np.clip(middle + reach, 0, 1)


def areas(shares: Float[np.ndarray, "examples percents"], values: Float[np.ndarray, "examples percents"]) -> Float[np.ndarray, " examples"]:
    """Mean height of each example's curve over the logarithm of the share of tokens kept, from one token (or the smallest k) to all.

    Where several k come to the same number of tokens, as in small pictures, the step has no width and does not count.
    """
    some = shares[0] > 0
    width = np.log(shares[:, some])
    span = width[:, -1] - width[:, 0]
    area = np.trapezoid(values[:, some], width, axis=1)
    return np.where(span > 0, area / np.where(span > 0, span, 1.0), values[:, some].mean(1))


def smallest(values: Float[np.ndarray, "*some percents"], level: float, floor: Float[np.ndarray, "*some 1"] | float = 0.0) -> Int[np.ndarray, "*some"]:
    """Place of the smallest k from which on every larger one holds ``level`` of what all tokens give above ``floor``; -1 where all give nothing above it.

    Args:
        values: curves, the last value that of all tokens.
        floor: what is had without the picture, or 0.
    """
    whole = values[..., -1:] - floor
    # Rounding of float32 targets may leave a value just below the level.
    holds = values - floor >= level * whole - 1e-6 * np.abs(whole)
    held = np.flip(np.logical_and.accumulate(np.flip(holds, -1), -1), -1)
    return np.where(whole[..., 0] > 0, np.argmax(held, -1), -1)


def summary(kept: pl.DataFrame, *, level: float = 0.95, confidence: float = 0.95, draws: int = 999, seed: int = 0) -> pl.DataFrame:
    """Area of every curve and the smallest share of tokens that holds ``level``, as a KEPT_SUMMARY table.

    Accuracy holds it when it is at least ``level`` of the accuracy with all tokens; the target when at least that part of its rise from no
    image token to all of them is there. Both are read off the mean over pictures; the interval of the smallest share is the percentile
    bootstrap over pictures, its ends k that were measured (B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
    """
    rows = []
    for (way, selection), curves in _curves(kept).items():
        count, some = len(np.unique(curves.pictures)), curves.percents > 0
        # The same draws for every selection and way: their ends differ by their curves alone.
        drawn = generator(seed, "keep tokens bootstrap").integers(0, count, (draws, count))
        for measure in MEASURES:
            area, low, high = mean_interval(curves.by_picture(areas(curves.share, getattr(curves, measure))), confidence)
            values = curves.by_picture(getattr(curves, measure))
            means = np.concatenate([values.mean(0)[None], values[drawn].mean(1)])
            floor = means[:, :1] if measure == "target" else 0.0
            places = smallest(means[:, some], level, floor)
            shares, tokens = curves.share[:, some].mean(0), curves.tokens[:, some].mean(0)
            known = places[1:][places[1:] >= 0]
            ends = [float(shares[int(end)]) for end in np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")] if (
                places[0] >= 0 and len(known) == draws and count > 1
            ) else [np.nan, np.nan]  # fmt: skip
            least = (float(shares[places[0]]), float(tokens[places[0]])) if places[0] >= 0 else (np.nan, np.nan)
            rows.append((way, selection, measure, float(area), float(low), float(high), float(means[0, -1]), float(means[0, 0]), level, *least, *ends, count))
    return _rows(rows, KEPT_SUMMARY)


def differences(kept: pl.DataFrame, *, confidence: float = 0.95) -> pl.DataFrame:
    """Differences in area between every two selections of one way and measure, on the examples that both have, as a KEPT_DIFFERENCES table.

    Both selections see the same pictures, so that differences are taken within each picture: Student's paired t; ``p_holm`` corrects for all
    pairs of the same way and measure (S. Holm, Scandinavian Journal of Statistics 6, 1979).
    """
    curves, rows = _curves(kept), []
    pictures = dict(kept.select("id", "picture").unique().iter_rows())
    for way, measure in itertools.product(dict.fromkeys(way for way, _ in curves), MEASURES):
        heights = {
            selection: dict(zip(found.ids, areas(found.share, getattr(found, measure)), strict=True))
            for (other, selection), found in curves.items()
            if other == way
        }
        tested = []
        for one, other in itertools.combinations(heights, 2):
            both = [id for id in heights[one] if id in heights[other]]
            within = np.array([heights[one][id] - heights[other][id] for id in both])
            within = by_picture(within, np.array([pictures[id] for id in both]))
            mean, low, high = mean_interval(within, confidence) if both else (np.nan, np.nan, np.nan)
            tested.append([way, measure, one, other, float(mean), float(low), float(high), float(paired_p(within)), len(within)])
        for row, adjusted in zip(tested, holm([row[7] for row in tested]) if tested else [], strict=True):
            rows.append((*row[:8], adjusted, row[8]))
    return _rows(rows, KEPT_DIFFERENCES)


def leader(summaries: pl.DataFrame, found: pl.DataFrame, *, way: str, measure: str, alpha: float = 0.05) -> Leader | None:
    """The selection of largest mean area, and which others it can be told from, by a KEPT_SUMMARY and a KEPT_DIFFERENCES table."""
    names = {"way": "scope", "selection": "ranking"}
    return faithfulness.leader(summaries.rename(names), found.rename(names), scope=way, measure=measure, alpha=alpha)


def _rows(rows: Sequence[Sequence[object]], table: Table) -> pl.DataFrame:
    return _table(dict(zip(table.columns, zip(*rows, strict=True), strict=True)) if rows else {}, table)


def _table(columns: Mapping[str, object], table: Table) -> pl.DataFrame:
    return pl.DataFrame(columns, schema={name: column.dtype for name, column in table.columns.items()}).fill_nan(None)
