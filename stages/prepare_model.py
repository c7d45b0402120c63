"""Make one model ready: the shipped one (checked), one trained by its recipe, a planted one, or a hub or local model at a fixed revision."""

import shutil
from pathlib import Path
from typing import Any

from headflow.execution.fingerprint import digest_files
from headflow.files import read_json, write_json
from headflow.models.embedded.recipe import Recipe, read_recipe
from headflow.models.embedded.shipped import METRICS_FILE, SHIPPED_FOLDER, install
from headflow.models.planted.circuits import find_circuit
from headflow.models.planted.truth import truth_table
from headflow.models.prepared import CHECKPOINT, FILE, TRUTH, PreparedModel
from headflow.params import EMBEDDED, PLANTED, ModelParams, Params
from headflow.tables.planted import TRUTHS
from stages import paths
from stages.door import enter

# Training that was stopped goes on from here; DVC empties a stage's own folders before it runs.
_TRAINING = Path(".headflow/training")


def main(params: Params, key: str) -> None:
    model, folder = params.model(key), paths.model_dir(key)
    if model.device_map != "auto" or model.quantization is not None:
        from headflow.models.loading import check_machine

        check_machine(model.device_map, model.dtype, model.quantization)
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    if model.id == EMBEDDED:
        shipped = read_recipe(SHIPPED_FOLDER)
        recipe = model.recipe or shipped
        if model.source == "shipped" and recipe.fingerprint == shipped.fingerprint:
            install(folder / CHECKPOINT, recipe)
        else:
            train_embedded(recipe, folder / CHECKPOINT)
        described = describe_embedded(key, model, recipe, folder / CHECKPOINT)
        metrics = {"quality": read_json(folder / CHECKPOINT / METRICS_FILE)}
    elif model.id == PLANTED:
        described, metrics = plant(key, model, folder)
    else:
        described, metrics = describe_other(key, model), {}
    write_json(folder / FILE, described.model_dump(mode="json"))
    write_json(paths.metrics("prepare_model", key), {"layers": described.layers, "heads": described.heads, **metrics})


def train_embedded(recipe: Recipe, checkpoint: Path) -> None:
    """Train by ``recipe``; a run that was stopped, or one with the same recipe under another key, is taken up where it is."""
    from headflow.models.embedded.sealing import copy_sealed
    from headflow.models.embedded.train import train

    out = _TRAINING / recipe.fingerprint[:16]
    if not (out / METRICS_FILE).exists():
        train(recipe, out)
    copy_sealed(out, checkpoint)


def describe_embedded(key: str, model: ModelParams, recipe: Recipe, checkpoint: Path) -> PreparedModel:
    return PreparedModel(
        key=key, id=model.id, source=None, revision=None, dtype=model.dtype, attn=model.attn, quantization=model.quantization,
        architecture="LlavaForConditionalGeneration", layers=recipe.layers, heads=recipe.heads, kv_heads=recipe.heads, decoder_layers=recipe.layers,
        image_layers=None, trust_remote_code=False, fingerprint=digest_files(p for p in checkpoint.iterdir() if p.is_file()),
    )  # fmt: skip


def plant(key: str, model: ModelParams, folder: Path) -> tuple[PreparedModel, dict[str, Any]]:
    """Write a planted checkpoint and the exact values of its heads; describe both."""
    from headflow.models.planted.network import install

    circuit, checkpoint = find_circuit(model.circuit), folder / CHECKPOINT
    install(circuit.name, checkpoint)
    TRUTHS.write(truth_table(circuit), folder / TRUTH)
    described = PreparedModel(
        key=key, id=model.id, source=None, revision=None, dtype=model.dtype, attn=model.attn, quantization=model.quantization,
        architecture="LlavaForConditionalGeneration", layers=circuit.layers, heads=circuit.heads, kv_heads=circuit.heads, decoder_layers=circuit.layers,
        image_layers=None, trust_remote_code=False, fingerprint=digest_files(p for p in checkpoint.iterdir() if p.is_file()), circuit=circuit.name,
    )  # fmt: skip
    effects = [circuit.total(category) for category in circuit.categories]
    return described, {"planted": {"circuit": circuit.name, "carriers": len(circuit.carriers), "mean_total_effect": sum(effects) / len(effects)}}


def describe_other(key: str, model: ModelParams) -> PreparedModel:
    """A hub model pinned to the commit that its revision stands for now, or a local one to the content of its files."""
    from headflow.models.loading import read_config
    from headflow.models.lvlm import text_shape

    config: Any = read_config(model.id, revision=model.revision, trust_remote_code=model.trust_remote_code)
    decoder_layers, image_layers, layers, heads, kv_heads = text_shape(config.get_text_config())
    local = Path(model.id)
    commit = None if local.is_dir() else getattr(config, "_commit_hash", None)
    fingerprint = digest_files(p for p in local.rglob("*") if p.is_file()) if local.is_dir() else f"{model.id}@{commit or model.revision}"
    return PreparedModel(
        key=key, id=model.id, source=model.id, revision=commit or model.revision, dtype=model.dtype, attn=model.attn,
        quantization=model.quantization, architecture=(config.architectures or [type(config).__name__])[0], layers=layers, heads=heads, kv_heads=kv_heads,
        decoder_layers=decoder_layers, image_layers=image_layers, trust_remote_code=model.trust_remote_code, fingerprint=fingerprint,
    )  # fmt: skip


if __name__ == "__main__":
    enter(main)
