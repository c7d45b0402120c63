"""Which pairs of heads compensate for or need each other, and does it help the prediction?"""

import numpy as np
import polars as pl

from headflow.attribution.frames import attribution_grid, masks_done, target_matrix
from headflow.attribution.interactions import find_interactions
from headflow.attribution.masks import unpack
from headflow.attribution.regression import Attribution
from headflow.files import write_json
from headflow.params import Params
from headflow.tables.ablations import ATTRIBUTIONS, FITS, MASKS, TARGETS
from headflow.tables.interactions import INTERACTION_FITS, INTERACTIONS
from stages import paths
from stages.door import enter


def main(params: Params, model: str) -> None:
    """Write interactions, their held-out fits, and metrics of ``model``."""
    settings = params.interactions
    folder = paths.attributions_dir(model)
    ids, grid = attribution_grid(ATTRIBUTIONS.read(folder / "attributions.parquet"))
    fits = pl.DataFrame({"id": ids}).join(FITS.read(folder / "fits.parquet"), on="id", maintain_order="left")
    none = np.zeros(len(ids))
    fitted = Attribution("table", grid, np.zeros_like(grid), fits["intercept"].to_numpy(), none, none)
    table, targets = MASKS.read(paths.masks(model)), TARGETS.read(paths.targets(model))
    masks, numbers = {}, {}
    for purpose in ("fit", "held_out"):
        rows = table.filter(pl.col("purpose") == purpose).sort("mask")
        numbers[purpose] = rows["mask"].to_list()
        masks[purpose] = unpack(rows["bits"].to_list(), *grid.shape[1:])
    # Pairs are chosen by the mean over examples, so on the masks that all of them have seen.
    common = len(numbers["fit"]) if params.masks.precision is None else int(masks_done(targets, ids, numbers["fit"]).min())
    found = find_interactions(
        fitted, masks["fit"][:common], target_matrix(targets, ids, numbers["fit"][:common]),
        (masks["held_out"], target_matrix(targets, ids, numbers["held_out"])),
        ablation_probability=params.masks.ablation_probability, estimand=params.masks.estimand,
        level=settings.level, most=settings.most, confidence=settings.confidence,
    )  # fmt: skip
    folder = paths.interactions_dir(model)
    INTERACTIONS.write(found.table(), folder / "interactions.parquet")
    INTERACTION_FITS.write(found.fits_table(ids), folder / "interaction_fits.parquet")
    counts = {"examples": len(ids), "fit_masks": common, "held_out_masks": len(numbers["held_out"])}
    write_json(paths.metrics("find_interactions", model), {**counts, **found.metrics()})


if __name__ == "__main__":
    enter(main)
