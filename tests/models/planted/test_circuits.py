"""What the circuits claim, without a model."""

from typing import get_args

import numpy as np
import pytest

from headflow.datasets.planted import CATEGORIES
from headflow.errors import HeadflowError
from headflow.models.planted.circuits import CIRCUITS, truth_of
from headflow.models.planted.truth import truth_table
from headflow.params import Circuit as CircuitName
from headflow.tables.planted import TRUTHS


def test_the_params_know_every_circuit() -> None:
    assert get_args(CircuitName) == tuple(CIRCUITS)


@pytest.mark.parametrize("name", CIRCUITS)
def test_there_is_something_to_miss(name: str) -> None:
    circuit = CIRCUITS[name]
    special = [*circuit.carriers, *circuit.relays, *circuit.decoys]
    assert len(set(special)) == len(special) < circuit.layers * circuit.heads / 2 and 2 <= len(circuit.carriers) <= 8
    assert all(0 <= layer < circuit.layers and 0 <= head < circuit.heads for layer, head in special)
    if circuit.response is not None:  # what is pooled after the response is never heard of
        assert all(reader.layer <= circuit.response.layer for reader in circuit.readers if reader.pooled)


@pytest.mark.parametrize("name", CIRCUITS)
def test_exact_values_are_those_of_the_value_function(name: str) -> None:
    """Banzhaf by brute force over random masks of all heads, Shapley by its sum; idle heads have exactly nothing."""
    circuit = CIRCUITS[name]
    for category in CATEGORIES:
        banzhaf, shapley = circuit.banzhaf(category), circuit.shapley(category)
        assert shapley.sum() == pytest.approx(circuit.total(category))
        masks = np.random.default_rng(0).random((4000, circuit.layers, circuit.heads)) < 0.5
        for layer, head in [*circuit.carriers, (0, 0)]:
            on, off = masks.copy(), masks.copy()
            on[:, layer, head], off[:, layer, head] = True, False
            gains = circuit.value(on, category) - circuit.value(off, category)
            assert banzhaf[layer, head] == pytest.approx(gains.mean(), abs=5 * gains.std() / len(gains) ** 0.5 + 1e-9)
        idle = ~circuit.carrying(category)
        assert not banzhaf[idle].any() and not shapley[idle].any() and not circuit.single_effects(category)[idle].any()


def test_values_at_another_ablation_probability() -> None:
    """With p near 0 the others are there and it is the single-head effect; in between, of either of two the share in which the other is missing."""
    for circuit in CIRCUITS.values():
        assert circuit.banzhaf("stone", 1e-9) == pytest.approx(circuit.single_effects("stone"), abs=1e-6)
    assert CIRCUITS["redundant"].banzhaf(None, 0.1)[1, 1] == pytest.approx(0.1 * 6) and CIRCUITS["joint"].banzhaf(None, 0.1)[1, 3] == pytest.approx(0.9 * 6)
    assert truth_of(CIRCUITS["redundant"], [None], "banzhaf", 0.1)[0, 1, 1] == pytest.approx(0.6)


def test_what_each_circuit_is_there_to_show() -> None:
    either, both, cancelled, category = (CIRCUITS[name] for name in ("redundant", "joint", "cancelled", "category"))
    for head in ((1, 1), (2, 4)):
        assert either.banzhaf()[head] == pytest.approx(3.0) == either.shapley()[head] and either.single_effects()[head] == pytest.approx(0.0)
    for head in ((1, 3), (2, 1)):
        assert both.banzhaf()[head] == pytest.approx(3.0) and both.single_effects()[head] == pytest.approx(6.0)
        alone = np.zeros((both.layers, both.heads))
        alone[head] = 1
        assert both.value(alone) == both.value(0 * alone) == 0
    assert cancelled.single_effects()[0, 2] == 0 and cancelled.banzhaf()[0, 2] == pytest.approx(2.0) and cancelled.banzhaf()[2, 3] == pytest.approx(-2.0)
    assert category.total("stone") == category.total("tree") == 8
    assert category.banzhaf("stone")[1, 0] == 3 and category.banzhaf("tree")[1, 0] == 0
    assert CIRCUITS["chain"].routes == ((1, "image", "role"), (3, "role", "final"))


@pytest.mark.parametrize("name", CIRCUITS)
def test_least_squares_over_all_corners_gives_the_banzhaf_values(name: str) -> None:
    """The link between the truth and regression on masks (P. L. Hammer and R. Holzman 1992)."""
    circuit = CIRCUITS[name]
    masks = circuit.subsets()
    columns = np.stack([np.ones(len(masks)), *(masks[:, layer, head] for layer, head in circuit.carriers)], 1)
    slopes = np.linalg.lstsq(columns, circuit.value(masks, "stone"), rcond=None)[0][1:]
    assert slopes == pytest.approx([circuit.banzhaf("stone")[place] for place in circuit.carriers])


@pytest.mark.parametrize("name", CIRCUITS)
def test_the_truth_as_a_table(name: str) -> None:
    circuit = CIRCUITS[name]
    table = TRUTHS.check(truth_table(circuit), name)
    assert len(table) == circuit.layers * circuit.heads * len(circuit.categories)
    for category in circuit.categories:
        part = table.filter(table["category"].eq_missing(category) if category else table["category"].is_null())
        assert np.array_equal(part["banzhaf"].to_numpy().reshape(circuit.layers, circuit.heads), circuit.banzhaf(category))
        assert set(part.filter(part["part"] == "carrier").select("layer", "head").iter_rows()) <= set(circuit.carriers)


def test_errors_are_one_line() -> None:
    with pytest.raises(HeadflowError, match=r"'category': category None is not one of stone, tree"):
        CIRCUITS["category"].banzhaf()
    with pytest.raises(HeadflowError, match=r"5 layers × 8 heads, the mask \[2, 2\]"):
        CIRCUITS["additive"].value(np.ones((2, 2)))
    with pytest.raises(HeadflowError, match="estimand 'owen'"):
        truth_of(CIRCUITS["additive"], [None], "owen")
