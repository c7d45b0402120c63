"""A model of transformers as judge: one that has learnt its answers, and some that cannot judge."""

import json
from pathlib import Path

import pytest

from headflow.errors import HeadflowError
from headflow.judging.by_model import ModelJudge
from headflow.judging.judges import make_judge
from headflow.judging.prompt import messages
from headflow.judging.vocabulary import load_vocabulary
from headflow.params import JudgingParams, LocalJudgeParams
from tests.judging.talker import TEMPLATE, teach

STOCK = "a red star and a small T"
PAIRS = [(STOCK, "a star"), (STOCK, "a blue cross")]
ANSWERS = [
    {"expected_objects": ["star", "T"], "described_objects": ["star"], "same": [{"expected": "star", "described": "star"}]},
    {"expected_objects": ["star", "T"], "described_objects": ["cross"], "same": []},
]
LESSONS = [(messages(*pair), json.dumps(answer)) for pair, answer in zip(PAIRS, ANSWERS, strict=True)]


@pytest.fixture(scope="module")
def able(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teach(tmp_path_factory.mktemp("able"), LESSONS)


def judge_with(checkpoint: Path, folder: Path, **settings: object) -> ModelJudge:
    chosen = {"id": str(checkpoint), "dtype": "float32", "device_map": "cpu", "retries": 1, "max_new_tokens": 120, **settings}
    return ModelJudge(LocalJudgeParams(**chosen), folder / "answers.sqlite")


def test_a_model_that_answers_is_believed_and_not_asked_twice(able: Path, tmp_path: Path) -> None:
    settings = JudgingParams(
        judge="local", local={"id": str(able), "dtype": "float32", "device_map": "cpu", "max_new_tokens": 120}, cache=str(tmp_path / "answers.sqlite")
    )
    judge = make_judge("local", settings, load_vocabulary("scenes"))
    first, second = judge.judge_all(PAIRS)
    assert (first.found, first.extra, first.f1) == (("star",), (), pytest.approx(2 / 3))
    assert (second.found, second.extra, second.f1) == ((), ("cross",), 0.0)
    assert judge.about["model"] == str(able) and len(judge.about["version"]) == 64
    again = make_judge("local", settings, load_vocabulary("scenes"))
    assert again.judge_all(PAIRS) == [first, second]
    assert "_model" not in vars(again)  # not even loaded


def test_other_weights_are_another_judge(able: Path, tmp_path: Path) -> None:
    judge = judge_with(able, tmp_path)
    judge.judge(*PAIRS[0])
    (able / "notes.txt").write_text("changed", encoding="utf-8")
    other = judge_with(able, tmp_path)
    assert other.about["version"] != judge.about["version"]
    assert other.judge(*PAIRS[0]).found == ("star",) and "_model" in vars(other)


def test_a_template_without_a_system_message_gets_it_with_the_first_message_of_the_user(able: Path, tmp_path: Path) -> None:
    judge = judge_with(able, tmp_path)
    plain = judge._tokens(LESSONS[0][0])["input_ids"][0]
    judge._tokenizer.chat_template = "{% for m in messages if m.role == 'system' %}{{ raise_exception('no system role') }}{% endfor %}" + TEMPLATE
    text = judge._tokenizer.decode(judge._tokens(LESSONS[0][0])["input_ids"][0])
    assert text.startswith("<user>You compare") and "<system>" not in text and STOCK in text and len(text) > len(plain)
    judge._tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(HeadflowError, match=r"its chat template fails \(never\); take a chat \(instruct\) model"):
        judge.judge(STOCK, "a template that fails")


def test_models_that_cannot_judge_are_told(able: Path, tmp_path: Path) -> None:
    random = teach(tmp_path / "random", LESSONS, steps=0)
    told = r"2 answers about one pair .*cannot be used, the last because it does not end within 16 tokens.*more able model.*0 of 1"
    with pytest.raises(HeadflowError, match=told):
        judge_with(random, tmp_path, max_new_tokens=16).judge(*PAIRS[0])
    with pytest.raises(HeadflowError, match=r"the prompt has [\d,]+ tokens, and the model reads 1,200 at most"):
        judge_with(random, tmp_path).judge(STOCK, "star " * 2000)
    (random / "chat_template.jinja").unlink()
    with pytest.raises(HeadflowError, match="its tokenizer has no chat template"):
        judge_with(random, tmp_path).judge(*PAIRS[0])
    (random / "model.safetensors").write_bytes(b"no weights")
    (random / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with pytest.raises(HeadflowError, match=r"model '.*random': it cannot be loaded \("):
        judge_with(random, tmp_path).judge(*PAIRS[0])
    with pytest.raises(HeadflowError, match=r"model '.*nowhere': it cannot be loaded \("):
        judge_with(tmp_path / "nowhere", tmp_path)
