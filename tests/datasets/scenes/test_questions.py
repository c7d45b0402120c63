"""Questions: true answers, and chances as documented."""

import numpy as np
import pytest

from headflow.datasets.scenes.questions import QUESTION_KINDS, ask, colour_of, describe, exists
from headflow.datasets.scenes.render import scene
from headflow.datasets.scenes.vocabulary import COUNT_WORDS


def test_answers_are_true() -> None:
    for i in range(60):
        rendered = scene(0, "explain", i)
        rng = np.random.default_rng(i)
        assert ask(rendered, "object", rng).answer == rendered.main.name
        assert ask(rendered, "colour", rng).answer == rendered.main.colour
        assert ask(rendered, "count", rng).answer == COUNT_WORDS[len(rendered.objects) - 1]
        asked = ask(rendered, "colour_of", rng)
        assert (asked.about, asked.answer) in {(item.name, item.colour) for item in rendered.objects}
        seen = ask(rendered, "exists", rng)
        assert seen.answer == ("yes" if seen.about in rendered.names else "no")


def test_descriptions_say_everything() -> None:
    for i in range(60):
        rendered = scene(1, "explain", i)
        words = describe(rendered).replace(",", "").split()
        assert words.count("small") == len(rendered.objects) - 1
        assert all(f"{item.colour} {item.name}" in describe(rendered) for item in rendered.objects)
        assert words[-2:] == [rendered.background, "background"]


def test_yes_and_no_are_equally_likely() -> None:
    rendered = scene(0, "explain", 0)
    answers = [ask(rendered, "exists", np.random.default_rng(i)).answer for i in range(1000)]
    assert 420 < answers.count("yes") < 580


def test_grammar() -> None:
    rendered = scene(0, "explain", 0)
    assert exists(rendered, "eight").text == "Is there an eight in the image? Answer yes or no."
    assert exists(rendered, "star").text == "Is there a star in the image? Answer yes or no."
    assert colour_of(rendered.main).text == f"What is the colour of the {rendered.main.name}? Answer with one word."


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        ask(scene(0, "explain", 0), "size", np.random.default_rng(0))  # type: ignore[arg-type]


def test_kinds_are_those_documented() -> None:
    assert QUESTION_KINDS == ("object", "colour", "count", "colour_of", "exists", "description")
