"""Measure headflow on this machine: ``python -m bench [speed|masks|memory] [--embedded PATH] [--tiny]``.

Figures are ratios taken side by side in one run. Prints plain tables and writes bench/results/latest.json.
"""

import argparse
import os
import platform
import time
from pathlib import Path

import torch

from bench import masks, memory, speed
from headflow.files import read_json, write_json

PARTS = {"speed": speed.run, "masks": masks.run, "memory": memory.run}
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS, help="one part; all of them if left out")
    parser.add_argument("--embedded", default="embedded", help="the small model: a checkpoint folder instead of the shipped one")
    parser.add_argument("--tiny", action="store_true", help="a few seconds a part, to see that it runs; the figures mean nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go, as JSON")
    arguments = parser.parse_args()

    machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}
    print(f"{machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}; load average {os.getloadavg()[0]:.1f} at the start")
    results = read_json(arguments.results) if arguments.part and arguments.results.exists() else {}
    for name in [arguments.part] if arguments.part else PARTS:
        began = time.perf_counter()
        figures = PARTS[name](arguments.embedded, tiny=arguments.tiny)
        results[name] = {**figures, "machine": machine, "tiny": arguments.tiny, "load_average": os.getloadavg()[0]}
        print(f"\n[{name}: {time.perf_counter() - began:.0f} s]")
        write_json(arguments.results, results)


if __name__ == "__main__":
    main()
