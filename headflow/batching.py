"""How many masked forwards run at once, and on how many threads; none of it changes a result beyond rounding."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch

from headflow.errors import HeadflowError
from headflow.memory import is_out_of_memory
from headflow.models.capture import Capture

T = TypeVar("T")
# Rows (masks × suffix tokens) of one batch: enough that each batch's fixed cost is small, few enough for a CPU's caches.
_CPU_ROWS = 1100
_GPU_MEMORY_SHARE = 0.5
_MOST_MASKS = 1024


def automatic_batch(capture: Capture) -> int:
    """Masked forwards at once: a rule of shapes and total memory alone, so that the same run is the same twice."""
    if capture.lvlm.device.type != "cuda":
        # Even, so that complementary masks stay together: every head is then intact in just half of the batch.
        return max(4, min(256, _CPU_ROWS // capture.computed // 2 * 2))
    total = torch.cuda.get_device_properties(capture.lvlm.device).total_memory
    free = max(total - capture.lvlm.weight_bytes(capture.lvlm.device), total // 20)
    return int(max(1, min(_MOST_MASKS, _GPU_MEMORY_SHARE * free // forward_bytes(capture))))


def forward_bytes(capture: Capture) -> int:
    """Memory that one masked forward takes beside the weights and the shared keys: an estimate from shapes."""
    config = capture.lvlm.decoder.config
    keys = capture.prefix + capture.computed + capture.key_image.stop - capture.key_image.start
    wide = 12 * config.hidden_size + 3 * getattr(config, "intermediate_size", 4 * config.hidden_size)
    row = wide * capture.lvlm.dtype.itemsize + 3 * config.num_attention_heads * keys * 4
    return row * capture.computed + capture.predicts * config.vocab_size * (capture.lvlm.dtype.itemsize + 8)


def batch_of(capture: Capture, batch_size: int | Literal["auto"]) -> int:
    """The batch size that was asked for.

    Raises:
        HeadflowError: it is below one.
    """
    if batch_size == "auto":
        return automatic_batch(capture)
    if batch_size < 1:
        raise HeadflowError(f"batch_size = {batch_size}: must be 'auto' or at least 1")
    return batch_size


def run_in_batches(
    work: Callable[[int, int], T], total: int, batch: int, capture: Capture, edges: Sequence[int] | None = None
) -> Iterator[tuple[int, int, T]]:
    """``work(start, stop)`` over ``total`` masks; yields (start, stop, result) in order.

    Args:
        edges: where parts of the work end, ``total`` the last. No batch reaches from one part into the next, and on a CPU each batch has one thread: a
            part's numbers then are the same to the last bit whatever other parts there are, and however many threads. None = all is one part.

    On a CPU, batches run side by side, one thread each: the small products of a suffix pass gain far more from that
    than from splitting each of them. Where memory runs out the batch is halved and the run goes on.

    Raises:
        HeadflowError: one mask alone does not fit into memory.
    """
    side_by_side = capture.lvlm.device.type == "cpu" and not capture.lvlm.spread
    if edges is None:
        spans = [(start, min(start + batch, total)) for start in range(0, total, batch)]
    else:
        spans = [span for start, stop in itertools.pairwise([0, *edges]) for span in _evenly(start, stop, batch)]
    workers = min(torch.get_num_threads(), len(spans)) if side_by_side else 1
    if not side_by_side or (workers <= 1 and edges is None):
        fits = batch
        for start, end in [(0, total)] if edges is None else spans:
            while start < end:  # what has run out of memory once is not tried again
                stop = min(start + fits, end)
                result, fits = _halving(work, start, stop, fits)
                yield start, stop, result
                start = stop
        return
    with _threads_shared(workers, one_each=edges is not None) as pool:
        # A few batches ahead, no more: finished results wait in memory.
        waiting = {}
        ahead = 0
        for index, (start, stop) in enumerate(spans):
            while ahead < len(spans) and ahead < index + 2 * workers:
                waiting[ahead] = pool.submit(_halving, work, *spans[ahead], batch)
                ahead += 1
            yield start, stop, waiting.pop(index).result()[0]


def _evenly(start: int, stop: int, batch: int) -> Iterator[tuple[int, int]]:
    """Cut a part into as few batches as it takes, of one even size (the last one may be shorter)."""
    count = -(-(stop - start) // batch)
    size = min(batch, -(-(stop - start) // max(count, 1) // 2) * 2) if batch > 1 else 1
    for at in range(start, stop, max(size, 1)):
        yield at, min(at + size, stop)


def _halving(work: Callable[[int, int], T], start: int, stop: int, fits: int) -> tuple[T, int]:
    """The result, and the largest batch that may be tried from now on."""
    try:
        return work(start, stop), fits
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if stop - start == 1:
            raise HeadflowError(
                "out of memory with a single masked forward: use a smaller model or picture, bfloat16, or a device with more memory"
            ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = (start + stop) // 2
    first, fits = _halving(work, start, middle, min(fits, middle - start))
    second, fits = _halving(work, middle, stop, fits)
    return torch.cat([first, second]), fits  # type: ignore[return-value,list-item]


@contextmanager
def _threads_shared(workers: int, *, one_each: bool = False) -> Iterator[ThreadPoolExecutor]:
    """A pool whose workers share out torch's threads, or have one each; the caller's own setting is restored."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1 if one_each else max(1, before // workers),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
