"""Workers on a Ray cluster: actors that load the model once each, wherever Ray finds room for them."""

import contextlib
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Hashable
from typing import Any

# Nobody is told of our runs, and Ray's own log says what it says to those who look for it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# In a cluster of our own, workers are as nice as the driver; Ray's default, 15, starves them beside whatever else the machine does.
os.environ.setdefault("RAY_worker_niceness", "0")

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError:
    ray = None

from headflow.errors import HeadflowError
from headflow.execution.executors.driver import Death
from headflow.execution.executors.jobs import Job
from headflow.execution.executors.messages import pack, unpack
from headflow.execution.executors.worker import serve
from headflow.params import ExecutionParams

_LOOK_EVERY_S = 5.0  # for nodes that have joined
_CONNECT_S = 10.0
_FIRST = b""


class Conversation:
    """A worker inside an actor: the work runs in a thread of its own, and each call of :meth:`advance` brings an answer and takes what is said next."""

    def __init__(self, job: bytes) -> None:
        # Spinning OpenMP threads cost seconds a step beside a busy neighbour; read when torch is imported, so set before.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
        order = unpack(job)
        self._said: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._work, args=(order,), daemon=True).start()

    def _work(self, order: dict[str, Any]) -> None:
        try:
            os.chdir(order["folder"])
        except OSError:
            reason = f"a node of the Ray cluster has no folder {order['folder']}: run from a file system that all nodes share"
            self._said.put(pack({"say": "failed", "reason": reason}))
            return
        sys.path += [entry for entry in order["path"] if entry not in sys.path]
        serve(self._ask, Job(order["function"], order["arguments"]), order["threads"])

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self._said.put(pack(message))
        return {} if message["say"] == "failed" else unpack(self._answers.get())

    def advance(self, answer: bytes) -> bytes:
        """Bring the driver's answer, empty at first, and wait for what the worker says next."""
        if answer:
            self._answers.put(answer)
        return self._said.get()


class Actors:
    """Workers on Ray; a :class:`~headflow.execution.executors.driver.Pool`.

    Ray is started, or joined, on the way in, and left on the way out. An actor asks for ``execution.threads`` CPUs and, where the cluster has any,
    ``execution.gpus_per_worker`` GPUs. Those for which there is no room yet wait until there is.

    Raises:
        HeadflowError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, job: Job, settings: ExecutionParams) -> None:
        if ray is None:
            raise HeadflowError("execution.executor = 'ray' needs Ray: pip install 'headflow[ray]', or set it to 'local'")
        self._settings, self._threads = settings, 1 if settings.threads == "auto" else settings.threads
        self._joined = not ray.is_initialized()
        if self._joined:
            start(settings.address or os.environ.get("RAY_ADDRESS") or "local")
        path = [os.path.abspath(entry) for entry in sys.path]
        order = {"function": job.function, "arguments": job.arguments, "threads": self._threads, "folder": os.getcwd(), "path": path}
        self._order = pack(order)
        self._actors: dict[Any, Any] = {}  # what is awaited → the actor that it is awaited from
        self._silent: dict[Hashable, Any] = {}  # actors that wait for an answer
        self._looked, self._room = -_LOOK_EVERY_S, 0
        self._resources: dict[str, float] = {}
        self._look()

    @property
    def wanted(self) -> int:
        return self._room if self._settings.workers == "auto" else self._settings.workers

    def _look(self) -> None:
        """How many workers the cluster has room for by now."""
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return
        self._looked, self._resources = time.monotonic(), ray.cluster_resources()
        self._needs = {"num_cpus": self._threads, "num_gpus": self._settings.gpus_per_worker if self._resources.get("GPU", 0) else 0}
        rooms = [self._resources.get("CPU", 0) // self._threads]
        if self._needs["num_gpus"]:
            rooms.append(self._resources["GPU"] // self._needs["num_gpus"])
        self._room = max(1, int(min(rooms)))

    def keep(self, most: int) -> None:
        self._look()
        for _ in range(min(self.wanted, most) - len(self._actors) - len(self._silent)):
            # Not restarted by Ray: the driver must know of a death, to do the unit again.
            actor = ray.remote(Conversation).options(max_restarts=0, max_task_retries=0, **self._needs).remote(self._order)
            self._actors[actor.advance.remote(_FIRST)] = actor

    def wait(self, timeout_s: float) -> list[tuple[Hashable, bytes | Death]]:
        if not self._actors:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait(list(self._actors), num_returns=len(self._actors), timeout=0)
        if not ready:
            ready, _ = ray.wait(list(self._actors), num_returns=1, timeout=timeout_s)
        heard: list[tuple[Hashable, bytes | Death]] = []
        for awaited in ready:
            actor = self._actors.pop(awaited)
            name = actor._actor_id.hex()
            try:
                heard.append((name, ray.get(awaited)))
                self._silent[name] = actor
            except RayTaskError as error:  # not a death: our own code has failed where nothing should
                raise RuntimeError(f"a worker on Ray has met an unforeseen error:\n{error}") from error
            except RayError as error:
                heard.append((name, Death(_how(error))))
        return heard

    def answer(self, worker: Hashable, message: bytes) -> None:
        actor = self._silent.pop(worker)
        self._actors[actor.advance.remote(message)] = actor

    def placed(self) -> str:
        has = {name: self._resources.get(name, 0) for name in ("CPU", "GPU")}
        return f"each needs {self._needs['num_cpus']} CPU and {self._needs['num_gpus']} GPU, and the Ray cluster has {has['CPU']:g} and {has['GPU']:g} in all"

    def close(self) -> None:
        for actor in [*self._actors.values(), *self._silent.values()]:
            with contextlib.suppress(RayError):
                ray.kill(actor, no_restart=True)
        if self._joined:
            ray.shutdown()


def start(address: str) -> None:
    """Join the cluster at ``address``, or start one for this run alone (``local``), without a dashboard.

    Ray's own services listen on all of a machine's addresses, also in a cluster of one machine; its token (``RAY_AUTH_MODE``) keeps strangers out.

    Raises:
        HeadflowError: there is no cluster at the address.
    """
    host, _, port = address.rpartition(":")
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        if host and port.isdecimal() and "/" not in host:  # Ray itself goes on trying for minutes
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **options)
    except (ConnectionError, ValueError, RuntimeError, RayError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HeadflowError(f"the Ray cluster at {address!r} cannot be reached ({reason}); see execution.address and RAY_ADDRESS") from error


def _how(error: Exception) -> str:
    """How an actor died, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
