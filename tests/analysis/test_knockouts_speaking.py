"""Planted models whose descriptions are known under every knockout: token by token, and as scores against the layers."""

import polars as pl
import pytest

import headflow
from headflow.analysis.knockout_plan import Closing, knockout_plan
from headflow.analysis.knockout_scores import knockout_bands, knockout_differences, knockout_levels, knockout_summary
from headflow.analysis.knockouts import ROUTES
from headflow.datasets.planted import NAMES, QUESTION, pattern
from headflow.execution.said import Saying, Speaker, say
from headflow.execution.store import ResultStore
from headflow.reporting.sentences.knockouts import steepest_rise, without_the_picture
from headflow.seeds import generator
from tests.analysis.scored import judged, spoken_table
from tests.analysis.speaking import BLIND, LAYERS, READS, REREADS, build_speaking

STEPS = 3
PICTURES = list(NAMES)
TWICE = [f"{name}-{number}" for number in range(2) for name in NAMES]


@pytest.fixture(scope="module", params=["summary", "rereading"])
def heard(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Closing], pl.DataFrame, list[list[list[str]]]]:
    """What is said about a picture of every name under every knockout, in words."""
    folder = tmp_path_factory.mktemp(request.param)
    lvlm = headflow.load(build_speaking(request.param, folder / "model"), device_map="cpu")
    closings, plan = knockout_plan(LAYERS, ROUTES, ("query", "generated"))

    def speaker(place: int, id: str) -> Speaker:
        shown = pattern(id, "warm", generator(0, "speaking", place)).image
        return Speaker(id, id, lambda: lvlm.capture(shown, QUESTION))

    with ResultStore(folder / "store.sqlite") as store:
        sayings = list(say(store, (speaker(*each) for each in enumerate(PICTURES)), closings, LAYERS, max_new_tokens=STEPS))
    return request.param, closings, plan, [[lvlm.text(saying.tokens).split() for saying in row] for row in sayings]


def expected(kind: str, name: str, closing: Closing) -> list[str]:
    """What the model must say."""
    cut, route = closing.knockout.cut(LAYERS).tolist(), closing.knockout.route
    text, speaks = route != "img→gen", route != "img→query"
    final = speaks if closing.last_position == "generated" else text
    if kind == "summary":  # the role token alone looks
        lost = text and cut[READS]
        return [BLIND] if lost else [name] * STEPS
    first = BLIND if final and all(cut[1:]) else name
    return [first] if speaks and cut[REREADS] else [first, *[name] * (STEPS - 1)]


def test_every_knockout_says_what_its_circuit_leaves_open(heard):
    kind, closings, _, said = heard
    for id, row in zip(PICTURES, said, strict=True):
        assert row == [expected(kind, id, closing) for closing in closings]
    outcomes = {tuple(row[at]) for row in said for at in range(len(closings))}
    assert len({len(words) for words in outcomes}) == 2  # some are ended, some cut off


def test_scores_find_the_layer_that_reads(heard):
    kind, closings, plan, said = heard
    said = said * 2  # as if there were two pictures of every name
    table = spoken_table(TWICE, closings, [[Saying([1] * len(words), len(words) < STEPS) for words in row] for row in said])
    objects = [[list(dict.fromkeys(words)) for words in row] for row in said]
    nothing = plan.filter(closed=0)["knockout"][0]
    judgements = judged(TWICE, objects, [row[nothing] for row in objects])
    bands, summary = knockout_bands(judgements, table, plan), knockout_summary(judgements, table, plan, draws=199)
    levels = knockout_levels(judgements, table, plan)
    assert levels.filter(level="stock")["mean"].to_list() == [1.0]
    assert levels.filter(level="chance")["mean"][0] == pytest.approx(16 / (16 * 15))  # each picture has one other of its name
    rows = {(row["route"], row["last_position"]): row for row in summary.iter_rows(named=True)}
    text, generated = rows["img→query", "query"], rows["img→gen", "query"]
    whole, blind = (text, generated) if kind == "rereading" else (generated, text)
    if kind == "summary":
        assert blind["blind"] == pytest.approx(1 / len(NAMES)) and blind["fall_p_holm"] < 0.01 and blind["others_p"] > 0.2
        assert (blind["rise_first"], blind["rise_last"], blind["rise_share"], blind["half"]) == (READS, READS, 1.0, pytest.approx(READS - 0.5))
        assert blind["rise"] == pytest.approx(1 - 1 / len(NAMES))
        curve = bands.filter(route="img→query", last_position="query", kind="upward").sort("at")
        assert curve["at"].to_list() == [-1, 0, 1, 2, 3, 4]
        assert curve["mean"].to_list() == pytest.approx([1 / 8] * 2 + [1.0] * 4)  # closed above the layer that reads costs nothing, at it everything
        lower = bands.filter(route="img→query", last_position="query", kind="below").sort("at")
        assert lower["mean"].to_list() == pytest.approx([1.0] * 2 + [1 / 8] * 4)
        for row in bands.filter(route="img→query", last_position="query", kind="closed").iter_rows(named=True):
            assert (row["mean"] == 1.0) != (row["first_layer"] <= READS <= row["last_layer"])
        sentence = without_the_picture(summary, levels, knockout_differences(judgements, table, plan))
        assert "nothing of the picture that can be told from chance is left: this model needs it" in sentence
        assert "what they need" in sentence and f"as layer {READS} opens, by 0.88" in steepest_rise(summary)
        assert "For img→gen" in steepest_rise(summary).split("opens")[-1] and "no depth can be told" in steepest_rise(summary)
    else:  # said once or three times, the name is the same object: only where the first word is lost too is anything
        spared, first = rows["img→query", "generated"], rows["img→gen", "generated"]
        assert whole["blind"] == pytest.approx((1 + 7 * 2 / 3) / 8)  # a wrong word first, and then the right one
        assert generated["blind"] == spared["blind"] == 1.0 and generated["rise"] is None
        assert first["blind"] == pytest.approx(1 / 8) and (first["rise_first"], first["rise_last"]) == (1, 1)
