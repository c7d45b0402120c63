"""Recipes small enough to train within a test, and the shipped model loaded once."""

from collections.abc import Iterator

import pytest
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from headflow.datasets.scenes.settings import SceneSettings
from headflow.models.embedded.checkpoints import load_checkpoint
from headflow.models.embedded.recipe import Recipe
from headflow.models.embedded.shipped import SHIPPED_FOLDER

TINY = Recipe(
    scenes=SceneSettings(image_size=32), vision_width=16, vision_layers=1, vision_heads=2, vision_hidden=16, width=16, layers=2, heads=2, head_width=8,
    hidden=16, vision_steps=4, vision_batch=4, joint_steps=4, joint_batch=2,
)  # fmt: skip


@pytest.fixture(scope="session")
def shipped() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    return load_checkpoint(SHIPPED_FOLDER)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other on tensors this small, for long where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
