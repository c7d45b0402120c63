"""``headflow check``: run the four checks on a model, and say what a run with the current params will cost."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from headflow.cli.tables import print_table, size, table
from headflow.datasets.scenes.settings import SceneSettings
from headflow.errors import HeadflowError
from headflow.params import EMBEDDED, ModelParams, Params, read_params
from headflow.progress import duration

_EXAMPLES = Path("data/examples.parquet")
_QUESTION = "What is the main object in the image? Answer with one word."
_LIMITS = {
    "identity": "nothing ablated = the stock model",
    "swap": "all heads read another picture = the stock model on that picture",
    "prefix": "the picture's keys do not depend on the text after it",
    "effect": "ablating all heads moves the answer",
}


def add(subcommands: Any) -> None:
    """Add ``check`` to the subcommands of an argparse parser."""
    text = "check that headflow's interventions are real on a model, and estimate what a run costs"
    parser: argparse.ArgumentParser = subcommands.add_parser(
        "check", help=text, description=f"{text.capitalize()}. Options that are not given are taken from the model's entry in the params file, if it has one.",
    )  # fmt: skip
    parser.add_argument("model", help="a key of `models` in the params file, a Hugging Face id, a local folder, 'embedded', or 'planted:CIRCUIT'")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the params file (default: params.yaml; may be missing)")
    for name in ("revision", "device_map"):
        parser.add_argument(f"--{name.replace('_', '-')}", help=ModelParams.model_fields[name].description)
    for name in ("dtype", "attn", "quantization"):
        choices = [x for option in (get_args(ModelParams.model_fields[name].annotation)) for x in (get_args(option) or [option]) if isinstance(x, str)]
        parser.add_argument(f"--{name}", choices=choices, help=ModelParams.model_fields[name].description)
    parser.add_argument("--trust-remote-code", action="store_true", default=None, help=ModelParams.model_fields["trust_remote_code"].description)
    parser.add_argument("--picture", type=Path, help="a picture of your own (default: the first of data/examples.parquet, else a rendered scene)")
    parser.add_argument("--question", help="what is asked about it")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Load the model, check it, print the table."""
    params = read_params(arguments.params) if arguments.params.exists() else Params(models={"model": ModelParams()})
    settings = params.models.get(arguments.model, ModelParams(id=arguments.model)).model_dump()
    if arguments.model not in (*params.models, EMBEDDED) and "/" not in arguments.model and not Path(arguments.model).is_dir():
        keys = ", ".join(params.models) if arguments.params.exists() else "no params file here"
        raise HeadflowError(f"{arguments.model!r} is no key of `models` in {arguments.params} ({keys}), no folder, and no hub id (owner/name)")
    settings |= {name: given for name in ModelParams.model_fields if (given := getattr(arguments, name, None)) is not None}

    from PIL import ImageOps

    from headflow.attribution.masks import mask_table
    from headflow.diagnosis import diagnose
    from headflow.models.loading import load
    from headflow.models.lvlm import open_picture

    picture, question, examples, references = one_example(params, arguments.picture, arguments.question)
    start = time.perf_counter()
    options = ("revision", "dtype", "device_map", "attn", "quantization", "trust_remote_code")
    model = load(settings["id"], **{name: settings[name] for name in options})
    loaded_s = time.perf_counter() - start
    opened = open_picture(picture)
    # Its own negative: a picture of the same size that is surely another.
    capture, other = model.capture(opened, question), model.capture(ImageOps.invert(opened), question)
    found = diagnose(capture, other)
    masks = len(mask_table(model.layers, model.heads, **params.masks.model_dump(exclude={"precision"})))

    console = Console(file=sys.stdout, highlight=False)
    facts = table("", "")
    config = model.model.config
    facts.add_row("model", f"{settings['id']}{'@' + settings['revision'] if settings['revision'] else ''}")
    facts.add_row("family", f"{config.model_type} ({type(model.model).__name__}; text model {model.decoder.config.model_type})")
    heads = f"{model.layers} × {model.heads} = {model.layers * model.heads} heads ({model.kv_heads} key heads a layer)"
    facts.add_row("layers × heads", heads + _crossing(model))
    facts.add_row("picture", f"{opened.width} × {opened.height} pixels, {capture.key_image.stop - capture.key_image.start} image tokens")
    facts.add_row("prompt", f"{len(capture.input_ids)} tokens, {capture.computed} of them run for every mask")
    facts.add_row("prefix mode", {"shared": "shared prefix", "recomputed": "full sequence", "cross": "cross-attention"}[capture.mode])
    quantized = f", {settings['quantization']}" if settings["quantization"] else ""
    facts.add_row("weights", f"{settings['dtype']}{quantized}, on {_devices(model)}, loaded in {loaded_s:.1f} s")
    facts.add_row("memory per example", f"{size(found.shared_bytes)} keys and values shared by all masks (real and baseline)")
    how = "measured peak" if found.measured else "estimate from shapes"
    facts.add_row("memory per batch", f"{size(found.batch_bytes)} for {found.batch} masked forwards at once ({how})")
    facts.add_row("speed", f"{found.rate:,.0f} masked forwards a second; one stock forward {found.capture_s:.2f} s")
    run_s = found.seconds(examples, references, masks)
    facts.add_row("time, current params", f"about {duration(run_s)} for head attribution: {examples:,} examples × {masks:,} masks, {references:,} references")
    print_table(console, facts)

    measured = table("check", "relative difference", "allowed", "what it shows")
    checks = found.checks
    for name, meaning in _LIMITS.items():
        value = getattr(checks, name)
        if name == "effect":
            limit = "at least 0.001"
        elif name == "prefix" and capture.mode != "shared":
            limit = "–"
            meaning = "it does: every mask runs the whole sequence" if value is not None else "does not apply: the picture stands in no sequence"
        else:
            limit = f"at most {model.prefix_limit if name == 'prefix' else checks.tolerance:.0e}"
        measured.add_row(name, "–" if value is None else f"{value:.1e}", limit, meaning)
    print_table(console, measured)
    print("All checks passed: headflow can run this model.")


def one_example(params: Params, picture: Path | None, question: str | None) -> tuple[Any, str, int, int]:
    """A picture, a question, and how many examples and references a run has: those of this folder's examples table, else of the params."""
    counted = params.examples.count * len(params.examples.questions) if params.examples.source == "scenes" else params.examples.count
    examples, references, own, asked = counted, params.examples.references, None, None
    if _EXAMPLES.exists():
        import polars as pl

        from headflow.tables.examples import EXAMPLES

        rows = EXAMPLES.read(_EXAMPLES)
        explain, reference = (rows.filter(pl.col("split") == split) for split in ("explain", "reference"))
        examples, references = len(explain), reference["scene"].n_unique()
        own, asked = explain["image"][0], explain["question"][0]
    if picture is not None:
        if not picture.is_file():
            raise HeadflowError(f"{picture}: there is no such picture")
        return picture, question or _QUESTION, examples, references
    if own is None and params.examples.source == "planted":
        from headflow.datasets.planted import make_examples

        row = make_examples(count=2, references=8, seed=params.examples.seed).row(0, named=True)
        own, asked = row["image"], row["question"]
    if own is None:
        from headflow.datasets.scenes.render import scene

        size = params.examples.scenes.image_size
        own, asked = scene(0, "explain", 0, SceneSettings(image_size=size)).image, _QUESTION
    return own, question or asked or _QUESTION, examples, references


def _crossing(model: Any) -> str:
    return "" if model.image_layers is None else f", in the {model.layers} of {model.decoder_layers} layers that read the picture by cross-attention"


def _devices(model: Any) -> str:
    places = {str(weight.device) for weight in model.model.parameters()}
    return ", ".join(sorted(places))
