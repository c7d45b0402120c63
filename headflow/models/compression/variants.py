"""The strategies: which part of a context a follow-up is read behind, by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float

from headflow.models.compression.choice import Chosen, top
from headflow.models.compression.context import Context, Kept, nothing_seen, take_text
from headflow.models.compression.turns import Asking

Strategy = Literal["full", "query", "image", "both", "description", "none"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
CHOOSING = ("image", "both")
"""Strategies that keep some of the image tokens."""
TEXT_ALONE = ("description", "none")
"""Strategies that have no picture: conversations of their own."""


@dataclass(frozen=True)
class Variant:
    """One thing to compare: a strategy, and where it keeps some image tokens how many percent, chosen by what."""

    strategy: Strategy
    chosen_by: Chosen | None = None
    percent: float | None = None


def variants(strategies: Sequence[Strategy], chosen_by: Sequence[Chosen], percents: Sequence[float]) -> list[Variant]:
    """All that the strategies come to."""
    found = []
    for strategy in strategies:
        several = strategy in CHOOSING
        found += [Variant(strategy, chosen, percent) for chosen in chosen_by for percent in percents] if several else [Variant(strategy)]
    return found


def kept(context: Context, variant: Variant, asking: Asking, scores: Callable[[Chosen], Float[np.ndarray, "layers image"]], *, said: bool = False) -> Kept:
    """What a variant keeps of the context of a picture.

    Args:
        asking: under ``fresh`` nothing of the first question stays: the only text is what stands before the picture.
        scores: by what image tokens are chosen.
        said: whether the description's own tokens stay wherever the prompt's text does.
    """
    text = context.before() if asking == "fresh" else context.query() | context.said() if said else context.query()
    if variant.strategy == "query":
        return nothing_seen(context, text)
    if variant.strategy == "full":
        return Kept(text, context.candidates.expand(context.lvlm.layers, -1))
    image = top(context, scores(variant.chosen_by), variant.percent)
    return Kept(torch.zeros_like(text) if variant.strategy == "image" else text, image)


def text_alone(context: Context, variant: Variant, asking: Asking) -> tuple[Context, Kept]:
    """The conversation of a strategy without a picture: the prompt with the model's own description, or nothing, in the picture's place."""
    before, said = context.ids[: context.image.start], context.ids[context.prompt :]
    after = [] if asking == "fresh" else context.ids[context.image.stop : context.prompt]
    alone = take_text(context, [*before, *(said if variant.strategy == "description" else []), *after])
    return alone, nothing_seen(alone, alone.query())
