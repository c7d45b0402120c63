"""What lies behind the objects."""

import numpy as np
from jaxtyping import Float32

from headflow.datasets.scenes.settings import SceneSettings


def paint_background(rng: np.random.Generator, kind: str, settings: SceneSettings) -> Float32[np.ndarray, "size size 3"]:
    """A background of one of ``vocabulary.BACKGROUNDS``, RGB from 0 to 255: a tinted level plus a grey pattern."""
    level = rng.uniform(*settings.background_level) + rng.uniform(-10, 10, 3)
    contrast = rng.uniform(*settings.background_contrast)
    pattern = _pattern(rng, kind, settings.image_size)
    return np.clip(level + contrast * pattern[..., None], 0, 255).astype(np.float32)


def _pattern(rng: np.random.Generator, kind: str, size: int) -> Float32[np.ndarray, "size size"]:
    """The pattern alone, about -1 to 1. Widths are for 48 pixels and grow with the image."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    unit = size / 48
    match kind:
        case "plain":
            return np.zeros((size, size), np.float32)
        case "gradient":
            angle = rng.uniform(0, 2 * np.pi)
            return ((np.cos(angle) * (x / size - 0.5) + np.sin(angle) * (y / size - 0.5)) * 2.2).astype(np.float32)
        case "speckled":
            return (0.7 * rng.standard_normal((size, size))).astype(np.float32)
        case "banded":
            width = unit * rng.integers(3, 6)
            along = (x, y, x + y)[rng.integers(3)]
            return (along // width % 2 * 2 - 1).astype(np.float32)
        case "checkered":
            width = unit * rng.integers(4, 7)
            return ((x // width + y // width) % 2 * 2 - 1).astype(np.float32)
    raise ValueError(f"unknown background {kind!r}")
