"""How far the clusters of heads can be trusted, and what they serve."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from headflow.reporting.words import chance, counted, interval, listed, number, percent


def stability(metrics: Mapping[str, Any], clusters: pl.DataFrame) -> str:
    """Whether other pictures would give the same clusters (metrics of the stage cluster_heads)."""
    p = metrics.get("split_half_silhouette_p")
    if clusters.height < 2:
        if p is not None:
            return f"Groups found with one half of the pictures do not hold on the other ({chance(p)}): no cluster structure can be told from noise."
        return "No cluster structure was found, so there is nothing to be stable."
    rand = metrics.get("stability")
    if rand is None:
        return "Whether other pictures would give the same clusters cannot be told."
    firm = "stable" if rand >= 0.8 else "partly stable" if rand >= 0.5 else "unstable"
    ends = interval(metrics.get("stability_low"), metrics.get("stability_high"))
    text = f"The clusters are {firm}: drawn anew, pictures give groups that agree with them by {number(rand)} (adjusted Rand index, middle 95% of draws {ends})"
    if p is not None:
        text += f"; groups found with one half of the pictures {'hold' if p < 0.05 else 'cannot be told to hold'} on the other ({chance(p)})"
    weak = clusters.filter(pl.col("stability") < 0.6)["cluster"].to_list()
    return f"{text}; least to be relied on: cluster {listed([str(cluster) for cluster in weak])}." if weak else f"{text}."


def contents(clusters: pl.DataFrame, names: pl.DataFrame, things: str = "objects") -> str:
    """Layers of each cluster and the objects that set it apart."""
    if clusters.is_empty():
        return "No head carried enough to be grouped."
    parts = []
    for row in clusters.iter_rows(named=True):
        set_apart = names.filter(pl.col("cluster") == row["cluster"], pl.col("q") < 0.05, pl.col("excess") > 0)
        clear = set_apart.sort("excess", descending=True)["name"].head(3).to_list()
        layers = f"layer {row['first_layer']}" if row["first_layer"] == row["last_layer"] else f"layers {row['first_layer']} to {row['last_layer']}"
        serves = f"serves {listed([f'“{name}”' for name in clear])} more than other {things}" if clear else f"is set apart by no single one of the {things}"
        parts.append(f"cluster {row['cluster']} ({counted(row['heads'], 'head')}, {layers}, {percent(row['share'])} of the summed attributions) {serves}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
