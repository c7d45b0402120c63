"""Answers: those of the model, those that compete, and those that it has no tokens for."""

import io

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from headflow.ablation import run_masks
from headflow.datasets.faults import Faults
from headflow.errors import HeadflowError
from headflow.models.answering import Candidates, check_words, picture_sizes, stock_answers, swap_partner
from headflow.models.baselines import swap_baseline
from headflow.targets import Target
from tests.checkpoints import QUESTION
from tests.conftest import random_picture


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def examples(*answers: str, sizes: tuple[int, ...] = (32,)) -> pl.DataFrame:
    rows = [
        {"id": f"e{i}", "row": None, "image": png(random_picture(i, sizes[i % len(sizes)])), "question": QUESTION, "question_kind": "asked", "answer": answer}
        for i, answer in enumerate(answers)
    ]
    return pl.DataFrame(rows)


def test_stock_answers_are_those_of_generate(models):
    model, table = models("gqa"), examples("cat", "dog", "tree", sizes=(32, 40))
    found = stock_answers(model, table)
    for row in table.iter_rows(named=True):
        inputs = model.inputs([row["image"]], QUESTION)
        tokens = model.model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
        ended = tokens[: tokens.index(2)] if 2 in tokens else tokens
        assert found[row["id"]] == ended
    assert picture_sizes(table).to_list() == ["32x32", "40x40", "32x32"]


def test_the_models_own_answer_is_what_its_logits_say(models):
    """Greedy decoding and teacher forcing tell the same story, token by token."""
    model = models("gqa")
    said = model.answer_ids([random_picture(1)], QUESTION, 5)[0]
    capture = model.capture(random_picture(1), QUESTION, said)
    assert len(said) > 1 and capture.answer_logits.argmax(-1).tolist() == said
    assert capture.answer_ids == said and capture.roles.count("answer") == len(said) - 1 and capture.predicts == len(said)
    assert torch.equal(capture.logits, capture.answer_logits[0])
    assert capture.input_ids == [*model.capture(random_picture(1), QUESTION).input_ids, *said[:-1]]


def test_log_probability_of_a_whole_answer(models):
    """Against a stock forward over prompt and answer in one piece."""
    model = models("gqa")
    capture = model.capture(random_picture(1), QUESTION, "a cat in a tree")
    tokens = capture.answer_ids
    inputs = model.inputs([random_picture(1)], QUESTION)
    ids = torch.cat([inputs["input_ids"], torch.tensor([tokens])], 1)
    with torch.no_grad():
        logits = model.model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits[0].double().log_softmax(-1)
    start = inputs["input_ids"].shape[1]
    expected = sum(float(logits[start + i - 1, token]) for i, token in enumerate(tokens))
    target = Target("answer_logprob", tokens[0], rest=tuple(tokens[1:]))
    assert len(tokens) > 2
    assert float(target(capture.answer_logits[None])[0]) == pytest.approx(expected, abs=1e-4)
    intact = np.ones((2, model.layers, model.heads), bool)
    assert run_masks(capture, intact, target=target) == pytest.approx(expected, abs=1e-4)
    assert run_masks(capture, intact) == pytest.approx(expected, abs=1e-4)  # the default of an example that has an answer


def test_targets_by_name(models):
    model = models("gqa")
    capture, fed = model.capture(random_picture(1), QUESTION), model.capture(random_picture(1), QUESTION, "a cat in a tree")
    masks = np.random.default_rng(0).random((4, 3, 4)) < 0.5
    for kind in ("logit", "logprob", "margin"):
        np.testing.assert_array_equal(run_masks(capture, masks, target=kind), run_masks(capture, masks, target=Target(kind, capture.greedy_token())))
        np.testing.assert_array_equal(run_masks(fed, masks, target=kind), run_masks(fed, masks, target=Target(kind, fed.answer_ids[0])))
    np.testing.assert_array_equal(run_masks(fed, masks, target="answer_logprob"), run_masks(fed, masks))
    with pytest.raises(HeadflowError, match="target = 'logits': must be one of logit, logprob, margin, answer_logprob"):
        run_masks(capture, masks, target="logits")


def test_what_is_printed_in_a_notebook_is_short(models):
    model = models("gqa")
    capture = model.capture(random_picture(1), QUESTION, "cat")
    assert repr(capture) == (
        "Capture('What is the main object?', 28 tokens, 16 of them the picture, answer of 1 tokens, shared prefix, "
        "LVLM(LlavaForConditionalGeneration, 3 × 4 heads, torch.float32, cpu))"
    )
    assert repr(swap_baseline(capture)) == "Baseline('swap', 3 layers, 16 image positions, of 1 pictures)"


def test_an_empty_question_is_refused(models):
    with pytest.raises(HeadflowError, match="the question is empty"):
        models("gqa").capture(random_picture(1), "  ")


def test_a_whole_answer_needs_an_example_with_it(models):
    capture = models("gqa").capture(random_picture(1), QUESTION)
    with pytest.raises(HeadflowError, match="the answer has 2 tokens, the example was captured with 1"):
        run_masks(capture, np.ones((1, 3, 4), bool), target=Target("answer_logprob", 5, rest=(6,)))


def test_first_token_targets_of_an_example_with_an_answer(models):
    model = models("gqa")
    plain, fed = model.capture(random_picture(1), QUESTION), model.capture(random_picture(1), QUESTION, "a cat in a tree")
    masks = np.random.default_rng(0).random((6, 3, 4)) < 0.5
    for kind in ("logit", "logprob", "margin"):
        target = Target(kind, fed.answer_ids[0])
        np.testing.assert_allclose(run_masks(fed, masks, target=target), run_masks(plain, masks, target=target), atol=1e-5)


def test_answers_without_tokens_are_all_told(models):
    table = examples("cat", "zebra", "dog", "  ").with_columns(row=pl.Series([2, 3, 4, 5]))
    faults = Faults("manifest.csv", "the header is row 1", "stop")
    check_words(models("gqa").processor, table, faults, answers=True)
    assert 3 in faults and 5 in faults and len(faults) == 2
    with pytest.raises(HeadflowError, match=r"(?s)row 3: the answer 'zebra' holds words that this model does not know: zebra.*row 5: .* tokenises to nothing"):
        faults.settle()


def test_questions_in_unknown_words_are_told_with_the_words(models):
    table = examples("cat", "zebra").with_columns(question=pl.Series([QUESTION, "Is there a flamingo ?"]))
    faults = Faults("manifest.csv", "the header is row 1", "stop")
    check_words(models("gqa").processor, table, faults, answers=False)
    assert faults.table()["reason"].to_list() == ["the question 'Is there a flamingo ?' holds words that this model does not know: Is, there, flamingo"]


def test_rivals_and_answers_that_share_their_first_token(models):
    model = models("gqa")
    cat, dog = (model.answer_token(QUESTION, word) for word in ("cat", "dog"))
    candidates = Candidates(model.processor, examples("cat", "dog house", "dog", "zebra", "cat"))
    row = examples("dog").row(0, named=True)
    assert candidates.rivals(row, "dog", dog) == (cat,)  # what the model has no word for is no rival
    assert candidates.clashes == 1
    assert "'dog' and 'dog house' (1 examples)" in candidates.warning() and "answer_logprob" in candidates.warning()
    elsewhere = Candidates(model.processor, examples("cat", "dog").with_columns(question=pl.lit("Which colour ?")))
    assert elsewhere.rivals(row, "dog", dog) == ()  # answers to another question are no rivals
    clear = Candidates(model.processor, examples("cat", "dog"))
    assert clear.rivals(row, "dog", dog) == (cat,) and clear.warning() is None


def test_swap_partners():
    rows = [
        {"id": "a", "image": b"a", "size": "32x32", "question_kind": "asked", "answer": "cat", "meaning_name": "cat"},
        {"id": "b", "image": b"b", "size": "32x32", "question_kind": "asked", "answer": "dog", "meaning_name": "dog"},
        {"id": "c", "image": b"c", "size": "64x32", "question_kind": "asked", "answer": "dog", "meaning_name": "dog"},
        {"id": "d", "image": b"d", "size": "32x32", "question_kind": "asked", "answer": "red", "meaning_name": "tree"},
    ]
    assert {swap_partner(rows, rows[0], draw) for draw in (0.0, 0.49, 0.5, 0.999)} == {"b", "d"}
    assert swap_partner(rows, {**rows[2], "image": b"e", "answer": "cat", "meaning_name": "cat"}, 0.5) == "c"
    assert swap_partner(rows, {**rows[0], "size": "1x1"}, 0.5) is None
    assert {swap_partner(rows, {**rows[0], "image": b"b"}, draw) for draw in (0.0, 0.999)} == {"d"}  # the same picture is no other
    unnamed = [{key: value for key, value in row.items() if key != "meaning_name"} for row in rows]
    assert swap_partner(unnamed, unnamed[1], 0.0) == "a"
