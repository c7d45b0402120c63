"""Train the embedded model: ``python -m headflow.models.embedded.train --out DIR``.

A run that was stopped goes on when the same command is given again. ``--preset fast`` takes about three minutes in place of an hour;
``--set KEY=VALUE`` changes a knob of the recipe. The shipped checkpoint is made with

    python -m headflow.models.embedded.train --out DIR --ship
"""

import os

# Threads that wait should sleep: spinning ones slow each other down by orders of magnitude when cores are shared. Read once, as torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from headflow.errors import HeadflowError
from headflow.files import write_json
from headflow.models.embedded.recipe import PRESETS, Recipe
from headflow.models.embedded.sealing import seal
from headflow.models.embedded.shipped import METRICS_FILE, ship


def train(recipe: Recipe, out: Path, *, evaluation_scenes: int = 500) -> dict[str, dict[str, float]]:
    """Train, write the checkpoint and measure it.

    Args:
        recipe: what to train.
        out: the checkpoint's folder; while training lasts it holds ``training/``, from which a stopped run goes on.
        evaluation_scenes: held-out scenes that quality is measured on; 0 leaves it unmeasured.

    Returns:
        The metrics (see ``evaluation.evaluate``), also in ``metrics.json``.

    Raises:
        HeadflowError: ``out`` holds the state of a run of another recipe.
    """
    from headflow.models.embedded.checkpoints import load_checkpoint, save_checkpoint  # after the environment is set, for spawned processes too
    from headflow.models.embedded.evaluation import evaluate
    from headflow.models.embedded.training import train_network

    trainer = train_network(recipe, out / "training")
    save_checkpoint(trainer.network, trainer.processor, recipe, out)
    metrics = evaluate(*load_checkpoint(out), recipe.scenes, scenes=evaluation_scenes) if evaluation_scenes else {}
    write_json(out / METRICS_FILE, metrics)
    seal(out)
    return metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m headflow.models.embedded.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint, and of the state to go on from")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="shipped", help="the recipe to start from (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one knob of the recipe; may be repeated")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    parser.add_argument("--ship", action="store_true", help="make the result the checkpoint that comes with headflow")
    options = parser.parse_args(arguments)
    try:
        recipe = _changed(PRESETS[options.preset], options.set)
        if options.threads:
            import torch

            torch.set_num_threads(options.threads)
        for measure, values in train(recipe, options.out).items():
            print(f"{measure:24} picture {values['image']:.3f}   blank {values['blank']:.3f}")
        if options.ship:
            ship(options.out)
    except HeadflowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with each ``KEY=VALUE`` applied.

    Raises:
        HeadflowError: no such key, or a value out of bounds.
    """
    fields = recipe.model_dump()
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator or key not in fields:
            raise HeadflowError(f"--set {change}: expected KEY=VALUE with one of {', '.join(fields)}")
        fields[key] = yaml.safe_load(value)
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        raise HeadflowError(f"--set {'.'.join(map(str, fault['loc']))}: {fault['msg']}, not {fault['input']!r}") from error


if __name__ == "__main__":
    sys.exit(main())
