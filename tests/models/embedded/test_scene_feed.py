"""Scenes rendered ahead in another process: the same ones, in order, and an end in every case."""

import multiprocessing
from contextlib import closing

import numpy as np
import pytest

from headflow.datasets.scenes.render import scene
from headflow.datasets.scenes.settings import SceneSettings
from headflow.errors import HeadflowError
from headflow.models.embedded.scene_feed import feed_scenes


def test_scenes_come_in_order_and_the_process_ends_early() -> None:
    settings = SceneSettings(image_size=32)
    with closing(feed_scenes(1, settings, (range(i, i + 2) for i in range(0, 100, 2)))) as batches:
        for start in (0, 2, 4):
            for index, found in enumerate(next(batches), start):
                assert np.array_equal(found.image, scene(1, "train", index, settings).image)
        assert len(multiprocessing.active_children()) == 1
    assert not multiprocessing.active_children()


def test_an_error_over_there_is_raised_here() -> None:
    with pytest.raises(TypeError):
        list(feed_scenes(0, SceneSettings(), [range(1), None]))  # type: ignore[list-item]


def test_a_dead_renderer_is_reported() -> None:
    batches = feed_scenes(0, SceneSettings(), (range(i, i + 1) for i in range(100)))
    next(batches)
    (process,) = multiprocessing.active_children()
    process.kill()
    process.join()
    with pytest.raises(HeadflowError, match="has died"):
        list(batches)
