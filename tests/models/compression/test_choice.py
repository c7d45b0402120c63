"""What is kept, by what scores, and how follow-ups are written, on small models."""

import numpy as np
import pytest
import torch

from headflow.errors import HeadflowError
from headflow.models.compression import choice
from headflow.models.compression.answering import answers, first_logits, seconds
from headflow.models.compression.context import Kept, everything, nothing_seen, take_context
from headflow.models.compression.conversation import Conversation
from headflow.models.compression.turns import fresh, has_next_turn, next_turn
from headflow.models.compression.variants import Variant, kept, variants
from headflow.models.spoken_attention import all_fed
from headflow.prompts import chat
from tests.checkpoints import QUESTION
from tests.conftest import random_picture
from tests.models.compression.reference import follow_up_logits
from tests.reference import relative

SAID = [9, 11, 8]
FOLLOW_UP = "What is the main object?"


@pytest.fixture(scope="module", params=["gqa", "window"])
def lvlm(request, models):
    return models(request.param)


@pytest.fixture(scope="module")
def context(lvlm):
    return take_context(lvlm, random_picture(1), QUESTION, SAID)


def test_attention_scores_are_those_of_stock_eager_attention(lvlm, context) -> None:
    """Mean over heads and generated tokens of the stock model's full attention tensors."""
    lvlm._forget_positions()
    inputs = lvlm.inputs([random_picture(1)], QUESTION)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([SAID])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    before, lvlm.decoder.config._attn_implementation = lvlm.decoder.config._attn_implementation, "eager"
    try:
        with torch.no_grad():
            weights = lvlm.model(**inputs, output_attentions=True, use_cache=False).attentions
    finally:
        lvlm.decoder.config._attn_implementation = before
    expected = torch.stack([layer[0, :, -len(SAID) :, context.image].mean((0, 1)) for layer in weights]).numpy()
    found = choice.attention_scores(lvlm.capture(random_picture(1), QUESTION, all_fed(SAID)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_top_places_of_every_layer_stay(context) -> None:
    scores = choice.random_scores(context, "one", seed=3)
    found, count = choice.top(context, scores, 25), round(len(context.candidates) / 4)
    for row, chosen in zip(scores, found.numpy(), strict=True):
        assert chosen.sum() == count and row[chosen].min() > row[~chosen].max()
    assert (scores == choice.random_scores(context, "one", seed=3)).all() and (scores != choice.random_scores(context, "two", seed=3)).any()
    assert choice.top(context, scores, 100).all() and choice.top(context, scores, 0.1).sum(1).tolist() == [1] * len(scores)
    with pytest.raises(HeadflowError, match=r"expected .* layers that read the picture"):
        choice.top(context, scores[:, 1:], 25)
    with pytest.raises(HeadflowError, match="not a number"):
        choice.top(context, np.full_like(scores, np.nan), 25)


def test_keys_and_values_are_really_gone(lvlm, context) -> None:
    """Bytes as counted are those of the cache's own tensors."""
    from headflow.models.compression.answering import _Reading

    some = Kept(context.query(), choice.top(context, choice.random_scores(context, "one", seed=0), 10))
    for part in (everything(context), some, nothing_seen(context, context.query())):
        cache = _Reading(context, [part], context.following).cache
        held = sum(x.untyped_storage().nbytes() for layer in cache.layers for x in (layer.keys, layer.values))
        assert held == part.bytes(context) and {layer.keys.shape[2] for layer in cache.layers} == {part.tokens}
    assert some.bytes(context) == everything(context).bytes(context) * some.tokens // everything(context).tokens
    assert seconds(context, some, [5, 6], new_tokens=2) > 0


def test_strategies_keep_what_they_say(context) -> None:
    asked = []

    def scores(chosen_by):
        asked.append(chosen_by)
        return choice.random_scores(context, chosen_by, seed=0)

    image, prompt = context.image, context.prompt
    text = torch.tensor([place < prompt and not image.start <= place < image.stop for place in range(len(context.ids))])
    before = torch.arange(len(context.ids)) < image.start
    both, alone = (kept(context, Variant(name, "attention", 20.0), "turn", scores) for name in ("both", "image"))
    assert (both.text == text).all() and not alone.text.any() and (both.image == alone.image).all() and asked == ["attention"] * 2
    assert both.tokens == int(text.sum()) + int(alone.image[0].sum()) and alone.tokens == round(0.2 * (image.stop - image.start))
    assert (kept(context, Variant("full"), "turn", scores).text == text).all() and kept(context, Variant("full"), "turn", scores).image.all()
    assert (kept(context, Variant("query"), "fresh", scores).text == before).all()
    said = kept(context, Variant("query"), "turn", scores, said=True)
    assert said.tokens == int(text.sum()) + len(SAID)
    assert len(variants(["full", "both"], ["attention", "random"], [2.0, 5.0])) == 1 + 4


def test_what_does_not_fit_is_refused(context) -> None:
    whole = everything(context)
    uneven = whole.image.clone()
    uneven[0, 0] = False
    for part, why in (
        (Kept(whole.text[1:], whole.image), "has"), (Kept(whole.text, uneven), "the same number"),
        (Kept(torch.ones_like(whole.text), whole.image), "listed as text"),
    ):  # fmt: skip
        with pytest.raises(HeadflowError, match=why):
            answers(context, [part], [[5]])
    with pytest.raises(HeadflowError, match="no tokens"):
        answers(context, [whole], [[]])


def test_attribution_is_what_closing_a_place_changes_to_first_order(lvlm, context) -> None:
    """Signed effects, summed over layers, are those of :func:`token_effects`; magnitudes are never smaller."""
    from headflow.components import ImageTokens
    from headflow.local_differences import token_effects

    capture = lvlm.capture(random_picture(1), QUESTION, SAID)
    groups = torch.zeros(len(context.candidates), capture.key_positions, dtype=torch.bool)
    groups[:, capture.image] = torch.eye(len(groups), dtype=torch.bool)
    _, effects = token_effects(capture, components=ImageTokens(groups), target="answer_logprob")
    signed, size = choice.attribution_scores(capture, signed=True), choice.attribution_scores(capture)
    np.testing.assert_allclose(signed.sum(0), effects[0], rtol=1e-3, atol=1e-5)
    assert (size >= np.abs(signed) - 1e-9).all() and size.shape == signed.shape == (lvlm.layers, len(groups))
    with pytest.raises(HeadflowError, match="says nothing"):
        choice.attribution_scores(lvlm.capture(random_picture(1), QUESTION))


def test_a_follow_up_is_the_templates_own_second_turn(lvlm) -> None:
    processor = lvlm.processor
    said = lvlm.text(SAID)
    assert has_next_turn(processor, QUESTION)
    whole = processor.apply_chat_template(
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},
            {"role": "assistant", "content": [{"type": "text", "text": said}]},
            {"role": "user", "content": [{"type": "text", "text": FOLLOW_UP}]},
        ],
        add_generation_prompt=True, tokenize=False,
    )  # fmt: skip
    found, ids = next_turn(processor, QUESTION, said, FOLLOW_UP), processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert ids[-len(found) :] == found and len(found) < len(ids)
    assert "".join(processor.tokenizer.decode(found).split()).count("".join(FOLLOW_UP.split())) == 1
    prompt = lvlm.inputs([random_picture(1)], FOLLOW_UP)["input_ids"][0].tolist()
    ending = fresh(lvlm, random_picture(1), FOLLOW_UP)
    assert prompt[-len(ending) :] == ending and lvlm.image_token not in ending and prompt[-len(ending) - 1] == lvlm.image_token
    assert chat(processor, FOLLOW_UP).count(FOLLOW_UP) == 1
    for text, why in (("", "empty"), ("<image> what?", "image token"), ("What is the zyzzyva?", r"does not know: .*zyzzyva")):
        with pytest.raises(HeadflowError, match=why):
            next_turn(processor, QUESTION, said, text)


@pytest.mark.parametrize("asking", ["turn", "fresh"])
@pytest.mark.parametrize("go_on_from", ["description", "prompt"])
def test_positions_go_on_where_they_are_told_to(lvlm, context, asking, go_on_from) -> None:
    talk = Conversation(lvlm, "one", random_picture(1), QUESTION, SAID, go_on_from=go_on_from, max_new_tokens=1)
    [outcome] = talk.run(asking, [Variant("full")], [FOLLOW_UP])
    start = context.prompt + (len(SAID) if go_on_from == "description" else 0)
    [question] = talk.asked(asking, [FOLLOW_UP])
    part = kept(context, Variant("full"), asking, talk.scores)
    logits = first_logits(context, part, question, start=start)
    assert outcome.tokens == part.tokens and (outcome.answers[0] or [int(logits.argmax())]) == [int(logits.argmax())]
    if go_on_from == "description":
        gone = [torch.ones(len(context.ids), dtype=torch.bool) for _ in context.keys]
        for layer, row in enumerate(gone):
            row[part.places(context, layer)] = False
        assert relative(logits, follow_up_logits(lvlm, random_picture(1), QUESTION, SAID, question, gone)) < 1e-5
    else:
        assert relative(logits, first_logits(context, part, question)) > 1e-6
