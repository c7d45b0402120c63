"""keep_tokens on every kind of family: what generate says afterwards is what the stock model says when it is kept from the other tokens.

Two answer keys, and neither shares code with what is tested: the stock model over the whole prompt from its pixels, without a cache, under a
mask that hides the removed tokens; and, for closed ones, the reference of gated attention (tests/reference.py).
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

import headflow
from headflow.errors import HeadflowError
from headflow.gates import Gate
from headflow.models import keeping
from headflow.models.lvlm import LVLM
from tests import reference
from tests.families import FAMILIES, QUESTION

NAMES = ("llava", "llava_next_mistral", "llava_onevision", "mistral3", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma2", "smolvlm")
# A window shorter than the prompt counts the tokens that stay, which no mask over the whole prompt can say.
WINDOWED = {"llava_next_mistral", "gemma3"}
NEW = 4


class Case:
    """One family, and a picture for it."""

    def __init__(self, name: str, lvlm: LVLM) -> None:
        self.name, self.lvlm = name, lvlm
        width, height = FAMILIES[name].size
        self.picture = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
        self.merged = keeping.merge(lvlm, self.picture, QUESTION)
        self.scores = np.random.default_rng(4).normal(size=len(self.merged.selectable))
        self.inputs = lvlm.inputs([self.picture], QUESTION)

    def say(self, inputs: object) -> list[int]:
        """What generate makes of ``inputs``, token by token, never stopping early."""
        with self.lvlm._plainly_greedy([]):
            found = self.lvlm.model.generate(**inputs, max_new_tokens=NEW)
        return found[0, inputs["input_ids"].shape[1] :].tolist()

    def keep(self, k: float, **options: object) -> keeping.KeptInputs:
        return keeping.keep_tokens(self.lvlm, self.picture, k, question=QUESTION, by=self.scores, **options)

    def dropped(self, kept: keeping.KeptInputs) -> torch.Tensor:
        """1 at the places of the prompt that are gone."""
        gone = torch.zeros(self.merged.input_ids.shape[1])
        gone[self.merged.image] = torch.from_numpy(~kept.kept).float()
        return gone


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


@torch.no_grad()
def said_in_full(case: Case, dropped: torch.Tensor) -> list[int]:
    """Greedy tokens of the stock model, each from a run over the whole prompt and its pixels in which nobody sees the dropped places."""
    inputs = {name: x for name, x in case.inputs.items() if name != "attention_mask"}
    places, said = case.merged.position_ids, []
    # PaliGemma: 1 = after the prompt, seen by later tokens only; Gemma 3: 0 = text.
    kind = 1 if case.name.startswith("paligemma") else 0
    for step in range(NEW):
        told = dict(inputs)
        if said:
            told["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([said])], 1)
            for name in ("token_type_ids", "mm_token_type_ids"):
                if name in told:
                    told[name] = torch.cat([told[name], torch.full((1, len(said)), kind)], 1)
        seen = torch.cat([1 - dropped, torch.ones(step)]).long()[None]
        positions = torch.cat([places, places[..., -1:] + torch.arange(1, step + 1)], -1)
        logits = case.lvlm.model(**told, attention_mask=seen, position_ids=positions, use_cache=False).logits
        said.append(int(logits[0, -1].argmax()))
    return said


@torch.no_grad()
def said_from_embeddings(case: Case, dropped: torch.Tensor, positions: torch.Tensor | None = None) -> list[int]:
    """The same from the embeddings of the tokens that stay, run anew as one short sequence for every token; positions without gaps."""
    stay = (dropped == 0).nonzero()[:, 0]
    embeddings, said = case.merged.embeddings[:, stay], []
    types = None if case.merged.types is None else case.merged.types[:, stay]
    for _ in range(NEW):
        more = {} if types is None else {"token_type_ids": types}
        if positions is not None:
            more["position_ids"] = torch.cat([positions, positions[:, -1:] + torch.arange(1, len(said) + 1)], 1)
        # Without a mask, gaps between positions would be taken for the ends of several packed texts.
        logits = case.lvlm.model(inputs_embeds=embeddings, attention_mask=torch.ones(1, embeddings.shape[1]).long(), use_cache=False, **more).logits
        said.append(int(logits[0, -1].argmax()))
        embeddings = torch.cat([embeddings, case.lvlm.model.get_input_embeddings()(torch.tensor([said[-1:]]))], 1)
        if types is not None:
            types = torch.cat([types, torch.zeros_like(types[:, :1])], 1)
    return said


def test_all_tokens_kept_is_the_stock_model(case):
    case.lvlm._forget_positions()
    stock = case.say(case.inputs)
    assert case.say(case.keep(100)) == stock
    if case.lvlm.prefix_mode == "shared":
        assert case.say(case.keep(100, how="closed")) == stock


def test_removed_tokens_are_gone_for_everyone(case):
    kept = case.keep(40)
    gone = case.dropped(kept)
    tokens = int(case.merged.selectable.sum())
    assert kept.image_tokens == tokens and kept.image_tokens_kept == int(tokens * 0.4 + 0.5) == tokens - int(gone.sum())
    assert kept["input_ids"].tolist() == case.merged.input_ids[:, gone == 0].tolist()
    expected = said_from_embeddings(case, gone, case.merged.position_ids[:, gone == 0]) if case.name in WINDOWED else said_in_full(case, gone)
    found = case.say(kept)
    assert found == expected == case.say(kept)  # the second time from the same inputs
    case.lvlm._forget_positions()
    assert found != case.say(case.inputs), "the tokens that went must matter, or this says nothing"


def test_closed_tokens_are_those_that_a_gate_closes(case):
    if case.lvlm.prefix_mode != "shared":
        with pytest.raises(HeadflowError, match="depend on the text after it"):
            case.keep(40, how="closed")
        return
    if case.name in WINDOWED:
        return  # there a gate leaves the windows as they are
    kept = case.keep(40, how="closed")
    found = case.say(kept)
    closed = torch.nn.functional.pad(case.dropped(kept), (0, NEW - 1))
    logits = reference.answer_logits(case.lvlm, case.picture, QUESTION, found, [Gate("nothing", keys=closed)])
    assert logits[0].argmax(-1).tolist() == found
    intact = reference.answer_logits(case.lvlm, case.picture, QUESTION, found)
    assert intact[0].argmax(-1).tolist() != found, "the gate must matter"


@pytest.mark.parametrize("name", ["llava", "llava_next_mistral", "mistral3", "smolvlm"])
def test_renumbered_positions_are_those_of_a_shorter_prompt(cases, name):
    case = cases(name)
    kept = case.keep(40, positions="renumbered")
    assert case.say(kept) == said_from_embeddings(case, case.dropped(kept))
    assert kept["position_ids"].tolist() == [list(range(kept["input_ids"].shape[1]))]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_positions_of_rows_and_columns_stay_and_cannot_be_renumbered(cases, name):
    case = cases(name)
    kept = case.keep(40)
    assert kept["position_ids"].tolist() == case.merged.position_ids[..., case.dropped(kept) == 0].tolist()
    with pytest.raises(HeadflowError, match="a row and a column"):
        case.keep(40, positions="renumbered")


def test_many_sets_at_once_say_what_each_says_alone(case):
    orders = np.random.default_rng(5).normal(size=(3, len(case.merged.selectable)))
    sets = np.stack([keeping.best(order, case.merged.selectable, 30) for order in orders])
    said = [case.say(keeping.keep_tokens(case.lvlm, case.picture, 30, question=QUESTION, by=order)) for order in orders]
    for row, tokens in enumerate(said):
        logits = keeping.removed_logits(case.lvlm, case.merged, sets, tokens[:-1])
        assert logits.shape[:2] == (3, NEW)
        assert logits[row].argmax(-1).tolist() == tokens
    assert len({tuple(tokens) for tokens in said}) > 1


def test_cross_attention_is_refused(tmp_path):
    lvlm = headflow.load(FAMILIES["mllama"].build(tmp_path))
    with pytest.raises(HeadflowError, match="cross-attention"):
        keeping.keep_tokens(lvlm, np.zeros((24, 40, 3), np.uint8), 10, question=QUESTION)


def test_structural_tokens_stay(cases):
    for name, structural in (("llava", 0), ("mistral3", 2), ("llava_onevision", 2), ("llava_next_mistral", 4)):
        case = cases(name)
        assert int((~case.merged.selectable).sum()) == structural
        kept = case.keep(1)
        assert kept.image_tokens_kept == 1 and int(kept.kept.sum()) == 1 + structural
        assert (keeping.selectable_tokens(case.lvlm.capture(case.picture, QUESTION)) == case.merged.selectable).all()


@pytest.mark.parametrize("name", ["llava", "mistral3"])
def test_attention_to_each_token_is_that_of_the_stock_model(tmp_path, cases, name):
    case = cases(name)
    case.lvlm.model.save_pretrained(tmp_path)
    case.lvlm.processor.save_pretrained(tmp_path)
    eager = headflow.load(tmp_path, attn="eager")
    weights = eager.model(**case.inputs, output_attentions=True).attentions
    image, capture = case.merged.image, case.lvlm.capture(case.picture, QUESTION)
    expected = torch.stack([layer[0, :, -1, image].mean(0) for layer in weights]).mean(0)
    torch.testing.assert_close(keeping.image_token_attention(capture), expected, atol=1e-6, rtol=1e-4)
    suffix = torch.stack([layer[0, :, image.stop :, image].mean((0, 1)) for layer in weights]).mean(0)
    torch.testing.assert_close(keeping.image_token_attention(capture, "suffix"), suffix, atol=1e-6, rtol=1e-4)
    by_attention, by_scores = (keeping.keep_tokens(case.lvlm, case.picture, 25, question=QUESTION, by=by) for by in ("attention", expected.numpy()))
    assert (by_attention.kept == by_scores.kept).all()
    assert case.say(by_attention) == case.say(by_scores)
    closed = (keeping.keep_tokens(case.lvlm, case.picture, 25, question=QUESTION, by=by, how="closed") for by in ("attention", expected.numpy()))
    assert case.say(next(closed)) == case.say(next(closed))


def test_best_takes_the_highest_and_the_first_of_equals():
    selectable = np.array([True, True, False, True, True])
    scores = np.array([1.0, 3.0, 9.0, 3.0, 2.0])
    assert keeping.best(scores, selectable, 25).tolist() == [False, True, False, False, False]
    assert keeping.best(scores, selectable, 50).tolist() == [False, True, False, True, False]
    assert keeping.best(scores, selectable, 100).tolist() == selectable.tolist()
    assert [keeping.count_of(k, 576) for k in (0, 0.01, 1, 10, 99.99, 100)] == [0, 1, 6, 58, 576, 576]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "above 0"),
        ({"k": 101}, "at most 100"),
        ({"k": 10, "how": "baseline"}, "how = 'baseline'"),
        ({"k": 10, "positions": "gaps"}, "positions = 'gaps'"),
        ({"k": 10, "by": "chance"}, "by = 'chance'"),
        ({"k": 10, "how": "closed", "positions": "renumbered"}, "at their own positions"),
        ({"k": 10, "by": np.ones(3)}, r"\(3,\) scores for an image span of 16 places"),
        ({"k": 10, "by": np.full(16, np.nan)}, "at place 0"),
        ({"k": 10, "question": " "}, "question is empty"),
    ],
)
def test_mistakes_are_named(cases, options, message):
    case = cases("llava")
    with pytest.raises(HeadflowError, match=message):
        keeping.keep_tokens(case.lvlm, case.picture, **{"question": QUESTION, **options})


def test_sets_of_several_sizes_do_not_go_together(cases):
    case = cases("llava")
    sets = np.stack([keeping.best(case.scores, case.merged.selectable, k) for k in (10, 50)])
    with pytest.raises(HeadflowError, match="same number"):
        keeping.removed_logits(case.lvlm, case.merged, sets)


def test_nothing_is_left_behind_on_the_model(cases):
    case = cases("qwen3_vl")

    def hooks() -> Iterator[int]:
        return (len(module._forward_pre_hooks) + len(module._forward_hooks) for module in case.lvlm.model.modules())

    before = sum(hooks())
    case.say(case.keep(40))
    assert sum(hooks()) == before


def test_it_is_offered_by_the_package():
    assert headflow.keep_tokens is keeping.keep_tokens
