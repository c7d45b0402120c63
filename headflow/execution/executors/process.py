"""A worker process on this machine: ``python -m headflow.execution.executors.process SOCKET``, started by the driver."""

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

# Spinning OpenMP threads cost seconds a step beside a busy neighbour; read when torch is imported, so set before.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from headflow.execution.executors.jobs import Job
from headflow.execution.executors.messages import pack, unpack
from headflow.execution.executors.worker import serve


def main(descriptor: int) -> None:
    """Talk to the driver through an open socket."""
    connection = Connection(descriptor)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))  # nothing to tidy up: the driver has all that is finished
    threading.Thread(target=_end_with_the_driver, daemon=True).start()

    def ask(message: dict[str, Any]) -> dict[str, Any]:
        connection.send_bytes(pack(message))
        return {} if message["say"] == "failed" else unpack(connection.recv_bytes())

    order = unpack(connection.recv_bytes())
    serve(ask, Job(order["function"], order["arguments"]), order["threads"])


def _end_with_the_driver() -> None:
    """The driver holds the other end of the standard input: it closes when the driver dies, however it dies."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
