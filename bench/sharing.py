"""Peak memory of attention shares against tokens and layers: streamed inside the attention function, or read from ``output_attentions=True``.

Each figure comes from a process of its own, and counts from the loaded model on: capturing the example, or the stock forward, included. What a
capture keeps grows with layers × tokens; what comes on top where the example is captured already is told apart.
"""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from bench import subjects
from bench.timing import table
from headflow.models.capture import Capture
from headflow.models.lvlm import LVLM
from headflow.models.spoken_attention import all_fed, spoken_shares

ARMS = {
    "streamed": "streamed", "captured": "streamed, on top of the capture", "whole": "output_attentions=True", "layer": "eager, one layer's tensor at a time",
}  # fmt: skip
_SAID = 64
_TOKENS = list(range(100, 100 + _SAID))
_AGREE = 1e-4


def run(source: str, *, tiny: bool = False) -> dict:
    """MiB above the loaded model, and times more than streamed; four times the tokens, then four times the layers as well.

    Args:
        source: the embedded model, whose tokenizer the random one borrows.
        tiny: two small shapes.
    """
    shapes = [(2, 8), (4, 8)] if tiny else [(4, 16), (4, 32), (16, 32)]
    found = {(arm, *shape): _peak(source, arm, *shape) for shape, arm in itertools.product(shapes, ARMS)}
    for shape in shapes:
        shares = [found[arm, *shape][1] for arm in ARMS]
        if max(abs(own - other) for others in shares for own, other in zip(others, shares[0], strict=True)) > _AGREE:
            raise AssertionError(f"the arms disagree on the shares: {shares}")
    mib = {key: peak for key, (peak, _) in found.items()}
    table(
        f"Peak memory of attention shares of {_SAID} generated tokens, MiB above the loaded model of random weights, 8 heads; in brackets times streamed",
        ["layers", "image tokens", *ARMS.values()],
        [[layers, patches**2, *(f"{mib[arm, layers, patches]:.0f} ({mib[arm, layers, patches] / mib['streamed', layers, patches]:.1f})" for arm in ARMS)]
         for layers, patches in shapes],
    )  # fmt: skip
    return {
        "mib": {f"{layers} layers, {patches**2} image tokens": {arm: mib[arm, layers, patches] for arm in ARMS} for layers, patches in shapes},
        "times_streamed": {arm: mib[arm, *shapes[-1]] / mib["streamed", *shapes[-1]] for arm in ARMS},
        "growth": {arm: mib[arm, *shapes[-1]] / mib[arm, *shapes[0]] for arm in ARMS},
    }


def _peak(source: str, arm: str, layers: int, patches: int) -> tuple[float, list[float]]:
    """MiB and shares from a fresh process. Freed memory goes back at once there, so that it is not counted for what comes next."""
    command = [sys.executable, "-m", "bench.sharing", source, arm, str(layers), str(patches)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})
    peak, *shares = map(float, done.stdout.split())
    return peak, shares


def _capture(lvlm: LVLM) -> Capture:
    return lvlm.capture(subjects.rendered(1)[0], subjects.QUESTION, all_fed(_TOKENS))


@torch.no_grad()
def _shares(lvlm: LVLM, arm: str, capture: Capture | None) -> torch.Tensor:
    """Share of image, query and generated tokens, mean over layers, heads and generated tokens."""
    if arm in ("streamed", "captured"):
        return spoken_shares(capture or _capture(lvlm)).shares.mean((0, 1))
    (picture,) = subjects.rendered(1)
    inputs = lvlm.inputs([picture], subjects.QUESTION)
    ids = torch.cat([inputs["input_ids"], torch.tensor([_TOKENS])], 1)
    image, places = ids[0] == lvlm.image_token, torch.arange(ids.shape[1])
    spoken = places >= ids.shape[1] - _SAID
    lvlm.decoder.set_attn_implementation("eager")
    options = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False, "logits_to_keep": 1}

    def grouped(weights: torch.Tensor) -> torch.Tensor:
        rows = weights[0, :, spoken].mean((0, 1))
        return torch.stack([rows[image].sum(), rows[~image & ~spoken].sum(), rows[spoken].sum()])

    if arm == "whole":
        return torch.stack([grouped(weights) for weights in lvlm.model(**options, output_attentions=True).attentions]).mean(0)
    found: list[torch.Tensor] = []
    for layer in lvlm.decoder.layers:
        layer.self_attn.register_forward_hook(lambda module, args, output: found.append(grouped(output[1])))
    lvlm.model(**options)
    return torch.stack(found).mean(0)


def _work(source: str, arm: str, layers: int, patches: int) -> None:
    lvlm = subjects.large(source, layers=layers, width=128, patches=patches, head_width=16).lvlm
    status = Path("/proc/self/status")
    if not status.exists():
        sys.exit("peak memory is read from /proc, which this machine does not have")
    capture = _capture(lvlm) if arm == "captured" else None
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text()).group(1))
    shares = _shares(lvlm, arm, capture)
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1))
    print((peak - before) / 1024, *shares.tolist())


if __name__ == "__main__":
    _work(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
