"""compress_context behind the real stages that come before it, on the embedded model."""

from pathlib import Path

import polars as pl
import pytest

from headflow.datasets.mme import read_mme
from headflow.errors import HeadflowError
from headflow.execution import compressed
from headflow.execution.described import Speaker, describe
from headflow.execution.store import ResultStore
from headflow.files import read_json
from headflow.models.compression.conversation import Conversation
from headflow.params import Params
from headflow.tables.compressing import COMPRESSED_ANSWERS, COMPRESSED_DIFFERENCES, COMPRESSED_SUMMARY, COMPRESSED_TIMES
from headflow.tables.descriptions import DESCRIPTIONS
from stages import compress_context, describe_images, extract_features, prepare_examples, prepare_model
from stages.pictures import Pictures, sampling
from tests.closure import ROOT
from tests.datasets.test_mme import write

OUT, METRICS = Path("data/compression/tiny"), Path("reports/metrics/compress_context_tiny.json")
PICTURES = 3


def settings(**compressing: object) -> Params:
    content = {
        "examples": {"count": PICTURES, "references": 2},
        "models": {"tiny": {"device_map": "cpu"}},
        "features": {"baseline": "blank"},
        "describing": {"max_new_tokens": 24},
        "compressing": {"percents": [10.0], "choose_by": ["attention", "random"], "max_new_tokens": 2, "timed": 1, **compressing},
    }
    return Params.model_validate(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which the stage has run."""
    root = tmp_path_factory.mktemp("compressed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepare_examples.main(settings())
        prepare_model.main(settings(), "tiny")
        extract_features.main(settings(), "tiny")
        describe_images.main(settings(), "tiny")
        compress_context.main(settings(), "tiny")
    return root


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_the_whole_picture_answers_as_the_stock_model_does(here) -> None:
    answers, summary = COMPRESSED_ANSWERS.read(OUT / "answers.parquet"), COMPRESSED_SUMMARY.read(OUT / "summary.parquet")
    full = {way: answers.filter(asking=way, strategy="full")["answer"].to_list() for way in ("fresh", "new")}
    # In the place of the first question, with later positions: the embedded model does not mind.
    assert full["fresh"] == full["new"] and len(full["new"]) == answers.filter(asking="new").height
    metrics = read_json(METRICS)
    assert metrics["told_by"] == "fresh" and metrics["full_answers_well_enough"] and metrics["ways"]["new"]["full"]["accuracy"] >= 0.9
    assert metrics["ways"]["turn"]["full"]["accuracy"] < metrics["ways"]["fresh"]["full"]["accuracy"]
    assert metrics["pictures"] == PICTURES and not metrics["turn_not_written"]
    variants = 1 + 1 + 2 + 2 + 1 + 1
    assert answers.filter(asking="turn").height == variants * answers.filter(asking="new").height
    named = pl.format("{} {}", "strategy", pl.col("percent").fill_null(0))
    sizes = dict(summary.filter(asking="fresh", category="all").unique(["strategy", "percent"]).select(named, "tokens").iter_rows())
    assert sizes["full 0.0"] == 39 and sizes["both 10.0"] == 3 + 4 and sizes["image 10.0"] == 4 and sizes["query 0.0"] == sizes["none 0.0"] == 3
    assert set(answers["bytes"].drop_nulls() / answers["tokens"].drop_nulls()) == {2 * 4 * 6 * 8 * 16}
    times = COMPRESSED_TIMES.read(OUT / "times.parquet")
    assert len(times) == 2 * (variants - 2) and (times["seconds"] >= times["low"]).all() and (times["seconds"] > 0).all()
    assert not COMPRESSED_DIFFERENCES.read(OUT / "differences.parquet").is_empty()


def test_finished_work_is_not_done_again(here, monkeypatch) -> None:
    before, ran = {file.name: file.read_bytes() for file in OUT.iterdir()}, []
    run = Conversation.run

    def counting(self, asking, wanted, followups):
        ran.append((asking, len(wanted)))
        return run(self, asking, wanted, followups)

    monkeypatch.setattr(Conversation, "run", counting)
    monkeypatch.setattr(Conversation, "seconds", None)
    compress_context.main(settings(), "tiny")
    assert not ran and {file.name: file.read_bytes() for file in OUT.iterdir()} == before
    # One K more asks only for what is new: image and both, by attention and by chance.
    compress_context.main(settings(percents=[10.0, 20.0], asking=["fresh"], timed=0), "tiny")
    assert ran == [("fresh", 4)] * PICTURES
    assert COMPRESSED_TIMES.read(OUT / "times.parquet").is_empty()
    for name, content in before.items():
        (OUT / name).write_bytes(content)


def test_questions_of_a_folder(here, tmp_path) -> None:
    ask = "Is there a {} in the image? Answer yes or no."
    said = DESCRIPTIONS.read(Path("data/descriptions/tiny/descriptions.parquet"))
    for number in range(3):
        write(tmp_path, f"task{number % 2}/{number}", number, f"{ask.format('star')}\tYes\n{ask.format('zebra')}\tNo\n")
    compress_context.main(settings(questions="mme", path=str(tmp_path), pictures=2, strategies=["full"], asking=["fresh"], timed=0), "tiny")
    answers = COMPRESSED_ANSWERS.read(OUT / "answers.parquet")
    drawn = [one.id for one in read_mme(tmp_path, pictures=2)]
    assert sorted(answers["id"].unique()) == sorted(drawn) and set(answers["category"]) == {"task0", "task1"} and not set(drawn) & set(said["id"])
    assert read_json(METRICS)["questions_of_unknown_words"] == 2  # the embedded model knows no zebra
    assert read_json(METRICS)["told_by"] == "fresh" and set(answers["question"]) == {ask.format("star")}


def test_draws_go_by_the_pictures_name_and_silent_pictures_are_not_timed(here, tmp_path) -> None:
    params = settings(strategies=["full"], asking=["fresh"], pictures=2)
    params = params.model_copy(update={"describing": params.describing.model_copy(update={"temperature": 50.0, "max_new_tokens": 4})})
    picture, said = next(iter(Pictures(params, "tiny"))), {}
    for turns in ("ab", "ba"):
        with ResultStore(tmp_path / f"{turns}.sqlite") as store:
            speakers = [Speaker(id, picture.context, picture.capture) for id in turns]
            found = describe(store, speakers, max_new_tokens=4, sampling=sampling(params.describing))
            said[turns] = {id: one.tokens for id, one in zip(turns, found, strict=True)}
    assert said["ab"] == said["ba"] and said["ab"]["a"] != said["ab"]["b"]
    told, file = DESCRIPTIONS.read(Path("data/descriptions/tiny/descriptions.parquet")), Path("data/descriptions/tiny/descriptions.parquet")
    silent = told.head(1).with_columns(pl.lit([], told.schema[name]).alias(name) for name in ("tokens", "starts", "stops"))
    DESCRIPTIONS.write(pl.concat([silent, told[1:]]), file)
    try:
        compress_context.main(params, "tiny")
        assert COMPRESSED_TIMES.read(OUT / "times.parquet")["pictures"].to_list() == [1] and read_json(METRICS)["pictures_not_described"] == 1
    finally:
        DESCRIPTIONS.write(told, file)


def test_mistakes_are_named(here, tmp_path) -> None:
    with pytest.raises(HeadflowError, match="no such folder"):
        compress_context.main(settings(questions="mme", path=str(tmp_path / "none")), "tiny")
    said = DESCRIPTIONS.read(Path("data/descriptions/tiny/descriptions.parquet"))
    DESCRIPTIONS.write(said.head(2), Path("data/descriptions/tiny/descriptions.parquet"))
    try:
        with pytest.raises(HeadflowError, match="made from other examples"):
            compress_context.main(settings(), "tiny")
    finally:
        DESCRIPTIONS.write(said, Path("data/descriptions/tiny/descriptions.parquet"))
    for wrong in ({"percents": [5.0, 2.0]}, {"strategies": ["both"]}, {"asking": ["turn", "turn"]}, {"keep_description": True, "go_on_from": "prompt"}):
        with pytest.raises(ValueError):
            settings(**wrong)


def test_the_version_covers_all_code_that_decides() -> None:
    """Modules of the package that compressed contexts are answered with, apart from the engine's own."""
    folder = ROOT / "headflow/models/compression"
    own = {f"models/compression/{file.name}" for file in folder.glob("*.py")} - {"models/compression/__init__.py"}
    assert own <= set(compressed.CODE)
