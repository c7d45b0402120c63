"""The attention function by itself: what models hand it beside queries, keys and values, and what it leaves behind."""

from types import SimpleNamespace

import pytest
import torch

from headflow import attention
from headflow.gates import Gate
from headflow.kernels import grouped as kernel
from tests.reference import relative

SYSTEM, IMAGE, SUFFIX, DIM = 3, 6, 4, 8
PREFIX = SYSTEM + IMAGE
MODULE = SimpleNamespace(layer_idx=0)


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    bank = attention.Bank([torch.randn(2, PREFIX + IMAGE, DIM)], [torch.randn(2, PREFIX + IMAGE, DIM)], PREFIX, slice(SYSTEM, PREFIX))
    query, key, value = (torch.randn(3, heads, SUFFIX, DIM) for heads in (4, 2, 2))
    return bank, query, key, value


def visible() -> torch.Tensor:
    return torch.ones(1, 1, SUFFIX, PREFIX + SUFFIX).tril(PREFIX).bool()


def plain(bank, query, key, value, heads: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
    """One forward, head and query at a time; an ablated head reads the twins in place of the image."""
    output = torch.zeros(3, SUFFIX, 4, DIM)
    for b in range(3):
        for head in range(4):
            shared_k, shared_v = bank.keys[0][head // 2], bank.values[0][head // 2]
            if heads[b, 0, head] == 1:
                shared_k, shared_v = (torch.cat([x[:SYSTEM], x[PREFIX:]]) for x in (shared_k, shared_v))
            for row in range(SUFFIX):
                keys = torch.cat([shared_k[:PREFIX], key[b, head // 2, : row + 1]])
                values = torch.cat([shared_v[:PREFIX], value[b, head // 2, : row + 1]])
                scores = keys @ query[b, head, row] * scale
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                output[b, row, head] = scores.softmax(0) @ values
    return output


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("scaling", [None, 0.7])
@pytest.mark.parametrize("flash_from", [1, 10_000], ids=["grouped", "joint"])
def test_scaling_and_softcap(tensors, monkeypatch, scaling, softcap, flash_from):
    monkeypatch.setattr(kernel, "_FLASH_FROM_KEYS", flash_from)
    bank, *inputs = tensors
    heads = (torch.rand(3, 1, 4) < 0.5).float()
    with torch.no_grad(), attention.obey(attention.SuffixPass(bank, (Gate(heads=heads),))) as state:
        output, weights = attention.gated_attention(MODULE, *inputs, visible(), scaling=scaling, softcap=softcap)
    assert weights is None and state.fired == [0]
    assert relative(output, plain(bank, *inputs, heads, DIM**-0.5 if scaling is None else scaling, softcap)) < 1e-5


def test_an_additive_mask_hides_the_same_keys(tensors):
    bank, *inputs = tensors
    additive = torch.zeros(visible().shape).masked_fill(~visible(), torch.finfo(torch.float32).min)
    outputs = []
    for mask in (visible(), additive, additive.expand(3, -1, -1, -1)):
        with attention.obey(attention.SuffixPass(bank)):
            outputs.append(attention.gated_attention(MODULE, *inputs, mask)[0])
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_recorded_weights_are_those_of_the_softmax(tensors):
    bank, *inputs = tensors
    seen = []
    gate = Gate(heads=torch.tensor([[[1.0, 0, 0, 1]]]))
    with attention.obey(attention.SuffixPass(bank, (gate,), record=lambda layer, weights: seen.append((layer, weights)))):
        attention.gated_attention(MODULE, *inputs, visible())
    ((layer, weights),) = seen
    assert layer == 0 and weights.shape == (3, 4, SUFFIX, PREFIX + IMAGE + SUFFIX)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, SUFFIX))
    assert weights[:, [0, 3], :, SYSTEM:PREFIX].abs().max() == 0 < weights[:, [0, 3], :, PREFIX : PREFIX + IMAGE].min()
    assert weights[:, [1, 2], :, PREFIX : PREFIX + IMAGE].abs().max() == 0 < weights[:, [1, 2], :, SYSTEM:PREFIX].min()
    for row in range(SUFFIX - 1):
        assert weights[:, :, row, PREFIX + IMAGE + row + 1 :].abs().max() == 0


def test_rows_that_nobody_reads_are_left_out_in_the_last_layer_alone(tensors):
    bank, *inputs = tensors
    whole, last = (attention.SuffixPass(bank, last=last, last_layer=0) for last in (None, 2))
    outputs = []
    for state in (whole, last, attention.SuffixPass(bank, last=2, last_layer=1)):
        with attention.obey(state):
            outputs.append(attention.gated_attention(MODULE, *inputs, visible())[0])
    torch.testing.assert_close(outputs[1][:, -2:], outputs[0][:, -2:])
    assert outputs[1].shape == outputs[0].shape and outputs[1][:, :-2].abs().max() == 0
    assert torch.equal(outputs[2], outputs[0])


def test_the_state_ends_with_its_block(tensors):
    outer, inner = attention.SuffixPass(tensors[0]), attention.SuffixPass(tensors[0])
    with pytest.raises(KeyError), attention.obey(outer):
        with attention.obey(inner):
            assert attention._ACTIVE.get() is inner
        assert attention._ACTIVE.get() is outer
        raise KeyError
    assert attention._ACTIVE.get(None) is None
