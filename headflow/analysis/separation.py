"""Meaning or looks: which labels of the pictures divide the examples as their attribution vectors do?

Three measures for each label, all on cosine distances of attribution vectors: the silhouette (P. J. Rousseeuw, J. Comput. Appl. Math. 20, 1987),
the purity of nearest neighbours, and the share of variance that the groups explain (M. J. Anderson, *A new method for non-parametric
multivariate analysis of variance*, Austral Ecology 26, 2001). Each is compared with the same examples under shuffled labels; several
questions about one picture stay together in it, and are never each other's neighbours or companions.

Labels are not independent: where examples divide by name they divide by category too, as a category is a union of names. So compare
the measures of a coarse label with those of the fine one, never its p-value alone.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from headflow.analysis.distances import cosine_distances
from headflow.analysis.permutations import Exchange
from headflow.seeds import generator
from headflow.tables.clusters import SEPARATION

_CELLS = 4_000_000  # numbers held at once for a block of permutations: 32 MB


@dataclass(frozen=True)
class Measures:
    """Silhouette, purity and explained share for each of some labellings."""

    silhouette: Float[np.ndarray, "labellings"]
    purity: Float[np.ndarray, "labellings"]
    explained: Float[np.ndarray, "labellings"]


def measure(
    distances: Float[np.ndarray, "examples examples"], labellings: Int[np.ndarray, "labellings examples"], neighbours: int = 3,
    picture: Int[np.ndarray, "examples"] | None = None,
) -> Measures:  # fmt: skip
    """The three measures for many labellings of the same examples at once.

    Args:
        distances: 1 - cosine. Their halves are squared distances of vectors of length 1 up to a factor, so that ``explained`` is the
            ordinary share of variance, 1 - within / total, of the vectors' directions; 0 if all distances are 0.
        labellings: values 0 … k-1; in each labelling every value occurs at least twice.
        neighbours: nearest neighbours that count for the purity; at most all others.
        picture: number of each example's picture. Silhouette and purity compare an example with those of other pictures only; where no
            other picture has its value, its silhouette is 0. Default: all different.
    """
    count, values = distances.shape[0], int(labellings.max()) + 1
    different = ~np.eye(count, dtype=bool) if picture is None else picture[:, None] != picture[None]
    near = np.argsort(np.where(different, distances, np.inf), axis=1, kind="stable")[:, : min(neighbours, int(different.sum(1).min()))]
    apart, others = np.where(different, distances, 0.0), different.astype(float)
    total = distances.sum() / (2 * count)
    silhouette, purity, explained = (np.empty(len(labellings)) for _ in range(3))
    step = max(1, _CELLS // (count * values))
    for start in range(0, len(labellings), step):
        block = slice(start, start + step)
        labels = labellings[block]
        members = (labels[:, :, None] == np.arange(values)).astype(float)
        # [labellings, examples, values]: distance to each group's members in other pictures, and their number
        sums, sizes = (np.moveaxis(np.tensordot(matrix, members, (1, 1)), 1, 0) for matrix in (apart, others))
        means = np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)
        within = np.take_along_axis(means, labels[:, :, None], 2)[:, :, 0]
        nearest = np.where((members > 0) | np.isnan(means), np.inf, means).min(2)
        larger = np.maximum(within, nearest)
        fine = (larger > 0) & np.isfinite(larger)
        silhouette[block] = np.divide(nearest - within, larger, out=np.zeros_like(larger), where=fine).mean(1)
        purity[block] = (labels[:, near] == labels[:, :, None]).mean((1, 2))
        inside = np.einsum("lev,lev->lv", members, np.moveaxis(np.tensordot(distances, members, (1, 1)), 1, 0)) / members.sum(1)
        explained[block] = 1 - inside.sum(1) / 2 / total if total > 0 else 0.0
    return Measures(silhouette, purity, explained)


def separation(
    vectors: Float[np.ndarray, "examples size"], labels: pl.DataFrame, *,
    exchange: Exchange | None = None, neighbours: int = 3, permutations: int = 999, seed: int = 0,
) -> pl.DataFrame:  # fmt: skip
    """How well each label divides the examples: a SEPARATION table.

    A row uses the examples whose value occurs in at least two pictures; a label with fewer than two such values is left out. p = (b + 1) /
    (n + 1), where b of n random exchanges of pictures do at least as well; chance levels are their means.

    Args:
        vectors: one attribution vector for each example.
        labels: label columns only, one row for each example; null where an example has no value.
        exchange: which examples are of one picture. Default: all of different ones.
    """
    exchange = exchange or Exchange(range(len(vectors)))
    rows = []
    for label in labels.columns:
        codes = repeated_values(labels[label], exchange.picture)
        used = codes >= 0
        if len(np.unique(codes[used])) < 2:
            continue
        part, codes = exchange.part(used), codes[used]
        shuffled = codes[part.draw(generator(seed, f"separation {label}"), permutations)]
        found = measure(cosine_distances(vectors[used]), np.concatenate([codes[None], shuffled]), neighbours, part.picture)
        row = {"label": label, "kind": label.split("_")[0], "values": len(np.unique(codes)), "examples": len(codes)}
        for name in ("silhouette", "purity", "explained"):
            stock, chance = getattr(found, name)[0], getattr(found, name)[1:]
            row |= {name: stock, f"{name}_chance": chance.mean(), f"{name}_p": (np.sum(chance >= stock - 1e-12) + 1) / (permutations + 1)}
        rows.append(row)
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in SEPARATION.columns.items()})


def repeated_values(values: pl.Series, picture: Int[np.ndarray, "examples"]) -> Int[np.ndarray, "examples"]:
    """A number 0, 1 … for each value that occurs in at least two pictures; -1 for other values and for none."""
    text = values.cast(pl.String)
    frame = pl.DataFrame({"value": text, "picture": picture}, schema={"value": pl.String, "picture": pl.Int64})
    repeated = frame.drop_nulls("value").group_by("value").agg(pl.col("picture").n_unique()).filter(pl.col("picture") > 1)["value"].sort()
    places = {value: place for place, value in enumerate(repeated.to_list())}
    return np.array([places.get(value, -1) for value in text.to_list()], int)
