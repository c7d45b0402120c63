"""Measure headflow on this machine: ``python -m bench [PART] [--embedded PATH] [--tiny]``.

PARTs: speed, masks, estimators, tokens, memory, keep, compress, decode, sharing, scaling, gpu.

Figures are ratios taken side by side in one run. Prints plain tables and writes bench/results/latest.json. ``gpu`` measures the
exact shapes of LLaVA-1.5-7B and Qwen2.5-VL-7B with random weights, and takes ``--model``, ``--device`` and ``--profile``.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import torch

from bench import compress, decode, estimators, gpu, keep, masks, memory, scaling, sharing, speed, tokens
from bench.shapes import SHAPES
from headflow.errors import HeadflowError
from headflow.files import read_json, write_json

PARTS = {
    "speed": speed.run, "masks": masks.run, "estimators": estimators.run, "tokens": tokens.run, "memory": memory.run,
    "keep": keep.run, "compress": compress.run, "decode": decode.run, "sharing": sharing.run,
    "scaling": scaling.run, "gpu": gpu.run,
}  # fmt: skip
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, help="one part; all of them if left out")
    parser.add_argument("--embedded", default="embedded", help="the small model: a checkpoint folder instead of the shipped one")
    parser.add_argument("--tiny", action="store_true", help="a few seconds a part, to see that it runs; the figures mean nothing")
    parser.add_argument("--model", choices=SHAPES, help="gpu: one of the shapes; both if left out")
    parser.add_argument("--device", default="auto", help="gpu: cuda, cuda:1, or cpu with --tiny; the first GPU if left out")
    parser.add_argument("--profile", action="store_true", help="gpu: print which kernels take the time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go, as JSON")
    arguments = parser.parse_args()

    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}
    print(f"{machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}; load average {os.getloadavg()[0]:.1f} at the start")
    results = read_json(arguments.results) if arguments.part and arguments.results.exists() else {}
    for name in [arguments.part] if arguments.part else PARTS:
        began = time.perf_counter()
        options = {"model": arguments.model, "device": arguments.device, "profile": arguments.profile} if name == "gpu" else {}
        try:
            figures = PARTS[name](arguments.embedded, tiny=arguments.tiny, **options)
        except HeadflowError as error:
            if arguments.part:
                sys.exit(f"bench {name}: {error}")
            print(f"\n{name} is left out: {error}")
            continue
        results[name] = {**figures, "machine": machine, "tiny": arguments.tiny, "load_average": os.getloadavg()[0]}
        print(f"\n[{name}: {time.perf_counter() - began:.0f} s]")
        write_json(arguments.results, results)


if __name__ == "__main__":
    main()
