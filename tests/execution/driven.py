"""A driver in a process of its own, to be killed, interrupted or starved: ``python -m tests.execution.driven STORE OUT SETTINGS ARGUMENTS UNITS``."""

import json
import sys
from pathlib import Path

import numpy as np

from headflow.errors import HeadflowError
from headflow.execution.executors import Job, run_units
from headflow.execution.store import ResultStore
from headflow.params import ExecutionParams
from tests.execution.jobs import table


def main(store: str, out: str, settings: str, arguments: str, units: str) -> None:
    total = 0

    def count(computed: int, found: int) -> None:
        nonlocal total
        total += computed
        print(f"computed {total}", flush=True)

    with ResultStore(Path(store)) as records:
        job = Job("tests.execution.jobs:Sums", json.loads(arguments))
        results = run_units(job, range(int(units)), records, ExecutionParams.model_validate_json(settings), count)
    np.save(out, table(results))
    print(f"finished {total}", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except HeadflowError as error:
        print(f"error: {error}", flush=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
