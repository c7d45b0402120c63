"""What a judge says of one description: which of the expected objects it names, and which others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Expected = str | tuple[str, ...]
"""What a description is held against: another description, or a list of objects (a picture's true ones)."""

Pair = tuple[Expected, str]
"""What is expected, and the description that is judged."""


@dataclass(frozen=True)
class Judgement:
    """The objects of what is expected against those that a description names, as sets: an object counts once, however often it is named.

    This is the judgement that the LLM judge of Kaduri et al. 2025 (*What's in the Image?*, "LLM-as-a-judge" for the evaluation of knockouts)
    gives for a description under knockout against the stock model's own.

    Attributes:
        expected: the expected objects.
        said: the objects that the description names.
        found: expected objects that it names: true positives. They may be named by other words than in ``said``.
        extra: objects that it names though they are not expected: false positives, a part of ``said``.
    """

    expected: tuple[str, ...]
    said: tuple[str, ...]
    found: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def true_positives(self) -> int:
        return len(self.found)

    @property
    def false_negatives(self) -> int:
        """Expected objects that the description does not name."""
        return len(self.expected) - len(self.found)

    @property
    def false_positives(self) -> int:
        return len(self.extra)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FN + FP), the harmonic mean of precision and recall; None where neither side names an object (0/0)."""
        errors = self.false_negatives + self.false_positives
        return 2 * self.true_positives / (2 * self.true_positives + errors) if self.found or errors else None


class Judge(Protocol):
    """Whoever can tell which objects descriptions name.

    Attributes:
        name: ``match``, ``llm`` or ``local``.
        about: what its judgements depend on, by name, to be recorded with them.
    """

    name: str
    about: dict[str, str]

    def judge(self, expected: str | Sequence[str], said: str) -> Judgement:
        """Judge one description ``said`` against another one, or against a list of objects.

        Raises:
            HeadflowError: the judge cannot be asked, or gives no answer that can be used.
        """
        ...

    def judge_all(self, pairs: Sequence[Pair], title: str = "judge") -> list[Judgement]:
        """Judge every pair, equal ones once; what is judged is kept where it costs something.

        Raises:
            HeadflowError: as of ``judge``; it says how many are done.
        """
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


def as_expected(expected: str | Sequence[str]) -> Expected:
    """A text as it is; a list of objects as a tuple, each once."""
    return expected if isinstance(expected, str) else tuple(dict.fromkeys(expected))
