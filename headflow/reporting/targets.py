"""The target in words: which number is explained, of which answer, and in which unit."""

from collections.abc import Mapping
from typing import Any

UNITS = {"logit": "logits", "logprob": "nats", "margin": "logits", "answer_logprob": "nats"}
_ANSWERS = {"truth": "the true answer", "greedy": "the model's own answer"}
_WORDS = {
    "logit": "logit of the first token of {}",
    "logprob": "log-probability of the first token of {}",
    "margin": "margin of the first token of {} over that of the best other candidate",
    "answer_logprob": "log-probability of the whole of {}, each token given those before it",
}


def unit(features: Mapping[str, Any]) -> str:
    """Unit of the target that the params ``features`` name."""
    return UNITS.get(features["target"], "target units")


def answer(features: Mapping[str, Any]) -> str:
    """Whose answer is explained."""
    return _ANSWERS.get(features.get("answer", "truth"), "the answer")


def described(features: Mapping[str, Any]) -> str:
    """The target, e.g. ``logit of the first token of the true answer``."""
    return _WORDS.get(features["target"], features["target"] + " of {}").format(answer(features))


def whole_answer(features: Mapping[str, Any]) -> bool:
    """Whether every token of the answer counts, not only the first."""
    return features["target"] == "answer_logprob"
