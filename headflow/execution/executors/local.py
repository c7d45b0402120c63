"""Workers on this machine: none beside the driver itself, or one process each."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from multiprocessing.connection import Connection, wait

from headflow.execution.executors.driver import Death
from headflow.execution.executors.jobs import Count, Job, Records, Result, Unit, Work
from headflow.execution.executors.messages import pack

_GRACE_S = 2.0
_NEVER_INHERITED = ("PYTHONSTARTUP", "PYTHONINSPECT")


class Here:
    """The driver is its own worker: units are done one after another in this process."""

    def __init__(self, job: Job, store: Records, count: Count) -> None:
        self._job, self._store, self._count = job, store, count

    @cached_property
    def _work(self) -> Work:
        return self._job.open()

    def run(self, units: Sequence[Unit]) -> Iterator[Result]:
        return (self._work(unit, self._store, self._count) for unit in units)


class Processes:
    """Worker processes on this machine; a :class:`~headflow.execution.executors.driver.Pool`.

    Args:
        job: what they do.
        workers: how many are wanted.
        threads: of each.
        devices: what each one's CUDA_VISIBLE_DEVICES is; empty = as it is.
    """

    def __init__(self, job: Job, workers: int, threads: int, devices: Sequence[str] = ()) -> None:
        self._job, self.wanted, self._threads, self._devices = job, workers, threads, devices
        self._alive: dict[int, tuple[subprocess.Popen, Connection]] = {}

    def keep(self, most: int) -> None:
        for place in range(min(self.wanted, most)):
            if place not in self._alive:
                self._alive[place] = self._start(place)

    def _start(self, place: int) -> tuple[subprocess.Popen, Connection]:
        ours, theirs = socket.socketpair()
        path = [os.getcwd() if entry == "" else entry for entry in sys.path]
        environment = {name: value for name, value in os.environ.items() if name not in _NEVER_INHERITED}
        environment |= {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": str(self._threads)}
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[place]
        command = [sys.executable, "-m", "headflow.execution.executors.process", str(theirs.fileno())]
        with theirs:
            # A session of its own: Ctrl-C in a terminal reaches the driver alone, which ends the workers.
            process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.PIPE, start_new_session=True)
        connection = Connection(ours.detach())
        _send(connection, pack({"function": self._job.function, "arguments": self._job.arguments, "threads": self._threads}))
        return process, connection

    def wait(self, timeout_s: float) -> list[tuple[Hashable, bytes | Death]]:
        places = {connection: place for place, (_, connection) in self._alive.items()}
        heard: list[tuple[Hashable, bytes | Death]] = []
        for connection in wait(list(places), timeout_s):
            process = self._alive[places[connection]][0]
            try:
                heard.append((process.pid, connection.recv_bytes()))
            except (EOFError, OSError):
                del self._alive[places[connection]]
                heard.append((process.pid, Death(_ended(process, connection))))
        return heard

    def answer(self, worker: Hashable, message: bytes) -> None:
        for process, connection in self._alive.values():
            if process.pid == worker:
                _send(connection, message)

    def placed(self) -> str:
        return f"{len(self._alive)} of {self.wanted} processes are loading the model"

    def close(self) -> None:
        for process, _ in self._alive.values():
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for process, connection in self._alive.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
            _ended(process, connection)
        self._alive.clear()


def _send(connection: Connection, message: bytes) -> None:
    with contextlib.suppress(OSError):  # it has just died, which `wait` will tell
        connection.send_bytes(message)


def _ended(process: subprocess.Popen, connection: Connection) -> str:
    """Take leave of a process and say how it ended."""
    connection.close()
    process.stdin.close()
    try:
        status = process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:  # it closed its socket and lives on
        process.kill()
        status = process.wait()
    if status >= 0:
        return f"by itself, with exit status {status}"
    name = signal.Signals(-status).name
    return f"by {name}" + (", as a system does that runs out of memory" if name == "SIGKILL" else "")
