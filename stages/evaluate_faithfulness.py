"""Which order of the heads puts those first that carry the picture: head attribution, or one of its rivals?"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from headflow.ablation import BatchSize, gate_gradients
from headflow.attribution import faithfulness, rankings
from headflow.attribution.frames import attribution_grid
from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.fingerprint import record_key
from headflow.execution.records import find_or_make
from headflow.execution.runs import run_example
from headflow.files import write_csv, write_json
from headflow.params import FaithfulnessParams, Params
from headflow.tables.ablations import ATTRIBUTIONS
from headflow.tables.examples import ATTENTION
from headflow.tables.faithfulness import AREA_DIFFERENCES, AREA_SUMMARY, AREAS, CURVE_BANDS, CURVES, RANKINGS
from stages import paths
from stages.door import enter
from stages.subjects import Subject, Subjects
from stages.workers import at_work

SCOPES = ("own", "shared")
OWN_RUNS = ("restoration", "gradient", "integrated")
"""Rankings whose scores need runs of their own."""


def main(params: Params, key: str) -> None:
    """Write rankings, curves and areas, their means over examples, differences between rankings, and metrics of model ``key``."""
    settings, subjects = params.faithfulness, Subjects(params, key)
    layers, heads, ids = subjects.prepared.layers, subjects.prepared.heads, subjects.ids
    ks = faithfulness.counts(layers * heads, settings.points)
    scores = read_scores(key, ids, settings)
    own_runs = [name for name in settings.rankings if name in OWN_RUNS]
    work = len(ids) * (2 if own_runs else 1)
    with at_work("stages.evaluate_faithfulness:Faithfulness", params, key, "faithfulness", work, "examples") as run:
        if own_runs:
            found = list(run([{"example": number} for number in range(len(ids))]))
            scores |= {name: np.stack([one[name] for one in found]) for name in own_runs}
        if "random" in settings.rankings:
            scores["random"] = np.stack([rankings.random_scores(layers, heads, seed=settings.seed, example=name) for name in ids])
        scores = {name: scores[name] for name in settings.rankings}
        # One random order for all would be a single draw, lucky or not: it stays each example's own.
        shared = {name: grid.mean(0) for name, grid in scores.items() if name != "random"}
        orders = {(name, "own"): rankings.places(grid) for name, grid in scores.items()}
        orders |= {(name, "shared"): np.broadcast_to(rankings.places(grid), scores[name].shape) for name, grid in shared.items()}
        orders |= {("random", "shared"): orders["random", "own"]} if "random" in scores else {}
        each = [np.stack([order[number] for order in orders.values()]) for number in range(len(ids))]
        measured = list(run([{"example": number, "orders": each[number].tolist()} for number in range(len(ids))]))
    runs, results = 0, []
    for number, one in enumerate(measured):
        wanted, targets = faithfulness.plan(each[number], ks), one["targets"].astype(float)
        ends = targets[faithfulness.NONE], targets[faithfulness.ALL]
        results.append((targets[wanted.top], targets[wanted.rest], *ends, *faithfulness.curves(targets, wanted)))
        runs += len(wanted.masks)
    top, rest, none, everything, *values = map(np.stack, zip(*results, strict=True))
    used = faithfulness.usable(everything - none, settings.least_effect)
    named = {
        (ranking, scope, measure): curve[used, place]
        for place, (ranking, scope) in enumerate(orders)
        for measure, curve in zip(faithfulness.MEASURES, values, strict=True)
    }
    summary = faithfulness.area_summary(named, ks, level=settings.level, confidence=settings.confidence)
    differences = faithfulness.area_differences(named, ks, confidence=settings.confidence)
    mean_curves = faithfulness.bands(named, ks, settings.confidence)

    folder = paths.faithfulness_dir(key)
    RANKINGS.write(rankings.rankings_table(ids, scores, shared), folder / "rankings.parquet")
    CURVES.write(faithfulness.curves_table(ids, list(orders), ks, top, rest, *values, used), folder / "curves.parquet")
    AREAS.write(faithfulness.areas_table(ids, list(orders), ks, *values, everything - none, used, settings.level), folder / "areas.parquet")
    CURVE_BANDS.write(mean_curves, folder / "curve_bands.parquet")
    AREA_SUMMARY.write(summary, folder / "area_summary.parquet")
    AREA_DIFFERENCES.write(differences, folder / "area_differences.parquet")
    write_csv(plotted(mean_curves), paths.plot("faithfulness", key))
    alone = len(rankings.alone(layers, heads)) if "restoration" in settings.rankings else 0
    points = len(rankings.gradient_gates(layers, heads, settings.rankings, settings.path_points))
    write_json(
        paths.metrics("evaluate_faithfulness", key),
        {
            "examples": len(ids),
            "examples_used": int(used.sum()),
            "left_out_no_effect": int((~used & (everything > none)).sum()),
            "left_out_negative_effect": int((~used & (everything <= none)).sum()),
            "points": len(ks),
            "masked_forwards": runs + alone * len(ids),
            "gradients": points * len(ids),
            "rankings": scores_by_scope(summary),
            "most": verdicts(summary, differences, 1 - settings.confidence),
        },
    )


class Faithfulness:
    """What a worker does: the scores of one example that need runs of their own; or, given orders of its heads, the targets along them."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.subjects = Subjects(self.params, key)

    def __call__(self, unit: dict[str, Any], store: Records, count: Count) -> Result:
        subject, prepared, settings = self.subjects[unit["example"]], self.subjects.prepared, self.params.faithfulness
        layers, heads, batch = prepared.layers, prepared.heads, self.params.ablation.batch_size
        if "orders" in unit:
            wanted = faithfulness.plan(np.array(unit["orders"]), faithfulness.counts(layers * heads, settings.points))
            result = {"targets": run_example(store, subject.context, wanted.masks, subject.prepare, starts=wanted.starts, batch_size=batch)}
        else:
            own_runs = [name for name in settings.rankings if name in OWN_RUNS]
            result = measure(store, subject, layers, heads, own_runs, settings.path_points, batch)
        count(1, 0)
        return result


def read_scores(key: str, ids: list[str], settings: FaithfulnessParams) -> dict[str, Float[np.ndarray, "examples layers heads"]]:
    """Scores that earlier stages have already found.

    Raises:
        HeadflowError: attributions or attention of other examples than the features'.
    """
    attributions = ATTRIBUTIONS.read(paths.attributions_dir(key) / "attributions.parquet")
    attention = ATTENTION.read(paths.features_dir(key) / "attention.parquet").filter(pl.col("id").is_in(ids))
    columns = {"attribution": (attributions, "attribution"), "ablation": (attributions, "single_head_effect"), "attention": (attention, "final_to_image")}
    scores = {}
    for name, (table, column) in columns.items():
        if name in settings.rankings:
            found, grid = attribution_grid(table, column)
            if found != ids:
                raise HeadflowError(f"{paths.DATA}: the {name} scores of {key!r} are of other examples than its features; run `dvc repro`")
            if not np.isfinite(grid).all():
                raise HeadflowError(f"ranking {name!r}: example {ids[np.argwhere(~np.isfinite(grid))[0][0]]} has a score that is not a finite number")
            scores[name] = grid
    return scores


def measure(
    store: Records, subject: Subject, layers: int, heads: int, wanted: list[str], points: int, batch: BatchSize
) -> dict[str, Float[np.ndarray, "layers heads"]]:
    """Scores of one example that need runs of their own; what the store has is not run again."""
    taken: list = []

    def prepare() -> tuple:
        if not taken:
            taken.append(subject.prepare())
        return taken[0]

    def run(masks: np.ndarray) -> np.ndarray:
        return run_example(store, subject.context, masks, prepare, batch_size=batch).astype(float)

    def differentiate(gates: np.ndarray) -> np.ndarray:
        def make() -> np.ndarray:
            capture, baseline, target = prepare()
            return gate_gradients(capture, gates, baseline=baseline, target=target, batch_size=batch)[1]

        return find_or_make(store, gradients_key(subject.context, gates), make, gates.size, finite=True).reshape(gates.shape).astype(float)

    try:
        return rankings.measured_scores(run, differentiate, layers, heads, wanted=wanted, points=points)
    except HeadflowError as error:
        raise HeadflowError(f"example {subject.id}: {error}") from error


def gradients_key(context: str, gates: Float[np.ndarray, "gates layers heads"]) -> bytes:
    """Key of one example's record of gradients at these gates."""
    return record_key(context, "gate gradients", str(gates.shape), gates.tobytes())


def plotted(mean_curves: pl.DataFrame) -> pl.DataFrame:
    """Mean faithfulness of each example's own rankings for `dvc plots`: a row a number of heads, a column a ranking (empty where it was not asked for)."""
    rows = mean_curves.filter(pl.col("scope") == "own", pl.col("measure") == "faithfulness")
    wide = rows.pivot("ranking", index="heads", values="mean", maintain_order=True)
    return wide.select("heads", *(pl.col(name) if name in wide.columns else pl.lit(None, pl.Float64).alias(name) for name in rankings.MEANINGS))


def scores_by_scope(summary: pl.DataFrame) -> dict:
    """Areas and smallest numbers of heads: scope → ranking → measure."""
    found: dict = {scope: {} for scope in SCOPES}
    for row in summary.iter_rows(named=True):
        values = {"area": row["area"], "area_low": row["low"], "area_high": row["high"], "heads": row["heads"]}
        found[row["scope"]].setdefault(row["ranking"], {})[row["measure"]] = values
    return found


def verdicts(summary: pl.DataFrame, differences: pl.DataFrame, alpha: float) -> dict:
    """Who leads, and from whom that can be told: scope → measure; null where no example has a curve."""
    found: dict = {scope: {} for scope in SCOPES}
    for scope in SCOPES:
        for measure in faithfulness.MEASURES:
            first = faithfulness.leader(summary, differences, scope=scope, measure=measure, alpha=alpha)
            found[scope][measure] = first and {"ranking": first.ranking, "ahead_of": first.ahead_of, "cannot_be_told_from": first.level_with}
    return found


if __name__ == "__main__":
    enter(main)
