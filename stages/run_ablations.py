"""Run every example under every mask; finished work is kept in the result store."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl

from headflow.attribution.masks import unpack
from headflow.checks import check_intervention
from headflow.errors import HeadflowError
from headflow.execution.fingerprint import digest, digest_json, engine_version
from headflow.execution.runs import run_example
from headflow.execution.store import ResultStore
from headflow.files import write_json
from headflow.models.baselines import Baseline, swap_baseline
from headflow.models.capture import Capture
from headflow.models.lvlm import LVLM, load_prepared
from headflow.models.prepared import read_prepared
from headflow.params import Params
from headflow.progress import progress
from headflow.tables import EXAMPLES, FEATURES, MASKS, TARGETS
from headflow.targets import Target
from stages import paths
from stages.door import enter


def main(params: Params, key: str) -> None:
    settings, prepared = params.features, read_prepared(paths.model_dir(key))
    examples = EXAMPLES.read(paths.EXAMPLES)
    features = FEATURES.read(paths.features_dir(key) / "features.parquet").filter(pl.col("explained"))
    table = MASKS.read(paths.masks(key))
    masks = unpack(table["bits"].to_list(), prepared.layers, prepared.heads)
    starts = [i for i, (before, now) in enumerate(zip([None, *table["purpose"]], table["purpose"], strict=False)) if before != now]
    model: LVLM = load_prepared(paths.model_dir(key), params.model(key).device)
    shared = Baseline.load(paths.features_dir(key) / "baseline.safetensors", model.device, model.dtype)

    chosen = features.join(examples.drop("split"), on="id", how="inner", maintain_order="left")
    if len(chosen) != len(features):
        raise HeadflowError(f"{paths.features_dir(key)}: made from other examples than {paths.EXAMPLES}; run `dvc repro`")
    pictures = dict(zip(examples["id"], examples["image"], strict=True))

    first = chosen.row(0, named=True)
    checks = check_intervention(model.capture(first["image"], first["question"]), model.capture(pictures[first["swap_partner"]], first["question"]))

    # All that the numbers of every example depend on.
    common = digest_json(
        {
            "engine": engine_version(), "model": prepared.fingerprint, "dtype": prepared.dtype, "device": model.device.type,
            "torch": version("torch"), "transformers": version("transformers"), "baseline": shared.fingerprint(), "target": settings.target,
        }
    )  # fmt: skip
    results = []
    with ResultStore(Path(params.ablation.store)) as store, progress(f"masked forwards ({key})", len(chosen) * len(masks), "masks") as bar:
        for row in chosen.iter_rows(named=True):
            target = Target(settings.target, row["answer_token"], tuple(row["rival_tokens"]))
            swapped = pictures[row["swap_partner"]] if settings.baseline == "swap" else b""
            context = digest(common, row["image"], row["question"], digest_json([target.token, target.candidates if target.kind == "margin" else ()]), swapped)

            def prepare(row: dict = row, target: Target = target, swapped: bytes = swapped) -> tuple[Capture, Baseline, Target]:
                baseline = swap_baseline(model.capture(swapped, row["question"])) if swapped else shared
                return model.capture(row["image"], row["question"]), baseline, target

            def count(computed: int, found: int) -> None:
                bar.advance(computed)
                bar.skip(found)

            values = run_example(store, context, masks, prepare, starts=starts, batch_size=params.ablation.batch_size, done=count)
            results.append(pl.DataFrame({"id": [row["id"]] * len(masks), "mask": table["mask"], "target": values.astype(np.float64)}))
    TARGETS.write(pl.concat(results), paths.targets(key))
    write_json(
        paths.metrics("run_ablations", key),
        {
            "examples": len(chosen),
            "masks": len(masks),
            "masked_forwards": len(chosen) * len(masks),
            "checks": {name: float(f"{value:.2g}") for name, value in vars(checks).items()},
        },
    )


if __name__ == "__main__":
    enter(main)
