"""What is read off the stock model."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from headflow.models.features import image_attention, same_answer
from tests import reference
from tests.checkpoints import QUESTION


@pytest.mark.parametrize("image_size", [32, 104])
def test_image_attention_against_the_eager_models_own_weights(kind, checkpoints, captures, image_size):
    capture, _ = captures(kind, **({} if image_size == 32 else {"image_size": image_size}))
    folder = checkpoints(kind, **({} if image_size == 32 else {"image_size": image_size}))
    eager = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        weights = torch.stack(eager(**capture.lvlm.inputs([capture.picture], QUESTION), output_attentions=True).attentions)[:, 0]
    shares = weights[:, :, capture.prefix :, capture.image].sum(-1)
    found = image_attention(capture)
    assert found.final.shape == found.suffix.shape == (3, 4)
    assert reference.relative(found.final, shares[:, :, -1]) < 1e-5
    assert reference.relative(found.suffix, shares.mean(-1)) < 1e-5
    assert 0 < float(found.suffix.min()) < float(found.suffix.max()) <= 1 + 1e-6


@pytest.mark.parametrize(("given", "true"), [("Cat.", "cat"), (" a  cat\n", "A cat"), ("STRASSE", "straße"), ("'seven'!", "seven"), ("", "")])
def test_answers_that_say_the_same(given, true):
    assert same_answer(given, true) and same_answer(true, given)


@pytest.mark.parametrize(("given", "true"), [("cat", "cats"), ("a cat", "cat"), ("1.5", "15"), ("", "cat"), ("cat dog", "catdog")])
def test_answers_that_do_not(given, true):
    assert not same_answer(given, true)
