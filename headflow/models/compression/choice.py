"""Which image tokens are worth keeping, layer by layer."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headflow.components import ImageTokens
from headflow.errors import HeadflowError
from headflow.local_differences import token_effects
from headflow.models.capture import Capture
from headflow.models.compression.context import Context
from headflow.models.keeping import count_of
from headflow.models.spoken_attention import spoken_shares
from headflow.seeds import generator

Chosen = Literal["attention", "attribution", "random"]
"""What image tokens are chosen by: mean attention of the generated tokens (the paper), their effect on what was said, or chance."""


def attention_scores(capture: Capture) -> Float[np.ndarray, "layers image"]:
    """Mean attention of the generated tokens to each place of the picture, over heads and tokens (Kaduri et al. 2025, section 4).

    Args:
        capture: the picture with what the model says of it, every token fed (:func:`headflow.models.spoken_attention.all_fed`).
    """
    return spoken_shares(capture).maps.numpy()


def attribution_scores(capture: Capture, *, signed: bool = False) -> Float[np.ndarray, "layers image"]:
    """How much the log-probability of what the model says hangs on each place of the picture, by the layer that reads it (nats).

    Exact local differences (:mod:`headflow.local_differences`) of every head at the intact model, against a grey picture: one forward and one
    backward pass. A place that speaks for one word may speak against the next, so that sums over a whole description cancel: what counts is the
    size of each head's effect, added up over the heads of a layer. ``signed`` adds up the effects themselves.

    Args:
        capture: the picture with what the model says of it as its answer.
    """
    if not capture.answer_ids:
        raise HeadflowError("compression: attribution needs what the model says about the picture, and it says nothing")
    groups = torch.zeros(capture.key_image.stop - capture.key_image.start, capture.key_positions, dtype=torch.bool, device=capture.lvlm.device)
    groups[:, capture.key_image] = torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    _, effects = token_effects(capture, components=ImageTokens(groups), target="answer_logprob", by_head=True)
    return (effects if signed else np.abs(effects))[0].astype(np.float64).sum(1)


def random_scores(context: Context, name: str, *, seed: int) -> Float[np.ndarray, "layers image"]:
    """A random order of places for every layer; it depends on the seed and the picture's name alone."""
    rng = generator(seed, f"compress context {name}")
    return np.stack([rng.permutation(len(context.candidates)) for _ in range(context.lvlm.layers)]).astype(float)


def top(context: Context, scores: Float[np.ndarray, "layers image"], percent: float) -> Bool[Tensor, "layers image"]:
    """The places of highest score of every layer: ``percent`` of the picture's, the nearest number, one at least; of equal ones the first.

    Raises:
        HeadflowError: scores of another number of layers or places, or one that is not a number.
    """
    wanted = (context.lvlm.layers, len(context.candidates))
    if scores.shape != wanted:
        raise HeadflowError(f"compression: scores of shape {scores.shape}, expected {wanted}: layers that read the picture, its places")
    places = context.candidates.nonzero()[:, 0].numpy()
    if not np.isfinite(scores[:, places]).all():
        raise HeadflowError("compression: the score of an image token is not a number")
    order = np.argsort(-scores[:, places], axis=1, kind="stable")[:, : count_of(percent, len(places))]
    kept = torch.zeros(wanted, dtype=torch.bool)
    kept.scatter_(1, torch.from_numpy(places[order]), torch.ones((), dtype=torch.bool).expand(order.shape))
    return kept
