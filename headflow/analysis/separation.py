"""Meaning or looks: which labels of the pictures divide the examples as their attribution vectors do?

Three measures for each label, all on cosine distances of attribution vectors: the silhouette (P. J. Rousseeuw, J. Comput. Appl. Math. 20, 1987),
the purity of nearest neighbours, and the share of variance that the groups explain (M. J. Anderson, *A new method for non-parametric
multivariate analysis of variance*, Austral Ecology 26, 2001). Each is compared with the same examples under shuffled labels.

Labels are not independent: where examples divide by name they divide by category too, as a category is a union of names. So compare
the measures of a coarse label with those of the fine one, never its p-value alone.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from headflow.analysis.distances import cosine_distances
from headflow.seeds import generator
from headflow.tables import SEPARATION

_CELLS = 4_000_000  # numbers held at once for a block of permutations: 32 MB


@dataclass(frozen=True)
class Measures:
    """Silhouette, purity and explained share for each of some labellings."""

    silhouette: Float[np.ndarray, "labellings"]
    purity: Float[np.ndarray, "labellings"]
    explained: Float[np.ndarray, "labellings"]


def measure(distances: Float[np.ndarray, "examples examples"], labellings: Int[np.ndarray, "labellings examples"], neighbours: int = 3) -> Measures:
    """The three measures for many labellings of the same examples at once.

    Args:
        distances: 1 - cosine. Their halves are squared distances of vectors of length 1 up to a factor, so that ``explained`` is the
            ordinary share of variance, 1 - within / total, of the vectors' directions; 0 if all distances are 0.
        labellings: values 0 … k-1; in each labelling every value occurs at least twice.
        neighbours: nearest neighbours that count for the purity; at most all others.
    """
    count, values = distances.shape[0], int(labellings.max()) + 1
    near = np.argsort(distances + np.diag(np.full(count, np.inf)), axis=1, kind="stable")[:, : min(neighbours, count - 1)]
    total = distances.sum() / (2 * count)
    silhouette, purity, explained = (np.empty(len(labellings)) for _ in range(3))
    step = max(1, _CELLS // (count * values))
    for start in range(0, len(labellings), step):
        block = slice(start, start + step)
        labels = labellings[block]
        members = (labels[:, :, None] == np.arange(values)).astype(float)
        sizes = members.sum(1)[:, None, :]
        sums = np.moveaxis(np.tensordot(distances, members, (1, 1)), 1, 0)  # [labellings, examples, values]: distance to each group
        own_sum = np.take_along_axis(sums, labels[:, :, None], 2)[:, :, 0]
        own_size = np.take_along_axis(np.broadcast_to(sizes, sums.shape), labels[:, :, None], 2)[:, :, 0]
        within = own_sum / (own_size - 1)
        nearest = np.where(members > 0, np.inf, sums / sizes).min(2)
        larger = np.maximum(within, nearest)
        silhouette[block] = np.divide(nearest - within, larger, out=np.zeros_like(larger), where=larger > 0).mean(1)
        purity[block] = (labels[:, near] == labels[:, :, None]).mean((1, 2))
        explained[block] = 1 - (own_sum / own_size).sum(1) / 2 / total if total > 0 else 0.0
    return Measures(silhouette, purity, explained)


def separation(
    vectors: Float[np.ndarray, "examples size"], labels: pl.DataFrame, *, neighbours: int = 3, permutations: int = 999, seed: int = 0
) -> pl.DataFrame:
    """How well each label divides the examples: a SEPARATION table.

    A row uses the examples whose value occurs at least twice; a label with fewer than two such values is left out. p = (b + 1) / (n + 1),
    where b of n random relabellings do at least as well; chance levels are their means.

    Args:
        vectors: one attribution vector for each example.
        labels: label columns only, one row for each example; null where an example has no value.
    """
    rows = []
    for label in labels.columns:
        values = labels[label].cast(pl.String).to_numpy()
        known = np.array([value is not None for value in values], bool)
        _, codes, counts = np.unique(values[known].astype(str), return_inverse=True, return_counts=True)
        repeated = counts >= 2
        if repeated.sum() < 2:
            continue
        used = np.flatnonzero(known)[repeated[codes]]
        codes = np.unique(codes[repeated[codes]], return_inverse=True)[1]
        shuffled = generator(seed, f"separation {label}").permuted(np.tile(codes, (permutations, 1)), axis=1)
        found = measure(cosine_distances(vectors[used]), np.concatenate([codes[None], shuffled]), neighbours)
        row = {"label": label, "kind": label.split("_")[0], "values": int(repeated.sum()), "examples": len(used)}
        for name in ("silhouette", "purity", "explained"):
            stock, chance = getattr(found, name)[0], getattr(found, name)[1:]
            row |= {name: stock, f"{name}_chance": chance.mean(), f"{name}_p": (np.sum(chance >= stock - 1e-12) + 1) / (permutations + 1)}
        rows.append(row)
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in SEPARATION.columns.items()})
