"""Renders training scenes ahead of time in another process, so that training never waits for them."""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from multiprocessing.connection import Connection

from headflow.datasets.scenes.render import TRAINING_STREAM, Scene, scene
from headflow.datasets.scenes.settings import SceneSettings

_AHEAD = 6


def feed_scenes(seed: int, settings: SceneSettings, batches: Iterable[range]) -> Iterator[list[Scene]]:
    """For each batch of indices the training scenes that have them, in order.

    Close the iterator to end the process; it also ends by itself when this one dies.
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
                    yield here.recv()
            while waiting:
                waiting.popleft()
                yield here.recv()
    finally:
        process.join(timeout=10)
        process.terminate()


def _render_requests(requests: Connection, seed: int, settings: SceneSettings) -> None:
    try:
        while True:
            requests.send([scene(seed, TRAINING_STREAM, index, settings) for index in requests.recv()])
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return  # the training process has gone
