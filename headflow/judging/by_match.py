"""The judge that looks objects up in a vocabulary: free, exact and the same on every machine; it knows what the vocabulary knows, and no more."""

from collections.abc import Sequence

from headflow.errors import HeadflowError
from headflow.judging.judgement import Judgement, Pair, as_expected
from headflow.judging.match import name_of, named
from headflow.judging.vocabulary import Vocabulary
from headflow.progress import progress


class MatchJudge:
    """Judges by the objects that a vocabulary finds in a text (:func:`headflow.judging.match.mentions`)."""

    name = "match"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._texts: dict[str, tuple[str, ...]] = {}
        self.about = {"vocabulary": vocabulary.source, "vocabulary_digest": vocabulary.digest}

    def judge(self, expected: str | Sequence[str], said: str) -> Judgement:
        """See :class:`headflow.judging.judgement.Judge`.

        Raises:
            HeadflowError: the vocabulary does not know an object of the list.
        """
        wanted = as_expected(expected)
        if isinstance(wanted, str):
            wanted = self._named(wanted)
        else:
            names = {name: name_of(name, self.vocabulary) for name in wanted}
            if unknown := [name for name, known in names.items() if known is None]:
                raise HeadflowError(
                    f"vocabulary {self.vocabulary.source}: it has no object {unknown[0]!r}, which a picture shows; add it under `objects` of a vocabulary of "
                    "your own (docs/judges.md), or set judging.vocabulary to auto"
                )
            wanted = tuple(dict.fromkeys(names.values()))
        objects = self._named(said)
        found = tuple(name for name in wanted if name in objects)
        return Judgement(wanted, objects, found, tuple(name for name in objects if name not in wanted))

    def judge_all(self, pairs: Sequence[Pair], title: str = "judge") -> list[Judgement]:
        """See :class:`headflow.judging.judgement.Judge`."""
        known: dict[Pair, Judgement] = dict.fromkeys(pairs)
        with progress(f"{title} ({self.name})", len(known), "pairs of texts") as bar:
            for pair in known:
                known[pair] = self.judge(*pair)
                bar.advance()
        return [known[pair] for pair in pairs]

    def close(self) -> None:
        """See :class:`headflow.judging.judgement.Judge`."""

    def _named(self, text: str) -> tuple[str, ...]:
        """The objects of a text; the stock description stands in many pairs."""
        if text not in self._texts:
            self._texts[text] = tuple(named(text, self.vocabulary))
        return self._texts[text]
