"""Peak resident memory against the number of masks and of examples; each figure from a process of its own."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import headflow
from bench import subjects
from bench.timing import table

_MASKS = (256, 1024, 4096)
_EXAMPLES = (4, 16)


def run(source: str, *, tiny: bool = False) -> dict:
    """Peaks in MiB; neither more masks nor more examples may raise them.

    Args:
        source: the embedded model.
        tiny: few masks and examples.
    """
    masks, examples = ((8, 16), (1, 2)) if tiny else (_MASKS, _EXAMPLES)
    pairs = [(count, examples[0]) for count in masks] + [(masks[0], count) for count in examples[1:]]
    peaks = {pair: peak(source, *pair) for pair in pairs}
    least = peaks[pairs[0]]
    table(
        "Peak resident memory, embedded model; it must not grow with masks or examples",
        ["masks", "examples", "MiB", "growth"],
        [[*pair, f"{mib:.0f}", f"{mib / least - 1:+.1%}"] for pair, mib in peaks.items()],
    )
    return {
        "mib": {f"{masks} masks, {examples} examples": mib for (masks, examples), mib in peaks.items()},
        "growth_with_masks": peaks[masks[-1], examples[0]] / least - 1,
        "growth_with_examples": peaks[masks[0], examples[-1]] / least - 1,
    }


def peak(source: str, masks: int, examples: int) -> float:
    """MiB of a fresh process that runs ``masks`` masks on each of ``examples`` pictures."""
    command = [sys.executable, "-m", "bench.memory", source, str(masks), str(examples)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def _work(source: str, masks: int, examples: int) -> None:
    subject = subjects.embedded(source)
    drawn = headflow.sample_masks(subject.lvlm.layers, subject.lvlm.heads, masks, design="bernoulli")
    for picture in subjects.rendered(examples, first=100):
        headflow.run_masks(subject.lvlm.capture(picture, subjects.QUESTION), drawn, baseline=subject.baseline)


def _own_peak() -> float:
    """MiB. Linux's ru_maxrss still holds the peak of the process that started this one, so ask for this program's own."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (10 if sys.platform != "darwin" else 20))


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(_own_peak())
