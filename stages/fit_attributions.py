"""Estimate what every head contributes to every example's target, and how far the estimate can be trusted."""

import numpy as np
import polars as pl

from headflow.attribution.frames import target_matrix
from headflow.attribution.groups import label_groups, summarise
from headflow.attribution.growth import growth
from headflow.attribution.masks import unpack
from headflow.attribution.regression import fit
from headflow.attribution.results import attributions_table, fits_table, predictions_table
from headflow.errors import HeadflowError
from headflow.files import write_csv, write_json
from headflow.models.prepared import read_prepared
from headflow.params import Params
from headflow.tables import ATTRIBUTIONS, EXAMPLES, FEATURES, FITS, GROWTH, HEAD_SUMMARY, MASKS, PREDICTIONS, TARGETS
from stages import paths
from stages.door import enter


def main(params: Params, model: str) -> None:
    """Write attributions, fits, predictions, head summary, growth and metrics of ``model``."""
    prepared = read_prepared(paths.model_dir(model))
    layers, heads = prepared.layers, prepared.heads
    features = FEATURES.read(paths.features_dir(model) / "features.parquet").filter("explained")
    ids = features["id"].to_list()
    if not ids:
        raise HeadflowError(f"{model}: no example is to be explained; the model may answer none correctly (set features.only_correct to false to see)")
    examples = EXAMPLES.read(paths.EXAMPLES)
    if missing := sorted(set(ids) - set(examples["id"])):
        raise HeadflowError(f"{paths.EXAMPLES}: has no example {missing[0]}, which the features name; run `dvc repro`")
    examples = features.select("id").join(examples, on="id", maintain_order="left")
    table, targets = MASKS.read(paths.masks(model)), TARGETS.read(paths.targets(model))
    masks, outcomes, numbers = {}, {}, {}
    for purpose in ("fit", "held_out", "single", "intact", "ablated"):
        rows = table.filter(pl.col("purpose") == purpose).sort("mask")
        numbers[purpose] = rows["mask"].to_list()
        masks[purpose] = unpack(rows["bits"].to_list(), layers, heads)
        outcomes[purpose] = target_matrix(targets, ids, numbers[purpose])
    intact, ablated = outcomes["intact"][:, 0], outcomes["ablated"][:, 0]
    single_effects = (intact[:, None] - outcomes["single"]).reshape(-1, layers, heads)

    fit_masks, fit_targets = masks["fit"], outcomes["fit"]
    if ((~fit_masks).sum((1, 2)) == 1).all():  # masks of one head each mean something only against the intact model
        fit_masks, fit_targets = np.concatenate([masks["intact"], fit_masks]), np.concatenate([outcomes["intact"], fit_targets], axis=1)
    held_out = masks["held_out"], outcomes["held_out"]
    options = {"estimator": params.fit.estimator, "held_out": held_out, "seed": params.fit.seed}
    fitted = fit(fit_masks, fit_targets, names=ids, **options)
    grown = growth(ids, fit_masks, fit_targets, **options)

    folder = paths.attributions_dir(model)
    ATTRIBUTIONS.write(attributions_table(ids, fitted, single_effects), folder / "attributions.parquet")
    FITS.write(fits_table(ids, fitted, intact, ablated), folder / "fits.parquet")
    PREDICTIONS.write(predictions_table(ids, numbers["held_out"], outcomes["held_out"], fitted.predict(masks["held_out"])), folder / "predictions.parquet")
    summary = summarise(fitted.attribution_, single_effects, label_groups(examples), confidence=params.fit.confidence)
    HEAD_SUMMARY.write(summary, folder / "head_summary.parquet")
    GROWTH.write(grown, folder / "growth.parquet")

    layer_means = summary.filter(pl.col("group") == "all").group_by("layer", maintain_order=True).agg(pl.col("mean").mean())
    write_csv(layer_means, paths.plot("layers", model))
    write_csv(PREDICTIONS.read(folder / "predictions.parquet").select("id", "mask", "predicted", "actual"), paths.plot("held_out", model))
    write_csv(grown.group_by("masks", maintain_order=True).agg(pl.col("held_out_r", "agreement_r").mean()), paths.plot("growth", model))

    largest = np.abs(fitted.attribution_).max((1, 2))
    relative_errors = np.median(fitted.standard_error_, axis=(1, 2))[largest > 0] / largest[largest > 0]
    write_json(
        paths.metrics("fit_attributions", model),
        {
            "examples": len(ids),
            "fit_masks": len(numbers["fit"]),
            "held_out_masks": len(numbers["held_out"]),
            "estimator": fitted.estimator_,
            "mean_held_out_r": _over_examples(np.mean, fitted.held_out_r_),
            "min_held_out_r": _over_examples(np.min, fitted.held_out_r_),
            "mean_held_out_r2": _over_examples(np.mean, fitted.held_out_r2_),
            "min_held_out_r2": _over_examples(np.min, fitted.held_out_r2_),
            "examples_without_r": int(np.isnan(fitted.held_out_r_).sum()),
            "mean_agreement_r": grown.filter(pl.col("masks") == len(fit_masks))["agreement_r"].mean(),
            "relative_standard_error": _over_examples(np.mean, relative_errors),
            "mean_total_effect": float((intact - ablated).mean()),
            "mean_sum_of_attributions": float(fitted.attribution_.sum((1, 2)).mean()),
            "mean_sum_of_single_head_effects": float(single_effects.sum((1, 2)).mean()),
            "largest_gap_intact_to_stock": float(np.abs(intact - features["stock_target"].to_numpy()).max()),
        },
    )


def _over_examples(statistic, values: np.ndarray) -> float | None:
    """The statistic over the examples for which the value is defined; None if there are none."""
    defined = values[~np.isnan(values)]
    return float(statistic(defined)) if len(defined) else None


if __name__ == "__main__":
    enter(main)
