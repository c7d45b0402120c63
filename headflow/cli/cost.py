"""What one masked forward, one gradient and one stock forward of a model cost here, measured on one example."""

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headflow.cli.check import one_example
from headflow.cli.work import Outline, Work
from headflow.errors import HeadflowError
from headflow.params import PLANTED, Params


@dataclass(frozen=True)
class Cost:
    """Seconds and floating-point operations.

    Attributes:
        forward_s, forward_flops: of one masked forward among a batch.
        gradient_s, gradient_flops: of one forward and backward pass that gives the gradients of all gates.
        capture_s, capture_flops: of one stock forward of a whole prompt.
        token_s, token_flops: of one generated token, many descriptions side by side.
        batch: masked forwards at once.
        took_s: what the calibration itself took, loading the model included.
        device: kinds of device that hold the weights.
    """

    forward_s: float
    gradient_s: float
    capture_s: float
    token_s: float
    forward_flops: float
    gradient_flops: float
    capture_flops: float
    token_flops: float
    batch: int
    took_s: float
    device: str

    def seconds(self, work: Work, *, left: bool = True) -> float:
        """Estimated time of a stage's work, or of what is left of it."""
        return _priced(work, left, self.forward_s, self.gradient_s, self.capture_s, self.token_s)

    def flops(self, work: Work, *, left: bool = True) -> float:
        """Floating-point operations of a stage's work, or of what is left of it."""
        return _priced(work, left, self.forward_flops, self.gradient_flops, self.capture_flops, self.token_flops)


def _priced(work: Work, left: bool, forward: float, gradient: float, capture: float, token: float) -> float:
    if left:
        return work.forwards_left * forward + work.gradients_left * gradient + work.captures_left * capture + work.tokens_left * token
    return work.forwards * forward + work.gradients * gradient + max(work.captures, work.examples) * capture + work.tokens * token


def calibrate(params: Params, key: str, device_map: str | None = None) -> tuple[Cost, Outline]:
    """Load model ``key``, check it, and measure it; some seconds beside the loading for a model that suits the machine.

    Raises:
        HeadflowError: the model cannot be loaded, or fails a check.
    """
    from PIL import ImageOps

    from headflow.diagnosis import diagnose
    from headflow.models.lvlm import open_picture

    began = time.perf_counter()
    picture, question, examples, references = one_example(params, None, None)
    model = _load(params, key, device_map)
    try:
        opened = open_picture(picture)
        capture, other = model.capture(opened, question), model.capture(ImageOps.invert(opened), question)
        found = diagnose(capture, other)
        gradient_s, flops = _gradient_seconds(capture, other), count_flops(capture, other, found.batch)
        token_s, token_flops = decoding_cost(capture)
        devices = ", ".join(sorted({weight.device.type for weight in model.model.parameters()}))
        outline = Outline(
            model.layers, model.heads, capture.mode == "cross", list(capture.roles), capture.image,
            capture.key_image.stop - capture.key_image.start, examples, references,
        )  # fmt: skip
        cost = Cost(
            1 / found.rate, gradient_s, found.capture_s, token_s, *flops, token_flops, batch=found.batch, took_s=time.perf_counter() - began, device=devices
        )  # fmt: skip
        return cost, outline
    finally:
        del model
        gc.collect()


def _load(params: Params, key: str, device_map: str | None) -> Any:
    from headflow.models.loading import load, load_prepared
    from headflow.models.prepared import FILE

    settings, prepared = params.model(key), Path("data/models") / key
    if (prepared / FILE).exists():
        return load_prepared(prepared, device_map or settings.device_map)
    source = f"{PLANTED}:{settings.circuit}" if settings.id == PLANTED else settings.id
    options = {name: getattr(settings, name) for name in ("revision", "dtype", "attn", "quantization", "trust_remote_code")}
    return load(source, device_map=device_map or settings.device_map, **options)


def _gradient_seconds(capture: Any, other: Any) -> float:
    """Of one corner; the first ones pay for what is made once."""
    from headflow.ablation import gate_gradients
    from headflow.execution.runs import CORNER_BLOCK
    from headflow.models.baselines import swap_baseline

    lvlm, baseline, times = capture.lvlm, swap_baseline(other), []
    corners = np.random.default_rng(0).random((CORNER_BLOCK, lvlm.layers, lvlm.heads)) < 0.5
    for _ in range(2):
        start = time.perf_counter()
        gate_gradients(capture, corners, baseline=baseline)
        times.append((time.perf_counter() - start) / CORNER_BLOCK)
    return times[-1]


def decoding_cost(capture: Any, sequences: int = 16, most: int = 8) -> tuple[float, float]:
    """Seconds, and floating-point operations, of one generated token, that which ends a sequence included.

    A few tokens of some sequences side by side, as knockouts are decoded; the text after the picture, which each sequence runs first, is in it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from headflow.decoding import decode

    taken = []
    for _ in range(2):  # the first round pays for what is made once
        start = time.perf_counter()
        [said] = zip(*decode([capture] * sequences, max_new_tokens=most), strict=True)
        taken.append(time.perf_counter() - start)
    with FlopCounterMode(display=False) as counter:
        decode([capture], max_new_tokens=most)
    ran = [min(len(tokens) + 1, most) for tokens in said]
    return taken[-1] / sum(ran), counter.get_total_flops() / ran[0]


def count_flops(capture: Any, other: Any, batch: int) -> tuple[float, float, float]:
    """Floating-point operations of a masked forward, of a gradient, and of a stock forward: matrix products, attention and convolutions, as torch counts them.

    Raises:
        HeadflowError: torch counts none.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from headflow.ablation import gate_gradients, run_masks
    from headflow.models.baselines import swap_baseline

    lvlm, baseline = capture.lvlm, swap_baseline(other)
    masks = np.random.default_rng(0).random((batch, lvlm.layers, lvlm.heads)) < 0.5
    counted = []
    for many, run in (
        (batch, lambda: run_masks(capture, masks, baseline=baseline, batch_size=batch)),
        (1, lambda: gate_gradients(capture, masks[:1], baseline=baseline, batch_size=1)),
        (1, lambda: lvlm.capture(capture.picture, capture.question)),
    ):
        with FlopCounterMode(display=False) as counter:
            run()
        counted.append(counter.get_total_flops() / many)
    if not all(counted):
        raise HeadflowError("torch counts no floating-point operations of this model")
    return tuple(counted)
