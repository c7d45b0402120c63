"""Where the information goes: the tables of token tracing and of single heads, for the page about them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from headflow.errors import HeadflowError
from headflow.reporting.run import Run, by_decoder_layer
from headflow.tables import catalogue as tables

TABLES = {
    "text_tokens": tables.TEXT_TOKENS, "text_fits": tables.TEXT_FITS, "text_roles": tables.TEXT_ROLES, "text_slots": tables.TEXT_SLOTS,
    "text_contrasts": tables.TEXT_CONTRASTS, "flow_bands": tables.FLOW_BANDS, "flow_depths": tables.FLOW_DEPTHS,
    "flow_contrasts": tables.FLOW_CONTRASTS, "image_tokens": tables.IMAGE_TOKENS, "image_fits": tables.IMAGE_FITS,
    "image_share_means": tables.IMAGE_SHARE_MEANS, "image_sparsity": tables.IMAGE_SPARSITY, "image_curves": tables.IMAGE_CURVES,
    "image_background": tables.IMAGE_BACKGROUND, "kept_bands": tables.KEPT_BANDS, "kept_summary": tables.KEPT_SUMMARY,
    "kept_differences": tables.KEPT_DIFFERENCES, "head_maps": tables.HEAD_MAPS, "cluster_maps": tables.CLUSTER_MAPS,
    "head_words": tables.HEAD_WORDS, "head_writing": tables.HEAD_WRITING,
}  # fmt: skip
"""The tables that the page is made from, by the name under which their paths are given."""

GROUP = "traced"
"""Name under which these paths stand among the report's inputs."""

NUMBERED_ANEW = ("head_maps", "head_words", "head_writing")
"""Tables that count layers along those that read the picture; the others give decoder layers."""


@dataclass(frozen=True)
class Traced:
    """What tracing found out about one run."""

    run: Run
    text_tokens: pl.DataFrame
    text_fits: pl.DataFrame
    text_roles: pl.DataFrame
    text_slots: pl.DataFrame
    text_contrasts: pl.DataFrame
    flow_bands: pl.DataFrame
    flow_depths: pl.DataFrame
    flow_contrasts: pl.DataFrame
    image_tokens: pl.DataFrame
    image_fits: pl.DataFrame
    image_share_means: pl.DataFrame
    image_sparsity: pl.DataFrame
    image_curves: pl.DataFrame
    image_background: pl.DataFrame
    kept_bands: pl.DataFrame
    kept_summary: pl.DataFrame
    kept_differences: pl.DataFrame
    head_maps: pl.DataFrame
    cluster_maps: pl.DataFrame
    head_words: pl.DataFrame
    head_writing: pl.DataFrame

    @cached_property
    def text_totals(self) -> dict[str, float]:
        """Mean fall of the target when these heads are cut at every token; by ``heads``."""
        falls = self.text_fits.group_by("heads").agg((pl.col("intact") - pl.col("ablated")).mean().alias("fall"))
        return dict(falls.iter_rows())


def load(run: Run, inputs: Mapping[str, str]) -> Traced | None:
    """Read and check the tables of tracing; None where there is none of them, as nothing was traced.

    Args:
        run: the run that they belong to.
        inputs: path of each of TABLES.

    Raises:
        HeadflowError: a table is missing, damaged, or of another run.
    """
    if not any(Path(path).is_file() for path in inputs.values()):
        return None
    known, frames = set(run.explained), {}
    for name, table in TABLES.items():
        frame = table.read(Path(inputs[name]))
        if name in NUMBERED_ANEW:
            frame = by_decoder_layer(frame, run.model.get("image_layers"))
        if "id" in frame.columns and (strangers := set(frame["id"].drop_nulls().unique()) - known):
            raise HeadflowError(f"{inputs[name]}: example {min(strangers)!r} is not among those explained, so it is of another run; run `dvc repro`")
        frames[name] = frame
    return Traced(run, **frames)
