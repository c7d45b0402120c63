"""describe_images behind the real stages that come before it, on the embedded model."""

from pathlib import Path

import pytest

from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.params import Params
from headflow.tables.descriptions import DESCRIPTIONS
from headflow.tables.examples import EXAMPLES
from stages import describe_images, extract_features, prepare_examples, prepare_model
from stages.pictures import PROMPT, Pictures

OUT = Path("data/descriptions/tiny/descriptions.parquet")


def settings(**describing: object) -> Params:
    content = {
        "examples": {"count": 9, "references": 2, "questions": ["object", "colour"]},
        "models": {"tiny": {"device_map": "cpu"}},
        "describing": describing,
    }
    return Params.model_validate(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which the stages before have run."""
    root = tmp_path_factory.mktemp("described")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepare_examples.main(settings())
        prepare_model.main(settings(), "tiny")
        extract_features.main(settings(), "tiny")
    return root


def test_every_picture_is_described_once_as_generate_does(folder, monkeypatch):
    monkeypatch.chdir(folder)
    describe_images.main(settings(), "tiny")
    said, examples = DESCRIPTIONS.read(OUT), EXAMPLES.read(Path("data/examples.parquet"))
    assert said["id"].to_list() == [f"explain-{scene:05d}-object" for scene in range(9)] and said["scene"].to_list() == list(range(9))
    model = Pictures(settings(), "tiny").model
    pictures = [examples.filter(id=id)["image"][0] for id in said["id"]]
    expected = model.answer_ids(pictures, PROMPT, 40)
    assert said["tokens"].to_list() == expected and said["description"].to_list() == [model.text(ids) for ids in expected]
    assert said["ended"].all()
    metrics = read_json(Path("reports/metrics/describe_images_tiny.json"))
    assert metrics["pictures"] == 9 and metrics["ended"] == 1.0 and metrics["most_tokens"] == max(map(len, expected))


def test_fewer_pictures_and_tokens(folder, monkeypatch):
    monkeypatch.chdir(folder)
    describe_images.main(settings(), "tiny")
    whole = DESCRIPTIONS.read(OUT)
    describe_images.main(settings(pictures=3, max_new_tokens=4), "tiny")
    short = DESCRIPTIONS.read(OUT)
    assert short["tokens"].to_list() == [tokens[:4] for tokens in whole["tokens"].to_list()[:3]] and not short["ended"].any()


def test_draws_depend_on_their_seed_and_picture_alone(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def said(**describing: object) -> list:
        describe_images.main(settings(temperature=3.0, max_new_tokens=12, **describing), "tiny")
        return DESCRIPTIONS.read(OUT)["tokens"].to_list()

    first = said(seed=1)
    assert first == said(seed=1) and first != said(seed=2)
    assert said(seed=1, pictures=2) == first[:2]


def test_words_that_the_model_does_not_know_are_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(HeadflowError, match=r"model 'tiny' does not know 'giraffes' of 'Describe the giraffes'; set describing.prompt"):
        describe_images.main(settings(prompt="Describe the giraffes"), "tiny")


def test_what_a_context_stands_for(folder, monkeypatch):
    """Pictures, prompts and models have contexts of their own, and the same ones have the same in every run."""
    monkeypatch.chdir(folder)
    contexts = [picture.context for picture in Pictures(settings(), "tiny")]
    assert len(set(contexts)) == 9 and contexts == [picture.context for picture in Pictures(settings(seed=5), "tiny")]
    assert not set(contexts) & {picture.context for picture in Pictures(settings(prompt="the image"), "tiny")}
