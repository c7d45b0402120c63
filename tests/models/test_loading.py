"""Where the weights go and in how many bits; what cannot be had is told in one line."""

import importlib.util

import numpy as np
import pytest
import torch

import headflow
from headflow.ablation import run_masks
from headflow.checks import check_intervention
from headflow.errors import HeadflowError
from headflow.models.loading import check_machine, read_config
from tests.checkpoints import QUESTION
from tests.conftest import random_picture

# One decoder layer is read from disk whenever it runs: accelerate's hooks carry inputs to weights, as between devices.
SPREAD = {
    "model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "model.language_model.embed_tokens": "cpu", "model.language_model.norm": "cpu",
    "model.language_model.rotary_emb": "cpu", "lm_head": "cpu", "model.language_model.layers.0": "cpu", "model.language_model.layers.1": "disk",
    "model.language_model.layers.2": "cpu",
}  # fmt: skip


def captured(model):
    return model.capture(random_picture(1), QUESTION), model.capture(random_picture(2), QUESTION)


def test_weights_that_are_spread_give_the_same_numbers(checkpoints, captures):
    model = headflow.load(checkpoints("gqa"), device_map=SPREAD)
    assert model.spread and not headflow.load(checkpoints("gqa"), device_map="cpu").spread
    assert model.device == torch.device("cpu") and any(p.device.type == "meta" for p in model.model.parameters())
    capture, other = captured(model)
    check_intervention(capture, other)
    masks = np.random.default_rng(0).random((30, 3, 4)) < 0.5
    whole, _ = captures("gqa")
    np.testing.assert_allclose(run_masks(capture, masks), run_masks(whole, masks), rtol=1e-5, atol=1e-5)


def test_weights_on_disk_do_not_count_as_memory_of_the_device(checkpoints):
    spread, whole = headflow.load(checkpoints("gqa"), device_map=SPREAD), headflow.load(checkpoints("gqa"), device_map="cpu")
    on_disk = sum(p.numel() * 4 for name, p in whole.model.named_parameters() if ".layers.1." in name and "language_model" in name)
    assert whole.weight_bytes(whole.device) - spread.weight_bytes(spread.device) == on_disk > 0
    assert whole.weight_bytes(torch.device("cuda")) == 0


@pytest.mark.parametrize("device_map", ["auto", "cpu", "sequential", "balanced", "balanced_low_0"])
def test_without_a_gpu_everything_goes_to_the_processor(checkpoints, device_map):
    if torch.cuda.is_available():
        device_map = "cpu"
    assert headflow.load(checkpoints("mha"), device_map=device_map).device == torch.device("cpu")


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_attention_code_of_stock_forwards(checkpoints, attn):
    model = headflow.load(checkpoints("window"), attn=attn, device_map="cpu")
    assert model.decoder.config._attn_implementation == attn
    check_intervention(*captured(model))
    assert model.decoder.config._attn_implementation == attn


def test_attention_code_that_is_not_there(checkpoints):
    with pytest.raises(HeadflowError, match="cannot be loaded: FlashAttention2"):
        headflow.load(checkpoints("mha"), attn="flash_attention_2", device_map="cpu")


@pytest.mark.parametrize(("bits", "kind"), [("8bit", "Linear8bitLt"), ("4bit", "Linear4bit")])
def test_quantized_weights(checkpoints, bits, kind):
    model = headflow.load(checkpoints("gqa"), quantization=bits, dtype="bfloat16", device_map="cpu")
    assert kind in {type(module).__name__ for module in model.model.modules()}
    measured = check_intervention(*captured(model))
    assert max(measured.identity, measured.swap) < measured.tolerance == 6e-2


def test_quantized_float32_is_judged_as_what_it_is(checkpoints):
    """In 8 bits the inputs are rounded whatever their format is."""
    model = headflow.load(checkpoints("gqa"), quantization="8bit", device_map="cpu")
    assert model.dtype == torch.float32 and model.tolerance == 6e-2
    check_intervention(*captured(model))


def test_quantization_without_bitsandbytes(checkpoints, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else found(name, *rest))
    with pytest.raises(HeadflowError, match=r"needs bitsandbytes: pip install 'headflow\[quantized\]'"):
        headflow.load(checkpoints("gqa"), quantization="4bit", device_map="cpu")


def test_quantization_in_other_bits(checkpoints):
    with pytest.raises(HeadflowError, match="'3bit' is not one of 8bit, 4bit"):
        headflow.load(checkpoints("gqa"), quantization="3bit", device_map="cpu")


@pytest.mark.parametrize(("device_map", "quantization", "message"), [("cuda", None, "torch sees no GPU"), ("auto", "4bit", "needs bitsandbytes")])
def test_a_machine_that_lacks_something_is_told_before_anything_is_loaded(device_map, quantization, message, monkeypatch):
    if device_map == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else found(name, *rest))
    with pytest.raises(HeadflowError, match=message):
        check_machine(device_map, "float32", quantization)


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "/no/such/folder", "./none"])
def test_what_is_no_folder_and_no_id_is_told_without_asking_the_hub(source):
    with pytest.raises(HeadflowError, match="there is no such folder"):
        read_config(source)
