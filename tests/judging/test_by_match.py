"""The judge by vocabulary: counts and F1 of sets of objects."""

import pytest

from headflow.errors import HeadflowError
from headflow.judging.by_match import MatchJudge
from headflow.judging.judgement import Judgement
from headflow.judging.match import choose_vocabulary
from headflow.judging.vocabulary import load_vocabulary


def test_counts_and_f1_by_hand() -> None:
    judge = MatchJudge(load_vocabulary("coco"))
    found = judge.judge("A man and a woman with two dogs by a bus", "Three puppies, a cat and a dog near people; a fridge")
    assert found == Judgement(("person", "dog", "bus"), ("dog", "cat", "person", "refrigerator"), ("person", "dog"), ("cat", "refrigerator"))
    assert (found.true_positives, found.false_negatives, found.false_positives) == (2, 1, 2)
    assert found.f1 == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))  # of precision and recall


def test_f1_at_the_edges() -> None:
    judge = MatchJudge(load_vocabulary("coco"))
    assert judge.judge("a wall", "grey").f1 is None
    assert judge.judge("a wall", "a dog").f1 == judge.judge("a dog", "a wall").f1 == judge.judge("a dog", "a cat").f1 == 0.0
    assert judge.judge("a dog and a dog", "dogs").f1 == 1.0


def test_true_objects_are_brought_to_the_vocabulary() -> None:
    judge = MatchJudge(load_vocabulary("coco"))
    assert judge.judge(["puppy", "man", "woman"], "a dog with people").found == ("dog", "person")
    with pytest.raises(HeadflowError, match=r"vocabulary coco: it has no object 'drone'.*judging.vocabulary to auto"):
        judge.judge(["drone"], "a dog")
    assert MatchJudge(choose_vocabulary("auto", "coco", ["drone"])).judge(["drone"], "Drones").f1 == 1.0


def test_many_pairs_come_back_in_order() -> None:
    judge = MatchJudge(load_vocabulary("scenes"))
    pairs = [("a red star", "a red star"), (("star", "T"), "a T"), ("a red star", "a red star"), ("", "")]
    assert judge.judge_all(pairs) == [judge.judge(*pair) for pair in pairs]
