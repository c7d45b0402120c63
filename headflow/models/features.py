"""What is read off the stock model, example by example, before any intervention."""

import string
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headflow.gates import ablate_heads
from headflow.models.baselines import closed_baseline
from headflow.models.capture import Capture
from headflow.suffix import make_bank, prepared, run_suffix


@dataclass(frozen=True)
class ImageAttention:
    """Share of attention that goes to the image span, 0..1.

    Attributes:
        final: that of the last prompt token.
        suffix: mean over all tokens after the image span (all tokens where the picture stands in no sequence).
    """

    final: Float[Tensor, "layers heads"]
    suffix: Float[Tensor, "layers heads"]


@torch.no_grad()
def watch_image_attention(capture: Capture, take: Callable[[int, Float[Tensor, "heads suffix image"]], None]) -> None:
    """Run the stock model's suffix and hand every reading layer's attention to the image positions to ``take``, with the layer's number
    among those that read the picture; full attention tensors are held one layer at a time."""
    model = capture.lvlm

    def record(layer: int, weights: Float[Tensor, "batch heads queries keys"]) -> None:
        if (ordinal := bank.ordinal(layer)) is not None:
            take(ordinal, weights[0, :, -capture.suffix :, bank.place(layer)[1]].float())

    intact = ablate_heads(torch.ones(1, model.layers, model.heads, device=model.device), "nothing")
    bank = make_bank(capture, closed_baseline())
    with prepared(capture):
        run_suffix(capture, bank, [intact], last=None, record=record)


def image_attention(capture: Capture) -> ImageAttention:
    """Attention to the picture of every head of the stock model."""
    shares = torch.zeros(capture.lvlm.layers, capture.lvlm.heads, capture.suffix)

    def take(layer: int, weights: Float[Tensor, "heads suffix image"]) -> None:
        shares[layer] = weights.sum(-1).cpu()

    watch_image_attention(capture, take)
    return ImageAttention(final=shares[:, :, capture.roles.index("final") - len(capture.roles)], suffix=shares.mean(-1))


def same_answer(given: str, true: str) -> bool:
    """Whether two answers say the same: case, punctuation at the ends and repeated white space do not count."""
    return _plain(given) == _plain(true)


def _plain(answer: str) -> str:
    return " ".join(answer.split()).strip(string.punctuation + string.whitespace).casefold()
