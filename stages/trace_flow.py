"""In what order text and picture arrive: close routes between groups of tokens in windows of layers, and see at which depth each matters."""

from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import torch

from headflow.errors import HeadflowError
from headflow.execution.runs import run_example
from headflow.execution.store import ResultStore
from headflow.files import write_csv, write_json
from headflow.params import Params
from headflow.progress import progress
from headflow.tables.flow import FLOW_BANDS, FLOW_CONTRASTS, FLOW_DEPTHS, FLOW_EFFECTS
from headflow.tracing.bands import as_masks, sweep
from headflow.tracing.components import FROM_IMAGE, ROUTES, Routes, routes
from headflow.tracing.flow import ALL, PICTURE, Flow, effects_table, flow_masks
from headflow.tracing.intervals import numbered
from headflow.tracing.templates import apart, suffixes, templates
from stages import paths
from stages.door import enter
from stages.subjects import Subjects


def main(params: Params, key: str) -> None:
    """Write effects of closed routes against depth, the depth of each route, and differences between routes, of model ``key``."""
    settings, subjects = params.flow, Subjects(params, key)
    if not len(subjects):
        raise HeadflowError(f"{key}: no example is to be explained; the model may answer none correctly (set features.only_correct to false to see)")
    model, layers = subjects.model, subjects.prepared.layers
    cross, decoder_layers = model.image_layers is not None, model.image_layers or list(range(layers))
    steps = sweep(layers, settings.width, settings.stride)
    held = torch.from_numpy(as_masks(list(steps.bands), layers))
    reads = "nothing" if settings.reads == "nothing" else None
    mine = [
        routes(row["roles"], len(row["roles"]) - (0 if cross else row["image_stop"]), cross=cross, reads=reads) for row in subjects.rows.iter_rows(named=True)
    ]  # fmt: skip
    planned = [flow_masks([route.name for route in found], FROM_IMAGE, steps) for found in mine]
    effects = {name: {band: np.full(len(subjects), np.nan) for band in steps.bands} for name in ROUTES if any(name == r.name for found in mine for r in found)}
    effects |= {name: {(0, layers): np.full(len(subjects), np.nan)} for name in (PICTURE, ALL)}
    rows, intact = [], []
    with ResultStore(Path(params.ablation.store)) as store, progress(f"order of flow ({key})", sum(len(masks) for _, masks in planned), "masks") as bar:

        def count(computed: int, found: int) -> None:
            bar.advance(computed)
            bar.skip(found)

        for place, (subject, found, (closed, masks)) in enumerate(zip(subjects, mine, planned, strict=True)):
            options = {"components": Routes(found, held), "batch_size": params.ablation.batch_size, "done": count}
            targets = run_example(store, subject.context, masks, cache(subject.prepare), **options).astype(float)
            intact.append(targets[0])
            for (name, band), value in zip(closed, targets[0] - targets[1:], strict=True):
                effects[name][band][place] = value
                rows.append((subject.id, name, band, float(value)))
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
            "masked_forwards": sum(len(masks) for _, masks in planned),
            "largest_gap_intact_to_stock": float(np.abs(np.array(intact) - subjects.rows["stock_target"].to_numpy()).max()),
            "left_out": [name for name in ROUTES if name not in effects],
            "effects": by_name(every[0].filter(closed="everywhere"), "{route}", "mean", "low", "high", "share"),
            "depths": by_name(every[1], "{route}", "depth", "depth_low", "depth_high", "window_depth", "first"),
            "contrasts": by_name(every[2], "{measure}: {route} - {other}", "difference", "low", "high", "p"),
        },
    )


def by_name(table: pl.DataFrame, name: str, *columns: str) -> dict[str, dict[str, float | None]]:
    """Some columns of every row, under a name made of the others."""
    return {name.format(**row): {column: row[column] for column in columns} for row in table.iter_rows(named=True)}


if __name__ == "__main__":
    enter(main)
