"""The door of every stage: read the params, run, and turn foreseeable mistakes into one line."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

# Spinning OpenMP threads cost seconds a step beside a busy neighbour; read when torch is imported, so set before.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from headflow.errors import HeadflowError
from headflow.params import Params, read_params
from headflow.progress import recording


def enter(stage: Callable[..., None], *, per_model: bool = True) -> None:
    """Run ``stage(params)`` or, where ``per_model``, ``stage(params, key)`` for the model named on the command line.

    Exit status: 0 done, 1 a mistake that the message explains, 130 stopped by Ctrl-C.
    """
    parser = argparse.ArgumentParser(description=(sys.modules[stage.__module__].__doc__ or "").strip())
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the params file (default: params.yaml)")
    if per_model:
        parser.add_argument("model", help="a key of `models` in the params file")
    arguments = parser.parse_args()
    try:
        params: Params = kept_in_project(read_params(arguments.params))
        name, store = Path(sys.modules[stage.__module__].__file__ or "stage").stem, Path(params.ablation.store)
        if per_model:
            params.model(arguments.model)
            with recording(name, arguments.model, store):
                stage(params, arguments.model)
        else:
            with recording(name, None, store):
                stage(params)
    except HeadflowError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped; finished work is kept, run the same command again to continue", file=sys.stderr)
        raise SystemExit(130) from None


def kept_in_project(params: Params) -> Params:
    """The params, with a relative ``ablation.store`` counted from the project where DVC runs an experiment in a temporary copy of it.

    The copy (``.dvc/tmp/exps/…``) is deleted at the end; a store inside it would start empty and be lost, with all that a stopped experiment had done.
    DVC names the project in ``DVC_ROOT``.
    """
    root = os.environ.get("DVC_ROOT")
    if not root or not Path.cwd().is_relative_to((Path(root) / ".dvc" / "tmp").resolve()):
        return params
    return params.with_store(str(Path(root) / params.ablation.store))
