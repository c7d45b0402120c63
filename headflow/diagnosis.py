"""Will this model run here, is its intervention real, and what will a run cost? Answered on one example before any run."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from headflow.ablation import run_masks
from headflow.batching import automatic_batch, forward_bytes
from headflow.checks import Checks, check_intervention
from headflow.models.baselines import swap_baseline
from headflow.models.capture import Capture

# Masked forwards are timed for about this long.
_TIMED_S = 3.0


@dataclass(frozen=True)
class Diagnosis:
    """What was found out.

    Attributes:
        checks: the four checks.
        shared_bytes: keys and values of one example that all its masked forwards share, real and baseline.
        batch: masked forwards at once, by the automatic rule.
        batch_bytes: memory that such a batch takes beside the weights: the peak measured on a GPU, elsewhere an estimate from shapes.
        measured: whether ``batch_bytes`` was measured.
        capture_s: seconds for one stock forward.
        rate: masked forwards a second.
    """

    checks: Checks
    shared_bytes: int
    batch: int
    batch_bytes: int
    measured: bool
    capture_s: float
    rate: float

    def seconds(self, examples: int, references: int, masks: int) -> float:
        """Estimated time for the model's part of a pipeline run."""
        return examples * masks / self.rate + (3 * examples + references) * self.capture_s


def diagnose(capture: Capture, other: Capture) -> Diagnosis:
    """Run the checks and time masked forwards.

    Args:
        capture, other: two pictures of one size with the same question.

    Raises:
        HeadflowError: a check fails, or memory runs out with a single masked forward.
    """
    checks, lvlm, baseline = check_intervention(capture, other), capture.lvlm, swap_baseline(other)
    start = time.perf_counter()
    lvlm.capture(capture.picture, capture.question)
    capture_s = time.perf_counter() - start

    shared = sum(x.numel() * x.element_size() for x in (*capture.keys, *capture.values, *baseline.keys, *baseline.values))
    batch, on_gpu = automatic_batch(capture), lvlm.device.type == "cuda"
    masks = np.random.default_rng(0).random((batch, lvlm.layers, lvlm.heads)) < 0.5
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    run_masks(capture, masks, baseline=baseline)  # not timed: the first batch pays for what is made once
    done, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < _TIMED_S:
        # Twice the batch: on a CPU batches run side by side.
        run_masks(capture, np.concatenate([masks, ~masks]), baseline=baseline)
        done += 2 * batch
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else batch * forward_bytes(capture)
    return Diagnosis(checks, shared, batch, peak, on_gpu, capture_s, done / seconds)
