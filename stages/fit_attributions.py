"""Estimate what every head contributes to every example's target, and how far the estimate can be trusted."""

import numpy as np
import polars as pl

from headflow.attribution.frames import gradient_array, masks_done, target_matrix
from headflow.attribution.groups import label_groups, summarise
from headflow.attribution.growth import growth
from headflow.attribution.masks import unpack
from headflow.attribution.regression import fit, in_order, resolve_estimator
from headflow.attribution.results import attributions_table, effort_table, fits_table, predictions_table
from headflow.attribution.shapley import mask_weights
from headflow.errors import HeadflowError
from headflow.files import write_csv, write_json
from headflow.models.prepared import read_prepared
from headflow.params import Params
from headflow.tables.ablations import ATTRIBUTIONS, EFFORT, FITS, GRADIENTS, GROWTH, HEAD_SUMMARY, MASKS, PREDICTIONS, TARGETS
from headflow.tables.examples import EXAMPLES, FEATURES
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
    for purpose in ("fit", "corner", "held_out", "single", "intact", "ablated"):
        rows = table.filter(pl.col("purpose") == purpose).sort("mask")
        numbers[purpose] = rows["mask"].to_list()
        masks[purpose] = unpack(rows["bits"].to_list(), layers, heads)
        if purpose in ("fit", "corner"):  # an example may have been run under a part of the fit masks only
            continue
        outcomes[purpose] = target_matrix(targets, ids, numbers[purpose])
    intact, ablated = outcomes["intact"][:, 0], outcomes["ablated"][:, 0]
    single_effects = (intact[:, None] - outcomes["single"]).reshape(-1, layers, heads)

    gradients = gradient_array(GRADIENTS.read(paths.gradients(model)), ids, numbers["corner"], layers, heads) if numbers["corner"] else None
    # Without an early stop every example has all masks; one that lacks some is then at fault, and target_matrix says so.
    done = np.full(len(ids), len(numbers["fit"])) if params.masks.precision is None else masks_done(targets, ids, numbers["fit"])
    # Decided on all masks, so that an example that needed fewer is not fitted in another way.
    estimator = resolve_estimator(params.fit.estimator, masks["fit"], gradients=gradients is not None)
    options = {"estimator": estimator, "seed": params.fit.seed, "estimand": params.masks.estimand}
    parts, grown = [], []
    for count in np.unique(done):
        mine = np.flatnonzero(done == count)
        names = [ids[i] for i in mine]
        fit_masks, fit_targets = masks["fit"][:count], target_matrix(targets, names, numbers["fit"][:count])
        if count and ((~fit_masks).sum((1, 2)) == 1).all():  # masks of one head each mean something only against the intact model
            fit_masks, fit_targets = np.concatenate([masks["intact"], fit_masks]), np.concatenate([outcomes["intact"][mine], fit_targets], axis=1)
        given = options | {
            "held_out": (masks["held_out"], outcomes["held_out"][mine]), "gradients": None if gradients is None else gradients[mine],
            "weights": mask_weights(fit_masks, params.masks.design, params.masks.estimand),
        }  # fmt: skip
        if params.masks.estimand == "shapley":
            given["ends"] = intact[mine], ablated[mine]
        parts.append((mine, fit(fit_masks, fit_targets, names=names, **given)))
        grown.append(growth(names, fit_masks, fit_targets, **given))
    fitted, grown = in_order(parts), pl.concat(grown)
    effort = effort_table(ids, done, 0 if gradients is None else gradients.shape[1], fitted)

    folder = paths.attributions_dir(model)
    ATTRIBUTIONS.write(attributions_table(ids, fitted, single_effects), folder / "attributions.parquet")
    FITS.write(fits_table(ids, fitted, intact, ablated), folder / "fits.parquet")
    PREDICTIONS.write(predictions_table(ids, numbers["held_out"], outcomes["held_out"], fitted.predict(masks["held_out"])), folder / "predictions.parquet")
    summary = summarise(fitted.attribution_, single_effects, label_groups(examples), confidence=params.fit.confidence)
    HEAD_SUMMARY.write(summary, folder / "head_summary.parquet")
    EFFORT.write(effort, folder / "effort.parquet")
    GROWTH.write(grown, folder / "growth.parquet")

    layer_means = summary.filter(pl.col("group") == "all").group_by("layer", maintain_order=True).agg(pl.col("mean").mean())
    write_csv(layer_means, paths.plot("layers", model))
    write_csv(PREDICTIONS.read(folder / "predictions.parquet").select("id", "mask", "predicted", "actual"), paths.plot("held_out", model))
    write_csv(grown.group_by("masks", maintain_order=True).agg(pl.col("held_out_r", "agreement_r").mean()), paths.plot("growth", model))

    largest = np.abs(fitted.attribution_).max((1, 2))
    relative_standard_errors = np.median(fitted.standard_error_, axis=(1, 2))[largest > 0] / largest[largest > 0]
    relative_errors = effort["relative_error"].fill_null(np.nan).to_numpy()
    write_json(
        paths.metrics("fit_attributions", model),
        {
            "examples": len(ids),
            "fit_masks": len(numbers["fit"]),
            "held_out_masks": len(numbers["held_out"]),
            "corners": len(numbers["corner"]),
            "estimator": fitted.estimator_,
            "estimand": params.masks.estimand,
            "mean_fit_masks": float(done.mean()),
            "mean_forwards": float(effort["forwards"].mean()),
            "mean_relative_error": _over_examples(np.mean, relative_errors),
            "largest_relative_error": _over_examples(np.max, relative_errors),
            "mean_held_out_r": _over_examples(np.mean, fitted.held_out_r_),
            "min_held_out_r": _over_examples(np.min, fitted.held_out_r_),
            "mean_held_out_r2": _over_examples(np.mean, fitted.held_out_r2_),
            "min_held_out_r2": _over_examples(np.min, fitted.held_out_r2_),
            "examples_without_r": int(np.isnan(fitted.held_out_r_).sum()),
            "mean_agreement_r": grown.filter(pl.col("masks") == pl.col("masks").max().over("id"))["agreement_r"].mean(),
            "relative_standard_error": _over_examples(np.mean, relative_standard_errors),
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
