"""Heads that serve the same objects, and a map of examples served by the same heads."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from headflow.analysis.distances import cosine_distances
from headflow.tables.clusters import EXAMPLE_MAP, HEAD_CLUSTERS, PROFILES

CLEAR_SILHOUETTE = 0.1  # below it no number of clusters is worth showing


@dataclass(frozen=True)
class HeadClusters:
    """Clusters of heads. ``clear_`` is False if no number of clusters had a silhouette above CLEAR_SILHOUETTE: all heads are then in cluster 0.

    ``cluster_`` is -1, and ``silhouette_`` nan, for heads left out; without clear clusters ``silhouette_`` is nan for all heads.
    ``score_`` is the best mean silhouette over the numbers of clusters tried, nan if there were too few heads to try any.
    """

    cluster_: Int[np.ndarray, "layers heads"]
    share_: Float[np.ndarray, "layers heads"]
    silhouette_: Float[np.ndarray, "layers heads"]
    score_: float
    clear_: bool

    def merged(self) -> "HeadClusters":
        """The same heads in one group, as where no clusters are clear."""
        return replace(self, cluster_=np.minimum(self.cluster_, 0), silhouette_=np.full_like(self.silhouette_, np.nan), clear_=False)

    def table(self) -> pl.DataFrame:
        """As a HEAD_CLUSTERS table; undefined silhouettes are null."""
        layer, head = (index.ravel() for index in np.indices(self.cluster_.shape))
        columns = {
            "layer": layer, "head": head, "cluster": self.cluster_.ravel(), "share": self.share_.ravel(), "silhouette": self.silhouette_.ravel(),
        }  # fmt: skip
        return pl.DataFrame(columns, schema=_schema(HEAD_CLUSTERS)).with_columns(pl.col("silhouette").fill_nan(None))


def profiles(attributions: Float[np.ndarray, "examples layers heads"], names: list[str]) -> pl.DataFrame:
    """Mean attribution of every head over the examples with each object name: a PROFILES table, names in alphabetical order."""
    layers, heads = attributions.shape[1:]
    layer, head = (index.ravel() for index in np.indices((layers, heads)))
    order, mean, count = _profile(attributions, names)
    columns = {
        "layer": np.tile(layer, len(order)), "head": np.tile(head, len(order)), "name": np.repeat(order, layers * heads),
        "attribution": mean.ravel(), "examples": np.repeat(count, layers * heads),
    }  # fmt: skip
    return pl.DataFrame(columns, schema=_schema(PROFILES))


def cluster_heads(attributions: Float[np.ndarray, "examples layers heads"], names: list[str], *, coverage: float = 0.95, max_clusters: int = 8) -> HeadClusters:
    """Group heads whose mean attribution profiles over object names point the same way.

    Average-linkage clustering on cosine distances; of 2 … ``max_clusters`` clusters the number with the best mean silhouette is taken. Nothing
    is drawn at random. Clusters are numbered by falling share of the summed mean |attribution|.

    Args:
        names: object name of each example.
        coverage: only the heads that together hold this share of the summed mean |attribution| are clustered, largest first.
    """
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_samples

    shape = attributions.shape[1:]
    size = np.abs(attributions).mean(0).ravel()
    share = size / size.sum() if size.sum() > 0 else np.zeros_like(size)
    profile = _profile(attributions, names)[1].reshape(-1, size.size).T
    ranked = np.argsort(-share, kind="stable")
    needed = int(np.searchsorted(np.cumsum(share[ranked]), coverage * (1 - 1e-12))) + 1
    chosen = np.sort([index for index in ranked[:needed] if np.any(profile[index])]).astype(int)
    distances = cosine_distances(profile[chosen])
    best, score = np.zeros(len(chosen), int), np.nan
    for number in range(2, min(max_clusters, len(chosen) - 1) + 1):
        labels = AgglomerativeClustering(number, metric="precomputed", linkage="average").fit_predict(distances)
        mean = float(silhouette_samples(distances, labels, metric="precomputed").mean())
        if np.isnan(score) or mean > score + 1e-12:  # of equals the fewest clusters
            best, score = labels, mean
    clear = bool(score > CLEAR_SILHOUETTE)
    best = _by_share(best, share[chosen]) if clear else np.zeros(len(chosen), int)
    cluster, silhouette = np.full(size.size, -1), np.full(size.size, np.nan)
    cluster[chosen] = best
    if clear:
        silhouette[chosen] = silhouette_samples(distances, best, metric="precomputed")
    return HeadClusters(cluster.reshape(shape), share.reshape(shape), silhouette.reshape(shape), score, clear)


def example_map(ids: list[str], vectors: Float[np.ndarray, "examples size"]) -> pl.DataFrame:
    """Examples in the plane, near each other where the same heads matter: an EXAMPLE_MAP table.

    Metric multidimensional scaling of the cosine distances (SMACOF, sklearn.manifold.smacof), started from classical scaling, so nothing is drawn
    at random; turned to its principal axes, the point farthest out along each axis on the positive side.
    """
    from sklearn.manifold import smacof

    distances = cosine_distances(vectors)
    places = np.zeros((len(ids), 2))
    if len(ids) > 2 and distances.any():
        places, _ = smacof(distances, n_components=2, init=_classical_scaling(distances), n_init=1, normalized_stress=False)
        places = places - places.mean(0)
        places = places @ np.linalg.svd(places, full_matrices=False)[2].T
        places *= np.where(places[np.abs(places).argmax(0), [0, 1]] < 0, -1.0, 1.0)
    elif len(ids) == 2:
        places[:, 0] = distances[0, 1] / 2 * np.array([1, -1])
    return pl.DataFrame({"id": ids, "x": places[:, 0], "y": places[:, 1]}, schema=_schema(EXAMPLE_MAP))


def _classical_scaling(distances: Float[np.ndarray, "examples examples"]) -> Float[np.ndarray, "examples 2"]:
    """Places in the plane from the two largest eigenvalues of the doubly centred squares.

    Cosine distances break the triangle inequality, so eigenvalues can be negative; sklearn's ClassicalMDS takes their root all the same.
    """
    squares = distances**2
    centred = squares - squares.mean(0) - squares.mean(1, keepdims=True) + squares.mean()
    values, vectors = np.linalg.eigh(-centred / 2)
    return vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0.0))


def _profile(attributions: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order, codes, counts = np.unique(np.asarray(names, str), return_inverse=True, return_counts=True)
    return order, np.stack([attributions[codes == code].mean(0) for code in range(len(order))]), counts


def _by_share(labels: Int[np.ndarray, "heads"], share: Float[np.ndarray, "heads"]) -> Int[np.ndarray, "heads"]:
    """The same clusters, numbered by falling total share."""
    totals = np.bincount(labels, weights=share)
    return np.argsort(np.argsort(-totals, kind="stable"), kind="stable")[labels]


def _schema(table) -> dict:
    return {name: column.dtype for name, column in table.columns.items()}
