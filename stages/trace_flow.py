"""In what order text and picture arrive: close routes between groups of tokens in windows of layers, and see at which depth each matters."""


import numpy as np
import polars as pl
import torch

from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.runs import run_example
from headflow.files import write_csv, write_json
from headflow.params import Params
from headflow.tables.flow import FLOW_BANDS, FLOW_CONTRASTS, FLOW_DEPTHS, FLOW_EFFECTS
from headflow.tracing.bands import as_masks, sweep
from headflow.tracing.components import FROM_IMAGE, ROUTES, Routes, routes
from headflow.tracing.flow import ALL, PICTURE, Flow, effects_table, flow_masks
from headflow.tracing.intervals import numbered
from headflow.tracing.templates import apart, suffixes, templates
from stages import paths
from stages.door import enter
from stages.subjects import Subjects
from stages.workers import at_work


def main(params: Params, key: str) -> None:
    """Write effects of closed routes against depth, the depth of each route, and differences between routes, of model ``key``."""
    settings, subjects = params.flow, Subjects(params, key)
    if not len(subjects):
        raise HeadflowError(f"{key}: no example is to be explained; the model may answer none correctly (set features.only_correct to false to see)")
    prepared, plan = subjects.prepared, FlowPlan(params, subjects)
    steps, layers, cross = plan.steps, prepared.layers, prepared.image_layers is not None
    decoder_layers = prepared.image_layers or list(range(layers))
    known = {route.name for mine in plan.routes for route in mine}
    effects = {name: {band: np.full(len(subjects), np.nan) for band in steps.bands} for name in ROUTES if name in known}
    effects |= {name: {(0, layers): np.full(len(subjects), np.nan)} for name in (PICTURE, ALL)}
    rows, intact = [], []
    with at_work("stages.trace_flow:FlowRuns", params, key, "order of flow", plan.forwards, "masks") as run:
        measured = list(run([{"example": place} for place in range(len(subjects))]))
    for place, (name, (closed, _), one) in enumerate(zip(subjects.ids, plan.masks, measured, strict=True)):
        targets = one["targets"].astype(float)
        intact.append(targets[0])
        for (route, band), value in zip(closed, targets[0] - targets[1:], strict=True):
            effects[route][band][place] = value
            rows.append((name, route, band, float(value)))
    pictures = numbered(subjects.rows["scene"].to_list())
    named = templates(subjects.rows["question"].to_list(), subjects.rows["question_kind"].to_list(), pictures.tolist(), *suffixes(subjects.rows, cross=cross))
    options = {"confidence": settings.confidence, "draws": settings.draws, "seed": settings.seed}
    found = []
    for template, members in apart(named, pictures):
        part = {name: {band: values[members] for band, values in of.items()} for name, of in effects.items()}
        found.append(Flow(part, pictures[members], steps, decoder_layers, template=template, **options))
    bands, depths, contrasts = (pl.concat([getattr(one, f"{name}_table")() for one in found]) for name in ("bands", "depths", "contrasts"))

    folder = paths.flow_dir(key)
    FLOW_EFFECTS.write(effects_table(rows, decoder_layers), folder / "flow_effects.parquet")
    FLOW_BANDS.write(bands, folder / "flow_bands.parquet")
    FLOW_DEPTHS.write(depths, folder / "flow_depths.parquet")
    FLOW_CONTRASTS.write(contrasts, folder / "flow_contrasts.parquet")
    every = [frame.filter(pl.col("template").is_null()) for frame in (bands, depths, contrasts)]
    windows = every[0].filter(closed="window").rename({"at": "layer"}).pivot("route", index="layer", values="mean", maintain_order=True)
    shown = [pl.col(name) if name in windows.columns else pl.lit(None, pl.Float64).alias(name) for name in ROUTES]
    write_csv(windows.select("layer", *shown), paths.plot("flow", key))
    write_json(
        paths.metrics("trace_flow", key),
        {
            "examples": len(subjects),
            "pictures": int(pictures.max()) + 1,
            "templates": len(named),
            "layers": layers,
            "width": steps.windows[0][1] - steps.windows[0][0],
            "windows": len(steps.windows),
            "masked_forwards": plan.forwards,
            "largest_gap_intact_to_stock": float(np.abs(np.array(intact) - subjects.rows["stock_target"].to_numpy()).max()),
            "left_out": [name for name in ROUTES if name not in effects],
            "effects": by_name(every[0].filter(closed="everywhere"), "{route}", "mean", "low", "high", "share"),
            "depths": by_name(every[1], "{route}", "depth", "depth_low", "depth_high", "window_depth", "first"),
            "contrasts": by_name(every[2], "{measure}: {route} - {other}", "difference", "low", "high", "p"),
        },
    )


class FlowPlan:
    """Which routes are closed in which layers, example by example.

    Attributes:
        steps: bands of layers.
        routes: of each example.
        masks: of each example: what each mask but the first closes, and the masks.
    """

    def __init__(self, params: Params, subjects: Subjects) -> None:
        settings, prepared = params.flow, subjects.prepared
        cross = prepared.image_layers is not None
        self.steps = sweep(prepared.layers, settings.width, settings.stride)
        self.held = torch.from_numpy(as_masks(list(self.steps.bands), prepared.layers))
        reads = "nothing" if settings.reads == "nothing" else None
        self.routes = [
            routes(row["roles"], len(row["roles"]) - (0 if cross else row["image_stop"]), cross=cross, reads=reads)
            for row in subjects.rows.iter_rows(named=True)
        ]  # fmt: skip
        self.masks = [flow_masks([route.name for route in found], FROM_IMAGE, self.steps) for found in self.routes]

    @property
    def forwards(self) -> int:
        """Masked forwards in all."""
        return sum(len(masks) for _, masks in self.masks)


class FlowRuns:
    """What a worker does: the masked forwards of one example."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.subjects = Subjects(self.params, key)
        self.plan = FlowPlan(self.params, self.subjects)

    def __call__(self, unit: dict[str, int], store: Records, count: Count) -> Result:
        place = unit["example"]
        subject, components = self.subjects[place], Routes(self.plan.routes[place], self.plan.held)
        options = {"components": components, "batch_size": self.params.ablation.batch_size, "done": count}
        return {"targets": run_example(store, subject.context, self.plan.masks[place][1], subject.prepare, **options)}


def by_name(table: pl.DataFrame, name: str, *columns: str) -> dict[str, dict[str, float | None]]:
    """Some columns of every row, under a name made of the others."""
    return {name.format(**row): {column: row[column] for column in columns} for row in table.iter_rows(named=True)}


if __name__ == "__main__":
    enter(main)
