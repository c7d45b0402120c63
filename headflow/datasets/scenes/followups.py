"""Follow-up questions about a picture whose objects are known: what is there, how many, and in which colour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headflow.datasets.scenes.questions import absent_names, ask, colour_of, exists
from headflow.seeds import generator

PRESENT, ABSENT, COUNT, COLOUR = "present", "absent", "count", "colour"
"""Categories of the questions: is there a NAME (that is there, or is not), how many objects, what colour."""


@dataclass(frozen=True)
class FollowUp:
    """One question with its answer; ``category`` says what kind of question it is."""

    category: str
    text: str
    answer: str


@dataclass(frozen=True)
class _Object:
    name: str
    colour: str


@dataclass(frozen=True)
class _Known:
    """A scene as far as questions about it go."""

    objects: tuple[_Object, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.objects)


def scene_questions(id: str, objects: Sequence[Mapping[str, Any]], *, seed: int) -> list[FollowUp]:
    """Four questions about a rendered scene, in the words that the embedded model knows: is there a NAME, once with yes and once with no for an
    answer, how many objects, and the colour of one.

    What they ask about depends on the seed and the picture's id alone.

    Args:
        objects: the column ``objects`` of the examples table.
    """
    known = _Known(tuple(_Object(item["name"], item["colour"]) for item in objects))
    rng = generator(seed, f"follow-ups {id}")
    absent = absent_names(known)
    present, missing = exists(known, known.names[rng.integers(len(known.names))]), exists(known, absent[rng.integers(len(absent))])
    count, once = ask(known, "count", rng), [item for item in known.objects if known.names.count(item.name) == 1]
    found = [FollowUp(PRESENT, present.text, present.answer), FollowUp(ABSENT, missing.text, missing.answer), FollowUp(COUNT, count.text, count.answer)]
    if once:  # the colour of one of two stars has no answer
        colour = colour_of(once[rng.integers(len(once))])
        found.append(FollowUp(COLOUR, colour.text, colour.answer))
    return found


def object_questions(id: str, objects: Sequence[Mapping[str, Any]], vocabulary: Sequence[str], *, seed: int) -> list[FollowUp]:
    """ "Is there a NAME in the image?" for one object that is there, and for one name that no listed object has.

    The second is a question with the answer no only where ``objects`` lists all that a picture shows.

    Args:
        vocabulary: names to draw the absent one from.
    """
    names = sorted({item["name"] for item in objects})
    absent, rng = sorted(set(vocabulary) - set(names)), generator(seed, f"follow-ups {id}")
    found = []
    for category, some, answer in ((PRESENT, names, "yes"), (ABSENT, absent, "no")):
        if some and names:
            found.append(FollowUp(category, f"Is there {_article(name := some[rng.integers(len(some))])} {name} in the image? Answer yes or no.", answer))
    return found


def _article(name: str) -> str:
    return "an" if name[:1].lower() in "aeiou" else "a"
