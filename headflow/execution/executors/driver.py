"""The driver's side of the conversation: hands out units, answers for the store, replaces workers that die."""

import sys
import time
from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result, Unit
from headflow.execution.executors.messages import keys_of, pack, records_message, records_of, unpack
from headflow.execution.executors.worker import RESULT, versions

ATTEMPTS = 3
"""Workers that may die over one unit, or one after another before they are ready."""
_AHEAD = 8  # units a worker, beyond the first unfinished one, that may be handed out
_TOLD_AFTER_S = 30.0


@dataclass(frozen=True)
class Death:
    """A worker that is no more, and how it ended, as far as that is known."""

    how: str


class Pool(Protocol):
    """Workers, wherever they are. A worker is named by anything that can be a key."""

    def keep(self, most: int) -> None:
        """Start workers so that there are as many as wanted, but no more than ``most``."""

    def wait(self, timeout_s: float) -> list[tuple[Hashable, bytes | Death]]:
        """What workers have said, or that they have died, since the last call; waits for the first such thing."""

    def answer(self, worker: Hashable, message: bytes) -> None:
        """Answer what ``worker`` said last."""

    def placed(self) -> str:
        """What the workers need and what there is, for a reader who wonders why none starts."""

    @property
    def wanted(self) -> int: ...

    def close(self) -> None:
        """End all workers at once."""


class Driver:
    """Hands out units to a pool's workers.

    Args:
        pool: the workers; ended by :meth:`close`.
        store: where workers' records go.
        count: told of progress.
    """

    def __init__(self, pool: Pool, store: Records, count: Count) -> None:
        self.pool, self.store, self.count = pool, store, count
        self.about: dict[str, Any] = dict(versions())
        self.idle: deque[Hashable] = deque()
        self.ready, self.stillborn, self.quiet_since = set(), 0, time.monotonic()

    def run(self, units: Sequence[Unit]) -> Iterator[Result]:
        """Results of all units, in their order, each as soon as those before it are there.

        Raises:
            HeadflowError: a worker explains a mistake, runs other code, or dies again and again; the store cannot be written.
            RuntimeError: a worker has met an error that nobody foresaw; the message has its traceback.
        """
        self.units, self.waiting, self.unfinished = units, deque(range(len(units))), 0
        self.doing: dict[Hashable, int] = {}
        self.told: Counter[int] = Counter()  # progress within units that are being done
        self.deaths: Counter[int] = Counter()
        self.found: dict[int, Result] = {}
        while self.unfinished < len(units):
            self.pool.keep(len(self.waiting) + len(self.doing))
            self.hand_out()
            for worker, said in self.pool.wait(1.0):
                self.quiet_since = time.monotonic()
                if isinstance(said, Death):
                    self.bury(worker, said)
                else:
                    self.hear(worker, unpack(said))
            self.hand_out()  # before the results so far are taken, which may be long work
            self.tell_if_nothing_starts()
            while self.unfinished in self.found:
                self.unfinished += 1
                yield self.found.pop(self.unfinished - 1)

    def close(self) -> None:
        """End all workers at once."""
        self.pool.close()

    def hear(self, worker: Hashable, said: dict[str, Any]) -> None:
        match said["say"]:
            case "here":
                self.compare(said)
                self.pool.answer(worker, pack({}))
            case "ready":
                self.compare(said)
                self.stillborn = 0
                self.ready.add(worker)
                self.idle.append(worker)
            case "get":
                known = self.store.get(keys_of(said))
                self.pool.answer(worker, pack(records_message(known.items())))
            case "put":
                self.store.put(records_of(said))
                self.told[self.doing[worker]] += sum(said["progress"])
                self.count(*said["progress"])
                self.pool.answer(worker, pack({}))
            case "done":
                self.found[self.doing.pop(worker)] = {name.removeprefix(RESULT): value for name, value in said.items() if name.startswith(RESULT)}
                self.count(*said["progress"])
                self.idle.append(worker)
            case "failed":
                if "reason" in said:
                    raise HeadflowError(said["reason"])
                raise RuntimeError(f"a worker has met an unforeseen error:\n{said['unforeseen']}")

    def compare(self, said: dict[str, Any]) -> None:
        """Whether a worker runs what the driver runs; the first worker says on what kind of device."""
        for name, value in said.items():
            if name in ("engine", "torch", "device") and value != self.about.setdefault(name, value):
                what = {"engine": "other code of headflow", "torch": f"torch {value} instead of {self.about[name]}"}.get(
                    name, f"on {value} where others run on {self.about[name]}"
                )
                raise HeadflowError(f"the worker on {said['host']} runs {what}: its numbers would differ; make all machines alike")

    def bury(self, worker: Hashable, death: Death) -> None:
        if worker in self.idle:
            self.idle.remove(worker)
        if worker in self.doing:
            place = self.doing.pop(worker)
            self.deaths[place] += 1
            self.count(0, -self.told.pop(place, 0))  # another worker finds it and tells it once more
            if self.deaths[place] >= ATTEMPTS:
                what = f"{ATTEMPTS} workers have died over one unit of work ({self.units[place]})"
                raise HeadflowError(f"{what}, the last one {death.how}; finished work is kept")
            self.waiting.appendleft(place)
        elif worker not in self.ready:
            self.stillborn += 1
            if self.stillborn >= ATTEMPTS:
                raise HeadflowError(f"{ATTEMPTS} workers have died one after another while they started, the last one {death.how}")
        print(f"a worker has died ({death.how}); its work is done again by another", file=sys.stderr, flush=True)

    def hand_out(self) -> None:
        limit = self.unfinished + _AHEAD * max(1, self.pool.wanted)
        while self.idle and self.waiting and self.waiting[0] < limit:
            worker, place = self.idle.popleft(), self.waiting.popleft()
            self.doing[worker] = place
            self.pool.answer(worker, pack({"unit": self.units[place]}))

    def tell_if_nothing_starts(self) -> None:
        if not self.doing and time.monotonic() - self.quiet_since > _TOLD_AFTER_S:
            self.quiet_since = time.monotonic()
            print(f"still waiting for a worker: {self.pool.placed()}", file=sys.stderr, flush=True)
