"""How far the clusters of heads can be trusted, and what they serve."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from headflow.reporting.words import chance, counted, interval, listed, number, percent

MOST_NAMED = 3
"""Objects of a cluster that a sentence names."""


def stability(metrics: Mapping[str, Any], clusters: pl.DataFrame) -> str:
    """Whether other pictures would give the same clusters (metrics of the stage cluster_heads)."""
    p = metrics.get("split_half_silhouette_p")
    if clusters.height < 2:
        if p is not None and p > 0.05:
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
    """The objects that each cluster serves more or less than it does others, and the clusters of which that cannot be told."""
    if clusters.is_empty():
        return "No head carried enough to be grouped."
    if clusters.height == 1:
        return f"There is one group only, so no {things} set it apart from another."
    parts, rest = [], []
    for cluster in clusters["cluster"]:
        clear = names.filter(pl.col("cluster") == cluster, pl.col("q") < 0.05).sort("excess", descending=True)
        sides = (("more", clear.filter(pl.col("excess") > 0)["name"]), ("less", clear.filter(pl.col("excess") < 0)["name"].reverse()))
        told = [f"{_few(found)} {how}" for how, found in sides if len(found)]
        if told:
            parts.append(f"cluster {cluster} serves {' and '.join(told)} than other {things}")
        else:
            rest.append(str(cluster))
    if rest:
        any_of = "any cluster" if len(rest) == clusters.height else f"any of clusters {listed(rest)}"
        parts.append(f"that {f'cluster {rest[0]}' if len(rest) == 1 else any_of} serves some {things} more than others cannot be told")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _few(names: pl.Series) -> str:
    """The first names, and how many more there are."""
    return listed([f"“{name}”" for name in names.head(MOST_NAMED)] + ([f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []))


def makeup(row: Mapping[str, Any]) -> str:
    """Heads, layers and share of one cluster (a row of the clusters table)."""
    first, last = row["first_layer"], row["last_layer"]
    layers = f"layer {first}" if first == last else f"layers {first} to {last}, on average {row['middle_layer']:.1f}"
    stable = f"; stability {number(row['stability'])}" if row["stability"] is not None else ""
    return (
        f"{counted(row['heads'], 'head')} of {layers}; strongest L{row['layer']} H{row['head']}; {percent(row['share'])} of the summed size of all attributions"
        f"{stable}"
    )
