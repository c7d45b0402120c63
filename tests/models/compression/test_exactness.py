"""Keys that are dropped from a cache are as good as keys that are hidden, in every family."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

import headflow
from headflow.models.compression.answering import answers, first_logits
from headflow.models.compression.choice import random_scores, top
from headflow.models.compression.context import Kept, everything, nothing_seen, take_context
from headflow.models.compression.turns import fresh, has_next_turn, next_turn
from headflow.models.compression.variants import Variant, text_alone
from headflow.models.lvlm import _OneRun
from tests.families import FAMILIES, QUESTION
from tests.models.compression.reference import follow_up_logits
from tests.reference import relative

SAID, FOLLOW_UP = [11, 7, 12, 9, 7], "Is it a cat?"


# One of each kind: plain, sliding windows, newline features, M-RoPE, deepstack, a prompt that is read both ways, cross-attention.
KINDS = ("llava", "gemma3", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "paligemma2", "mllama")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple]:
    made: dict[str, tuple] = {}

    def case(name: str) -> tuple:
        if name not in made:
            family = FAMILIES[name]
            lvlm = headflow.load(family.build(tmp_path_factory.mktemp(family.name)))
            width, height = family.size
            picture = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
            made[name] = lvlm, picture, take_context(lvlm, picture, QUESTION, SAID)
        return made[name]

    return case


def hidden(context, kept: Kept) -> list[torch.Tensor]:
    """Everything of the context but what stays, per decoder layer."""
    found = []
    for layer, keys in enumerate(context.keys):
        gone = torch.ones(keys.shape[1], dtype=torch.bool)
        gone[kept.places(context, layer)] = False
        found.append(gone)
    return found


@pytest.mark.parametrize("family", list(FAMILIES))
def test_dropped_keys_are_hidden_keys(cases, family) -> None:
    lvlm, picture, context = cases(family)
    followup = next_turn(lvlm.processor, QUESTION, lvlm.text(SAID), FOLLOW_UP) if has_next_turn(lvlm.processor, QUESTION) else fresh(lvlm, picture, FOLLOW_UP)
    some = top(context, random_scores(context, "test", seed=0), 30)
    whole = everything(context, said=True)
    parts = {"whole": whole, "prompt": everything(context), "both": Kept(context.query(), some), "image": Kept(torch.zeros_like(whole.text), some)}
    if not context.cross:
        parts["query"] = nothing_seen(context, context.query())
        parts["before"] = Kept(context.before(), some)
    # Layers keep different tokens.
    assert len({tuple(row) for row in some.tolist()}) > 1
    found = {name: first_logits(context, kept, followup) for name, kept in parts.items()}
    for name, kept in parts.items():
        expected = follow_up_logits(lvlm, picture, QUESTION, SAID, followup, hidden(context, kept))
        assert relative(found[name], expected) < 1e-5, name
    assert relative(found["both"], found["whole"]) > 1e-3 and relative(found["both"], found["image"]) > 1e-3


@pytest.mark.parametrize("family", KINDS)
def test_answers_are_those_of_the_stock_model(cases, family) -> None:
    """With the description kept, a follow-up continues the stock model's own cache; many parts at once are answered as each alone."""
    lvlm, picture, context = cases(family)
    followups = [fresh(lvlm, picture, text) for text in (FOLLOW_UP, "What is the main object here?")]
    whole = everything(context, said=True)
    some = [top(context, random_scores(context, "test", seed=0), k) for k in (10,)]
    kept = [whole, everything(context), *(Kept(context.query(), image) for image in some), nothing_seen(context, context.query())]
    found = answers(context, kept, followups, max_new_tokens=2)
    for row, part in zip(found, kept, strict=True):
        assert row == [answers(context, [part], [followup], max_new_tokens=2, batch_bytes=1)[0][0] for followup in followups]
    # Step by step, by greedy choice of the stock model behind its whole cache.
    run = _OneRun(lvlm, lvlm.inputs([picture], QUESTION))
    with torch.no_grad():
        run.prompt()
        run.go_on(SAID)
        run.go_on(followups[0])
        expected: list[int] = []
        while len(expected) < 2 and (token := int(run.logits[-1].argmax())) not in lvlm.end_tokens:
            expected.append(token)
            run.go_on([token])
    assert found[0][0] == expected


@pytest.mark.parametrize("family", KINDS)
def test_text_alone_is_a_conversation_of_its_own(cases, family) -> None:
    """Nothing for the picture: the follow-up after the text, as the stock model reads it from the start."""
    lvlm, picture, context = cases(family)
    followup = fresh(lvlm, picture, FOLLOW_UP)
    alone, kept = text_alone(context, Variant("description"), "turn")
    ids = [*context.ids[: context.image.start], *SAID, *context.ids[context.image.stop : context.prompt]]
    assert alone.ids == ids and kept.tokens == len(ids) and alone.following == len(ids)
    if lvlm.prefix_mode == "recomputed" or "PaliGemma" in type(lvlm.model).__name__:
        return  # would read the follow-up as a part of its prompt
    lvlm._forget_positions()
    with torch.no_grad():
        expected = lvlm.model(input_ids=torch.tensor([[*ids, *followup]]), use_cache=False).logits[0, -1].float()
    assert relative(first_logits(alone, kept, followup), expected) < 1e-5
    empty, nothing = text_alone(context, Variant("none"), "fresh")
    assert len(empty.ids) == context.image.start and len(answers(empty, [nothing], [followup], max_new_tokens=2)[0][0]) <= 2
