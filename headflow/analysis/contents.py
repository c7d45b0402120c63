"""What each cluster of heads is made of: its layers, the objects that it answers to, and the pictures that show it best."""

import numpy as np
import polars as pl
from jaxtyping import Float

from headflow.analysis.clusters import HeadClusters
from headflow.analysis.permutations import Exchange
from headflow.tables.clusters import CLUSTER_EXAMPLES, CLUSTER_NAMES, CLUSTERS
from headflow.tables.schema import Table


def clusters_table(clusters: HeadClusters, jaccard: Float[np.ndarray, "clusters"]) -> pl.DataFrame:
    """One row a cluster, as a CLUSTERS table. ``jaccard`` is null where it is nan (:class:`headflow.analysis.stability.Stability`)."""
    rows = []
    for cluster in range(int(clusters.cluster_.max(initial=-1)) + 1):
        layer, head = np.nonzero(clusters.cluster_ == cluster)
        share, silhouette = clusters.share_[layer, head], clusters.silhouette_[layer, head]
        largest = int(np.argmax(share))
        rows.append({
            "cluster": cluster, "heads": len(layer), "share": share.sum(), "silhouette": silhouette.mean(), "stability": float(jaccard[cluster]),
            "first_layer": int(layer.min()), "middle_layer": float(np.average(layer, weights=share if share.sum() > 0 else None)),
            "last_layer": int(layer.max()), "layer": int(layer[largest]), "head": int(head[largest]),
        })  # fmt: skip
    return pl.DataFrame(rows, schema=_schema(CLUSTERS)).fill_nan(None)


def cluster_names(attributions: Float[np.ndarray, "examples layers heads"], names: list[str], clusters: HeadClusters, exchange: Exchange) -> pl.DataFrame:
    """How much each cluster answers to each object, against all other objects: a CLUSTER_NAMES table, largest excess first.

    Compared are a cluster's *parts* of the examples' summed |attribution|, as some objects raise all attributions and that characterises no cluster.
    Several examples of one picture and name count once, by their mean. q holds over all clusters and names of the table.
    """
    from scipy.stats import false_discovery_control, mannwhitneyu

    sizes = np.abs(attributions).sum((1, 2))
    rows = []
    for cluster, sums in _sums(attributions, clusters):
        units = pl.DataFrame(
            {"picture": exchange.picture, "name": names, "sum": sums, "part": np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)},
            schema={"picture": pl.Int64, "name": pl.String, "sum": pl.Float64, "part": pl.Float64},
        )
        units = units.group_by("picture", "name").agg(pl.col("sum", "part").mean(), pl.len()).sort("picture", "name")
        for name in sorted(set(names)):
            mine, others = (units.filter(condition) for condition in (pl.col("name") == name, pl.col("name") != name))
            p = float(mannwhitneyu(mine["part"], others["part"]).pvalue) if min(len(mine), len(others)) > 1 else None
            excess = mine["part"].mean() - others["part"].mean() if len(others) else 0.0
            rows.append({
                "cluster": cluster, "name": name, "examples": int(mine["len"].sum()), "attribution": mine["sum"].mean(), "part": mine["part"].mean(),
                "excess": excess, "p": p, "q": None,
            })  # fmt: skip
    tested = [place for place, row in enumerate(rows) if row["p"] is not None]
    for place, q in zip(tested, false_discovery_control([rows[place]["p"] for place in tested]) if tested else [], strict=True):
        rows[place]["q"] = float(q)
    return pl.DataFrame(rows, schema=_schema(CLUSTER_NAMES)).sort(["cluster", "excess", "name"], descending=[False, True, False])


def cluster_examples(
    ids: list[str], attributions: Float[np.ndarray, "examples layers heads"], clusters: HeadClusters, exchange: Exchange, *, most: int = 6
) -> pl.DataFrame:
    """The examples that rest most on each cluster, at most one a picture: a CLUSTER_EXAMPLES table."""
    sizes = np.abs(attributions).sum((1, 2))
    rows = []
    for cluster, sums in _sums(attributions, clusters):
        mine = np.abs(attributions[:, clusters.cluster_ == cluster]).sum(1)
        share = np.divide(mine, sizes, out=np.zeros_like(mine), where=sizes > 0)
        shown: set[int] = set()
        for example in sorted(range(len(ids)), key=lambda index: (-share[index], ids[index])):
            if len(shown) < most and (picture := int(exchange.picture[example])) not in shown:
                shown.add(picture)
                rows.append({"cluster": cluster, "rank": len(shown), "id": ids[example], "share": float(share[example]), "attribution": float(sums[example])})
    return pl.DataFrame(rows, schema=_schema(CLUSTER_EXAMPLES))


def _sums(attributions: np.ndarray, clusters: HeadClusters) -> list[tuple[int, Float[np.ndarray, "examples"]]]:
    """Each cluster with its attribution in every example, summed over its heads."""
    return [(cluster, attributions[:, clusters.cluster_ == cluster].sum(1)) for cluster in range(int(clusters.cluster_.max(initial=-1)) + 1)]


def _schema(table: Table) -> dict:
    return {name: column.dtype for name, column in table.columns.items()}
