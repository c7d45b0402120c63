"""headflow: which attention heads of a vision-language model carry the picture into the words?"""

from headflow.lazy import lazily

__version__ = "0.1.0"

_EXPORTS = {
    "HeadflowError": "headflow.errors",
    "load": "headflow.models.loading",
    "run_masks": "headflow.ablation",
    "run_gates": "headflow.ablation",
    "decode": "headflow.decoding",
    "gate_gradients": "headflow.ablation",
    "Heads": "headflow.components",
    "TextTokens": "headflow.components",
    "ImageTokens": "headflow.components",
    "Gate": "headflow.gates",
    "token_effects": "headflow.local_differences",
    "keep_tokens": "headflow.models.keeping",
    "sample_masks": "headflow.attribution.masks",
    "sample_corners": "headflow.attribution.masks",
    "fit": "headflow.attribution.regression",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
