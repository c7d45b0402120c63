"""Groups of heads, and what each group answers to."""

import altair as alt
import polars as pl

from headflow.charts import theme
from headflow.charts.heads import grid_axes, grid_height

MOST_HEADS = 40
MOST_NAMES = 30


def cluster_grid(head_clusters: pl.DataFrame, head_summary: pl.DataFrame) -> alt.LayerChart:
    """Every head coloured by its cluster; pale heads carry too little to be grouped."""
    everywhere = head_summary.filter(pl.col("group") == "all").select("layer", "head")
    rows = theme.drawable(grouped(head_clusters).with_columns(pl.col("cluster").cast(pl.String)))
    y, x = grid_axes(everywhere)
    rest = (
        alt.Chart(everywhere.join(rows, on=["layer", "head"], how="anti"))
        .mark_rect(cornerRadius=2, color=theme.FAINT)
        .encode(y=y, x=x, tooltip=["layer:O", "head:O"])
    )
    cells = (
        alt.Chart(rows)
        .mark_rect(cornerRadius=2)
        .encode(
            y=y,
            x=x,
            color=theme.category("cluster", cluster_names(head_clusters), "cluster", orient="right"),
            tooltip=[
                "layer:O",
                "head:O",
                "cluster:N",
                alt.Tooltip("share:Q", title="share of summed |attribution|", format=".1%"),
                alt.Tooltip("silhouette:Q", format="+.2f"),
            ],
        )
    )
    return (rest + cells).properties(width=theme.WIDTH, height=grid_height(everywhere), autosize=alt.AutoSizeParams(type="fit", contains="padding"))


def cluster_profiles(
    profiles: pl.DataFrame, head_clusters: pl.DataFrame, unit: str = "logits", names: list[str] | None = None, noun: str = "object"
) -> alt.LayerChart:
    """Mean attribution of the strongest clustered heads for each of the most frequent names; heads stand by cluster.

    Args:
        names: all names in the order that they are to stand in; alphabetical if left out.
        noun: what a name stands for.
    """
    heads = theme.drawable(grouped(head_clusters)).sort("share", descending=True).head(MOST_HEADS).sort(["cluster", "share"], descending=[False, True])
    heads = heads.with_columns(pl.format("L{} H{}", "layer", "head").alias("name_of_head"), pl.col("cluster").cast(pl.String))
    order = heads["name_of_head"].to_list()
    columns = shown_names(profiles, names)
    cells = profiles.filter(pl.col("name").is_in(columns)).join(heads.select("layer", "head", "cluster", "name_of_head"), on=["layer", "head"])
    cells = theme.drawable(cells)
    # Order by domain, not by `sort`: that would put the names into an expression, and names may hold anything.
    y = alt.Y("name_of_head:N", scale=alt.Scale(domain=order), title="layer and head, by cluster", axis=alt.Axis(offset=14))
    # The strip beside the names says which rows belong together; it repeats the colours of the cluster grid.
    strip = (
        alt.Chart(heads)
        .mark_rect()
        .encode(y=y, x=alt.value(-13), x2=alt.value(-4), fill=_cluster_fill(head_clusters), tooltip=[alt.Tooltip("name_of_head:N", title="head"), "cluster:N"])
    )
    grid = (
        alt.Chart(cells)
        .mark_rect()
        .encode(
            y=y,
            x=alt.X("name:N", title=noun, scale=alt.Scale(domain=columns), axis=alt.Axis(labelAngle=-40 if len(columns) > 6 else 0, labelLimit=90)),
            color=theme.signed("attribution", cells, f"mean attribution, {unit}", orient="top", direction="horizontal"),
            tooltip=[alt.Tooltip("name_of_head:N", title="head"), "cluster:N", alt.Tooltip("name:N", title=noun),
                     alt.Tooltip("attribution:Q", title=f"mean attribution, {unit}", format="+.3f"), "examples:Q"],
        )
    )  # fmt: skip
    return (grid + strip).properties(width=theme.WIDTH, height=150 + 17 * len(order), autosize=alt.AutoSizeParams(type="fit", contains="padding"))


def shown_names(profiles: pl.DataFrame, names: list[str] | None = None) -> list[str]:
    """The MOST_NAMES names with most examples, in the order of ``names`` (else of the alphabet)."""
    counts = profiles.group_by("name").agg(pl.col("examples").max()).sort(["examples", "name"], descending=[True, False])
    kept = set(counts["name"].head(MOST_NAMES).to_list())
    return [name for name in names or sorted(kept) if name in kept]


def _cluster_fill(head_clusters: pl.DataFrame) -> alt.Fill:
    colours = theme.palette(cluster_names(head_clusters))
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Fill("cluster:N", title="cluster", scale=scale, legend=alt.Legend(orient="top", direction="horizontal"))


def cluster_names(head_clusters: pl.DataFrame) -> list[str]:
    """Every cluster as text, so that a cluster keeps its colour wherever it is drawn."""
    return [str(cluster) for cluster in sorted(grouped(head_clusters)["cluster"].unique().to_list())]


def grouped(head_clusters: pl.DataFrame) -> pl.DataFrame:
    """The heads that carry enough to be grouped; the others are in cluster -1."""
    return head_clusters.filter(pl.col("cluster") >= 0)


def cluster_objects(cluster_names: pl.DataFrame, names: list[str] | None = None, noun: str = "object") -> alt.Chart:
    """Which objects each cluster serves more or less than others: its part of an example's attributions; outlined where q is below 0.05."""
    counts = cluster_names.group_by("name").agg(pl.col("examples").max()).sort(["examples", "name"], descending=[True, False])
    kept = set(counts["name"].head(MOST_NAMES).to_list())
    columns = [name for name in names or sorted(kept) if name in kept]
    cells = theme.drawable(cluster_names.filter(pl.col("name").is_in(list(kept)))).with_columns(
        pl.col("cluster").cast(pl.String), (pl.col("q") < 0.05).fill_null(False).alias("clear")
    )
    return (
        alt.Chart(cells)
        .mark_rect(stroke=theme.INK, cornerRadius=2)
        .encode(
            y=alt.Y("cluster:N", title="cluster"),
            x=alt.X("name:N", title=noun, scale=alt.Scale(domain=columns), axis=alt.Axis(labelAngle=-40 if len(columns) > 6 else 0, labelLimit=90)),
            color=theme.signed("excess", cells, "part of the attributions above that for others", orient="top", direction="horizontal"),
            strokeWidth=alt.condition("datum.clear", alt.value(1.6), alt.value(0)),
            tooltip=["cluster:N", alt.Tooltip("name:N", title=noun), alt.Tooltip("part:Q", format="+.1%"), alt.Tooltip("excess:Q", format="+.1%"),
                     alt.Tooltip("q:Q", format=".3f"), "examples:Q"],
        )
        .properties(width=theme.WIDTH, height=150 + 24 * max(1, cells["cluster"].n_unique()), autosize=alt.AutoSizeParams(type="fit", contains="padding"))
    )  # fmt: skip
