"""What can be asked about a scene, with the true answer."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from headflow.datasets.scenes.render import Scene, SceneObject
from headflow.datasets.scenes.vocabulary import BACKGROUNDS, COLOURS, COUNT_WORDS, NAMES, article

QuestionKind = Literal["object", "colour", "count", "colour_of", "exists", "description"]
QUESTION_KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)

_ONE_WORD = "Answer with one word."


@dataclass(frozen=True)
class Question:
    """A question in the user's words, and its answer; ``about`` is the name that a look-up question asks about."""

    kind: QuestionKind
    text: str
    answer: str
    about: str | None = None


def ask(scene: Scene, kind: QuestionKind, rng: np.random.Generator) -> Question:
    """One question of a kind; ``rng`` chooses what a look-up asks about (``exists``: present or absent with equal chance)."""
    match kind:
        case "object":
            return Question(kind, f"What is the main object in the image? {_ONE_WORD}", scene.main.name)
        case "colour":
            return Question(kind, f"What is the colour of the main object? {_ONE_WORD}", scene.main.colour)
        case "count":
            return Question(kind, f"How many objects are in the image? {_ONE_WORD}", COUNT_WORDS[len(scene.objects) - 1])
        case "colour_of":
            return colour_of(scene.objects[rng.integers(len(scene.objects))])
        case "exists":
            present = rng.random() < 0.5
            candidates = scene.names if present else absent_names(scene)
            return exists(scene, candidates[rng.integers(len(candidates))])
        case "description":
            return Question(kind, "Describe the image.", describe(scene))
    raise ValueError(f"unknown question kind {kind!r}")


def colour_of(item: SceneObject) -> Question:
    """The look-up "what is the colour of the NAME?"."""
    return Question("colour_of", f"What is the colour of the {item.name}? {_ONE_WORD}", item.colour, about=item.name)


def exists(scene: Scene, name: str) -> Question:
    """The look-up "is there a NAME?"."""
    return Question("exists", f"Is there {article(name)} {name} in the image? Answer yes or no.", "yes" if name in scene.names else "no", about=name)


def absent_names(scene: Scene) -> tuple[str, ...]:
    """Every name that no object of the scene has."""
    return tuple(name for name in NAMES if name not in scene.names)


def describe(scene: Scene) -> str:
    """The true description, such as "a red star, a small blue seven and a small white T on a banded background"."""
    phrases = [f"a {'' if item.main else 'small '}{item.colour} {item.name}" for item in scene.objects]
    listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]
    return f"{listed} on a {scene.background} background"


def all_words() -> tuple[str, ...]:
    """Texts that together hold every word of every question and answer, for building a vocabulary."""
    templates = (
        f"What is the main object in the image? {_ONE_WORD}",
        f"What is the colour of the main object? {_ONE_WORD}",
        f"How many objects are in the image? {_ONE_WORD}",
        "Is there a an in the image? Answer yes or no.",
        "Describe the image. a small, a and a on a background",
    )
    return (*templates, *NAMES, *COLOURS, *BACKGROUNDS, *COUNT_WORDS)
