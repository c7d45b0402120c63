"""Vocabularies that users write: what they mean, and every mistake told with file, key and value."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headflow.errors import HeadflowError
from headflow.judging.match import named
from headflow.judging.vocabulary import load_vocabulary


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_vocabulary_of_ones_own(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        language: it
        objects:
          cane: [cucciolo]
          topo:
          piastra: [piastra elettrica]
          destra: []
          B: []
        case_sensitive: [B]
        only_after: [{terms: [destra], words: [rossa, una]}]
        others: [piastra calda]
        not_by_name: [piastra]
        """,
    )
    mine = load_vocabulary(path)
    assert mine.names == ("cane", "topo", "piastra", "destra", "B") and mine.source == str(path)
    assert named("Tre CANI, due topi; b, B. Una rossa Destra, a destra una piastra calda, piastra.", mine) == ["cane", "topo", "B", "destra"]
    assert named("Cuccioli sulla piastra elettrica", mine) == ["cane", "piastra"]


def test_the_digest_goes_by_content(tmp_path: Path) -> None:
    first = load_vocabulary(written(tmp_path, "objects: {dog: [puppy], cat: []}")).digest
    assert load_vocabulary(written(tmp_path, "# again\nobjects:\n  dog: [puppy]\n  cat: []\n")).digest == first
    assert load_vocabulary(written(tmp_path, "objects: {dog: [pup], cat: []}")).digest != first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("objects: {dog: [puppy], hound: [Puppy]}", ["objects.hound", "'Puppy'", "objects.dog"]),
        ("objects: {dog: puppy}", ["objects.dog = 'puppy'", "list"]),
        ("objects: {dog: [no]}", ["objects.dog.0 = False", "quotes"]),
        ("objects: {1: []}", ["objects.1", "quotes"]),
        ("objects: {dog: ['…']}", ["objects.dog", "'…'", "no letter or digit"]),
        ("objects: {}", ["objects = {}", "at least 1"]),
        ("object: {dog: []}", ["objects is missing", "unknown key object = ", "case_sensitive"]),
        ("- dog", ["the file = ['dog']"]),
        ("", ["the file = None"]),
        ("objects: {dog: []}\nlanguage: xx", ["language = 'xx'", "simplemma"]),
        ("objects: {dog: []}\nlanguage: ../en", ["language = '../en'"]),
        ("objects: {dog: []}\ncase_sensitive: [cat]", ["case_sensitive", "'cat'"]),
        ("objects: {dog: []}\nonly_after: [{terms: [cat], words: [a]}]", ["only_after", "'cat'"]),
        ("objects: {dog: []}\nonly_after: [{terms: [dog], words: [a big]}]", ["only_after.0.words", "'a big'", "more than one word"]),
        ("objects: {dog: []}\nonly_after: [{terms: [dog]}]", ["only_after.0.words is missing"]),
        ("objects: {dog: []}\nothers: [Dog]", ["others", "'Dog'", "objects.dog"]),
        ("objects: {dog: []}\nnot_by_name: [dog]", ["not_by_name", "'dog'"]),
        ("objects: {dog: [], cat: [], dog: []}", ["not readable as YAML", "'dog' stands there twice", "line 1"]),
        ("objects: {dog: &a [puppy], cat: *a}", ["not readable as YAML", "alias *a"]),
        ("objects: !!python/object/apply:os.system [ls]", ["not readable as YAML", "python/object"]),
        ("objects: {dog: [", ["not readable as YAML"]),
        ("objects: {dog: ['" + "x" * 300 + "']}", ["objects.dog.0", "200"]),
    ],
)
def test_mistakes_are_told(tmp_path: Path, text: str, words: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(HeadflowError) as error:
        load_vocabulary(path)
    message = str(error.value)
    assert all(word in message for word in [str(path), *words]) and "\n" not in message and len(message) < 600


def test_only_a_readable_file_of_moderate_size_is_read(tmp_path: Path) -> None:
    for source in (tmp_path, "/dev/zero"):
        with pytest.raises(HeadflowError, match="is not a file"):
            load_vocabulary(source)
    with pytest.raises(HeadflowError, match="missing; a vocabulary is one of scenes, coco"):
        load_vocabulary(tmp_path / "none.yaml")
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"objects: {dog: []} # \xff")
    with pytest.raises(HeadflowError, match="not readable as YAML"):
        load_vocabulary(path)
    path.write_bytes(b"#" * 5_000_000)
    with pytest.raises(HeadflowError, match="5,000,000 bytes are too many"):
        load_vocabulary(path)
    path.write_text("[" * 500, encoding="utf-8")
    with pytest.raises(HeadflowError, match="not readable as YAML"):
        load_vocabulary(path)


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.binary(max_size=80), st.text("objects: {dog}[]&*!-\n'\"01", max_size=60).map(str.encode)))
def test_any_bytes_give_a_vocabulary_or_a_clear_error(content: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(content)
        file.flush()
        try:
            assert load_vocabulary(file.name).names
        except HeadflowError as error:
            assert file.name in str(error) and "\n" not in str(error)
