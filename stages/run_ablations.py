"""Run every example under every mask, or until it is known well enough, and take gradients; finished work is kept in the result store."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from PIL import ImageOps

from headflow.attribution.adaptive import FIRST, LOOK, run_until_precise
from headflow.attribution.masks import unpack
from headflow.attribution.regression import resolve_estimator
from headflow.attribution.shapley import mask_weights
from headflow.checks import check_intervention
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.runs import blocks, run_example, run_gradients
from headflow.files import write_json
from headflow.models.lvlm import open_picture
from headflow.models.prepared import PreparedModel
from headflow.params import Params
from headflow.tables.ablations import GRADIENTS, MASKS, TARGETS
from stages import paths
from stages.door import enter
from stages.subjects import Subject, Subjects, fed_answer
from stages.workers import at_work

_UNIT = 1024
"""Masks of one example that a worker runs on end, at most."""


def main(params: Params, key: str) -> None:
    subjects = Subjects(params, key)
    plan = read_plan(params, key, subjects.prepared)
    units = plan_units(len(subjects), plan)
    work = len(subjects) * (len(plan.masks) + len(plan.corners))
    with at_work("stages.run_ablations:Ablations", params, key, "masked forwards", work, "masks") as run:
        checked, *found = run([{"check": True}, *units])
    values: list[list[np.ndarray]] = [[] for _ in subjects.ids]
    slopes = []
    for unit, result in zip(units, found, strict=True):
        values[unit["example"]].append(result["targets"])
        if "gradients" in result:
            slopes.append(corner_rows(subjects.ids[unit["example"]], plan.corner_numbers, result["at_corners"], result["gradients"]))
    targets = pl.concat(target_rows(name, plan.numbers, np.concatenate(parts)) for name, parts in zip(subjects.ids, values, strict=True))
    TARGETS.write(targets, paths.targets(key))
    GRADIENTS.write(pl.concat(slopes) if slopes else pl.DataFrame(schema=_GRADIENTS), paths.gradients(key))
    write_json(
        paths.metrics("run_ablations", key),
        {
            "examples": len(subjects),
            "masks": len(plan.masks),
            "masked_forwards": len(targets),
            "corners": len(plan.corners),
            "gradient_runs": len(subjects) * len(plan.corners),
            "prefix_mode": checked["prefix_mode"],
            "checks": {name: None if value is None else float(f"{value:.2g}") for name, value in checked["checks"].items()},
        },
    )


@dataclass(frozen=True)
class Plan:
    """The masks of every example.

    Attributes:
        masks: fit masks stand at the end, so that a run may stop before it has done them all.
        numbers: of the masks in the table.
        starts: where a new group of masks begins, and where records of the fit masks end.
        first_fit: the first fit mask.
        purpose: of each mask.
    """

    masks: Bool[np.ndarray, "masks layers heads"]
    numbers: pl.Series
    starts: list[int]
    first_fit: int
    purpose: pl.Series
    corners: Bool[np.ndarray, "corners layers heads"]
    corner_numbers: pl.Series
    until_precise: bool


def read_plan(params: Params, key: str, prepared: PreparedModel) -> Plan:
    """The masks that stage sample_masks has drawn."""
    table = MASKS.read(paths.masks(key))
    corner = (table["purpose"] == "corner").to_numpy()
    corners, corner_numbers = unpack(table.filter(corner)["bits"].to_list(), prepared.layers, prepared.heads), table.filter(corner)["mask"]
    table = table.filter(~corner)
    masks = unpack(table["bits"].to_list(), prepared.layers, prepared.heads)
    starts = [i for i, (before, now) in enumerate(zip([None, *table["purpose"]], table["purpose"], strict=False)) if before != now]
    # Records end where an early stop looks first, in runs without early stops too, so that either kind finds the other's work.
    first_fit = table["purpose"].index_of("fit")
    starts += [first_fit + look for look in (FIRST, LOOK) if first_fit + look < len(masks)]
    return Plan(masks, table["mask"], starts, first_fit, table["purpose"], corners, corner_numbers, params.masks.precision is not None)


def plan_units(examples: int, plan: Plan) -> list[dict[str, int]]:
    """Units of work, example by example: its masks in stretches of whole records. Where a run may stop early, all of an example is one unit."""
    stretches, count = [], len(plan.masks)
    for span in [slice(0, count)] if plan.until_precise else blocks(count, plan.starts):
        if stretches and span.stop - stretches[-1][0] <= _UNIT:
            stretches[-1] = (stretches[-1][0], span.stop)
        else:
            stretches.append((span.start, span.stop))
    return [{"example": example, "start": start, "stop": stop} for example in range(examples) for start, stop in stretches]


class Ablations:
    """What a worker does: the masked runs of a stretch of masks, with the gradients before the first of them; and the checks of the model."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.subjects = Subjects(self.params, key)
        self.plan = read_plan(self.params, key, self.subjects.prepared)
        self._example, self._prepare = -1, None

    def __call__(self, unit: dict[str, Any], store: Records, count: Count) -> Result:
        if unit.get("check"):
            return self.check()
        subject, plan = self.subjects[unit["example"]], self.plan
        if unit["example"] != self._example:  # a worker often gets the next stretch of the same example
            self._example, self._prepare = unit["example"], cache(subject.prepare)
        options = {"batch_size": self.params.ablation.batch_size, "done": count}
        result: Result = {}
        if len(plan.corners) and unit["start"] == 0:
            result["at_corners"], result["gradients"] = run_gradients(store, subject.context, plan.corners, self._prepare, **options)
        if plan.until_precise:
            result["targets"] = self.run_until_precise(store, subject, result.get("gradients"), count)
        else:
            here = slice(unit["start"], unit["stop"])
            starts = [start - here.start for start in plan.starts if here.start <= start < here.stop]
            result["targets"] = run_example(store, subject.context, plan.masks[here], self._prepare, starts=starts, **options)
        return result

    def check(self) -> Result:
        """Whether interventions on this model are real."""
        model, first = self.subjects.model, self.subjects.rows.row(0, named=True)
        fed = fed_answer(self.params.features.target, first)
        # Its own negative: a picture of the same size that is surely another.
        other = ImageOps.invert(open_picture(first["image"]))
        checks = check_intervention(model.capture(first["image"], first["question"], fed), model.capture(other, first["question"], fed))
        return {"prefix_mode": model.prefix_mode, "checks": vars(checks)}

    def run_until_precise(self, store: Records, subject: Subject, gradients: np.ndarray | None, count: Count) -> Float[np.ndarray, "first"]:
        """Targets of one example under as many masks as it needs."""
        params, plan, batch = self.params, self.plan, self.params.ablation.batch_size
        starts = [start for start in plan.starts if start < plan.first_fit]
        others = run_example(store, subject.context, plan.masks[: plan.first_fit], self._prepare, starts=starts, batch_size=batch, done=count)
        ends = tuple(others[plan.purpose.index_of(purpose)] for purpose in ("intact", "ablated"))
        fit_masks, computed = plan.masks[plan.first_fit :], 0

        def done(now: int, _: int) -> None:  # what a look before this one found is not counted again
            nonlocal computed
            computed += now
            count(now, 0)

        values, _ = run_until_precise(
            fit_masks, first_masks(store, subject.context, fit_masks, self._prepare, batch, done), params.masks.precision, gradients=gradients, ends=ends,
            estimand=params.masks.estimand, names=[subject.id], seed=params.fit.seed, **self._fitted,
        )  # fmt: skip
        count(0, len(fit_masks) - computed)  # found in the store, or not needed
        return np.concatenate([others, values])

    @cached_property
    def _fitted(self) -> dict[str, Any]:
        """How examples are fitted to see whether they are known well enough."""
        params, plan, prepared = self.params, self.plan, self.subjects.prepared
        fit_masks = plan.masks[plan.first_fit :]
        estimator = resolve_estimator(params.fit.estimator, fit_masks, gradients=len(plan.corners) > 0)
        # Plain regression needs two masks a head to tell heads apart.
        least = 0 if estimator in ("prior", "gradient", "lasso") else 2 * prepared.layers * prepared.heads
        return {"least": least, "estimator": estimator, "weights": mask_weights(fit_masks, params.masks.design, params.masks.estimand)}


def first_masks(
    store: Records, context: str, masks: Bool[np.ndarray, "masks layers heads"], prepare: Callable, batch_size: Any, done: Count
) -> Callable[[int], Float[np.ndarray, "first"]]:
    """A function that gives the targets of one example under the first so many masks, from the store as far as it has them."""

    def measure(count: int) -> np.ndarray:
        cuts = [start for start in (0, FIRST, LOOK) if start < count]
        return run_example(store, context, masks[:count], prepare, starts=cuts, batch_size=batch_size, done=done)

    return measure


_GRADIENTS = {name: column.dtype for name, column in GRADIENTS.columns.items()}


def target_rows(name: str, masks: pl.Series, targets: np.ndarray) -> pl.DataFrame:
    """The targets of one example, under the first so many masks, as rows of a TARGETS table."""
    return pl.DataFrame({"id": [name] * len(targets), "mask": masks[: len(targets)], "target": targets.astype(np.float64)})


def corner_rows(name: str, corners: pl.Series, targets: np.ndarray, gradients: np.ndarray) -> pl.DataFrame:
    """The gradients of one example as rows of a GRADIENTS table."""
    columns = {"id": [name] * len(corners), "mask": corners, "target": targets.astype(np.float64), "gradient": gradients.reshape(len(corners), -1)}
    return pl.DataFrame(columns).cast(_GRADIENTS)


if __name__ == "__main__":
    enter(main)
