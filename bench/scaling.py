"""What scale costs: workers side by side, Ray beside local workers, the size and opening of a large store, memory against masks, examples and image tokens."""

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.memory import _own_peak
from bench.timing import spread, table
from headflow.execution.executors import Job, workers
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.runs import BLOCK, run_example
from headflow.execution.store import ResultStore
from headflow.params import ExecutionParams

STORE_AIM_MB, START_AIM_S = 20.0, 5.0
_MB = 1e6


class Forwards:
    """Masked runs of one model: unit ``[round, example, masks]``; what a worker of this benchmark does.

    Args:
        source: the small model.
        patches: along each side of the picture, of a model with random weights; 0 = the small model itself.
    """

    def __init__(self, source: str, patches: int = 0) -> None:
        from bench.subjects import embedded, large

        self.subject = large(source, layers=4, width=256, patches=patches) if patches else embedded(source)

    def __call__(self, unit: list[int], store: Records, count: Count) -> Result:
        from bench.subjects import QUESTION, rendered
        from headflow.attribution.masks import sample_masks
        from headflow.targets import Target

        turn, example, number = unit
        subject = self.subject
        masks = sample_masks(subject.lvlm.layers, subject.lvlm.heads, number, design="bernoulli", seed=example)

        def prepare() -> tuple:
            (picture,) = rendered(1, first=100 + example)
            return subject.lvlm.capture(picture, QUESTION), subject.baseline, Target("logit", subject.token)

        values = run_example(store, f"bench {turn} {example}", masks, prepare, done=count)
        return {"targets": values, "peak_mib": _own_peak()}


def run(source: str, *, tiny: bool = False) -> dict[str, Any]:
    """Measure all parts.

    Args:
        source: the small model.
        tiny: a few units and a small store.
    """
    return {"throughput": throughput(source, tiny), "store": store_size(tiny), "start": start_up(tiny), "memory": memory(source, tiny)}


def throughput(source: str, tiny: bool) -> dict[str, list[float]]:
    """Masked forwards a second, model loaded; every worker has one thread."""
    masks, examples, rounds = (128, 2, 1) if tiny else (1024, 8, 5)
    ways = {"in this process": {"workers": 1}, "2 local workers": {"workers": 2}}
    if importlib.util.find_spec("ray"):
        ways |= {"1 Ray worker": {"executor": "ray", "workers": 1}, "2 Ray workers": {"executor": "ray", "workers": 2}}
    found: dict[str, list[float]] = {}
    for name, settings in ways.items():
        # One way after another: two sets of loaded workers would share the machine.
        with tempfile.TemporaryDirectory() as folder, ResultStore(Path(folder) / "results.sqlite") as store:
            job = Job("bench.scaling:Forwards", {"source": source})
            with workers(job, store, ExecutionParams(threads=1, **settings)) as work:
                list(work([[-1, example, BLOCK] for example in range(2 * settings["workers"])]))  # loads the model
                found[name] = []
                for turn in range(rounds):
                    began = time.perf_counter()
                    list(work([[turn, example, masks] for example in range(examples)]))
                    found[name].append(examples * masks / (time.perf_counter() - began))
    first = np.median(found["in this process"])
    rows = [[name, spread(rates), f"{np.median(rates) / first:.2f}"] for name, rates in found.items()]
    table(f"masked forwards a second, {examples} examples × {masks} masks, one thread a worker", ["where", "forwards/s", "ratio"], rows)
    return found


def store_size(tiny: bool) -> dict[str, float]:
    """Megabytes of the store for a million masked forwards, as runs write them."""
    forwards = 64_000 if tiny else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.sqlite"
        with ResultStore(path) as store:
            for start in range(0, forwards // BLOCK, 16):
                store.put((key, values) for key, values in _records(start, min(start + 16, forwards // BLOCK)))
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / _MB * 1e6 / forwards
    table("size of the store", ["MB for a million masked forwards", "aim"], [[f"{size:.1f}", f"≤ {STORE_AIM_MB:g}"]])
    return {"mb_per_million": size, "aim": STORE_AIM_MB}


def _records(start: int, stop: int):
    draw = np.random.default_rng([start, stop])
    for _ in range(start, stop):
        yield draw.bytes(16), draw.normal(size=BLOCK).astype(np.float32)


def start_up(tiny: bool) -> dict[str, float]:
    """Seconds to open a large store and to look up one example's records, half of which are there."""
    records = 20_000 if tiny else 10_000_000
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # some gigabytes: not on a file system in memory
        path = Path(folder) / "results.sqlite"
        keys = np.sort(np.random.default_rng(0).integers(0, 2**63, records, dtype=np.uint64).astype(">u8"))
        data = np.random.default_rng(1).normal(size=(1000, BLOCK)).astype(np.float32)
        with ResultStore(path) as store:
            for start in range(0, records, 50_000):
                raw = keys[start : start + 50_000].tobytes()
                store.put((raw[at : at + 8] * 2, data[at // 8 % 1000]) for at in range(0, len(raw), 8))
        size = path.stat().st_size / _MB
        wanted = [keys[place : place + 1].tobytes() * 2 for place in np.random.default_rng(2).choice(records, 64, replace=False)]
        began = time.perf_counter()
        with ResultStore(path) as store:
            found = store.get([*wanted, *(bytes(8) + key[:8] for key in wanted)])
        took = time.perf_counter() - began
        assert set(found) == set(wanted)
    rows = [[f"{records:,}", f"{size:,.0f}", f"{took:.3f}", f"≤ {START_AIM_S:g}"]]
    table("opening a store and looking up one example (the file may lie in the system's cache)", ["records", "MB", "seconds", "aim"], rows)
    return {"records": records, "mb": size, "seconds": took, "aim": START_AIM_S}


def memory(source: str, tiny: bool) -> list[dict[str, float]]:
    """Most memory that a worker takes, each in a process of its own: against masks, examples and image tokens."""
    base = {"masks": 64 if tiny else 256, "examples": 1, "patches": 4 if tiny else 8}
    varied = {"masks": (64, 256) if tiny else (256, 1024, 4096), "examples": (1, 2) if tiny else (1, 4, 16), "patches": (4, 6) if tiny else (8, 16, 24)}
    found = []
    for name, values in varied.items():
        for value in values:
            case = base | {name: value}
            with tempfile.TemporaryDirectory() as folder, ResultStore(Path(folder) / "results.sqlite") as store:
                job = Job("bench.scaling:Forwards", {"source": source, "patches": case["patches"]})
                # Two are asked for, so that there is a process beside this one; units go to both.
                with workers(job, store, ExecutionParams(workers=2, threads=1)) as work:
                    results = list(work([[0, example, case["masks"]] for example in range(case["examples"])]))
            peak = max(one["peak_mib"] for one in results)
            found.append({"varied": name, "masks": case["masks"], "examples": case["examples"], "image_tokens": case["patches"] ** 2, "peak_mib": peak})
    columns = ["varied", "masks", "examples", "image_tokens", "peak_mib"]
    table("most memory of a worker, MiB", columns, [[f"{one[c]:.0f}" if c == "peak_mib" else one[c] for c in columns] for one in found])
    return found
