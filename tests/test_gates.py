"""Gates as data: what they accept, their batch, their rows; and the device of every tensor that they bring."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headflow import attention
from headflow.errors import HeadflowError
from headflow.gates import Gate, ablate_heads, check_gates

SIZES = {"layers": 3, "heads": 4, "suffix": 5, "positions": 20, "image": slice(2, 15)}
FACTORS = {"heads": (2, 3, 4), "queries": (2, 5), "keys": (2, 20), "layers": (3,)}


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf")])
def test_amounts_outside_0_to_1_are_refused(factor, value):
    amounts = torch.zeros(FACTORS[factor])
    amounts.view(-1)[-1] = value
    with pytest.raises(HeadflowError, match=f"gate: {factor} holds values outside"):
        Gate(**{factor: amounts})


@pytest.mark.parametrize("factor", FACTORS)
def test_wrong_shapes_are_refused(factor):
    shape = (*FACTORS[factor][:-1], FACTORS[factor][-1] + 1)
    with pytest.raises(HeadflowError, match=f"gate: {factor} has shape"):
        check_gates([Gate("nothing", **{factor: torch.zeros(shape)})], **SIZES)


def test_heads_without_a_batch_are_refused():
    with pytest.raises(HeadflowError, match="gate: heads has shape"):
        check_gates([Gate(heads=torch.zeros(3, 4))], **SIZES)


def test_a_baseline_outside_the_image_is_refused():
    keys = torch.zeros(20)
    keys[15] = 0.5
    with pytest.raises(HeadflowError, match="only image positions have a baseline"):
        check_gates([Gate(keys=keys)], **SIZES)
    assert check_gates([Gate("nothing", keys=keys)], **SIZES) == 1


def test_gates_must_agree_on_the_number_of_forwards():
    gates = [Gate(heads=torch.zeros(2, 3, 4)), Gate("nothing", queries=torch.zeros(3, 5))]
    with pytest.raises(HeadflowError, match=r"disagree on the number of forwards: \[2, 3\]"):
        check_gates(gates, **SIZES)
    assert check_gates([*gates[:1], Gate(queries=torch.zeros(5)), Gate(queries=torch.zeros(1, 5))], **SIZES) == 2


def test_factors_of_one_gate_must_agree_too():
    with pytest.raises(HeadflowError, match="disagree"):
        check_gates([Gate(heads=torch.zeros(2, 3, 4), queries=torch.zeros(3, 5))], **SIZES)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), use=st.sets(st.sampled_from(["heads", "queries", "layers"]), min_size=1))
def test_rows_are_the_product_of_the_factors(seed, use):
    torch.manual_seed(seed)
    factors = {name: torch.rand(FACTORS[name]) for name in use}
    gate = Gate(**factors)
    for layer in range(3):
        rows = gate.rows(layer).expand(2, 4, 5)
        for b in range(2):
            for head in range(4):
                for query in range(5):
                    expected = 1.0
                    expected *= float(factors["heads"][b, layer, head]) if "heads" in use else 1
                    expected *= float(factors["queries"][b, query]) if "queries" in use else 1
                    expected *= float(factors["layers"][layer]) if "layers" in use else 1
                    assert float(rows[b, head, query]) == pytest.approx(expected, rel=1e-5)


def test_a_layer_without_a_cut_has_no_rows():
    heads = torch.zeros(1, 3, 4)
    heads[0, 1, 2] = 1
    gate = Gate(heads=heads)
    assert gate.rows(0) is None and gate.rows(2) is None and gate.rows(1) is not None


def test_what_mixes():
    half = torch.full((1, 3, 4), 0.5)
    assert Gate(heads=half).mixes
    assert not Gate(heads=half.round()).mixes
    assert Gate(heads=half.round().requires_grad_(True)).mixes
    assert not Gate(keys=torch.full((20,), 0.5)).mixes  # keys weigh exponentially, they do not mix
    assert Gate(layers=torch.tensor([0, 0.5, 1])).mixes


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float64])
def test_masks_of_any_number_format(dtype):
    masks = torch.tensor([[[1, 0], [0, 1]]]).to(dtype)
    gate = ablate_heads(masks)
    assert gate.heads.is_floating_point() and gate.heads.tolist() == [[[0, 1], [1, 0]]]
    assert gate.only_heads and gate.batch == 1


# The meta device computes shapes and refuses to mix devices, as a GPU does: it finds a tensor made on the CPU without one.
@pytest.mark.parametrize("keys", [False, True], ids=["no keys", "keys"])
@pytest.mark.parametrize("rows", ["none", "layers", "heads", "queries"])
@pytest.mark.parametrize("reads", ["baseline", "nothing"])
def test_every_tensor_is_on_the_device_of_the_model(monkeypatch, reads, rows, keys):
    meta = torch.device("meta")
    factors = {} if rows == "none" else {rows: torch.ones(FACTORS[rows])}
    if keys:
        factors["keys"] = torch.zeros(20)
    gate = Gate(reads, **factors)
    amounts = gate.rows(1) if rows == "none" else gate.rows(1).to(meta)
    moved = Gate.__new__(Gate)  # checks of values need values, which a meta tensor does not have
    for name in FACTORS:
        factor = getattr(gate, name)
        object.__setattr__(moved, name, None if factor is None else factor.to(meta))
    object.__setattr__(moved, "reads", reads)
    moved.__dict__["mixes"] = False
    monkeypatch.setattr(Gate, "rows", lambda self, layer: amounts)
    bank = attention.Bank([torch.empty(2, 15 + 13, 8, device=meta)] * 3, [torch.empty(2, 15 + 13, 8, device=meta)] * 3, 15, slice(2, 15))
    state = attention.SuffixPass(bank, (moved,), last_layer=2)
    query, key, value = (torch.empty(2, heads, 5, 8, device=meta) for heads in (4, 2, 2))
    visible = torch.empty(1, 1, 5, 20, device=meta, dtype=torch.bool)
    output = attention._attend(state, 1, query, key, value, visible, 0.3, None)
    assert output.shape == (2, 4, 5, 8) and output.device == meta
