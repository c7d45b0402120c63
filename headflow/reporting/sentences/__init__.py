"""One sentence a figure, made from this run's numbers: which way it came out, or that it cannot be told.

Pure functions of tables. None of them says more than an interval, a p-value or a count supports.
"""

from headflow.reporting.sentences.examples import answered, example_map, prompt, scenes, separation, skipped
from headflow.reporting.sentences.heads import attention_scatter, cluster_grid, cluster_profiles, effect_sums, head_grid, layer_profile, top_heads
from headflow.reporting.sentences.trust import checks, fall, growth, held_out

__all__ = [
    "answered", "attention_scatter", "checks", "cluster_grid", "cluster_profiles", "effect_sums", "example_map", "fall", "growth", "head_grid",
    "held_out", "layer_profile", "prompt", "scenes", "separation", "skipped", "top_heads",
]  # fmt: skip
