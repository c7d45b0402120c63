"""Altair charts, one function a figure: tables in, a chart out; nothing is read from disk and nothing is drawn twice."""

from headflow.charts.attention import attention_scatter
from headflow.charts.clusters import cluster_grid, cluster_profiles
from headflow.charts.effects import effect_sums
from headflow.charts.examples import example_map, separation
from headflow.charts.fit import growth, held_out
from headflow.charts.heads import head_grid, layer_profile, top_heads

__all__ = [
    "attention_scatter", "cluster_grid", "cluster_profiles", "effect_sums", "example_map", "growth",
    "head_grid", "held_out", "layer_profile", "separation", "top_heads",
]  # fmt: skip
