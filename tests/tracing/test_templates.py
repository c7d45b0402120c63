"""Prompts side by side: tokens are aligned by role and by what the examples share, whatever their length."""

import numpy as np
import pytest

from headflow.tracing.templates import align, templates

END = [("ASSISTANT", "role"), (":", "final")]


def prompt(question: str, *, answer: str = "") -> tuple[list[str], list[str]]:
    pairs = [("\n", "question"), *((word, "question") for word in question.split()), *END, *((word, "answer") for word in answer.split())]
    return [text for text, _ in pairs], [role for _, role in pairs]


def of(*questions: str, kinds: list[str] | None = None, pictures: list[int] | None = None, answers: list[str] | None = None):
    prompts = [prompt(question, answer=answers[i] if answers else "") for i, question in enumerate(questions)]
    tokens, roles = zip(*prompts, strict=True)
    return templates(questions, kinds or ["asked"] * len(questions), pictures or list(range(len(questions))), tokens, roles), tokens


def texts(template) -> list[str]:
    return [slot.text for slot in template.slots]


def test_one_wording_is_aligned_token_by_token() -> None:
    (found,), tokens = of(*["What is it ?"] * 3)
    assert found.name == "What is it ?" and texts(found) == list(tokens[0])
    assert [slot.tokens for slot in found.slots] == [((place,),) * 3 for place in range(len(tokens[0]))]


def test_what_varies_stands_in_one_slot_whatever_its_length() -> None:
    (found,), tokens = of("Is there a star here ?", "Is there an open box here ?", "Is there a T here ?", kinds=["exists"] * 3)
    assert found.name == "Is there … here ?"
    assert texts(found) == ["\n", "Is", "there", "⟨a star | an open box | …⟩", "here", "?", "ASSISTANT", ":"]
    assert found.slots[3].tokens == ((3, 4), (3, 4, 5), (3, 4)) and found.slots[3].varies
    # Every token is in one slot, whichever the example.
    for member in range(3):
        assert sorted(place for slot in found.slots for place in slot.tokens[member]) == list(range(len(tokens[member])))
    # The final token is that of every example, though it stands at another place.
    assert found.slots[-1].tokens == ((8,), (9,), (8,))


def test_values_are_summed_over_a_slot() -> None:
    (found,), tokens = of("the star ?", "the open box ?")
    values = [np.arange(1.0, len(mine) + 1)[None] for mine in tokens]
    assert found.gather(values)[1, 0].tolist() == [1, 2, 3 + 4, 5, 6, 7]


@pytest.mark.parametrize(("repeats", "count"), [(3, 2), (2, 1)])
def test_wordings_that_are_asked_often_are_templates_of_their_own(repeats: int, count: int) -> None:
    found, _ = of(*["Which animal ?", "What colour is it ?"] * repeats)
    assert len(found) == count
    assert sorted(member for one in found for member in one.members) == list(range(2 * repeats))
    if count == 1:  # else what differs stands in one slot
        assert texts(found[0]) == ["\n", "⟨Which animal | What colour is it⟩", "?", "ASSISTANT", ":"]


def test_kinds_of_question_are_never_mixed() -> None:
    found, _ = of("a ?", "b ?", "a ?", "b ?", kinds=["one", "two"] * 2)
    assert [one.members for one in found] == [(0, 2), (1, 3)]
    same, _ = of("a ?", "a ?", kinds=["one", "two"])
    assert [one.name for one in same] == ["a ?", "a ? (two)"]


def test_answers_are_aligned_by_their_place() -> None:
    (found,), _ = of(*["What ?"] * 3, answers=["a red box", "a dog", ""])
    assert [slot.text for slot in found.slots if slot.role == "answer"] == ["a", "⟨red | dog⟩", "box"]
    assert [slot.tokens for slot in found.slots if slot.role == "answer"] == [((5,), (5,), ()), ((6,), (6,), ()), ((7,), (), ())]
    values = found.gather([np.ones((1, 8)), np.ones((1, 7)), np.ones((1, 5))])
    assert np.isnan(values[2, 0, 5:]).all() and np.isnan(values[1, 0, 7]) and values[0, 0, 7] == 1


def test_tokens_that_carry_their_space_are_joined_as_text() -> None:
    slots = align([["Is", " a", " gir", "affe", "?"], ["Is", " a", " cat", "?"]], [["question"] * 4 + ["final"], ["question"] * 3 + ["final"]])
    assert slots[2].text == "⟨giraffe | cat⟩"


def test_every_token_may_stand_before_the_picture() -> None:
    """Where the picture stands in no sequence the whole prompt is there."""
    roles = ["system", "image", "question", "question", "final"]
    slots = align([["s", "<image>", "Who", "?", ":"], ["s", "<image>", "What", "?", ":"]], [roles, roles])
    assert [(slot.role, slot.text) for slot in slots] == [
        ("system", "s"), ("image", "<image>"), ("question", "⟨Who | What⟩"), ("question", "?"), ("final", ":")
    ]  # fmt: skip
