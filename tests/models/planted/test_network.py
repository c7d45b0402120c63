"""The real models compute what their circuits say, and are models like any other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

import headflow
from headflow.ablation import gate_gradients, run_gates, run_masks
from headflow.attribution.masks import sample_masks
from headflow.checks import check_intervention
from headflow.errors import HeadflowError
from headflow.execution.fingerprint import digest_files
from headflow.gates import Gate
from headflow.models.baselines import swap_baseline
from headflow.models.features import image_attention
from headflow.models.planted.circuits import BASELINES, CIRCUITS
from headflow.models.planted.network import install

EXACT = 1e-4


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("name", CIRCUITS)
def test_the_logit_is_the_closed_form_under_every_mask(name: str, baseline: str, captured: Callable, chosen: list, mean: Callable) -> None:
    circuit = CIRCUITS[name]
    some = np.random.default_rng(1).random((48, circuit.layers, circuit.heads)) < 0.5
    every = circuit.subsets() & (circuit.carrying() | (np.random.default_rng(2).random((2 ** len(circuit.carriers), circuit.layers, circuit.heads)) < 0.5))
    masks = np.concatenate([circuit.subsets(), every, some])
    for row, capture in zip(chosen if baseline == "mean" else chosen[1:2], captured(name) if baseline == "mean" else captured(name)[1:2], strict=True):
        found = run_masks(capture, masks, baseline=mean(name) if baseline == "mean" else baseline)
        assert np.abs(found - circuit.value(masks, row["meaning_category"])).max() < EXACT


@pytest.mark.parametrize("name", CIRCUITS)
def test_gates_between_mix_as_the_closed_form_says(name: str, captured: Callable, chosen: list) -> None:
    circuit = CIRCUITS[name]
    gates = np.random.default_rng(4).random((16, circuit.layers, circuit.heads)).astype(np.float32)
    assert np.abs(run_masks(captured(name)[0], gates) - circuit.value(gates, chosen[0]["meaning_category"])).max() < EXACT


@pytest.mark.parametrize("name", CIRCUITS)
def test_gate_gradients_are_the_derivatives_of_the_closed_form(name: str, captured: Callable, chosen: list) -> None:
    circuit, category = CIRCUITS[name], chosen[0]["meaning_category"]
    corners = np.random.default_rng(6).random((24, circuit.layers, circuit.heads)) < 0.5
    values, gradients = gate_gradients(captured(name)[0], corners)
    assert np.abs(values - circuit.value(corners, category)).max() < EXACT
    assert np.abs(gradients - circuit.gradient(corners, category)).max() < 1e-3


@pytest.mark.parametrize("name", CIRCUITS)
def test_it_answers_and_stops(name: str, planted: Callable, pictures: pl.DataFrame) -> None:
    explain = pictures.filter(pl.col("split") == "explain")
    assert planted(name).answer(explain["image"].to_list(), explain["question"][0]) == explain["answer"].to_list()


@pytest.mark.parametrize("name", CIRCUITS)
def test_the_four_checks_pass(name: str, captured: Callable) -> None:
    checks = check_intervention(*captured(name)[:2])
    assert max(checks.identity, checks.swap, checks.prefix) < 1e-5 and checks.effect > 0.1
    assert captured(name)[0].mode == "shared"


def test_a_swapped_picture_votes_for_another_name(captured: Callable, chosen: list) -> None:
    """Why the truth is not claimed for `swap`: everything ablated leaves −total/7, not 0."""
    circuit = CIRCUITS["additive"]
    one, other = captured("additive")[:2]
    found = run_masks(one, np.zeros((1, circuit.layers, circuit.heads), bool), baseline=swap_baseline(other))
    assert found[0] == pytest.approx(-circuit.total() / 7, abs=EXACT)


@pytest.mark.parametrize("name", ["chain", "additive"])
def test_the_order_of_the_flow(name: str, captured: Callable) -> None:
    """Cut the image → role edges, or the role → final edges, in the layers of the routes and elsewhere."""
    circuit, capture = CIRCUITS[name], captured(name)[0]
    roles = np.array(capture.roles)
    suffix = roles[capture.image.stop :]
    intact = circuit.value(np.ones((circuit.layers, circuit.heads)), "stone")

    def cut(layers: set[int], source: str, reader: str) -> float:
        factors = {"queries": suffix == reader, "keys": roles == source, "layers": np.isin(np.arange(circuit.layers), list(layers))}
        return float(run_gates(capture, [Gate(reads="nothing", **{k: torch.from_numpy(v).float() for k, v in factors.items()})])[0])

    every = set(range(circuit.layers))
    for source, reader in (("image", "role"), ("role", "final"), ("image", "final")):
        carrying = {layer for layer, *route in circuit.routes if route == [source, reader]}
        assert cut(every - carrying, source, reader) == pytest.approx(intact, abs=EXACT)
        assert cut(every, source, reader) == pytest.approx(0.0 if carrying else intact, abs=EXACT)


def test_a_decoy_looks_and_says_nothing(captured: Callable) -> None:
    circuit = CIRCUITS["decoy"]
    shares = image_attention(captured("decoy")[0]).final.numpy()
    assert all(shares[place] > 0.999 for place in circuit.decoys)
    assert all(shares[place] == pytest.approx(0.05, abs=1e-5) for place in circuit.carriers)
    others = [shares[layer, head] for layer in range(circuit.layers) for head in range(circuit.heads) if (layer, head) not in circuit.carriers]
    assert np.median(others) > 0.05


@pytest.mark.parametrize(("name", "biased", "exact"), [("redundant", 6 / 0.8 / 4, 3.0), ("joint", 6 / 0.8 / 4, 3.0)])
def test_gate_gradients_are_wrong_where_heads_compensate_or_need_each_other(name: str, biased: float, exact: float, captured: Callable) -> None:
    """The response has the slope 1/0.8 at one of four corners and none at the others: mean gradient 1.875, Banzhaf value 3."""
    circuit = CIRCUITS[name]
    corners = circuit.subsets()
    _, gradients = gate_gradients(captured(name)[0], corners)
    for reader in circuit.readers:
        truth = circuit.banzhaf()[reader.place]
        assert gradients.mean(0)[reader.place] == pytest.approx(biased if reader.pooled else truth, abs=1e-3)
        assert truth == pytest.approx(exact if reader.pooled else 2.0)


def test_it_is_a_checkpoint_like_any_other(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    install("chain", tmp_path / "one")
    assert torch.equal(state, torch.random.get_rng_state())
    install("chain", tmp_path / "two")
    assert digest_files((tmp_path / "one").iterdir()) == digest_files((tmp_path / "two").iterdir())
    assert isinstance(AutoModelForImageTextToText.from_pretrained(tmp_path / "one"), LlavaForConditionalGeneration)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path / "one"), LlavaProcessor)
    assert sum(path.stat().st_size for path in (tmp_path / "one").iterdir()) < 1_000_000


def test_fewer_digits_keep_the_circuit(chosen: list) -> None:
    """bfloat16 has three digits: the answer stays, and every head's share to a few percent of the whole."""
    circuit = CIRCUITS["additive"]
    model = headflow.load("planted:additive", dtype="bfloat16", device_map="cpu")
    masks = circuit.subsets()
    found = run_masks(model.capture(chosen[0]["image"], chosen[0]["question"]), masks)
    assert np.abs(found - circuit.value(masks)).max() < 0.03 * circuit.total()


def test_head_attribution_recovers_additive_shares(captured: Callable) -> None:
    circuit = CIRCUITS["additive"]
    masks = sample_masks(circuit.layers, circuit.heads, 2 * 40, design="foldover_hadamard", seed=5)
    for capture in captured("additive"):
        fitted = headflow.fit(masks, run_masks(capture, masks))
        assert np.abs(fitted.attribution_ - circuit.banzhaf()).max() < 1e-3


def test_an_unknown_circuit_is_explained() -> None:
    with pytest.raises(HeadflowError, match=r"planted circuit 'xor' is not one of additive, redundant"):
        headflow.load("planted:xor")
