"""What the figures about heads and layers show."""

import numpy as np
import polars as pl
from scipy import stats

from headflow.attribution.multiple import holm
from headflow.charts import numbers
from headflow.charts.clusters import grouped
from headflow.reporting.words import correlation, counted, interval, listed, number, percent, spelled

SUBSTANTIAL = 0.25
"""Mean silhouette below which a grouping is usually read as none (Kaufman and Rousseeuw, 1990)."""

ONE_SIGN = 0.8
"""Share of a group's heads that raise the target, or lower it, from which on it is called a matter of sign."""


def head_grid(head_summary: pl.DataFrame, confidence: float = 0.95, unit: str = "logits") -> str:
    """How many heads can be told from zero, beside how many would be by chance, and the largest."""
    rows = numbers.overall(head_summary)
    if rows.is_empty():
        return "It cannot be told: no example was explained."
    known = rows.filter(pl.col("low").is_finite() & pl.col("high").is_finite()).height
    top = rows.sort(pl.col("mean").abs(), descending=True).row(0, named=True)
    if known == 0:
        biggest = f"the largest is layer {top['layer']}, head {top['head']} at {number(top['mean'], signed=True)} {unit}"
        return f"No head has an interval (there are too few examples), so which of them matter cannot be told; {biggest}."
    clear, expected = int(rows["clear"].sum()), known * (1 - confidence)
    many = stats.binom.sf(clear - 1, known, 1 - confidence) < 1 - confidence
    count = (
        f"{spelled(clear) if clear else 'None'} of {known:,} heads {'have intervals' if clear > 1 else 'has an interval'} that "
        f"{'exclude' if clear > 1 else 'excludes'} zero, where chance alone would give about {expected:.1f}"
    )
    if not many:
        return f"{count}: no more than chance explains, so this run cannot tell which heads matter; {_largest('the largest', top, unit)}."
    if top["clear"]:
        return f"{count}; {_largest('the largest', top, unit)}."
    # The largest mean may be the least certain one: then the largest of those that count is named, and the other beside it.
    sure = rows.filter("clear").sort(pl.col("mean").abs(), descending=True).row(0, named=True)
    return f"{count}; {_largest('the largest of them', sure, unit)}; {_largest('larger', top, unit)}, but its own interval includes zero."


def _largest(what: str, row: dict, unit: str) -> str:
    limits = f" ({interval(row['low'], row['high'], signed=True)})" if row["low"] is not None and np.isfinite(row["low"]) else ""
    return f"{what} is layer {row['layer']}, head {row['head']} at {number(row['mean'], signed=True)} {unit}{limits}"


def top_heads(head_summary: pl.DataFrame, unit: str = "logits") -> str:
    """How concentrated attribution is, and whether the first head is clear of the second."""
    rows = numbers.overall(head_summary).sort(pl.col("mean").abs(), descending=True)
    if rows.is_empty():
        return "It cannot be told: no example was explained."
    sizes = rows["mean"].abs().to_numpy()
    if not sizes.sum() > 0:
        return "No head has any attribution."
    half = int(np.searchsorted(np.cumsum(sizes), sizes.sum() / 2) + 1)
    start = f"{spelled(half)} of {counted(rows.height, 'head')} hold{'s' if half == 1 else ''} half of the summed size of all attributions"
    if not rows.head(12)["clear"].any():
        return f"{start}, but none of the strongest is clear of zero, so their order means little."
    first = rows.row(0, named=True)
    lead = (
        f"L{first['layer']} H{first['head']} comes first with {number(first['mean'], signed=True)} {unit} "
        f"({interval(first['low'], first['high'], signed=True)})"
    )
    if not first["clear"]:
        return f"{start}; {lead}, but its own interval includes zero, so which head is first cannot be told."
    ends = sorted((abs(first["low"]), abs(first["high"])))
    # Sizes are compared, as heads are ranked by size; an interval across zero reaches down to size zero.
    rivals = [
        f"L{row['layer']} H{row['head']}"
        for row in rows.slice(1).iter_rows(named=True)
        if row["low"] is not None and max(abs(row["low"]), abs(row["high"])) >= ends[0]
    ]
    if not rivals:
        return f"{start}; {lead}, clear of all others."
    return (
        f"{start}; {lead}, but its interval overlaps that of {rivals[0] if len(rivals) == 1 else f'{len(rivals)} others'}, so which head is first "
        "cannot be told."
    )


def layer_profile(attributions: pl.DataFrame, confidence: float = 0.95, unit: str = "logits") -> str:
    """Which layer carries most, and whether it differs from the next (paired over examples)."""
    rows = numbers.layer_sums(attributions, confidence)
    if rows.is_empty():
        return "It cannot be told: no example was explained."
    ranked = rows.sort(pl.col("mean").abs(), descending=True)
    first = ranked.row(0, named=True)
    total = float(rows["mean"].abs().sum())
    start = (
        f"Of {_layers(rows['layer'].to_list())}, layer {first['layer']} carries most: {number(first['mean'], signed=True)} {unit} "
        f"({interval(first['low'], first['high'], signed=True)})"
    )
    if ranked.height < 2:
        limits = interval(first["low"], first["high"], signed=True)
        return f"There is one layer only, layer {first['layer']}, with {number(first['mean'], signed=True)} {unit} ({limits})."
    if total > 0:
        start += f", {percent(abs(first['mean']) / total)} of the summed size of all layers"
    second = ranked.row(1, named=True)
    by_example = attributions.group_by("id", "layer").agg(pl.col("attribution").sum().alias("sum"))
    pair = by_example.filter(pl.col("layer") == first["layer"]).join(by_example.filter(pl.col("layer") == second["layer"]), on="id", suffix="_other")
    signs = np.sign(first["mean"]), np.sign(second["mean"])
    _, low, high = numbers.interval((pair["sum"] * signs[0] - pair["sum_other"] * signs[1]).to_numpy(), confidence)
    if low > 0:
        return f"{start}; it is ahead of the next, layer {second['layer']}, by {interval(low, high)}."
    return f"{start}; that it is ahead of layer {second['layer']} cannot be told ({_gap(low, high)})."


def _layers(layers: list[int]) -> str:
    """Which layers were looked at; those that read a picture by cross-attention are not all of them."""
    if layers == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
    return f"layers {listed([str(layer) for layer in layers])}" if len(layers) <= 12 else f"{len(layers)} layers between {layers[0]} and {layers[-1]}"


def _gap(low: float, high: float) -> str:
    return f"difference {interval(low, high, signed=True)}" if np.isfinite(low) else "with one example there is no interval"


def effect_sums(attributions: pl.DataFrame, fits: pl.DataFrame, confidence: float = 0.95, unit: str = "logits") -> str:
    """Whether heads cut alone show less than heads cut among many."""
    sums = numbers.effect_sums(attributions, fits)
    known = sums.drop_nulls("singles")
    total, *_ = numbers.interval(sums["total"].to_numpy(), confidence)
    if known.is_empty():
        return (
            f"Cutting all heads at once lowers the target by {number(total)} {unit}; single heads were not cut, so it cannot be told what that "
            "would have shown."
        )
    together, *_ = numbers.interval(known["attributions"].to_numpy(), confidence)
    alone, *_ = numbers.interval(known["singles"].to_numpy(), confidence)
    _, low, high = numbers.interval((known["attributions"] - known["singles"]).to_numpy(), confidence)
    start = (
        f"Cut one at a time, the heads' effects add up to {number(alone)} {unit}, their attributions to {number(together)} (all heads cut at "
        f"once: {number(total)})"
    )
    difference = _gap(low, high)
    if low > 0:
        return f"{start}; a head cut alone shows less than it does among many, as if the others made up for it ({difference})."
    if high < 0:
        return f"{start}; a head cut alone shows more than it does among many, so here the others do not make up for it ({difference})."
    return f"{start}; whether the two sums differ cannot be told ({difference})."


def attention_scatter(heads: pl.DataFrame, confidence: float = 0.95) -> str:
    """Whether attention to the picture finds the heads that matter (``numbers.attention_by_head``)."""
    rho, low, high = numbers.rank_correlation(heads["attention"].to_numpy(), heads["mean"].to_numpy(), confidence)
    if not np.isfinite(rho):
        return "It cannot be told: attention or attribution is the same for every head, or there are too few heads."
    count = min(10, max(1, heads.height // 4))
    most = {column: set(heads.sort(column, descending=True).head(count)["name_of_head"]) for column in ("attention", "mean")}
    shared = len(most["attention"] & most["mean"])
    overlap = (
        f"of the {counted(count, 'head')} with most attention on the picture, {shared} {'is' if shared == 1 else 'are'} among the {count} of "
        f"highest attribution (chance: {count * count / heads.height:.1f})"
    )
    value = f"rank correlation {correlation(rho)} ({interval(low, high)})"
    if low > 0:
        strength = "closely" if low > 0.6 else "partly"
        return f"Attention and attribution {strength} go together ({value}); {overlap}."
    if high < 0:
        return f"Attention and attribution run against each other ({value}); {overlap}."
    return f"That attention goes with attribution cannot be told from these heads ({value}); {overlap}."


def cluster_grid(head_clusters: pl.DataFrame, head_summary: pl.DataFrame | None = None) -> str:
    """How many groups, how clear, what the first one carries, and, given the means, whether two groups differ in sign."""
    head_clusters = grouped(head_clusters)
    if head_clusters.is_empty():
        return "No head carried enough to be grouped."
    if head_clusters["cluster"].n_unique() < 2:
        return f"No grouping was found: the {counted(head_clusters.height, 'head')} that carry enough to be compared do not fall into clear clusters."
    groups = head_clusters.group_by("cluster").agg(pl.len().alias("heads"), pl.col("share").sum()).sort("share", descending=True)
    first = groups.row(0, named=True)
    silhouette = head_clusters["silhouette"].drop_nulls().drop_nans().mean()
    start = (
        f"{spelled(head_clusters.height)} {'head' if head_clusters.height == 1 else 'heads'} {'falls' if head_clusters.height == 1 else 'fall'} "
        f"into {counted(groups.height, 'cluster')}; the strongest (cluster {first['cluster']}, {counted(first['heads'], 'head')}) carries "
        f"{percent(first['share'])} of the summed size of all attributions"
    )
    start += "" if head_summary is None else _signs(head_clusters, head_summary)
    if silhouette is None:
        return f"{start}."
    if silhouette < SUBSTANTIAL:
        return f"{start}, but the clusters are hardly apart (mean silhouette {number(silhouette)}): read them as an ordering, not as kinds of heads."
    return f"{start}; the clusters stand apart with a mean silhouette of {number(silhouette)} (1 would be perfect, 0 none)."


def _signs(head_clusters: pl.DataFrame, head_summary: pl.DataFrame) -> str:
    """That two clusters are little more than the heads that raise the target and those that lower it; nothing where they are more."""
    means = head_clusters.join(head_summary.filter(pl.col("group") == "all").select("layer", "head", "mean"), on=["layer", "head"])
    groups = means.group_by("cluster").agg(pl.len().alias("heads"), (pl.col("mean") > 0).sum().alias("up")).sort("cluster")
    shares = groups["up"] / groups["heads"]
    if groups.height != 2 or max(shares) < ONE_SIGN or min(shares) > 1 - ONE_SIGN:
        return ""
    each = [f"{row['up']} of {counted(row['heads'], 'head')} in cluster {row['cluster']}" for row in groups.iter_rows(named=True)]
    return f"; they differ mostly in sign: on average the target is raised by {listed(each)}"


def cluster_profiles(attributions: pl.DataFrame, names: pl.DataFrame, head_clusters: pl.DataFrame, alpha: float = 0.05, things: str = "objects") -> str:
    """For how many of the grouped heads attribution differs between objects (Kruskal–Wallis over examples, Holm-corrected).

    Args:
        names: ``id`` and ``name``, the main object of each example.
        things: what the names stand for.
    """
    if grouped(head_clusters).is_empty():
        return "It cannot be told: no head carried enough to be compared."
    if things == "examples":
        return f"Whether heads answer to particular things cannot be told: nothing names the {counted(names.height, 'example')}, or all bear one name."
    rows = attributions.join(grouped(head_clusters).select("layer", "head"), on=["layer", "head"]).join(names, on="id").drop_nulls("name")
    tests = []
    for (layer, head), part in rows.group_by("layer", "head", maintain_order=True):
        groups = [group["attribution"].to_numpy() for _, group in part.group_by("name") if group.height >= 2]
        if len(groups) >= 2 and np.ptp(np.concatenate(groups)) > 0:
            tests.append((float(stats.kruskal(*groups).pvalue), layer, head, part))
    if not tests:
        return f"Whether heads differ between {things} cannot be told: too few {things} occur twice."
    p_values = holm([p for p, *_ in tests])
    differ = sum(p < alpha for p in p_values)
    start = f"For {differ} of {counted(len(tests), 'head')} tested, attribution differs between {things} by more than chance explains"
    if differ == 0:
        return f"{start}, so that heads answer to particular {things} cannot be told from this run."
    _, layer, head, part = tests[int(np.argmin(p_values))]
    means = part.group_by("name").agg(pl.col("attribution").mean()).sort("attribution")
    low, high = means.row(0, named=True), means.row(-1, named=True)
    return (
        f"{start}; the plainest case is L{layer} H{head}, from {number(low['attribution'], signed=True)} for “{low['name']}” to "
        f"{number(high['attribution'], signed=True)} for “{high['name']}”."
    )
