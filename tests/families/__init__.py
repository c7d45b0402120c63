"""A small random checkpoint of every supported family, with its real processor, saved as a hub checkpoint is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

QUESTION = "What is the main object?"
_MODULES = ("llava", "qwen", "gemma", "idefics", "mllama")


@dataclass(frozen=True)
class Family:
    """How to make one family's checkpoint, and what is particular about it.

    Attributes:
        name: short snake_case name.
        build: saves a random checkpoint in the folder and returns it.
        size: width and height, in pixels, of a picture that exercises its tiling.
        prefix: ``shared``; ``recomputed`` where the text after the picture changes keys and values before it; ``cross`` where the
            picture is read by cross-attention.
    """

    name: str
    build: Callable[[Path], Path]
    size: tuple[int, int] = (32, 32)
    prefix: str = "shared"


@cache
def families() -> dict[str, Family]:
    """All families by name; each module of this package lists its own as ``FAMILIES``."""
    modules = [import_module(f"{__name__}.{name}") for name in _MODULES]
    return {family.name: family for module in modules for family in module.FAMILIES}


def __getattr__(name: str) -> dict[str, Family]:
    if name == "FAMILIES":
        return families()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
