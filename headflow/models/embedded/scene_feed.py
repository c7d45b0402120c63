"""Renders training scenes ahead of time in another process, so that training never waits for them."""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from multiprocessing.connection import Connection

from headflow.datasets.scenes.render import TRAINING_STREAM, Scene, scene
from headflow.datasets.scenes.settings import SceneSettings
from headflow.errors import HeadflowError

_AHEAD = 6


def feed_scenes(seed: int, settings: SceneSettings, batches: Iterable[range]) -> Iterator[list[Scene]]:
    """For each batch of indices the training scenes that have them, in order.

    Close the iterator to end the process; it also ends by itself when this one dies.

    Raises:
        HeadflowError: the other process has died.
        Exception: whatever rendering raised there.
    """
    context = multiprocessing.get_context("spawn")  # forking a process that runs torch threads can hang
    here, there = context.Pipe()
    process = context.Process(target=_render_requests, args=(there, seed, settings), daemon=True)
    process.start()
    there.close()
    try:
        with closing(here):
            waiting: deque[range] = deque()
            for batch in batches:
                here.send(batch)
                waiting.append(batch)
                if len(waiting) > _AHEAD:
                    waiting.popleft()
                    yield _receive(here)
            while waiting:
                waiting.popleft()
                yield _receive(here)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise HeadflowError("the process that renders training scenes has died (out of memory?); run the same command again to go on") from None
    finally:
        process.join(timeout=10)
        process.terminate()


def _receive(connection: Connection) -> list[Scene]:
    received = connection.recv()
    if isinstance(received, Exception):
        raise received
    return received


def _render_requests(requests: Connection, seed: int, settings: SceneSettings) -> None:
    """What the other process does."""
    try:
        while True:
            indices = requests.recv()
            try:
                answer: list[Scene] | Exception = [scene(seed, TRAINING_STREAM, index, settings) for index in indices]
            except Exception as error:
                answer = error
            requests.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return  # the training process has gone
