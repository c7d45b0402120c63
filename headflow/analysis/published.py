"""Numbers that Kaduri et al. (*What's in the Image?*, CVPR 2025, arXiv 2411.17491) print, to be set beside those of a run: of other models, on other
pictures, with another judge. They are here to be read, not to be met."""

from dataclasses import dataclass
from typing import Literal

Analysis = Literal["tokens", "attention", "knockout", "judge", "context"]


@dataclass(frozen=True)
class Published:
    """One printed number.

    Attributes:
        analysis: what it belongs to.
        key: what is measured there, by the name that a run's own number goes by.
        what: the same in words.
        value: the number: a share 0..1, an F1 0..1, or a count.
        bound: how it is printed: the number itself, or a bound that it stays under or over.
        model: the model it was measured on, where we know it.
    """

    analysis: Analysis
    key: str
    what: str
    value: float
    bound: Literal["=", "<", ">"] = "="
    model: str = "the paper's models"


PROMPT, TOKENS, PICTURES = "describe the image", 300, 80
"""What the paper asks for, at most how many tokens are generated, and on how many COCO pictures."""

MODELS = ("InternVL2-76B", "LLaVA-1.5-7B")


def _context(key: str, what: str, accuracy: float, plus: float, tokens: int) -> tuple[Published, ...]:
    """A row of the paper's table of compressed contexts (MME, perception)."""
    return (
        Published("context", f"{key} accuracy", f"{what}: right answers", accuracy / 100),
        Published("context", f"{key} plus", f"{what}: pictures with every answer right (ACC+)", plus / 100),
        Published("context", f"{key} tokens", f"{what}: context tokens", tokens),
    )


PUBLISHED: tuple[Published, ...] = (
    Published("tokens", "query", "query tokens, share of all tokens", 0.05, "<"),
    Published("attention", "query", "attention of generated tokens to query tokens", 0.6, ">"),
    Published("knockout", "img→gen", "F1, generated tokens cannot see the image (img→gen, all layers)", 0.40, model="InternVL2-76B"),
    Published("knockout", "img→query", "F1, the prompt's text cannot see the image (img→query, all layers)", 0.00, model="InternVL2-76B"),
    Published("judge", "agreement", "agreement of the judge with people", 0.95),
    *_context("full", "whole context", 84.83, 70.60, 1695),
    *_context("both 5", "query tokens and 5 % of the image tokens", 81.46, 64.52, 201),
    *_context("both 2", "query tokens and 2 % of the image tokens", 77.16, 55.94, 151),
    *_context("query", "query tokens alone", 61.03, 28.45, 60),
    *_context("description", "the model's own description as text", 73.21, 56.14, 172),
)
"""What the paper prints, in its order."""
