"""Run every example under every mask, or until it is known well enough, and take gradients; finished work is kept in the result store."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from PIL import ImageOps

from headflow.ablation import BatchSize
from headflow.attribution.adaptive import FIRST, LOOK, run_until_precise
from headflow.attribution.masks import unpack
from headflow.attribution.regression import resolve_estimator
from headflow.attribution.shapley import mask_weights
from headflow.checks import check_intervention
from headflow.execution.runs import run_example, run_gradients
from headflow.execution.store import ResultStore
from headflow.files import write_json
from headflow.models.lvlm import open_picture
from headflow.params import Params
from headflow.progress import Counter, progress
from headflow.tables.ablations import GRADIENTS, MASKS, TARGETS
from stages import paths
from stages.door import enter
from stages.subjects import Subjects, fed_answer


def main(params: Params, key: str) -> None:
    settings, subjects = params.features, Subjects(params, key)
    prepared, model = subjects.prepared, subjects.model
    table = MASKS.read(paths.masks(key))
    corner = (table["purpose"] == "corner").to_numpy()
    corners, corner_numbers = unpack(table.filter(corner)["bits"].to_list(), prepared.layers, prepared.heads), table.filter(corner)["mask"]
    table = table.filter(~corner)
    masks = unpack(table["bits"].to_list(), prepared.layers, prepared.heads)
    starts = [i for i, (before, now) in enumerate(zip([None, *table["purpose"]], table["purpose"], strict=False)) if before != now]
    # Records end where an early stop looks first, in runs without early stops too, so that either kind finds the other's work.
    first_fit = table["purpose"].index_of("fit")
    starts += [first_fit + look for look in (FIRST, LOOK) if first_fit + look < len(masks)]
    # Fit masks stand at the end, so that a run may stop before it has done them all.
    estimator = resolve_estimator(params.fit.estimator, masks[first_fit:], gradients=len(corners) > 0)
    # Plain regression needs two masks a head to tell heads apart.
    least = 0 if estimator in ("prior", "gradient", "lasso") else 2 * prepared.layers * prepared.heads
    weights = mask_weights(masks[first_fit:], params.masks.design, params.masks.estimand)
    first = subjects.rows.row(0, named=True)
    fed = fed_answer(settings.target, first)
    # Its own negative: a picture of the same size that is surely another.
    other = ImageOps.invert(open_picture(first["image"]))
    checks = check_intervention(model.capture(first["image"], first["question"], fed), model.capture(other, first["question"], fed))

    results, slopes = [], []
    work = len(subjects) * (len(masks) + len(corners))
    with ResultStore(Path(params.ablation.store)) as store, progress(f"masked forwards ({key})", work, "masks") as bar:
        for subject in subjects:
            context, prepare = subject.context, cache(subject.prepare)

            def count(computed: int, found: int) -> None:
                bar.advance(computed)
                bar.skip(found)

            options = {"batch_size": params.ablation.batch_size, "done": count}
            gradients = None
            if len(corners):
                at_corners, gradients = run_gradients(store, context, corners, prepare, **options)
                slopes.append(corner_rows(subject.id, corner_numbers, at_corners, gradients))
            if params.masks.precision is None:
                values = run_example(store, context, masks, prepare, starts=starts, **options)
            else:
                others = run_example(store, context, masks[:first_fit], prepare, starts=[start for start in starts if start < first_fit], **options)
                ends = tuple(others[table["purpose"].index_of(purpose)] for purpose in ("intact", "ablated"))
                before = bar.done
                values, _ = run_until_precise(
                    masks[first_fit:], first_masks(store, context, masks[first_fit:], prepare, params.ablation.batch_size, bar), params.masks.precision,
                    least=least, estimator=estimator, gradients=gradients, estimand=params.masks.estimand, ends=ends, weights=weights,
                    names=[subject.id], seed=params.fit.seed,
                )  # fmt: skip
                bar.skip(len(masks) - first_fit - (bar.done - before))  # found in the store, or not needed
                values = np.concatenate([others, values])
            results.append(pl.DataFrame({"id": [subject.id] * len(values), "mask": table["mask"][: len(values)], "target": values.astype(np.float64)}))
    targets = pl.concat(results)
    TARGETS.write(targets, paths.targets(key))
    GRADIENTS.write(pl.concat(slopes) if slopes else pl.DataFrame(schema=_GRADIENTS), paths.gradients(key))
    write_json(
        paths.metrics("run_ablations", key),
        {
            "examples": len(subjects),
            "masks": len(masks),
            "masked_forwards": len(targets),
            "corners": len(corners),
            "gradient_runs": len(subjects) * len(corners),
            "prefix_mode": model.prefix_mode,
            "checks": {name: None if value is None else float(f"{value:.2g}") for name, value in vars(checks).items()},
        },
    )


def first_masks(
    store: ResultStore, context: str, masks: Bool[np.ndarray, "masks layers heads"], prepare: Callable, batch_size: BatchSize, bar: Counter
) -> Callable[[int], Float[np.ndarray, "first"]]:
    """A function that gives the targets of one example under the first so many masks, from the store as far as it has them."""

    def measure(count: int) -> np.ndarray:
        cuts = [start for start in (0, FIRST, LOOK) if start < count]
        # What a look before this one found is not counted again.
        return run_example(store, context, masks[:count], prepare, starts=cuts, batch_size=batch_size, done=lambda computed, _: bar.advance(computed))

    return measure


_GRADIENTS = {name: column.dtype for name, column in GRADIENTS.columns.items()}


def corner_rows(name: str, corners: pl.Series, targets: np.ndarray, gradients: np.ndarray) -> pl.DataFrame:
    """The gradients of one example as rows of a GRADIENTS table."""
    columns = {"id": [name] * len(corners), "mask": corners, "target": targets.astype(np.float64), "gradient": gradients.reshape(len(corners), -1)}
    return pl.DataFrame(columns).cast(_GRADIENTS)


if __name__ == "__main__":
    enter(main)
