"""Where examples come from: rendered scenes, a folder with a manifest, COCO annotations, Hugging Face data sets.

Each reader returns :class:`Examples`: the table that every stage after it reads, and the rows that were left out.
"""

from headflow.lazy import lazily

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
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
