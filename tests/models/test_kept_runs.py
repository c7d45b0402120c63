"""Runs on pictures that lose tokens, against the plain answer key and against what generate says, in every mode of model."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import headflow
from headflow.errors import HeadflowError
from headflow.gates import Gate
from headflow.models import keeping
from headflow.models.baselines import Baseline, blank_baseline, closed_baseline, swap_baseline
from headflow.models.kept_runs import FIRST, RIGHT, TARGET, WAYS, KeptExample, answer_and_ends
from headflow.models.lvlm import LVLM
from headflow.targets import Target
from tests import reference
from tests.families import FAMILIES, QUESTION

NAMES = ("llava_next_llama", "qwen3_vl", "paligemma", "mllama")
NEW = 3


class Case:
    """One family with a picture, the stock model's first words about it, and sets of its image tokens: none, all, some."""

    def __init__(self, name: str, lvlm: LVLM) -> None:
        width, height = FAMILIES[name].size
        self.lvlm = lvlm
        self.picture, self.other = (np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8) for seed in (3, 4))
        inputs = lvlm.inputs([self.picture], QUESTION)
        lvlm._forget_positions()
        with lvlm._plainly_greedy([]):
            said = lvlm.model.generate(**inputs, max_new_tokens=NEW + 1)[0, inputs["input_ids"].shape[1] :].tolist()
        self.answer, self.next = said[:NEW], said[NEW]
        self.twins = reference.picture_keys_values(lvlm, self.other, QUESTION)
        selectable = keeping.selectable_tokens(lvlm.capture(self.picture, QUESTION))
        random = np.random.default_rng(5)
        self.sets = np.stack([selectable & (random.random(len(selectable)) < share) for share in (-1, 2, 0.3, 0.6, 0.9)])

    def example(self, baseline: Baseline | None = None, **options: object) -> KeptExample:
        baseline = swap_baseline(self.lvlm.capture(self.other, QUESTION)) if baseline is None else baseline
        return KeptExample(self.lvlm, self.picture, QUESTION, baseline, **{"target": Target("logit", self.answer[0]), "answer": self.answer, **options})


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in made:
            made[name] = Case(name, headflow.load(FAMILIES[name].build(tmp_path_factory.mktemp(name))))
        return made[name]

    return case


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, cases: Callable[[str], Case]) -> Case:
    return cases(request.param)


@pytest.mark.parametrize("way", ["baseline", "closed"])
def test_gated_ways_agree_with_the_answer_key(case, way):
    example, capture = case.example(), case.lvlm.capture(case.picture, QUESTION, case.answer)
    gone = torch.zeros(len(case.sets), capture.key_positions)
    gone[:, capture.key_image] = torch.from_numpy(example.selectable & ~case.sets).float()
    reads, twins = ("baseline", case.twins) if way == "baseline" else ("nothing", None)
    logits = reference.answer_logits(case.lvlm, case.picture, QUESTION, case.answer, [Gate(reads, keys=gone)], baseline=twins, batch=len(gone))
    found = example.run(way, case.sets)
    assert found.shape == (len(case.sets), 3)
    torch.testing.assert_close(torch.from_numpy(found[:, TARGET]), logits[:, 0, case.answer[0]], rtol=1e-4, atol=1e-4)
    same = logits.argmax(-1) == torch.tensor(case.answer)
    assert (found[:, FIRST] == same[:, 0].numpy()).all() and (found[:, RIGHT] == same.all(1).numpy()).all()
    assert found[1, RIGHT] == 1 and np.ptp(found[:, TARGET]) > 1e-2
    np.testing.assert_allclose(example.run(way, case.sets, batch_size=2), found, atol=1e-4)


def test_removed_tokens_are_judged_by_what_generate_would_say(case):
    example = case.example()
    if "removed" not in example.ways(WAYS):
        assert case.lvlm.prefix_mode == "cross"
        return
    found = example.run("removed", case.sets)
    for row, kept in zip(found[1:], case.sets[1:], strict=True):
        inputs = keeping.keep_tokens(case.lvlm, case.picture, 100 * kept.sum() / example.selectable.sum(), question=QUESTION, by=kept.astype(float))
        assert (inputs.kept == (kept | ~example.selectable)).all()
        with case.lvlm._plainly_greedy([]):
            told = case.lvlm.model.generate(**inputs, max_new_tokens=NEW, output_logits=True, return_dict_in_generate=True)
        said = told.sequences[0, -NEW:].tolist()
        assert row[TARGET] == pytest.approx(float(told.logits[0][0, case.answer[0]]), abs=1e-4)
        assert (row[FIRST], row[RIGHT]) == (said[0] == case.answer[0], said == case.answer)
    assert found[1, RIGHT] == 1


def test_an_answer_is_right_only_if_it_ends_there(cases):
    case = cases("qwen3_vl")
    ending = case.example(ends=(0, case.next)).run("closed", case.sets)
    going_on = case.example(ends=tuple({0, 1, 2} - {case.next})).run("closed", case.sets)
    assert ending[1, RIGHT] == 1 and going_on[1, RIGHT] == 0
    assert (ending[:, FIRST] == going_on[:, FIRST]).all()
    np.testing.assert_allclose(ending[:, TARGET], going_on[:, TARGET], atol=1e-5)


def test_the_whole_answer_may_be_the_target_in_other_words_than_are_right(cases):
    case = cases("llava_next_llama")
    other = [case.next, case.answer[0]]
    for tokens in (case.answer, other):
        found = case.example(target=Target("answer_logprob", tokens[0], rest=tuple(tokens[1:]))).run("closed", case.sets)
        whole = reference.answer_logits(case.lvlm, case.picture, QUESTION, tokens)[0].log_softmax(-1)
        assert found[1, TARGET] == pytest.approx(float(whole[range(len(tokens)), tokens].sum()), abs=1e-4)
        assert found[1, RIGHT] == 1  # the right answer is still the one that the model gives


def test_ways_that_are_the_same_are_run_once(cases):
    assert cases("mllama").example().ways(WAYS) == ["baseline", "closed"]
    assert cases("qwen3_vl").example(closed_baseline()).ways(WAYS) == ["closed", "removed"]
    assert cases("qwen3_vl").example(blank_baseline(cases("qwen3_vl").lvlm.capture(cases("qwen3_vl").picture, QUESTION))).ways(WAYS) == list(WAYS)
    with pytest.raises(HeadflowError, match="no answer"):
        cases("qwen3_vl").example(answer=[]).run("closed", cases("qwen3_vl").sets)


def test_what_ends_an_answer(cases):
    lvlm = cases("qwen3_vl").lvlm
    answer, ends = answer_and_ends(lvlm, [5, 6], longest=12)
    assert answer == [5, 6] and lvlm.processor.tokenizer.eos_token_id in ends
    assert answer_and_ends(lvlm, [5, 6], longest=2) == ([5, 6], [])  # cut off: nobody knows how it went on
