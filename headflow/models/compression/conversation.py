"""One picture that has been described, and follow-up questions about it behind whatever is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float

from headflow.models.compression import choice
from headflow.models.compression.answering import answers, seconds
from headflow.models.compression.choice import Chosen
from headflow.models.compression.context import Context, Kept, take_context
from headflow.models.compression.turns import Asking, fresh, next_turn
from headflow.models.compression.variants import TEXT_ALONE, Variant, kept, text_alone
from headflow.models.lvlm import LVLM, Picture
from headflow.models.spoken_attention import all_fed


@dataclass(frozen=True)
class Outcome:
    """What came of one variant.

    Attributes:
        tokens: context tokens.
        bytes: memory of their keys and values.
        answers: token ids of the answer to each question.
    """

    tokens: int
    bytes: int
    answers: list[list[int]]


@dataclass
class Conversation:
    """A picture with its description.

    Attributes:
        lvlm: the model.
        name: of the picture; random choices depend on it.
        picture: the picture.
        prompt: what the model was asked to say.
        said: token ids of what it said, without the one that ends them; one at least.
        keep_description: whether the description's keys and values stay wherever the prompt's text does.
        go_on_from: follow-ups take the positions after the ``description``, or those after the ``prompt``.
        attribution: image tokens are chosen by the ``magnitude`` of their effects, or ``signed``.
        max_new_tokens: longest answer.
        seed: of the choice by chance.
    """

    lvlm: LVLM
    name: str
    picture: Picture
    prompt: str
    said: Sequence[int]
    keep_description: bool = False
    go_on_from: Literal["description", "prompt"] = "description"
    attribution: Literal["magnitude", "signed"] = "magnitude"
    max_new_tokens: int = 4
    seed: int = 0
    _scores: dict[Chosen, Float[np.ndarray, "layers image"]] = field(default_factory=dict, repr=False)

    @cached_property
    def context(self) -> Context:
        return take_context(self.lvlm, self.picture, self.prompt, self.said)

    def scores(self, chosen_by: Chosen) -> Float[np.ndarray, "layers image"]:
        """What image tokens are chosen by, highest first, for every layer that reads the picture."""
        if chosen_by not in self._scores:
            match chosen_by:
                case "attention":
                    found = choice.attention_scores(self.lvlm.capture(self.picture, self.prompt, all_fed(self.said)))
                case "attribution":
                    capture = self.lvlm.capture(self.picture, self.prompt, list(self.said))
                    found = choice.attribution_scores(capture, signed=self.attribution == "signed")
                case "random":
                    found = choice.random_scores(self.context, self.name, seed=self.seed)
            self._scores[chosen_by] = found
        return self._scores[chosen_by]

    def asked(self, asking: Asking, followups: Sequence[str]) -> list[list[int]]:
        """Token ids of the follow-ups."""
        if asking == "fresh":
            return [fresh(self.lvlm, self.picture, text) for text in followups]
        return [next_turn(self.lvlm.processor, self.prompt, self.lvlm.text(self.said), text) for text in followups]

    def run(self, asking: Asking, wanted: Sequence[Variant], followups: Sequence[str]) -> list[Outcome]:
        """Ask all follow-ups behind every variant, each by itself: no answer is seen by the next question.

        Raises:
            HeadflowError: see :func:`headflow.models.compression.turns.next_turn` and :func:`headflow.models.compression.answering.answers`.
        """
        questions, found = self.asked(asking, followups), {}
        together = [(variant, self._kept(variant, asking)) for variant in wanted if variant.strategy not in TEXT_ALONE]
        options = {"max_new_tokens": self.max_new_tokens}
        if together:
            said = answers(self.context, [part for _, part in together], questions, start=self._start, **options)
            for (variant, part), those in zip(together, said, strict=True):
                found[variant] = Outcome(part.tokens, part.bytes(self.context), those)
        for variant in wanted:
            if variant.strategy in TEXT_ALONE:
                context, part = text_alone(self.context, variant, asking)
                found[variant] = Outcome(part.tokens, part.bytes(context), answers(context, [part], questions, **options)[0])
        return [found[variant] for variant in wanted]

    def seconds(self, asking: Asking, wanted: Sequence[Variant], followup: str, rounds: int = 5) -> Float[np.ndarray, "variants rounds"]:
        """Time of one follow-up behind every variant, with ``max_new_tokens`` of an answer; the variants take turns, so that a slow moment hits all."""
        [question] = self.asked(asking, [followup])
        parts = [(self.context, self._kept(one, asking)) if one.strategy not in TEXT_ALONE else text_alone(self.context, one, asking) for one in wanted]
        starts = [None if one.strategy in TEXT_ALONE else self._start for one in wanted]
        taken = [
            [seconds(*part, question, start=start, new_tokens=self.max_new_tokens) for part, start in zip(parts, starts, strict=True)]
            for _ in range(rounds + 1)
        ]
        return np.array(taken[1:]).T.reshape(len(wanted), rounds)  # the first round warms up

    @property
    def _start(self) -> int:
        """Position of a follow-up's first token."""
        context = self.context
        return context.following if self.go_on_from == "description" else int(context.position_ids[..., : context.prompt].amax()) + 1

    def _kept(self, variant: Variant, asking: Asking) -> Kept:
        return kept(self.context, variant, asking, self.scores, said=self.keep_description)
