"""From params to results: which executor, how many workers, and what each one has."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from headflow.errors import HeadflowError
from headflow.execution.executors.driver import Driver
from headflow.execution.executors.jobs import Count, Job, Records, Result, Unit
from headflow.execution.executors.local import Here, Processes
from headflow.params import ExecutionParams


def _uncounted(computed: int, found: int) -> None:
    pass


@contextmanager
def workers(job: Job, store: Records, settings: ExecutionParams, count: Count = _uncounted) -> Iterator[Callable[[Sequence[Unit]], Iterator[Result]]]:
    """A function that gives the results of units, in their order, wherever they are computed; called again, it finds the same workers.

    Results are computed while they are taken: take all of them before the block ends.

    Args:
        job: what is done with each unit.
        store: the result store; this process alone writes it.
        settings: the group ``execution`` of the params.
        count: told of progress: how much was computed now, how much was found in the store.

    Raises:
        HeadflowError: a unit's mistake that a worker explains; workers that die again and again; Ray is missing or cannot be reached.
    """
    if settings.executor == "ray":
        from headflow.execution.executors.cluster import Actors

        pool = Actors(job, settings)
    else:
        number, devices = local_workers(settings)
        threads = settings.threads if settings.threads != "auto" else max(1, _threads() // number)
        if number == 1:
            with _threads_of(threads):
                yield Here(job, store, count).run
            return
        pool = Processes(job, number, threads, devices)
    with closing(Driver(pool, store, count)) as driver:
        yield driver.run


def run_units(job: Job, units: Sequence[Unit], store: Records, settings: ExecutionParams, count: Count = _uncounted) -> list[Result]:
    """Results of ``units``, in their order; see :func:`workers`."""
    with workers(job, store, settings, count) as run:
        return list(run(units))


def local_workers(settings: ExecutionParams) -> tuple[int, list[str]]:
    """How many workers this machine gets, and which GPUs each of them sees.

    Raises:
        HeadflowError: a worker is to have more GPUs than there are.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus:
        return (1 if settings.workers == "auto" else settings.workers), []
    if settings.gpus_per_worker > gpus:
        raise HeadflowError(f"execution.gpus_per_worker = {settings.gpus_per_worker}: this machine has {gpus}")
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name] or [str(number) for number in range(gpus)]
    places = gpus // settings.gpus_per_worker
    sets = [",".join(names[place * settings.gpus_per_worker : (place + 1) * settings.gpus_per_worker]) for place in range(places)]
    workers = places if settings.workers == "auto" else settings.workers
    # More workers than GPUs share them in turn, which helps where the model is small.
    return workers, [sets[worker % places] for worker in range(workers)]


def _threads() -> int:
    import torch

    return torch.get_num_threads()


@contextmanager
def _threads_of(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
