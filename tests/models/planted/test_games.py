"""Exact values of small games, against definitions written out another way."""

import itertools

import numpy as np
import pytest

from headflow.models.planted.games import banzhaf, coalitions, shapley


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_against_the_definitions(players: int) -> None:
    worth = np.random.default_rng(players).standard_normal(2**players)

    def of(members: set[int]) -> float:
        return worth[sum(1 << player for player in members)]

    orders = list(itertools.permutations(range(players)))
    for player in range(players):
        gains = [of(set(order[: order.index(player) + 1])) - of(set(order[: order.index(player)])) for order in orders]
        assert shapley(worth)[player] == pytest.approx(np.mean(gains))
        others = [set(chosen) for size in range(players) for chosen in itertools.combinations(set(range(players)) - {player}, size)]
        assert banzhaf(worth)[player] == pytest.approx(np.mean([of(members | {player}) - of(members) for members in others]))
    assert shapley(worth).sum() == pytest.approx(worth[-1] - worth[0])


def test_coalitions_are_numbered_by_their_bits() -> None:
    assert coalitions(3)[6].tolist() == [False, True, True]
    assert len(np.unique(coalitions(4), axis=0)) == 16


def test_worths_must_be_complete() -> None:
    with pytest.raises(ValueError, match="power of two"):
        banzhaf(np.zeros(6))
