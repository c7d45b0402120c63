"""Shared fixtures: small random models, loaded from disk as a user's would be, and two pictures captured on each."""

import os

# Read when torch is imported. Every core has a worker of its own: more threads than cores take half as long again, spinning ones even more.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# A user's own settings are no part of the tests.
os.environ.pop("HEADFLOW_STORE", None)
os.environ.pop("DVC_ROOT", None)

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# The files that take minutes, in the order in which workers are to take them: a long one that comes last keeps the others waiting.
LONG = ("pipeline/test_runs.py", "pipeline/test_other_models.py", "pipeline/test_any_model.py", "execution/test_ray.py", "execution/test_executors.py",
        "pipeline/test_scale.py", "pipeline/test_reruns.py", "pipeline/test_second_model.py")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, the others as they come."""
    place = {str(Path(__file__).parent / name): number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(str(item.path), len(LONG)))


KINDS = ("mha", "gqa", "window")


def random_picture(seed: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a saved LLaVA, built on first use: ``checkpoints("gqa", image_size=104)``."""
    from tests.checkpoints import build_llava

    root = tmp_path_factory.mktemp("checkpoints")
    built: dict[tuple, Path] = {}

    def folder(kind: str, **options: object) -> Path:
        key = (kind, *sorted(options.items()))
        if key not in built:
            built[key] = build_llava(root / str(len(built)), kind, **options)
        return built[key]

    return folder


@pytest.fixture(scope="session")
def models(checkpoints: Callable[..., Path]) -> Callable[..., "LVLM"]:
    """A loaded model, shared by all tests: ``models("mha", dtype="bfloat16")``."""
    import headflow

    loaded: dict[tuple, LVLM] = {}

    def model(kind: str, dtype: str = "float32", device: str = "cpu", **options: object) -> "LVLM":
        key = (kind, dtype, device, *sorted(options.items()))
        if key not in loaded:
            loaded[key] = headflow.load(checkpoints(kind, **options), dtype=dtype, device_map=device)
        return loaded[key]

    return model


@pytest.fixture(scope="session")
def captures(models: Callable[..., "LVLM"]) -> Callable[..., tuple["Capture", "Capture"]]:
    """Two pictures and one question, captured on a shared model."""
    from tests.checkpoints import QUESTION

    taken: dict[tuple, tuple[Capture, Capture]] = {}

    def pair(kind: str, **options: object) -> tuple["Capture", "Capture"]:
        key = (kind, *sorted(options.items()))
        if key not in taken:
            model, size = models(kind, **options), int(options.get("image_size", 32))
            taken[key] = (model.capture(random_picture(1, size), QUESTION), model.capture(random_picture(2, size), QUESTION))
        return taken[key]

    return pair


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every text model in turn: a key head for each query head, shared key heads, a sliding window shorter than the prompt."""
    return request.param


@pytest.fixture
def pair(kind: str, captures: Callable[..., tuple["Capture", "Capture"]]) -> tuple["Capture", "Capture"]:
    return captures(kind)
