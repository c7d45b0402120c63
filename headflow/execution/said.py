"""What models say under knockouts, kept as soon as it is said: a run that was stopped goes on, and a wider sweep runs only what is new."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from headflow.ablation import BatchSize
from headflow.analysis import knockout_plan, knockouts
from headflow.analysis.knockout_plan import Closing, closing_gates
from headflow.decoding import Sampling, automatic_sequences, decode
from headflow.errors import HeadflowError
from headflow.execution.described import Saying, Speaker, captured, drawn_by, read, record
from headflow.execution.executors.jobs import Count, Records
from headflow.execution.fingerprint import digest, record_key
from headflow.models.capture import Capture

__all__ = ["Saying", "Speaker", "say"]

# On a CPU: sequences of one batch, and the memory that they, and that waiting captures, may take. A few descriptions run on to the last token, and
# each step costs nearly the same for one sequence as for many: large batches share those steps.
_MOST_SEQUENCES = 1024
_CPU_BYTES = 2**31
# On a GPU: the share of memory that waiting captures may take.
_GPU_SHARE = 0.1


@dataclass
class _Job:
    """What is still to be decoded of one picture."""

    speaker: Speaker
    capture: Capture
    missing: deque[int]


def say(
    store: Records, speakers: Iterable[Speaker], closings: Sequence[Closing], layers: int, *, max_new_tokens: int, sampling: Sampling | None = None,
    batch_size: BatchSize = "auto", done: Count = lambda computed, found: None,
) -> Iterator[list[Saying]]:  # fmt: skip
    """What the model says about each picture under each knockout, picture by picture; only what the store lacks is decoded.

    A description that ended serves every larger ``max_new_tokens``, and a longer one a smaller. Pictures are decoded together until a batch is
    full; every batch is kept before the next begins.

    Args:
        store: finished work.
        speakers: the pictures, on one model; each is captured once, and as many are held as a batch needs.
        closings: the knockouts.
        layers: layers that read the picture.
        max_new_tokens: where a description that does not end is cut off.
        sampling: None = greedy decoding.
        batch_size: sequences at once.
        done: told of progress: descriptions decoded now, descriptions found in the store.

    Raises:
        HeadflowError: a picture cannot be captured, memory runs out with a single sequence, a token's number is too large to be
            stored (2^24), or the store cannot be used.
    """
    edges, version = [closing.edges(layers) for closing in closings], digest(*(Path(module.__file__).read_bytes() for module in (knockouts, knockout_plan)))
    drawn = drawn_by(sampling)
    order: deque[tuple[str, list[Saying | None]]] = deque()
    results: dict[str, list[Saying | None]] = {}
    waiting: deque[_Job] = deque()

    def unit(speaker: Speaker, closed: str) -> bytes:
        return record_key(speaker.context, "said under knockout", version, closed, drawn, speaker.id if drawn else "")

    def run(jobs: list[tuple[_Job, list[int]]]) -> None:
        captures = [job.capture for job, _ in jobs]
        sets = [closing_gates(job.capture, [closings[at] for at in chosen]) for job, chosen in jobs]
        total = sum(len(chosen) for _, chosen in jobs)
        options = {"max_new_tokens": max_new_tokens, "sampling": sampling, "batch_size": _side_by_side(captures[0], total, batch_size)}
        try:
            said = decode(captures, sets, examples=[job.speaker.id for job, _ in jobs], **options)
        except HeadflowError as error:
            raise HeadflowError(f"picture{'s' if len(jobs) > 1 else ''} {', '.join(job.speaker.id for job, _ in jobs)}: {error}") from error
        records = []
        for (job, chosen), rows in zip(jobs, said, strict=True):
            for at, tokens in zip(chosen, rows, strict=True):
                results[job.speaker.id][at] = Saying(tokens, len(tokens) < max_new_tokens)
                records.append((unit(job.speaker, edges[at]), record(tokens, max_new_tokens)))
        store.put(records)
        done(total, 0)

    def finished() -> Iterator[list[Saying]]:
        while order and all(saying is not None for saying in order[0][1]):
            name, sayings = order.popleft()
            del results[name]
            yield [saying for saying in sayings if saying is not None]

    for speaker in speakers:
        units = [unit(speaker, closed) for closed in edges]
        found = store.get(units)
        sayings = [read(found.get(key), max_new_tokens) for key in units]
        results[speaker.id] = sayings
        order.append((speaker.id, sayings))
        missing = deque(at for at, saying in enumerate(sayings) if saying is None)
        if len(missing) < len(sayings):
            done(0, len(sayings) - len(missing))
        if missing:
            waiting.append(_Job(speaker, captured(speaker), missing))
        while waiting and (batch := _full_batch(waiting, max_new_tokens, batch_size)):
            run(batch)
        yield from finished()
    while waiting:
        run(_take(waiting, sum(len(job.missing) for job in waiting)))
    yield from finished()


def _full_batch(waiting: deque[_Job], max_new_tokens: int, batch_size: BatchSize) -> list[tuple[_Job, list[int]]]:
    """The next batch, taken off what waits, once there is enough for one or captures take their share of memory; else nothing."""
    capture, total = waiting[0].capture, sum(len(job.missing) for job in waiting)
    most = _most(capture, max_new_tokens) if batch_size == "auto" else batch_size
    if total >= most:
        return _take(waiting, most)
    return _take(waiting, total) if sum(_bytes(job.capture) for job in waiting) > _room(capture) else []


def _most(capture: Capture, max_new_tokens: int) -> int:
    """Sequences at once: a rule of shapes and total memory alone."""
    if capture.lvlm.device.type == "cuda":
        return automatic_sequences([capture], max_new_tokens)
    token = sum(part.shape[0] * part.shape[2] * part.element_size() for part in (*capture.keys, *capture.values))
    return int(max(1, min(_MOST_SEQUENCES, _CPU_BYTES // (token * (capture.computed + max_new_tokens)))))


def _take(waiting: deque[_Job], most: int) -> list[tuple[_Job, list[int]]]:
    batch: list[tuple[_Job, list[int]]] = []
    while waiting and most:
        job = waiting[0]
        chosen = [job.missing.popleft() for _ in range(min(most, len(job.missing)))]
        batch.append((job, chosen))
        most -= len(chosen)
        if not job.missing:
            waiting.popleft()
    return batch


def _side_by_side(capture: Capture, total: int, batch_size: BatchSize) -> BatchSize:
    """On a CPU the batch is shared out among its threads; elsewhere, and where weights are swapped in, it goes as it is."""
    if batch_size != "auto" or capture.lvlm.device.type != "cpu" or capture.lvlm.spread:
        return batch_size
    return -(-total // torch.get_num_threads())


def _bytes(capture: Capture) -> int:
    return sum(part.numel() * part.element_size() for part in (*capture.keys, *capture.values, capture.embeddings))


def _room(capture: Capture) -> float:
    if capture.lvlm.device.type != "cuda":
        return _CPU_BYTES
    return _GPU_SHARE * torch.cuda.get_device_properties(capture.lvlm.device).total_memory
