"""Would other examples of the same kind give the same clusters of heads, and are they more than noise?

*Stability*: pictures are drawn anew with replacement, the same heads grouped anew into as many clusters, and the two groupings compared by the adjusted Rand
index (L. Hubert and P. Arabie, *Comparing partitions*, J. Classification 2, 1985: 1 = the same, 0 = as alike as by chance); for each cluster, the largest
Jaccard similarity with a cluster of the draw (C. Hennig, *Cluster-wise assessment of cluster stability*, Comput. Stat. Data Anal. 52, 2007).

*More than noise*: the silhouette of any grouping of noise is positive, as the grouping was chosen for it. So the pictures are split into halves, heads are
grouped by one half, and the silhouette of that grouping is taken on the other, both ways round. Under the null hypothesis that profiles over names are
noise, heads of one half can be permuted against the other without changing anything, which makes the permutation p-value exact. A permutation of the profiles'
entries would not do: heads that serve one object each fall into perfect clusters however their objects are shuffled. That heads differ reliably does
not yet say that they differ in kinds: a continuum passes this test, with a low silhouette.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headflow.analysis.clusters import HeadClusters
from headflow.analysis.distances import cosine_distances
from headflow.analysis.permutations import Exchange
from headflow.analysis.separation import measure
from headflow.seeds import generator

_LEAST_GROUPINGS = 40  # with fewer no p-value could be well below 0.05, and a high one would mean nothing


@dataclass(frozen=True)
class Stability:
    """How far clusters can be trusted; every number is nan where it is undefined.

    Attributes:
        rand_: mean adjusted Rand index over bootstrap draws, with ``rand_low_`` and ``rand_high_``, the ends of its middle 95 %.
        jaccard_: for each cluster its mean largest Jaccard similarity.
        halves_: mean silhouette of groupings by one half of the pictures, taken on the other.
        halves_chance_, halves_p_: its mean under permuted heads, and its p-value.
    """

    rand_: float
    rand_low_: float
    rand_high_: float
    jaccard_: Float[np.ndarray, "clusters"]
    halves_: float
    halves_chance_: float
    halves_p_: float

    def metrics(self) -> dict[str, float | None]:
        """For a metrics file; undefined numbers are None."""
        numbers = {
            "stability": self.rand_, "stability_low": self.rand_low_, "stability_high": self.rand_high_, "split_half_silhouette": self.halves_,
            "split_half_silhouette_chance": self.halves_chance_, "split_half_silhouette_p": self.halves_p_,
        }  # fmt: skip
        return {name: None if np.isnan(value) else float(value) for name, value in numbers.items()}


def stability(
    attributions: Float[np.ndarray, "examples layers heads"], names: list[str], clusters: HeadClusters, exchange: Exchange, *,
    draws: int = 199, permutations: int = 999, seed: int = 0,
) -> Stability:  # fmt: skip
    """Judge clear clusters of heads by bootstrap and by halves; everything is nan where clusters are not clear.

    Args:
        names: object name of each example, as in :func:`headflow.analysis.clusters.cluster_heads`.
        exchange: which examples are of one picture.
    """
    chosen = np.flatnonzero(clusters.cluster_.ravel() >= 0)
    labels = clusters.cluster_.ravel()[chosen]
    number = int(labels.max(initial=-1)) + 1
    if not clusters.clear_ or number < 2:
        return Stability(*[np.nan] * 3, np.full(max(number, 1), np.nan), *[np.nan] * 3)
    flat = attributions.reshape(len(attributions), -1)[:, chosen]
    codes = np.unique(np.asarray(names, str), return_inverse=True)[1]
    times = exchange.resample(generator(seed, "cluster bootstrap"), draws)
    redrawn = [group(cosine_distances(weighted_profile(flat, codes, weights)), number) for weights in times]
    rand = np.array([adjusted_rand(_shared(labels, other, number)) for other in redrawn])
    jaccard = np.mean([_jaccard(_shared(labels, other, number)) for other in redrawn], axis=0)
    low, high = np.quantile(rand, [0.025, 0.975])
    return Stability(rand.mean(), low, high, jaccard, *_halves(flat, codes, number, exchange, permutations, seed))


def group(distances: Float[np.ndarray, "heads heads"], number: int) -> Int[np.ndarray, "heads"]:
    """At most ``number`` average-linkage clusters, as in :func:`headflow.analysis.clusters.cluster_heads`.

    Without sklearn's checks, which would take most of the time of many draws.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    return fcluster(linkage(squareform(distances, checks=False), method="average"), number, criterion="maxclust") - 1


def weighted_profile(
    flat: Float[np.ndarray, "examples heads"], codes: Int[np.ndarray, "examples"], weights: Float[np.ndarray, "examples"]
) -> Float[np.ndarray, "heads names"]:
    """Weighted mean of every head over the examples of each name; names without weight are left out."""
    members = (codes[:, None] == np.arange(codes.max() + 1)) * np.asarray(weights, float)[:, None]
    present = members.sum(0) > 0
    return flat.T @ (members[:, present] / members[:, present].sum(0))


def _halves(flat, codes, number: int, exchange: Exchange, permutations: int, seed: int) -> tuple[float, float, float]:
    """Silhouette across halves, its chance level and its p-value; nan where fewer than two names have two pictures; p is nan, too, for too few heads."""
    random = generator(seed, "cluster halves")
    half = np.full(exchange.pictures, -1)
    first = np.unique(exchange.picture, return_index=True)[1]  # a picture goes by the name of its first example
    for code in np.unique(codes):
        members = random.permutation(np.flatnonzero(codes[first] == code))
        members = members[: len(members) // 2 * 2]
        half[members] = np.arange(len(members)) % 2
    sides = [weighted_profile(flat, codes, half[exchange.picture] == side) for side in (0, 1)]
    if min(side.shape[1] for side in sides) < 2:
        return np.nan, np.nan, np.nan
    one, other = (cosine_distances(side) for side in sides)
    by_one, by_other = group(one, number), group(other, number)
    orders = np.concatenate([np.arange(len(one))[None], random.permuted(np.tile(np.arange(len(one)), (permutations, 1)), axis=1)])
    # the heads of the second half are permuted: a grouping by the first falls on other heads, and one by the second is carried over
    carried = np.empty_like(orders)
    np.put_along_axis(carried, orders, np.broadcast_to(by_other, orders.shape), axis=1)
    found = (measure(other, by_one[orders]).silhouette + measure(one, carried).silhouette) / 2
    p = float((np.sum(found[1:] >= found[0] - 1e-12) + 1) / (permutations + 1))
    return float(found[0]), float(found[1:].mean()), p if _groupings(by_one) >= _LEAST_GROUPINGS else np.nan


def _groupings(labels: Int[np.ndarray, "heads"]) -> float:
    """Number of different groupings that permuting the heads can give."""
    sizes = np.unique(labels, return_counts=True)[1]
    repeats = np.unique(sizes, return_counts=True)[1]  # clusters of one size can change places without changing the grouping
    return math.exp(math.lgamma(len(labels) + 1) - sum(math.lgamma(size + 1) for size in sizes) - sum(math.lgamma(count + 1) for count in repeats))


def _shared(labels: Int[np.ndarray, "heads"], other: Int[np.ndarray, "heads"], number: int) -> Float[np.ndarray, "clusters clusters"]:
    """How many heads every two clusters of the two groupings share."""
    return np.bincount(labels * number + other, minlength=number * number).reshape(number, number).astype(float)


def adjusted_rand(shared: Float[np.ndarray, "clusters clusters"]) -> float:
    """Adjusted Rand index from the table of shared heads: sklearn's adjusted_rand_score, whose checks would take most of the time of many draws."""
    both, mine, theirs, all_ = (float((some * (some - 1)).sum() / 2) for some in (shared, shared.sum(1), shared.sum(0), shared.sum()))
    chance, most = mine * theirs / max(all_, 1.0), (mine + theirs) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


def _jaccard(shared: Float[np.ndarray, "clusters clusters"]) -> Float[np.ndarray, "clusters"]:
    """For each cluster of the first grouping its largest Jaccard similarity with one of the second."""
    return (shared / (shared.sum(1)[:, None] + shared.sum(0)[None] - shared)).max(1)
