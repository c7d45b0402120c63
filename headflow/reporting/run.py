"""One run, read whole: every table, the model's description and whatever metrics there are."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from headflow.analysis.naming import Naming, name_examples
from headflow.charts import pictures
from headflow.charts.numbers import thinned
from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.reporting import targets
from headflow.tables import catalogue as tables

TABLES = {
    "examples": tables.EXAMPLES, "features": tables.FEATURES, "attention": tables.ATTENTION, "masks": tables.MASKS,
    "attributions": tables.ATTRIBUTIONS, "fits": tables.FITS, "predictions": tables.PREDICTIONS, "head_summary": tables.HEAD_SUMMARY,
    "growth": tables.GROWTH, "head_clusters": tables.HEAD_CLUSTERS, "profiles": tables.PROFILES, "example_map": tables.EXAMPLE_MAP,
    "separation": tables.SEPARATION, "skipped_rows": tables.SKIPPED, "skipped_examples": tables.SKIPPED,
    "effort": tables.EFFORT, "curve_bands": tables.CURVE_BANDS, "area_summary": tables.AREA_SUMMARY,
    "area_differences": tables.AREA_DIFFERENCES, "areas": tables.AREAS, "interactions": tables.INTERACTIONS,
    "interaction_fits": tables.INTERACTION_FITS, "unique_effects": tables.UNIQUE_EFFECTS, "similarities": tables.SIMILARITIES,
    "look_pairs": tables.LOOK_PAIRS, "look_contrasts": tables.LOOK_CONTRASTS, "clusters": tables.CLUSTERS,
    "cluster_names": tables.CLUSTER_NAMES, "cluster_examples": tables.CLUSTER_EXAMPLES, "found_planted": tables.PLANTED_SCORES,
    "own_planted": tables.PLANTED_SCORES, "baseline_heads": tables.BASELINE_HEADS, "baseline_summary": tables.BASELINE_SUMMARY,
    "baseline_agreement": tables.BASELINE_AGREEMENT, "baseline_differences": tables.BASELINE_DIFFERENCES, "baseline_gaps": tables.BASELINE_GAPS,
}  # fmt: skip
"""The tables that a report is made from, by the name under which their paths are given."""

OPTIONAL = ("found_planted", "own_planted", *(name for name in TABLES if name.startswith("baseline_")))
"""Tables that say what headflow finds elsewhere or under other baselines: a report can be made without them, and says so."""

LAYER_COLUMNS = ("layer", "other_layer", "first_layer", "last_layer")
"""Columns of any table that hold a layer's number."""

MOST_PICTURES = 300
THUMBNAIL = 96
"""Longest side of a picture that stands beside others, pixels."""
DESCRIPTION = {"id": str, "dtype": str, "architecture": str, "layers": int, "heads": int, "fingerprint": str}


@dataclass(frozen=True)
class Run:
    """Everything that the report shows of one model."""

    key: str
    params: dict[str, Any]
    model: dict[str, Any]
    metrics: dict[str, dict[str, float | str | bool]]
    examples: pl.DataFrame
    features: pl.DataFrame
    attention: pl.DataFrame
    masks: pl.DataFrame
    attributions: pl.DataFrame
    fits: pl.DataFrame
    predictions: pl.DataFrame
    head_summary: pl.DataFrame
    growth: pl.DataFrame
    head_clusters: pl.DataFrame
    profiles: pl.DataFrame
    example_map: pl.DataFrame
    separation: pl.DataFrame
    skipped_rows: pl.DataFrame
    skipped_examples: pl.DataFrame
    effort: pl.DataFrame
    curve_bands: pl.DataFrame
    area_summary: pl.DataFrame
    area_differences: pl.DataFrame
    areas: pl.DataFrame
    interactions: pl.DataFrame
    interaction_fits: pl.DataFrame
    unique_effects: pl.DataFrame
    similarities: pl.DataFrame
    look_pairs: pl.DataFrame
    look_contrasts: pl.DataFrame
    clusters: pl.DataFrame
    cluster_names: pl.DataFrame
    cluster_examples: pl.DataFrame
    found_planted: pl.DataFrame
    own_planted: pl.DataFrame
    baseline_heads: pl.DataFrame
    baseline_summary: pl.DataFrame
    baseline_agreement: pl.DataFrame
    baseline_differences: pl.DataFrame
    baseline_gaps: pl.DataFrame

    @property
    def unit(self) -> str:
        """Unit of the target."""
        return targets.unit(self.params["features"])

    @property
    def confidence(self) -> float:
        """Level of the confidence intervals."""
        return float(self.params["fit"]["confidence"])

    def level(self, group: str, name: str = "confidence", default: float = 0.95) -> float:
        """A level that a group of the params sets."""
        return float(self.params.get(group, {}).get(name, default))

    @property
    def checks(self) -> dict[str, float | str | bool]:
        """What the checks before the masked runs found; empty if there is no record."""
        recorded = self.metrics.get("run_ablations", {})
        return {name.removeprefix("checks."): value for name, value in recorded.items() if name.startswith("checks.")}

    @property
    def prefix_mode(self) -> str | None:
        """``shared``, ``recomputed`` or ``cross``: how masked runs treated what stands before the text; None = no record."""
        return self.model.get("prefix_mode") or self.metrics.get("run_ablations", {}).get("prefix_mode")

    @property
    def picture_in_prompt(self) -> bool:
        """Whether the picture stands in the prompt; else cross-attention reads it."""
        return self.prefix_mode != "cross" and not self.model.get("image_layers")

    @property
    def reading_layers(self) -> list[int] | None:
        """The decoder layers that read the picture where only some do, by cross-attention; None where all do."""
        return self.model.get("image_layers") or None

    @cached_property
    def explained(self) -> list[str]:
        """Ids of the explained examples, in order."""
        return sorted(self.fits["id"].to_list())

    @cached_property
    def asked(self) -> pl.DataFrame:
        """Examples put to the model, with its answers; one row each, in order."""
        return self.examples.join(self.features, on="id").sort("id")

    @cached_property
    def labels(self) -> pl.DataFrame:
        """``id`` and each label as text."""
        names = [name for name in self.examples.columns if name.startswith(("meaning_", "looks_"))]
        return self.examples.select("id", *(pl.col(name).cast(pl.String) for name in names))

    @property
    def labelled(self) -> bool:
        """Whether the examples carry any label of meaning or looks."""
        return len(self.labels.columns) > 1

    @cached_property
    def naming(self) -> Naming:
        """What the explained examples are called, in order: as the clusters of heads were made."""
        return name_examples(self.examples.filter(pl.col("id").is_in(self.explained)).sort("id"))

    @cached_property
    def names(self) -> pl.DataFrame:
        """``id``, ``name`` and ``category`` of each explained example; without categories a name is its own."""
        category = "meaning_category" if "meaning_category" in self.labels.columns else None
        named = pl.DataFrame({"id": self.explained, "name": self.naming.names}, schema={"id": pl.String, "name": pl.String})
        named = named.join(self.labels, on="id", maintain_order="left")
        return named.select("id", "name", pl.col(category or "name").fill_null(pl.col("name")).alias("category"))

    @cached_property
    def name_order(self) -> list[str]:
        """Names, those of one category together."""
        return self.names.unique(["name", "category"]).sort("category", "name")["name"].unique(maintain_order=True).to_list()

    @cached_property
    def pictures(self) -> pl.DataFrame:
        """``id`` and ``image`` (data URI) of at most MOST_PICTURES explained examples."""
        shown = self.examples.filter(pl.col("id").is_in(self.explained)).sort("id")
        return pictures.with_pictures(thinned(shown, MOST_PICTURES))

    def pictures_of(self, ids: Iterable[str | None]) -> pl.DataFrame:
        """``id`` and ``image`` (data URI) of these examples, thumbnails; an id that is null or unknown has no row."""
        return pictures.with_pictures(self.examples.filter(pl.col("id").is_in([name for name in ids if name])).sort("id"), THUMBNAIL)


def load(key: str, inputs: Mapping[str, str], params: Mapping[str, Any]) -> Run:
    """Read and check all that a report needs.

    Args:
        key: the model's key in the params.
        inputs: path of each of TABLES, of ``model`` (JSON), and of ``metrics`` (one JSON file a stage, each optional).
        params: the params file as plain values.

    Raises:
        HeadflowError: a required input is missing, damaged, or belongs to another run than the rest.
    """
    frames = {name: _read(name, table, inputs) for name, table in TABLES.items()}
    model = read_json(Path(inputs["model"]))
    for name, kind in DESCRIPTION.items():
        if not isinstance(model, dict) or not isinstance(model.get(name), kind):
            raise HeadflowError(f"{inputs['model']}: has no {name!r} ({kind.__name__}); delete it and run `dvc repro` again")
    metrics = {stage: flat(read_json(Path(path))) for stage, path in inputs.get("metrics", {}).items() if Path(path).exists()}
    _check_same_run(frames, model, inputs)
    return Run(key=key, params=dict(params), model=model, metrics=metrics, **_by_decoder_layer(frames, model, inputs))


def _read(name: str, table: tables.Table, inputs: Mapping[str, Any]) -> pl.DataFrame:
    """A table; one of OPTIONAL may be absent and is empty then."""
    if name in OPTIONAL and not Path(inputs.get(name, "")).is_file():
        return pl.DataFrame(schema={column: of.dtype for column, of in table.columns.items()})
    return table.read(Path(inputs[name]))


def _by_decoder_layer(frames: Mapping[str, pl.DataFrame], model: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, pl.DataFrame]:
    """``frames`` with layers by their numbers in the decoder: where only some read the picture, the stages number those alone.

    Raises:
        HeadflowError: the description names other layers than there are.
    """
    if not (through := model.get("image_layers")):
        return dict(frames)
    if len(through) != model["layers"] or sorted(set(through)) != through:
        raise HeadflowError(f"{inputs['model']}: image_layers does not name {model['layers']} layers in order; run `dvc repro`")

    named_frames = {name: by_decoder_layer(frame, through) for name, frame in frames.items()}
    middles = named_frames["head_clusters"].group_by("cluster").agg(middle_layer=(pl.col("layer") * pl.col("share")).sum() / pl.col("share").sum())
    joined = named_frames["clusters"].drop("middle_layer").join(middles, on="cluster", how="left", maintain_order="left")
    named_frames["clusters"] = joined.select(frames["clusters"].columns)
    return named_frames


def by_decoder_layer(frame: pl.DataFrame, through: Sequence[int] | None) -> pl.DataFrame:
    """``frame`` with layers by their numbers in the decoder, of which ``through`` read the picture (None = all)."""
    columns = [name for name in LAYER_COLUMNS if name in frame.columns]
    return frame if through is None else frame.with_columns(pl.col(columns).replace_strict(range(len(through)), through, return_dtype=pl.Int64))


def flat(content: Any, prefix: str = "") -> dict[str, float | str | bool]:
    """Nested metrics with dotted names; numbers that are not finite are left out."""
    if not isinstance(content, dict):
        return {}
    found: dict[str, float | str | bool] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, str | bool) or (isinstance(value, int | float) and math.isfinite(value)):
            found[f"{prefix}{name}"] = value
    return found


def _check_same_run(frames: Mapping[str, pl.DataFrame], model: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Tables of different runs give figures that look right and are wrong."""
    known = set(frames["examples"]["id"])
    for name in ("features", "attributions", "fits", "predictions", "growth", "example_map", "effort", "areas", "interaction_fits", "cluster_examples"):
        if strangers := set(frames[name]["id"].unique()) - known:
            raise HeadflowError(f"{inputs[name]}: example {min(strangers)!r} is not in {inputs['examples']}, so they are of different runs; run `dvc repro`")
    if frames["attributions"].is_empty():
        raise HeadflowError(
            f"{inputs['attributions']}: no example was explained, so there is nothing to report; give more examples or set features.only_correct to false"
        )
    for axis, size in (("layer", model["layers"]), ("head", model["heads"])):
        if frames["attributions"][axis].max() >= size:
            raise HeadflowError(
                f"{inputs['attributions']}: has {axis} {frames['attributions'][axis].max()}, but {inputs['model']} says the model has {size}; run `dvc repro`"
            )
