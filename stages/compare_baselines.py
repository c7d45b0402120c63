"""How much hangs on what ablated heads read? A sample of the examples under several baselines, each with the same masks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from headflow.ablation import BatchSize
from headflow.analysis import baselines as analysis
from headflow.analysis.answers import said
from headflow.attribution.adaptive import FIRST
from headflow.attribution.budget import relative_error
from headflow.attribution.masks import Design, sample_corners, sample_masks
from headflow.attribution.regression import Attribution, fit
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.fingerprint import digest, unit_key
from headflow.execution.records import find_or_make
from headflow.execution.runs import run_example, run_gradients
from headflow.files import write_json
from headflow.params import BaselinesParams, Params
from headflow.seeds import generator
from headflow.tables.baselines import (
    BASELINE_AGREEMENT,
    BASELINE_ATTRIBUTIONS,
    BASELINE_DIFFERENCES,
    BASELINE_FITS,
    BASELINE_GAPS,
    BASELINE_HEADS,
    BASELINE_SUMMARY,
)
from headflow.tables.schema import Table
from stages import paths
from stages.door import enter
from stages.subjects import NoBaseline, Subject, Subjects
from stages.workers import at_work

MEASURES = ("total_effect", "held_out_r", "probability", "candidate")
INTACT, ABLATED = 0, 1
"""The first two masks of every run."""


@dataclass(frozen=True)
class Masks:
    """The masks that every example is run under, with every baseline.

    Attributes:
        corners: with gradients.
        run: all heads intact, all ablated, held-out masks, fit masks.
        starts: where each of these begins, and where records of the main run end.
    """

    corners: Bool[np.ndarray, "corners layers heads"]
    run: Bool[np.ndarray, "masks layers heads"]
    starts: tuple[int, ...]
    held_out: slice
    fit: slice

    @property
    def work(self) -> int:
        return len(self.corners) + len(self.run)


@dataclass(frozen=True)
class Measured:
    """One example under one baseline: targets under the masks, gradients at the corners, and what the model says with all heads and with none.

    Attributes:
        says: the first token with none, as text.
    """

    targets: Float[np.ndarray, " masks"]
    gradients: Float[np.ndarray, "corners layers heads"]
    said: Float[np.ndarray, "2 3"]
    says: str


def main(params: Params, key: str) -> None:
    """Write attributions, fits, means, agreement, differences and gaps of model ``key``, and metrics."""
    settings, subjects = params.baselines, Subjects(params, key)
    masks = masks_of(params, subjects)
    chosen = sample(subjects.ids, settings)
    places = [place for place, name in enumerate(subjects.ids) if name in chosen]
    rows = [subjects.rows.row(place, named=True) for place in places]
    found: dict[str, dict[str, Measured]] = {kind: {} for kind in settings.kinds}
    gaps: list[tuple[str, str | None, str]] = []
    units = [{"baseline": kind, "example": place} for kind in settings.kinds for place in places]
    with at_work("stages.compare_baselines:Baselines", params, key, "compare baselines", len(units) * masks.work, "masks") as run:
        results = list(run(units))
    for unit, one in zip(units, results, strict=True):
        kind, name = unit["baseline"], subjects.ids[unit["example"]]
        if "gap" not in one:
            found[kind][name] = Measured(one["targets"].astype(float), one["gradients"].astype(float), one["said"].astype(float), one["says"])
        elif one["of_all"]:  # told once
            gaps += [(kind, None, one["gap"])] if not any(gap[0] == kind for gap in gaps) else []
        else:
            gaps.append((kind, name, one["gap"]))

    fits = {kind: fitted(list(measured), list(measured.values()), masks, params.masks.estimand) for kind, measured in found.items() if measured}
    table = pl.concat([empty(BASELINE_FITS), *(fits_table(kind, found[kind], fits[kind], rows) for kind in fits)])
    under = together(rows, found, fits, table, masks.run.shape[1:])
    means = analysis.head_means(under, settings.confidence)
    summary = analysis.summarise(under, settings.confidence)
    agreement = analysis.agreement(under, top=settings.top, confidence=settings.confidence)
    differences = analysis.differences(under, confidence=settings.confidence)

    folder = paths.baselines_dir(key)
    attributions = pl.concat([empty(BASELINE_ATTRIBUTIONS), *(attributions_table(kind, list(found[kind]), one) for kind, one in fits.items())])
    BASELINE_ATTRIBUTIONS.write(attributions, folder / "attributions.parquet")
    BASELINE_HEADS.write(means, folder / "heads.parquet")
    BASELINE_FITS.write(table, folder / "fits.parquet")
    BASELINE_SUMMARY.write(summary, folder / "summary.parquet")
    BASELINE_AGREEMENT.write(agreement, folder / "agreement.parquet")
    BASELINE_DIFFERENCES.write(differences, folder / "differences.parquet")
    columns = dict(zip(BASELINE_GAPS.columns, zip(*gaps, strict=True), strict=True)) if gaps else {}
    BASELINE_GAPS.write(pl.DataFrame(columns, schema=empty(BASELINE_GAPS).schema), folder / "gaps.parquet")
    write_json(paths.metrics("compare_baselines", key), metrics(settings, len(rows), found, table, summary, agreement, differences, masks))


class Baselines:
    """What a worker does: the runs of one example under one baseline."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.subjects = Subjects(self.params, key)
        self.masks = masks_of(self.params, self.subjects)

    @lru_cache(maxsize=1)  # noqa: B019 - a worker is one, and lives as long as its process
    def under(self, kind: str) -> Subjects | NoBaseline:
        """The examples under a baseline, or why there is none."""
        try:
            return self.subjects.under(kind)
        except NoBaseline as error:
            return error

    def __call__(self, unit: dict[str, Any], store: Records, count: Count) -> Result:
        counted = 0

        def done(computed: int, known: int) -> None:
            nonlocal counted
            counted += computed + known
            count(computed, known)

        examples = self.under(unit["baseline"])
        try:
            if isinstance(examples, NoBaseline):
                raise examples
            subject = examples[unit["example"]]
            one = measure(store, subject, self.masks, self.params.ablation.batch_size, done)
        except NoBaseline as error:
            count(0, self.masks.work - counted)
            return {"gap": str(error), "of_all": error is examples}
        return {"targets": one.targets, "gradients": one.gradients, "said": one.said, "says": one.says}


def masks_of(params: Params, subjects: Subjects) -> Masks:
    """The masks of a run."""
    prepared = subjects.prepared
    return draw_masks(params.baselines, prepared.layers, prepared.heads, params.masks.estimand, params.masks.ablation_probability)


def draw_masks(settings: BaselinesParams, layers: int, heads: int, estimand: str, ablation_probability: float = 0.5) -> Masks:
    """Masks as the main run draws them by default, only fewer: with its seed, those of its own baseline have been run."""
    shape = (1, layers, heads)
    design: Design = "kernel" if estimand == "shapley" else "foldover_hadamard" if ablation_probability == 0.5 else "bernoulli"
    judges: Design = "kernel" if estimand == "shapley" else "bernoulli"
    drawn: dict[str, Any] = {"ablation_probability": ablation_probability, "seed": settings.seed}
    held_out = sample_masks(layers, heads, settings.held_out, design=judges, stream="held_out", **drawn)
    fit_masks = sample_masks(layers, heads, settings.masks, design=design, **drawn)
    corners = sample_corners(layers, heads, settings.corners, estimand=estimand, **drawn)
    first = 2 + len(held_out)
    starts = (INTACT, ABLATED, 2, first, *((first + FIRST,) if len(fit_masks) > FIRST else ()))
    run = np.concatenate([np.ones(shape, bool), np.zeros(shape, bool), held_out, fit_masks])
    return Masks(corners, run, starts, slice(2, first), slice(first, len(run)))


def sample(ids: list[str], settings: BaselinesParams) -> set[str]:
    """The examples that are compared: a random few, or all."""
    order = generator(settings.seed, "examples under several baselines").permutation(len(ids))
    return {ids[place] for place in order[: settings.examples]}


def measure(store: Records, subject: Subject, masks: Masks, batch: BatchSize, done: Count) -> Measured:
    """Run one example under its baseline; what the store has is not run again.

    Raises:
        NoBaseline: the example cannot be given this baseline.
    """
    prepare = cache(subject.prepare)
    options = {"batch_size": batch, "done": done}
    _, gradients = run_gradients(store, subject.context, masks.corners, prepare, **options)
    targets = run_example(store, subject.context, masks.run, prepare, starts=masks.starts, **options)
    said = answers(store, subject, masks.run[: ABLATED + 1], prepare)
    return Measured(targets.astype(float), gradients.astype(float), said, subject.model.text([int(said[ABLATED, 2])]))


def answers(store: Records, subject: Subject, ends: Bool[np.ndarray, "2 layers heads"], prepare: Callable) -> Float[np.ndarray, "2 3"]:
    """What the model says with all heads and with none, see :func:`headflow.analysis.answers.said`."""

    def make() -> Float[np.ndarray, "2 3"]:
        capture, baseline, target = prepare()
        return said(capture, ends, baseline, target.token)

    known = find_or_make(store, unit_key(digest(subject.context, "said"), ends), make, 3 * len(ends))
    return known.reshape(len(ends), 3).astype(float)


def fitted(ids: list[str], measured: list[Measured], masks: Masks, estimand: str) -> Attribution:
    """Attributions by regression that starts from the gradients, judged on the held-out masks."""
    targets = np.stack([one.targets for one in measured])
    ends = {"ends": (targets[:, INTACT], targets[:, ABLATED])} if estimand == "shapley" else {}
    return fit(
        masks.run[masks.fit], targets[:, masks.fit], estimator="prior", gradients=np.stack([one.gradients for one in measured]), estimand=estimand,
        held_out=(masks.run[masks.held_out], targets[:, masks.held_out]), names=ids, **ends,
    )  # fmt: skip


def fits_table(kind: str, measured: dict[str, Measured], estimate: Attribution, rows: list[dict]) -> pl.DataFrame:
    """The examples under one baseline as a BASELINE_FITS table."""
    known = {row["id"]: row for row in rows}
    error, found = relative_error(estimate), []
    for place, (name, one) in enumerate(measured.items()):
        rivals, token = known[name]["rival_tokens"], int(one.said[ABLATED, 2])
        candidates = {known[name]["answer_tokens"][0], *rivals}
        intact, ablated = one.targets[[INTACT, ABLATED]]
        found.append(
            {
                "id": name, "baseline": kind, "intact": intact, "ablated": ablated, "total_effect": intact - ablated,
                "held_out_r": estimate.held_out_r_[place], "held_out_r2": estimate.held_out_r2_[place],
                "relative_error": error[place] if np.isfinite(error[place]) else np.nan,
                "probability_intact": one.said[INTACT, 0], "probability": one.said[ABLATED, 0], "rank": int(one.said[ABLATED, 1]),
                "says": one.says, "candidate": token in candidates if rivals else None,
            }
        )  # fmt: skip
    return pl.DataFrame(found, schema=empty(BASELINE_FITS).schema).fill_nan(None)


def attributions_table(kind: str, ids: list[str], estimate: Attribution) -> pl.DataFrame:
    """Attributions under one baseline as a BASELINE_ATTRIBUTIONS table."""
    grid = estimate.attribution_
    layer, head = (index.ravel() for index in np.indices(grid.shape[1:]))
    columns = {
        "id": np.repeat(np.asarray(ids, object), grid[0].size), "baseline": [kind] * grid.size, "layer": np.tile(layer, len(ids)),
        "head": np.tile(head, len(ids)), "attribution": grid.ravel(), "standard_error": estimate.standard_error_.ravel(),
    }  # fmt: skip
    return pl.DataFrame(columns, schema=empty(BASELINE_ATTRIBUTIONS).schema)


def together(
    rows: list[dict], found: dict[str, dict[str, Measured]], fits: dict[str, Attribution], table: pl.DataFrame, shape: tuple[int, ...]
) -> analysis.Under:
    """All baselines side by side; nan where an example lacks one."""
    ids = [row["id"] for row in rows]
    place = {name: number for number, name in enumerate(ids)}
    pictures = {picture: number for number, picture in enumerate(dict.fromkeys(row["image"] for row in rows))}
    grids, errors = ({kind: np.full((len(ids), *shape), np.nan) for kind in found} for _ in range(2))
    for kind, estimate in fits.items():
        mine = [place[name] for name in found[kind]]
        grids[kind][mine], errors[kind][mine] = estimate.attribution_, estimate.standard_error_
    measures = {name: {kind: np.full(len(ids), np.nan) for kind in found} for name in MEASURES}
    for row in table.iter_rows(named=True):
        for name in MEASURES:
            measures[name][row["baseline"]][place[row["id"]]] = np.nan if row[name] is None else row[name]
    return analysis.Under(grids, errors, measures, np.array([pictures[row["image"]] for row in rows]))


def metrics(
    settings: BaselinesParams, examples: int, found: dict[str, dict[str, Measured]], table: pl.DataFrame, summary: pl.DataFrame, agreement: pl.DataFrame,
    differences: pl.DataFrame, masks: Masks,
) -> dict:  # fmt: skip
    """What is kept in git: means under each baseline, agreement of every two, and which of them stand apart."""
    runs = sum(map(len, found.values()))
    per_baseline: dict[str, dict] = {kind: {"examples": len(measured)} for kind, measured in found.items()}
    for row in summary.iter_rows(named=True):
        per_baseline[row["baseline"]][row["measure"]] = {"mean": row["mean"], "low": row["low"], "high": row["high"]}
    for (kind,), part in table.group_by("baseline"):
        per_baseline[kind]["median_rank"] = part["rank"].median()
        per_baseline[kind]["mean_relative_error"] = part["relative_error"].mean()
    pairs = {
        f"{row['baseline']} and {row['other']}": {name: row[name] for name in ("r", "low", "high", "ceiling", "overlap", "overlap_low", "overlap_high")}
        for row in agreement.iter_rows(named=True)
    }
    alone = {
        row["baseline"]: {name: row[name] for name in ("difference", "low", "high", "p_holm")}
        for row in differences.filter(pl.col("measure") == "apart").iter_rows(named=True)
    }
    return {
        "examples": examples, "masked_forwards": runs * (len(masks.run) + 2), "gradients": runs * len(masks.corners), "top": settings.top,
        "baselines": per_baseline, "agreement": pairs, "apart": alone,
    }  # fmt: skip


def empty(table: Table) -> pl.DataFrame:
    """The table without rows."""
    return pl.DataFrame(schema={name: column.dtype for name, column in table.columns.items()})


if __name__ == "__main__":
    enter(main)
