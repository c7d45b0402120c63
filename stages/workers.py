"""How a stage has its work done by workers (:mod:`headflow.execution.executors`): one process, several, or a cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from headflow.execution.executors import Job, Result, Unit, workers
from headflow.execution.store import ResultStore
from headflow.params import Params
from headflow.progress import progress


@contextmanager
def at_work(function: str, params: Params, key: str, title: str, total: int, unit: str) -> Iterator[Callable[[Sequence[Unit]], Iterator[Result]]]:
    """A function that gives the results of units of work, in their order, while the block lasts; progress is shown.

    Args:
        function: ``module:name`` of what a worker opens with the params, as JSON text, and ``key``.
        title: of the progress bar.
        total: how much work there is.
        unit: what is counted.
    """
    job = Job(function, {"params": params.model_dump_json(), "key": key})
    with ResultStore(Path(params.ablation.store)) as store, progress(f"{title} ({key})", total, unit) as bar:

        def count(computed: int, found: int) -> None:
            bar.advance(computed)
            bar.skip(found)

        with workers(job, store, params.execution, count) as run:
            yield run
