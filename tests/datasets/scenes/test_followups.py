"""Follow-up questions are true, and drawn from seed and picture alone."""

from headflow.datasets.scenes.examples import make_examples
from headflow.datasets.scenes.followups import object_questions, scene_questions
from headflow.datasets.scenes.questions import all_words
from headflow.datasets.scenes.vocabulary import COUNT_WORDS, NAMES


def test_answers_about_scenes_are_true() -> None:
    words = set(" ".join(all_words()).replace("?", " ").replace(".", " ").split())
    asked = {"present": set(), "absent": set()}
    for row in make_examples(count=10, references=2).iter_rows(named=True):
        objects = row["objects"]
        names = [item["name"] for item in objects]
        found = {question.category: question for question in scene_questions(row["id"], objects, seed=0)}
        assert list(found)[:3] == ["present", "absent", "count"] and len(found) == 3 + any(names.count(name) == 1 for name in names)
        for category, answer in (("present", "yes"), ("absent", "no")):
            named = next(name for name in NAMES if f" {name} in the image?" in found[category].text)
            asked[category].add(named)
            assert found[category].answer == answer and (named in names) == (answer == "yes")
        assert found["count"].answer == COUNT_WORDS[len(objects) - 1]
        if "colour" in found:
            [item] = [item for item in objects if f"of the {item['name']}?" in found["colour"].text]
            assert found["colour"].answer == item["colour"]
        for question in found.values():
            assert set(question.text.replace("?", " ").replace(".", " ").split()) <= words
        assert scene_questions(row["id"], objects, seed=0) == list(found.values())
    assert min(map(len, asked.values())) > 3  # not always the same name


def test_questions_about_other_known_objects() -> None:
    objects = [{"name": "cat"}, {"name": "umbrella"}, {"name": "cat"}]
    drawn = {tuple((q.category, q.text, q.answer) for q in object_questions(f"{number}", objects, ["cat", "dog", "umbrella"], seed=0)) for number in range(20)}
    no = ("absent", "Is there a dog in the image? Answer yes or no.", "no")
    assert drawn == {
        (("present", "Is there a cat in the image? Answer yes or no.", "yes"), no),
        (("present", "Is there an umbrella in the image? Answer yes or no.", "yes"), no),
    }
    assert object_questions("x", [], ["cat"], seed=0) == []
    assert [q.category for q in object_questions("x", objects, ["cat"], seed=0)] == ["present"]
