"""headflow: which attention heads of a vision-language model carry the picture into the words?"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Loaded on first use, so that a stage that needs no model never pays for importing torch.
_EXPORTS = {
    "HeadflowError": "headflow.errors",
    "load": "headflow.models.lvlm",
    "run_masks": "headflow.ablation",
    "sample_masks": "headflow.attribution.masks",
    "fit": "headflow.attribution.regression",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'headflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
