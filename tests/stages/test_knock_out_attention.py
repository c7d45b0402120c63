"""knock_out_attention and score_knockouts behind the real stages that come before them, on a circuit whose outcome is known."""

from pathlib import Path

import polars as pl
import pytest

from headflow.analysis.knockout_examples import knockout_examples
from headflow.analysis.knockouts import Knockout, knockout_gates
from headflow.datasets.planted import NAMES
from headflow.decoding import decode
from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.judging.vocabulary import load_vocabulary
from headflow.models.lvlm import LVLM
from headflow.params import Params
from headflow.reporting.knocked_out import description_table
from headflow.reporting.sentences import knockouts as sentences
from headflow.tables.descriptions import DESCRIPTIONS, KNOCKED_OUT
from headflow.tables.examples import EXAMPLES
from headflow.tables.knockouts import KNOCKOUT_BANDS, KNOCKOUT_DIFFERENCES, KNOCKOUT_LEVELS, KNOCKOUT_PLAN, KNOCKOUT_SUMMARY
from stages import describe_images, extract_features, judge_descriptions, knock_out_attention, prepare_examples, prepare_model, score_knockouts
from stages.pictures import Pictures

PICTURES, READS = 16, 1
FOLDER, SCORES = Path("data/knockouts/tiny"), Path("data/knockout_scores/tiny")


def settings(**groups: dict) -> Params:
    content = {
        "examples": {"source": "planted", "count": PICTURES, "references": 8},
        "models": {"tiny": {"id": "planted", "circuit": "chain", "device_map": "cpu"}},
        "features": {"baseline": "blank"}, "describing": {"max_new_tokens": 4}, "judging": {"vocabulary": "file", "vocabulary_file": "names.yaml"},
        "knockout": {"draws": 99, "permutations": 999},
    }  # fmt: skip
    return Params.model_validate({**content, **{name: {**content.get(name, {}), **values} for name, values in groups.items()}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which the stages have run."""
    root = tmp_path_factory.mktemp("knocked out")
    (root / "names.yaml").write_text("objects:\n" + "".join(f"  {name}: null\n" for name in NAMES))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepare_examples.main(settings())
        for stage in (prepare_model, extract_features, describe_images, knock_out_attention, judge_descriptions, score_knockouts):
            stage.main(settings(), "tiny")
    return root


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_the_picture_comes_through_the_prompts_text(here):
    said, plan = KNOCKED_OUT.read(FOLDER / "descriptions.parquet"), KNOCKOUT_PLAN.read(FOLDER / "plan.parquet")
    names = dict(EXAMPLES.read(Path("data/examples.parquet")).select("id", "answer").iter_rows())
    assert len(said) == PICTURES * plan["knockout"].n_unique() and said["id"].unique(maintain_order=True).to_list() == list(names)[:PICTURES]
    for row in plan.iter_rows(named=True):
        cut = set(range(row["first_layer"], row["last_layer"] + 1)) if row["first_layer"] is not None else set()
        cut = set(range(5)) - cut if row["kind"] == "open" else cut
        lost = row["route"] != "img→gen" and READS in cut
        mine = said.filter(knockout=row["knockout"])
        right = [text == names[id] for id, text in mine.select("id", "description").iter_rows()]
        # With a part of the layers open, attention that leaks, 1e-8 of it, may still choose the word.
        assert all(right) if not lost else row["kind"] != "upward" or not all(right), row
    metrics = read_json(Path("reports/metrics/knock_out_attention_tiny.json"))
    assert metrics["pictures"] == PICTURES and metrics["descriptions"] == len(said) and metrics["all_layers_closed"]["img→gen"]["query"]["ended"] == 1.0


def test_descriptions_are_those_of_decoding(here):
    """Through the pictures of the stage, one at a time."""
    said = KNOCKED_OUT.read(FOLDER / "descriptions.parquet")
    pictures = Pictures(settings(), "tiny")
    picture = list(pictures)[3]
    capture = picture.capture()
    for row in said.filter(id=picture.id).gather_every(4).iter_rows(named=True):
        knockout = Knockout(row["route"], row["first"], row["stop"], row["outside"])
        tokens = decode([capture], [knockout_gates(capture, [knockout], last_position=row["last_position"])], max_new_tokens=4)[0][0]
        assert row["tokens"] == tokens and row["description"] == pictures.model.text(tokens) and row["ended"] == (len(tokens) < 4)
        assert len(row["starts"]) == len(tokens) and row["stops"][-1:] == [len(row["description"])][: len(tokens)]


def test_scores_find_the_layer(here):
    bands, levels = KNOCKOUT_BANDS.read(SCORES / "bands.parquet"), KNOCKOUT_LEVELS.read(SCORES / "levels.parquet")
    summary, differences = KNOCKOUT_SUMMARY.read(SCORES / "summary.parquet"), KNOCKOUT_DIFFERENCES.read(SCORES / "differences.parquet")
    for against in ("stock", "truth"):
        rows = {row["route"]: row for row in summary.filter(against=against).iter_rows(named=True)}
        assert rows["img→gen"]["blind"] == 1.0 and rows["img→gen"]["rise"] is None
        for route in ("img→query", "img→both"):
            assert (rows[route]["rise_first"], rows[route]["rise_last"], rows[route]["rise_share"]) == (READS, READS, 1.0)
            assert rows[route]["blind"] < 0.3 and rows[route]["half"] == pytest.approx(READS - 0.5, abs=0.01)
        assert levels.filter(against=against, level="stock")["mean"].to_list() == [1.0]
    curve = bands.filter(route="img→query", kind="upward", against="truth").sort("at")
    assert curve["mean"].to_list()[2:] == [1.0] * 4 and curve["mean"][0] == pytest.approx(curve["mean"][1])
    metrics = read_json(Path("reports/metrics/score_knockouts_tiny.json"))
    assert metrics["unchanged_with_nothing_closed"] == 1.0 and metrics["rises"]["match"]["stock"]["img→both"]["query"]["rise_first"] == READS
    plot = pl.read_csv("reports/plots/knockouts/tiny.csv")
    assert plot["last layer left open"].to_list() == [-1, 0, 1, 2, 3, 4] and plot["img→gen"].to_list() == [1.0] * 6
    assert plot.columns[1:] == ["img→gen", "img→gen, first token too", "img→query", "img→query, first token spared", "img→both"]
    text = sentences.without_the_picture(summary, levels, differences)
    assert "That generated tokens see the picture makes no difference that can be told" in text and "this model needs it" in text
    assert "Closing img→query costs more than closing img→gen" in text


def test_examples_show_what_is_lost_and_invented(here):
    said, plan = KNOCKED_OUT.read(FOLDER / "descriptions.parquet"), KNOCKOUT_PLAN.read(FOLDER / "plan.parquet")
    stock = DESCRIPTIONS.read(Path("data/descriptions/tiny/descriptions.parquet"))
    found = knockout_examples(stock, said, plan, load_vocabulary("names.yaml"), most=8)
    assert len(found) == 8 and [text.route for text in found[0].texts] == ["img→gen", "img→query", "img→both"]
    for example, description in zip(found, stock["description"], strict=False):
        assert example.stock == ((description, "named"),) and example.texts[0].parts == example.stock and not example.texts[0].lost
    wrong = next(example for example in found if example.texts[1].parts != example.stock)
    assert wrong.texts[1].lost == (wrong.stock[0][0],) and wrong.texts[1].parts[0][1] == "invented"
    page = str(description_table(found))
    assert page.count("<tr>") == 1 + 8 * 4 and f"<del>{wrong.stock[0][0]}</del>" in page and f"<mark>{wrong.texts[1].parts[0][0]}</mark>" in page


def test_what_is_known_is_not_decoded_again(here, monkeypatch):
    before, captured = (FOLDER / "descriptions.parquet").read_bytes(), []
    forward = LVLM.capture

    def counted(self: LVLM, *arguments: object, **options: object) -> object:
        captured.append(1)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(LVLM, "capture", counted)
    knock_out_attention.main(settings(), "tiny")
    assert not captured and (FOLDER / "descriptions.parquet").read_bytes() == before
    knock_out_attention.main(settings(knockout={"routes": ["img→query"], "stride": 2}, describing={"pictures": 5, "max_new_tokens": 9}), "tiny")
    assert not captured and KNOCKED_OUT.read(FOLDER / "descriptions.parquet")["id"].n_unique() == 5
    knock_out_attention.main(settings(knockout={"last_position": ["query", "generated"]}, describing={"pictures": 2}), "tiny")
    assert len(captured) == 2
    assert set(KNOCKED_OUT.read(FOLDER / "descriptions.parquet")["last_position"]) == {"query", "generated"}
    with pytest.raises(HeadflowError, match=r"other descriptions than the knocked-out ones"):
        score_knockouts.main(settings(), "tiny")
    with pytest.raises(HeadflowError, match=r"knockout.width = 9: the model has 5 layers"):
        knock_out_attention.main(settings(knockout={"width": 9}), "tiny")
    knock_out_attention.main(settings(), "tiny")
    assert (FOLDER / "descriptions.parquet").read_bytes() == before


@pytest.mark.parametrize("twice", [{"routes": ["img→gen", "img→gen"]}, {"last_position": ["query", "query"]}])
def test_settings_are_checked(twice):
    [(name, [value, _])] = twice.items()
    with pytest.raises(ValueError, match=f"{name}: {value} is listed twice"):
        settings(knockout=twice)
