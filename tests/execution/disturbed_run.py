"""A run in a process of its own, to be killed, interrupted or starved: ``python disturbed_run.py STORE CHECKPOINT OUT PAUSE_S``.

Prints a line for each batch of masks, so that the test knows how far it is, and waits after it.
"""

import sys
import time
from pathlib import Path

import numpy as np

import headflow
from headflow.execution.runs import run_example
from headflow.execution.store import ResultStore
from headflow.models.baselines import swap_baseline
from headflow.targets import Target
from tests.checkpoints import QUESTION
from tests.conftest import random_picture

MASKS = 640


def main(store: Path, checkpoint: Path, out: Path, pause: float) -> None:
    model = headflow.load(checkpoint, device_map="cpu")
    masks = headflow.sample_masks(model.layers, model.heads, MASKS, design="bernoulli")
    capture, other = (model.capture(random_picture(seed), QUESTION) for seed in (1, 2))
    computed = 0

    def done(new: int, found: int) -> None:
        nonlocal computed
        computed += new
        print(f"computed {computed}", flush=True)
        if new:
            time.sleep(pause)

    with ResultStore(store) as records:
        values = run_example(records, "context", masks, lambda: (capture, swap_baseline(other), Target("logit", 5)), batch_size=16, done=done)
    np.save(out, values)
    print(f"finished {computed}", flush=True)


if __name__ == "__main__":
    from headflow.errors import HeadflowError

    try:
        main(*(Path(argument) for argument in sys.argv[1:4]), float(sys.argv[4]))
    except HeadflowError as error:
        print(f"error: {error}", flush=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
