"""Run every example under every mask; finished work is kept in the result store."""

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import polars as pl
from PIL import ImageOps

from headflow.attribution.masks import unpack
from headflow.checks import check_intervention
from headflow.errors import HeadflowError
from headflow.execution.fingerprint import digest, digest_json, engine_version
from headflow.execution.runs import run_example
from headflow.execution.store import ResultStore
from headflow.files import write_json
from headflow.models.baselines import Baseline, blank_baseline, mean_baseline, swap_baseline
from headflow.models.capture import Capture
from headflow.models.lvlm import LVLM, load_prepared, open_picture
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
    model: LVLM = load_prepared(paths.model_dir(key), params.model(key).device_map)
    shared = Baseline.load(paths.features_dir(key) / "baseline.safetensors", model.device, model.dtype)

    chosen = features.join(examples.drop("split"), on="id", how="inner", maintain_order="left")
    if len(chosen) != len(features):
        raise HeadflowError(f"{paths.features_dir(key)}: made from other examples than {paths.EXAMPLES}; run `dvc repro`")
    pictures = dict(zip(examples["id"], examples["image"], strict=True))

    first = chosen.row(0, named=True)
    fed = fed_answer(settings.target, first)
    # Its own negative: a picture of the same size that is surely another.
    other = ImageOps.invert(open_picture(first["image"]))
    checks = check_intervention(model.capture(first["image"], first["question"], fed), model.capture(other, first["question"], fed))

    @lru_cache(maxsize=2)
    def mean_with(question: str) -> Baseline:
        """Where the picture's keys depend on the text after it, those of the references must be asked the example's own question."""
        references = examples.filter(pl.col("split") == "reference").unique("scene", maintain_order=True)
        return mean_baseline(model.capture(picture, question) for picture in references["image"])

    # All that the numbers of every example depend on.
    common = digest_json(
        {
            "engine": engine_version(), "model": prepared.fingerprint, "dtype": prepared.dtype, "attn": prepared.attn,
            "quantization": prepared.quantization, "device": model.device.type, "prefix_mode": model.prefix_mode, "packages": versions(),
            "baseline": shared.fingerprint(), "target": settings.target,
        }
    )  # fmt: skip
    results = []
    with ResultStore(Path(params.ablation.store)) as store, progress(f"masked forwards ({key})", len(chosen) * len(masks), "masks") as bar:
        for row in chosen.iter_rows(named=True):
            fed = fed_answer(settings.target, row)
            target = Target(settings.target, row["answer_tokens"][0], tuple(row["rival_tokens"]), tuple(fed[1:]))
            swapped = pictures[row["swap_partner"]] if settings.baseline == "swap" else b""
            rivals = target.candidates if target.kind == "margin" else ()
            context = digest(common, row["image"], row["question"], digest_json([target.token, rivals, target.rest]), swapped)

            def prepare(row: dict = row, target: Target = target, swapped: bytes = swapped, fed: list[int] = fed) -> tuple[Capture, Baseline, Target]:
                capture = model.capture(row["image"], row["question"], fed)
                if swapped:
                    baseline = swap_baseline(model.capture(swapped, row["question"]))
                elif settings.baseline == "mean" and capture.mode == "recomputed":
                    baseline = mean_with(row["question"])
                else:
                    baseline = blank_baseline(capture) if settings.baseline == "blank" else shared
                return capture, baseline, target

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
            "prefix_mode": model.prefix_mode,
            "checks": {name: None if value is None else float(f"{value:.2g}") for name, value in vars(checks).items()},
        },
    )


def versions() -> dict[str, str | None]:
    """The packages that a masked forward's numbers depend on: where torchvision is there, pictures are scaled by it, for one."""
    found: dict[str, str | None] = {}
    for name in ("torch", "transformers", "tokenizers", "torchvision", "pillow", "accelerate", "bitsandbytes"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def fed_answer(target: str, row: dict) -> list[int]:
    """The answer that is fed to the model: the whole one where its log-probability is the target, else none."""
    return row["answer_tokens"] if target == "answer_logprob" else []


if __name__ == "__main__":
    enter(main)
