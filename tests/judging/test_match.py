"""Objects found in texts: by lemmas, longest terms first, with their characters."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headflow.datasets.scenes.questions import describe
from headflow.datasets.scenes.render import scene
from headflow.datasets.scenes.settings import SceneSettings
from headflow.datasets.scenes.vocabulary import NAMES
from headflow.judging.match import choose_vocabulary, mentions, name_of, named
from headflow.judging.vocabulary import Vocabulary, load_vocabulary

COCO, SCENES = load_vocabulary("coco"), load_vocabulary("scenes")

PLURALS = [
    "people", "bicycles", "cars", "motorcycles", "airplanes", "buses", "trains", "trucks", "boats", "traffic_lights", "fire_hydrants", "stop_signs",
    "parking_meters", "benches", "birds", "cats", "dogs", "horses", "sheep", "cows", "elephants", "bears", "zebras", "giraffes", "backpacks", "umbrellas",
    "handbags", "ties", "suitcases", "frisbees", "skis", "snowboards", "sports_balls", "kites", "baseball_bats", "baseball_gloves", "skateboards",
    "surfboards", "tennis_rackets", "bottles", "wine_glasses", "cups", "forks", "knives", "spoons", "bowls", "bananas", "apples", "sandwiches", "oranges",
    "broccoli", "carrots", "hot_dogs", "pizzas", "donuts", "cakes", "chairs", "couches", "potted_plants", "beds", "dining_tables", "toilets", "tvs",
    "laptops", "mice", "remotes", "keyboards", "cell_phones", "microwaves", "ovens", "toasters", "sinks", "refrigerators", "books", "clocks", "vases",
    "scissors", "teddy_bears", "hair_driers", "toothbrushes",
]  # fmt: skip


def test_the_scenes_vocabulary_has_the_names_of_scenes() -> None:
    assert SCENES.names == NAMES


@pytest.mark.parametrize("split", ["explain", "reference"])
def test_true_descriptions_name_exactly_their_objects(split: str) -> None:
    for index in range(80):
        rendered = scene(7, split, index, SceneSettings())
        text = describe(rendered)
        found = mentions(text, SCENES)
        assert [mention.name for mention in found] == [item.name for item in rendered.objects], text
        assert [text[mention.start : mention.stop] for mention in found] == [item.name for item in rendered.objects]


def test_every_coco_object_in_singular_and_plural_and_any_case() -> None:
    assert len(COCO.names) == len(PLURALS) == 80
    for name, plural in zip(COCO.names, PLURALS, strict=True):
        plural = plural.replace("_", " ")
        for text in (plural, plural.upper(), plural.title(), f"There are two {plural}.", f"the {plural.replace(' ', '-')}’ colour"):
            assert named(text, COCO) == [name], text
        if name != "orange":  # alone it is a colour
            for text in (name, name.upper(), f"A {name},", f'"{name}"'):
                assert named(text, COCO) == [name], text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Two men, three women and their children feed the mice.", ["person", "mouse"]),
        ("Hot dogs and hot-dogs on a dining\n table; no dog.", ["hot dog", "dining table", "dog"]),
        ("A teddy bear beside a polar bear.", ["teddy bear", "bear"]),
        ("An orange cat on an orange sofa eats oranges.", ["cat", "couch", "orange"]),
        ("A crowded street where people are cooking, skiing and boating.", ["person"]),
        ("Train tracks lead to the train station.", []),
        ("The traffic, light as it was", []),
        ("a baby elephant and its mother", ["elephant", "person"]),
        ("He bare-handedly tied a tie.", ["tie"]),
        ("A couple of giraffes, a couple on a bench", ["giraffe", "person", "bench"]),
        ("wine glasses, glasses of wine and eyeglasses", ["wine glass"]),
        ("a fire truck by a fire hydrant", ["truck", "fire hydrant"]),
        ("SUVs and TVs", ["car", "tv"]),
        ("", []),
        ("…!? ___", []),
    ],
)
def test_coco(text: str, names: list[str]) -> None:
    assert named(text, COCO) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("One of the two stars on the left is up right, a T in the L-shaped room.", ["star", "T"]),
        ("a t, an h and a k", []),
        ("a T-shirt, and H2O", []),
        ("a small blue one, a red left and an up", ["one", "left", "up"]),
        ("a left-pointing arrow and an arrow pointing to the right", ["left", "right"]),
        ("The number 7 and crosses", ["seven", "cross"]),
        ("Three red circles", ["circle"]),
        ("a red, left", []),
    ],
)
def test_scenes(text: str, names: list[str]) -> None:
    assert named(text, SCENES) == names


def test_mentions_tell_where_they_stand() -> None:
    text = "Ein Männerchor, “Hot\u00a0Dogs”, 🐕 dogs"
    assert [(mention.name, text[mention.start : mention.stop]) for mention in mentions(text, COCO)] == [("hot dog", "Hot\u00a0Dogs"), ("dog", "dogs")]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from([" ".join(term.words) for term in COCO.terms[:200]]), st.text(max_size=6)), max_size=8),
    st.sampled_from([" ", "-", ", "]),
)
def test_any_text_gives_mentions_in_order_without_overlap(parts: list[str], joint: str) -> None:
    text, stop = joint.join(parts), 0
    for mention in mentions(text, COCO):
        assert stop <= mention.start < mention.stop <= len(text) and mention.name in COCO.names
        assert [found.name for found in mentions(text[mention.start : mention.stop], COCO)] == [mention.name]
        stop = mention.stop


def test_names_of_objects_that_stand_alone() -> None:
    assert [name_of(name, SCENES) for name in ("left", "one", "1", "crosses", "T", "t", "red star", "on the left", "")] == [
        "left", "one", "one", "cross", "T", "T", None, None, None,
    ]  # fmt: skip
    assert [name_of(name, COCO) for name in ("men", "puppy", "hot dog stand", "drone")] == ["person", "dog", None, None]


def test_the_vocabulary_of_a_run_knows_the_objects_of_its_pictures(tmp_path: Path) -> None:
    assert choose_vocabulary("auto", "scenes").digest == choose_vocabulary("auto", "planted").digest == SCENES.digest
    known = choose_vocabulary("auto", "folder", ["dog", "man", "drone", "flying saucer"])
    assert known.names == (*COCO.names, "drone", "flying saucer") and known.digest != COCO.digest
    assert named("A man, Drones and a flying-saucer", known) == ["person", "drone", "flying saucer"]
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps({"objects": {"drone": ["quadcopter"]}}), encoding="utf-8")
    mine = choose_vocabulary(str(path), "coco", ["dog"])
    assert isinstance(mine, Vocabulary) and mine.names == ("drone",) and named("two quadcopters", mine) == ["drone"]


@pytest.mark.parametrize(
    ("names", "text"),
    [(["snow man"], "two snow men"), (["Tiger", "tiger"], "a tiger"), (["tiger", "tigers"], "Tigers"), (["ice cream", "ice-cream"], "ice cream")],
)
def test_what_a_picture_shows_is_found_however_it_is_written(names: list[str], text: str) -> None:
    """Also where it is a term that names none of COCO's objects."""
    known = choose_vocabulary("auto", "folder", names)
    assert {name_of(name, known) for name in names} == set(named(text, known)) == {names[0]}
