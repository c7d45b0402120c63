"""Permutations and resamples that respect how the examples came about: pictures are the units, their questions stay together.

Several questions about one picture share the picture and so are no independent witnesses. A permutation exchanges whole pictures, and only those about which
the same questions were asked, so that differences between questions can never pass for differences between labels.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Int


class Exchange:
    """Which examples may change places: blocks are pictures, strata are pictures with the same questions.

    Attributes:
        pictures: number of different pictures.
        picture: number of each example's picture, 0 … pictures - 1, in the order of first appearance.
    """

    def __init__(self, pictures: Sequence[Hashable], questions: Sequence[Hashable] | None = None) -> None:
        """
        Args:
            pictures: what tells each example's picture from others.
            questions: the kind of question of each example; examples of a picture are matched by it. Default: all the same.
        """
        questions = ["" for _ in pictures] if questions is None else list(questions)
        self._questions = np.array([str(question) for question in questions], object)
        numbers: dict[Hashable, int] = {}
        self.picture: Int[np.ndarray, "examples"] = np.array([numbers.setdefault(picture, len(numbers)) for picture in pictures], int)
        self.pictures = len(numbers)
        members: list[list[int]] = [[] for _ in numbers]
        for example in sorted(range(len(questions)), key=lambda index: str(questions[index])):  # stable: the order of the table within a kind
            members[self.picture[example]].append(example)
        strata: dict[tuple, list[list[int]]] = {}
        for block in members:
            strata.setdefault(tuple(str(questions[example]) for example in block), []).append(block)
        self._strata = [np.array(blocks) for blocks in strata.values()]

    def part(self, used: Bool[np.ndarray, "examples"]) -> "Exchange":
        """The same of some of the examples."""
        return Exchange(self.picture[used].tolist(), self._questions[used].tolist())

    def draw(self, random: np.random.Generator, count: int) -> Int[np.ndarray, "count examples"]:
        """``count`` permutations of the examples: row[e] is the example whose place e takes."""
        drawn = np.empty((count, len(self.picture)), int)
        for blocks in self._strata:
            order = random.permuted(np.tile(np.arange(len(blocks)), (count, 1)), axis=1)
            drawn[:, blocks] = blocks[order]
        return drawn

    def resample(self, random: np.random.Generator, count: int) -> Int[np.ndarray, "count examples"]:
        """How often each example occurs in ``count`` bootstrap draws of whole pictures."""
        times = random.multinomial(self.pictures, np.full(self.pictures, 1 / self.pictures), size=count) if self.pictures else np.zeros((count, 0), int)
        return times[:, self.picture]
