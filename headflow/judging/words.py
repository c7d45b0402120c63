"""The words of a text: where they stand, and their lemmas."""

import re
from dataclasses import dataclass
from functools import lru_cache

from simplemma import Lemmatizer
from simplemma.strategies.dictionaries.dictionary_factory import SUPPORTED_LANGUAGES

_WORD = re.compile(r"[^\W_]+")
_JOINT = re.compile(r"[\s\u2010\u2011'\u2019-]+")  # blanks, hyphens, apostrophes
_lemmatizer = Lemmatizer()


@dataclass(frozen=True)
class Word:
    """A word of a text; ``joined``: only blanks, hyphens or apostrophes part it from the word before."""

    text: str
    start: int
    stop: int
    joined: bool


def split(text: str) -> list[Word]:
    """The words of ``text``: letters and digits in a row."""
    found, last = [], 0
    for match in _WORD.finditer(text):
        found.append(Word(match[0], match.start(), match.end(), bool(found) and _JOINT.fullmatch(text, last, match.start()) is not None))
        last = match.end()
    return found


@lru_cache(maxsize=65536)
def forms(word: str, language: str) -> frozenset[str]:
    """What ``word`` can stand for in a vocabulary, in lower case: itself, and its lemmas with and without its capitals."""
    lower = word.lower()
    return frozenset({lower, _lemmatizer.lemmatize(word, language).lower(), _lemmatizer.lemmatize(lower, language).lower()})


def is_known_language(code: str) -> bool:
    """Whether there is a dictionary of lemmas for the language."""
    return code in SUPPORTED_LANGUAGES
