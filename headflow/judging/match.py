"""Objects named in a text, found by a vocabulary."""

from collections.abc import Iterable
from dataclasses import dataclass

from headflow.judging.vocabulary import Term, Vocabulary, load_vocabulary
from headflow.judging.words import Word, forms, split


@dataclass(frozen=True)
class Mention:
    """An object named in a text: its name in the vocabulary, and the characters ``start`` to ``stop`` that name it."""

    name: str
    start: int
    stop: int


def mentions(text: str, vocabulary: Vocabulary) -> list[Mention]:
    """Objects that ``text`` names, in its order.

    Of the terms that begin at a word the longest counts ("hot dog" names no dog), and words are used once. What is denied ("there is no dog")
    is named all the same.
    """
    words, found, place = split(text), [], 0
    while place < len(words):
        term = _longest(words, place, vocabulary)
        if term is None:
            place += 1
            continue
        stop = place + len(term.words)
        if term.name is not None:
            found.append(Mention(term.name, words[place].start, words[stop - 1].stop))
        place = stop
    return found


def named(text: str, vocabulary: Vocabulary) -> list[str]:
    """The objects that ``text`` names, each once, in the order of their first mention."""
    return list(dict.fromkeys(mention.name for mention in mentions(text, vocabulary)))


def choose_vocabulary(choice: str, source: str, names: Iterable[str] = ()) -> Vocabulary:
    """The vocabulary that the params ask for.

    Args:
        choice: ``judging.vocabulary``: a name, a path or ``auto``: ``scenes`` where the pictures are rendered, else ``coco``, and the names of objects
            for which they have no term.
        source: ``examples.source``.
        names: of the objects that the pictures show, where they are known.

    Raises:
        HeadflowError: see :func:`headflow.judging.vocabulary.load_vocabulary`.
    """
    if choice != "auto":
        return load_vocabulary(choice)
    vocabulary = load_vocabulary("scenes" if source in ("scenes", "planted") else "coco")
    for name in names:  # one by one: "Tiger" and "tigers" are one object
        if name_of(name, vocabulary) is None:
            vocabulary = vocabulary.with_objects([name])
    return vocabulary


def name_of(object: str, vocabulary: Vocabulary) -> str | None:
    """The vocabulary's name for an object that is named alone ("men" → person): words that a text must have before it are not asked for.

    None where the whole of ``object`` is no term.
    """
    words = split(object)
    if object in vocabulary.names or not words:
        return object if object in vocabulary.names else None
    for term in vocabulary.by_first_word.get(words[0].text.lower(), ()):
        if term.name is not None and [word.lower() for word in term.words] == [word.text.lower() for word in words]:
            return term.name
    found = mentions(object, vocabulary)
    return found[0].name if len(found) == 1 and (found[0].start, found[0].stop) == (words[0].start, words[-1].stop) else None


def _longest(words: list[Word], place: int, vocabulary: Vocabulary) -> Term | None:
    """The term that begins at a word: the one of most words, before that letter for letter, before that as it is written."""
    here, language = forms(words[place].text, vocabulary.language), vocabulary.language
    candidates = [term for form in here for term in vocabulary.by_first_word.get(form, ()) if _fits(term, words, place, language)]
    return max(candidates, key=lambda term: (len(term.words), term.case_sensitive, _written(term, words, place)), default=None)


def _fits(term: Term, words: list[Word], place: int, language: str) -> bool:
    here = words[place : place + len(term.words)]
    if len(here) < len(term.words) or not all(word.joined for word in here[1:]):
        return False
    if term.after is not None and not (place and words[place].joined and words[place - 1].text.lower() in term.after):
        return False
    if term.case_sensitive:
        return all(word.text == wanted for word, wanted in zip(here, term.words, strict=True))
    return all(wanted.lower() in forms(word.text, language) for word, wanted in zip(here, term.words, strict=True))


def _written(term: Term, words: list[Word], place: int) -> int:
    """Words of the text that stand in the term as they are, not by their lemma."""
    return sum(word.text.lower() == wanted.lower() for word, wanted in zip(words[place:], term.words, strict=False))
