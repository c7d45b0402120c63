"""A worker: opens the job once, then does one unit after another and tells the driver."""

import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from jaxtyping import Float

from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Job
from headflow.execution.executors.messages import keys_array, records_message, records_of
from headflow.execution.fingerprint import engine_version

RESULT = "result "
"""Before the names of a result's values, among those of the message that carries them."""
Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""Says something to the driver and waits for its answer."""


class RemoteRecords:
    """The driver's result store as a worker sees it; progress goes along with what is said anyway."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._computed, self._found = ask, 0, 0

    def get(self, units: Iterable[bytes]) -> dict[bytes, Float[np.ndarray, " numbers"]]:
        """Records of those units that are finished."""
        wanted = keys_array(units)
        return dict(records_of(self._ask({"say": "get", "units": wanted}))) if len(wanted) else {}

    def put(self, records: Iterable[tuple[bytes, Float[np.ndarray, " numbers"]]]) -> None:
        """Add finished units; they are in the store when this returns."""
        self._ask({"say": "put", **records_message(records), "progress": self.progress()})

    def count(self, computed: int, found: int) -> None:
        """Take note of progress."""
        self._computed += computed
        self._found += found

    def progress(self) -> tuple[int, int]:
        """What has been counted since this was last asked: computed, found."""
        since, self._computed, self._found = (self._computed, self._found), 0, 0
        return since


def serve(ask: Ask, job: Job, threads: int) -> None:
    """Do units of ``job`` until the driver has no more; whatever goes wrong is said to the driver."""
    try:
        ask({"say": "here", **versions(), "host": socket.gethostname(), "pid": os.getpid()})
        work = job.open()
        order = ask({"say": "ready", "host": socket.gethostname(), **_device(threads)})
        while not order.get("stop"):
            records = RemoteRecords(ask)
            result = work(order["unit"], records, records.count)
            order = ask({"say": "done", "progress": records.progress(), **{RESULT + name: value for name, value in result.items()}})
    except HeadflowError as error:
        ask({"say": "failed", "reason": str(error)})
    except (EOFError, ConnectionError, KeyboardInterrupt):  # the driver is gone, or wants this worker gone
        return
    except Exception:
        ask({"say": "failed", "unforeseen": traceback.format_exc()})


def versions() -> dict[str, str | None]:
    """What all workers and the driver must have in common."""
    return {"engine": engine_version(), "torch": _torch_version()}


def _torch_version() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def _device(threads: int) -> dict[str, str]:
    """Set the number of threads and tell the kind of device, if the job has loaded torch."""
    if "torch" not in sys.modules:
        return {}
    import torch

    torch.set_num_threads(threads)
    return {"device": "cuda" if torch.cuda.is_available() else "cpu"}
