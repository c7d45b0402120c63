"""judge_descriptions on true scenes with descriptions written by hand, alone and with a second judge behind a real endpoint."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headflow.analysis.knockout_plan import knockout_plan
from headflow.datasets.scenes.examples import make_examples
from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.params import Params
from headflow.tables.descriptions import DESCRIPTIONS, KNOCKED_OUT
from headflow.tables.examples import EXAMPLES
from headflow.tables.judgements import AGREEMENT, JUDGEMENTS
from headflow.tables.knockouts import KNOCKOUT_PLAN
from stages import judge_descriptions, paths
from tests.judging.endpoint import KEY, Endpoint, fails, honest

LAYERS, COUNT = 2, 4
BLIND = "a red star on a plain background"


def settings(source: str = "scenes", **judging: object) -> Params:
    return Params.model_validate({"examples": {"source": source, "count": COUNT}, "models": {"tiny": {}}, "judging": {"draws": 99, **judging}})


def read() -> tuple[pl.DataFrame, dict]:
    return JUDGEMENTS.read(Path("data/judgements/tiny/judgements.parquet")), read_json(Path("reports/metrics/judge_descriptions_tiny.json"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stages before leave: stock descriptions that are true, and the blind one wherever all layers are closed."""
    monkeypatch.chdir(tmp_path)
    examples = make_examples(kinds=("object", "colour"), count=COUNT, references=2)
    EXAMPLES.write(examples, paths.EXAMPLES)
    rows = examples.filter(pl.col("question_kind") == "object", pl.col("split") == "explain").select("id", "scene", "description")
    said = {"tokens": [1], "starts": [0], "stops": [1], "ended": True}
    stock = pl.DataFrame([{**row, **said} for row in rows.iter_rows(named=True)], schema=schema(DESCRIPTIONS))
    DESCRIPTIONS.write(stock, paths.descriptions_dir("tiny") / "descriptions.parquet")
    closings, plan = knockout_plan(LAYERS, ("img→gen", "img→both"), ("query",))
    KNOCKOUT_PLAN.write(plan, paths.knockouts_dir("tiny") / "plan.parquet")
    knocked_out = [
        {
            **row, **said, "knockout": number, "route": closing.knockout.route, "first": closing.knockout.first, "stop": closing.knockout.stop,
            "outside": closing.knockout.outside, "last_position": closing.last_position,
            "description": BLIND if closing.knockout.cut(LAYERS).all() else row["description"],
        }
        for row in rows.iter_rows(named=True) for number, closing in enumerate(closings)
    ]  # fmt: skip
    KNOCKED_OUT.write(pl.DataFrame(knocked_out, schema=schema(KNOCKED_OUT)), paths.knockouts_dir("tiny") / "descriptions.parquet")
    return tmp_path


def schema(table: object) -> dict:
    return {name: column.dtype for name, column in table.columns.items()}


def test_every_description_is_judged_against_what_is_known(folder: Path) -> None:
    judge_descriptions.main(settings(), "tiny")
    judgements, metrics = read()
    examples, knocked_out = EXAMPLES.read(paths.EXAMPLES), KNOCKED_OUT.read(paths.knockouts_dir("tiny") / "descriptions.parquet")
    truth = {id: {item["name"] for item in objects} for id, objects in examples.select("id", "objects").iter_rows()}
    knockouts = knocked_out["knockout"].n_unique()
    assert len(judgements) == COUNT * (1 + 2 * knockouts) == len(judgements.unique(["id", "knockout", "against"]))
    blind = set(knocked_out.filter(pl.col("description") == BLIND)["knockout"])
    for row in judgements.iter_rows(named=True):
        expected, said = truth[row["id"]], {"star"} if row["knockout"] in blind else truth[row["id"]]
        assert (set(row["expected"]), set(row["objects"])) == (expected, said)
        counts = len(expected & said), len(expected - said), len(said - expected)
        assert (row["true_positives"], row["false_negatives"], row["false_positives"]) == counts
        assert row["f1"] == pytest.approx(2 * counts[0] / (2 * counts[0] + counts[1] + counts[2]))
    assert judgements.filter(pl.col("knockout") == -1)["against"].unique().to_list() == ["truth"]
    means = [2 * ("star" in names) / (len(names) + 1) for id, names in truth.items() if id in set(judgements["id"])]
    for route in ("img→gen", "img→both"):
        for against in ("stock", "truth"):
            assert metrics["f1"]["match"]["all_layers_closed"][route]["query"][against]["value"] == pytest.approx(np.mean(means))
    assert metrics["f1"]["match"]["stock"]["value"] == 1.0 and metrics["f1"]["match"]["stock"]["pictures"] == COUNT
    assert metrics["judges"]["match"]["vocabulary"] == "scenes" and metrics["agreement"] == {}
    assert AGREEMENT.read(Path("data/judgements/tiny/agreement.parquet")).is_empty()


def test_a_second_judge_agrees_costs_nothing_twice_and_leaves_no_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with Endpoint(honest, honest, honest, fails(500)) as endpoint:
        llm = {"base_url": endpoint.url, "model": "judge-1", "key_variable": "JUDGE_KEY", "retries": 0, "concurrency": 1}
        with pytest.raises(HeadflowError, match=r"3 of \d+ pairs of texts are judged and kept"):
            judge_descriptions.main(settings(second="llm", llm=llm), "tiny")
        endpoint.then(honest)
        judge_descriptions.main(settings(second="llm", llm=llm), "tiny")
        assert len(endpoint.requests) == 4 * COUNT - 3  # stock and blind, each against the stock description and the truth
        judgements, metrics = read()
        endpoint.then(honest)
        judge_descriptions.main(settings(judge="llm", llm=llm), "tiny")
        assert endpoint.requests == []
    first, second = (judgements.filter(pl.col("judge") == judge).drop("judge") for judge in ("match", "llm"))
    columns = ["true_positives", "false_negatives", "false_positives", "f1"]
    assert first.select(columns).equals(second.select(columns))
    for against in ("stock", "truth"):
        assert metrics["agreement"][against]["decisions"]["value"] == metrics["agreement"][against]["kappa"]["value"] == 1.0
    assert metrics["judges"]["llm"]["model"] == "judge-1" and metrics["judges"]["llm"]["prompt"]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert folder / ".headflow/judgements.sqlite" in files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_pictures_without_known_objects_are_held_against_the_stock_description_alone(folder: Path) -> None:
    EXAMPLES.write(EXAMPLES.read(paths.EXAMPLES).with_columns(objects=pl.col("objects").list.head(0)), paths.EXAMPLES)
    judge_descriptions.main(settings("folder", vocabulary="scenes"), "tiny")
    judgements, metrics = read()
    assert judgements["against"].unique().to_list() == ["stock"] and -1 not in judgements["knockout"]
    assert metrics["f1"]["match"]["stock"] is None
    judge_descriptions.main(settings("folder"), "tiny")
    judgements, metrics = read()
    assert metrics["vocabulary"] == "coco" and judgements["f1"].null_count() == len(judgements)  # a star is no object of COCO
    assert metrics["f1"]["match"]["all_layers_closed"]["img→gen"]["query"]["stock"] == {
        "value": None, "low": None, "high": None, "pictures": 0, "without": COUNT,
    }  # fmt: skip


def test_tables_that_do_not_belong_together_are_told(folder: Path) -> None:
    with pytest.raises(HeadflowError, match=r"mine\.yaml: missing; a vocabulary is one of"):
        judge_descriptions.main(settings(vocabulary="file", vocabulary_file="mine.yaml"), "tiny")
    with pytest.raises(HeadflowError, match=r"vocabulary coco: it has no object '\w+'"):
        judge_descriptions.main(settings(vocabulary="coco"), "tiny")
    file = paths.descriptions_dir("tiny") / "descriptions.parquet"
    DESCRIPTIONS.write(DESCRIPTIONS.read(file)[1:], file)
    with pytest.raises(HeadflowError, match=r"knocked-out descriptions: example explain-00000-object is unknown"):
        judge_descriptions.main(settings(), "tiny")
    DESCRIPTIONS.write(DESCRIPTIONS.read(file)[:0], file)
    with pytest.raises(HeadflowError, match="no descriptions to judge"):
        judge_descriptions.main(settings(), "tiny")
