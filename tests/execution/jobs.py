"""Jobs for workers in tests: masked runs of a small model, and quick sums that need no model, with faults that strike once or always."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.fingerprint import unit_key

BLOCKS, LENGTH = 6, 64


class MaskedRuns:
    """Unit ``n``: every mask on the ``n``-th picture of a saved checkpoint."""

    def __init__(self, checkpoint: str, masks: int, spoilt: str = "") -> None:
        import headflow
        from headflow.execution import runs

        self.model, self.spoilt = headflow.load(checkpoint, device_map="cpu"), Path(spoilt) if spoilt else None
        self.masks = headflow.sample_masks(self.model.layers, self.model.heads, masks, design="bernoulli")
        runs._SAVE_EVERY_S = 0.0

    def __call__(self, unit: int, store: Records, count: Count) -> Result:
        from headflow.execution.runs import run_example
        from headflow.models.baselines import swap_baseline
        from headflow.targets import Target
        from tests.checkpoints import QUESTION
        from tests.conftest import random_picture

        def prepare() -> tuple:
            capture, other = (self.model.capture(random_picture(seed), QUESTION) for seed in (unit, 100 + unit))
            target = Target("logit", 5)
            if self.spoilt is not None and self.spoilt.exists():
                spoilt = iter([False, False, True])
                return capture, swap_baseline(other), lambda logits: target(logits) * (float("nan") if next(spoilt, True) else 1.0)
            return capture, swap_baseline(other), target

        return {"targets": run_example(store, f"picture {unit}", self.masks, prepare, done=count)}


class Sums:
    """Unit ``n``: a few blocks of numbers made of ``n``, put one by one, as masked runs put theirs.

    Args:
        pause_s: after each block.
        once: folder; the first worker that comes to the middle of unit ``once_at`` leaves a mark there and is killed.
        always: what becomes of unit ``once_at`` whenever it comes up: ``killed``, ``refused`` or ``broken``.
        met: folder, in which every worker leaves a mark with its Ray node and its process when it gets its first unit.
        wait_at: units from this one on wait until three nodes have left marks, two minutes at most.
    """

    def __init__(self, pause_s: float = 0.0, once: str = "", once_at: int = 1, always: str = "", met: str = "", wait_at: int = 0) -> None:
        self.pause_s, self.once, self.once_at, self.always = pause_s, Path(once) if once else None, once_at, always
        self.met, self.wait_at = Path(met) if met else None, wait_at

    def __call__(self, unit: int, store: Records, count: Count) -> Result:
        if self.met is not None:
            (self.met / f"{_node()} {os.getpid()}").touch()
            deadline = time.monotonic() + 120
            while unit >= self.wait_at and len(nodes_of(self.met)) < 3 and time.monotonic() < deadline:
                time.sleep(0.05)
        found = []
        for block in range(BLOCKS):
            key = unit_key(f"sums {unit}", np.full((1, 3), block, np.float32))
            known = store.get([key]).get(key)
            if known is None:
                if unit == self.once_at and block == 2:
                    self.misfortune()
                known = numbers(unit, block)
                store.put([(key, known)])
                count(LENGTH, 0)
                time.sleep(self.pause_s)
            else:
                count(0, LENGTH)
            found.append(known)
        return {"targets": np.concatenate(found), "pid": os.getpid(), "unit": unit}

    def misfortune(self) -> None:
        mark = None if self.once is None else self.once / "struck"
        if self.always == "refused":
            raise HeadflowError("example 1: the target under mask 130 is not a finite number")
        if self.always == "broken":
            raise ZeroDivisionError("nobody foresaw this")
        if self.always == "killed" or (mark is not None and not mark.exists()):
            if mark is not None:
                mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def nodes_of(met: Path) -> set[str]:
    """The nodes whose workers have left marks in the folder ``met``."""
    return {mark.name.split()[0] for mark in met.iterdir()}


def _node() -> str:
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray is not None and ray.is_initialized() else "here"


def numbers(unit: int, block: int) -> np.ndarray:
    """The numbers of one block."""
    return np.random.default_rng([unit, block]).normal(size=LENGTH).astype(np.float32)


def expected(units: int) -> np.ndarray:
    """What all units of :class:`Sums` give."""
    return np.concatenate([numbers(unit, block) for unit in range(units) for block in range(BLOCKS)])


def table(results: list[dict[str, Any]]) -> np.ndarray:
    """The targets of all units."""
    return np.concatenate([result["targets"] for result in results])
