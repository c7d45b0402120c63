"""Where examples come from: rendered scenes, a folder with a manifest, COCO annotations, Hugging Face data sets.

Each reader returns :class:`Examples`: the table that every stage after it reads, and the rows that were left out.
"""

from importlib import import_module
from typing import Any

# Loaded on first use: the settings of the scenes are read by every stage, and none of them should pay for the readers.
_EXPORTS = {
    "Examples": "headflow.datasets.selection",
    "Selection": "headflow.datasets.selection",
    "make_examples": "headflow.datasets.sources",
    "read_coco": "headflow.datasets.coco",
    "read_folder": "headflow.datasets.folder",
    "read_huggingface": "headflow.datasets.huggingface",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'headflow.datasets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
