"""Objects and the words that name them: data that a user can replace by a file."""

import stat
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headflow.errors import HeadflowError
from headflow.execution.fingerprint import digest_json
from headflow.judging.words import is_known_language, split

BUILT_IN = ("scenes", "coco")
_FOLDER = Path(__file__).parent / "vocabularies"
_MOST_BYTES = 4_000_000

Text = Annotated[str, Field(min_length=1, max_length=200)]


class _Restriction(BaseModel):
    """Terms that name their object only straight after one of some words."""

    model_config = ConfigDict(extra="forbid", strict=True)

    terms: list[Text] = Field(min_length=1)
    words: list[Text] = Field(min_length=1)


class _File(BaseModel):
    """The file of a vocabulary."""

    model_config = ConfigDict(extra="forbid", strict=True)

    language: Text = "en"
    objects: dict[Text, list[Text] | None] = Field(min_length=1)
    not_by_name: list[Text] = []
    case_sensitive: list[Text] = []
    only_after: list[_Restriction] = []
    others: list[Text] = []


@dataclass(frozen=True)
class Term:
    """Words in a row that name an object.

    Attributes:
        words: as they are written, the separators between them left out.
        name: the object; None where they name none of the vocabulary's.
        case_sensitive: the text must have them letter for letter; else any case, and any inflection of which a word is the lemma.
        after: the word before them must be one of these (lower case); None = whatever comes before.
    """

    words: tuple[str, ...]
    name: str | None
    case_sensitive: bool = False
    after: frozenset[str] | None = None


@dataclass(frozen=True)
class Vocabulary:
    """Objects and the terms for them.

    Attributes:
        source: name of a built-in vocabulary, or path of the file.
        language: of its terms, a code that simplemma knows.
        names: the objects, in the order of the file.
        terms: every term of each object, its own name the first, and those that name no object.
        digest: SHA-256 of its content; two vocabularies share it exactly where they say the same.
    """

    source: str
    language: str
    names: tuple[str, ...]
    terms: tuple[Term, ...]
    digest: str

    @cached_property
    def by_first_word(self) -> Mapping[str, list[Term]]:
        """Terms by their first word, in lower case."""
        found: dict[str, list[Term]] = defaultdict(list)
        for term in self.terms:
            found[term.words[0].lower()].append(term)
        return dict(found)

    def with_objects(self, names: Iterable[str]) -> "Vocabulary":
        """This vocabulary with further objects, whose terms are their names, also where they were a term of ``others``."""
        new = {name: tuple(word.text for word in split(name)) for name in dict.fromkeys(names) if name not in self.names}
        terms = [Term(words, name) for name, words in new.items() if words]
        added, taken = tuple(term.name for term in terms), {_lower(term.words) for term in terms}
        kept = tuple(term for term in self.terms if term.name is not None or _lower(term.words) not in taken)
        return Vocabulary(self.source, self.language, (*self.names, *added), (*kept, *terms), digest_json([self.digest, added])) if terms else self


def _lower(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(word.lower() for word in words)


def load_vocabulary(name_or_path: str | Path) -> Vocabulary:
    """A built-in vocabulary (``scenes``, ``coco``), or one from a YAML file with these keys:

    - ``objects``: name of an object → list of other terms for it; the name itself is a term. Several words in a row may be parted in a
      text by blanks, hyphens or apostrophes. A word stands for itself in any case, and for all inflections of which it is the lemma: "knife"
      for "Knives", while "oranges" stands for no "orange".
    - ``language`` (en): code of the language, for the lemmas.
    - ``not_by_name``: objects whose own name is no term.
    - ``case_sensitive``: terms that are found only letter for letter, such as single capital letters.
    - ``only_after``: list of ``terms`` that name their object only straight after one of ``words``.
    - ``others``: terms that name none of the objects although they hold a term that does ("hot plate", where "plate" is an object). Of all
      terms that begin at a word the longest counts.

    Raises:
        HeadflowError: names the file, the key, its value and what is wrong.
    """
    path = _FOLDER / f"{name_or_path}.yaml" if name_or_path in BUILT_IN else Path(name_or_path)
    source = str(name_or_path)
    content = _read(path)
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise HeadflowError(f"{source}: " + "; ".join(_explain(fault) for fault in error.errors()[:5])) from None
    if not is_known_language(file.language):
        raise HeadflowError(f"{source}: language = {file.language!r}: no language that simplemma has a dictionary of, such as en, de or fr")
    return Vocabulary(source, file.language, tuple(file.objects), tuple(_terms(file, source)), digest_json(file.model_dump()))


def _terms(file: _File, source: str) -> Iterable[Term]:
    """The terms of a file, each once.

    Raises:
        HeadflowError: a term without a letter or digit, a term of two objects, or a key that speaks of a term that no object has.
    """
    owners: dict[tuple[str, ...], tuple[str | None, str]] = {}
    exact = {_words(text, "case_sensitive", source) for text in file.case_sensitive}
    after: dict[tuple[str, ...], set[str]] = {}
    for place, restriction in enumerate(file.only_after):
        allowed = {word.lower() for word in restriction.words}
        for text in restriction.terms:
            after.setdefault(_words(text, f"only_after.{place}.terms", source), set()).update(allowed)
        for text in restriction.words:
            if len(_words(text, f"only_after.{place}.words", source)) > 1:
                raise HeadflowError(f"{source}: only_after.{place}.words: {text!r} is more than one word")
    if unknown := [name for name in file.not_by_name if not file.objects.get(name)]:
        raise HeadflowError(f"{source}: not_by_name: {unknown[0]!r} is no object with other terms; correct it, or give it some under `objects`")
    everything = [
        (name, text, f"objects.{name}")
        for name, synonyms in file.objects.items()
        for text in (*(() if name in file.not_by_name else (name,)), *(synonyms or ()))
    ]
    known = set()
    for name, text, key in (*everything, *((None, text, "others") for text in file.others)):
        words = _words(text, key, source)
        known.add(words)
        same = words if words in exact else tuple(word.lower() for word in words)
        if same in owners:
            owner, before = owners[same]
            if owner != name:
                raise HeadflowError(f"{source}: {key}: {text!r} stands under {before} too; a term names one object")
            continue
        owners[same] = (name, key)
        restricted = after.get(words)
        yield Term(words, name, words in exact, None if restricted is None else frozenset(restricted))
    for key, terms in (("case_sensitive", exact), ("only_after", set(after))):
        if unknown := sorted(terms - known):
            raise HeadflowError(f"{source}: {key}: {' '.join(unknown[0])!r} is no term of `objects` or `others`; write it there too")


def _words(text: str, key: str, source: str) -> tuple[str, ...]:
    words = tuple(word.text for word in split(text))
    if not words:
        raise HeadflowError(f"{source}: {key}: {text!r} has no letter or digit")
    return words


class _Loader(yaml.SafeLoader):
    """Plain data only: no tags of Python, no key twice, no aliases (a short file of aliases can stand for a huge one)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(None, None, f"the alias *{event.anchor} is not allowed; write it out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        HeadflowError: it is missing, no regular file, too large, not UTF-8 or not YAML.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise HeadflowError(f"{path}: is not a file; a vocabulary is one of {', '.join(BUILT_IN)}, or a YAML file")
        if found.st_size > _MOST_BYTES:
            raise HeadflowError(f"{path}: {found.st_size:,} bytes are too many for a vocabulary; the most is {_MOST_BYTES:,}")
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise HeadflowError(f"{path}: missing; a vocabulary is one of {', '.join(BUILT_IN)}, or a YAML file") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise HeadflowError(f"{path}: not readable as YAML ({' '.join(str(error).split())[:300]})") from None


def _explain(fault: Any) -> str:
    """One fault of a validation error: key, value, what is allowed."""
    key = ".".join(str(place) for place in fault["loc"] if place != "[key]") or "the file"
    value = repr(fault["input"])
    value = value if len(value) <= 80 else f"{value[:79]}…"
    match fault["type"]:
        case "extra_forbidden":
            return f"unknown key {key} = {value}; a vocabulary takes {', '.join(_File.model_fields)}"
        case "missing":
            return f"{key} is missing"
        case "string_type":
            return f"{key} = {value}: not a text; put it in quotes (YAML reads yes, no, on, off and numbers as something else)"
        case _:
            return f"{key} = {value}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
