"""Exact values of the players of a small cooperative game, by enumeration of all coalitions."""

from math import comb

import numpy as np
from jaxtyping import Bool, Float


def coalitions(players: int) -> Bool[np.ndarray, "coalitions players"]:
    """All subsets; player i is in coalition c where bit i of c is set."""
    return (np.arange(2**players)[:, None] >> np.arange(players)) & 1 == 1


def banzhaf(worth: Float[np.ndarray, "coalitions"], present: float = 0.5) -> Float[np.ndarray, "players"]:
    """Mean gain from each player's joining, over all coalitions of the others (J. F. Banzhaf, Rutgers Law Review 19, 1965).

    Args:
        worth: of each coalition, in the order of :func:`coalitions`.
        present: chance of each other player to be in the coalition; other than 0.5, the weighted Banzhaf value (J.-L. Marichal and P. Mathonet,
            Discrete Applied Mathematics 159, 2011).
    """
    others = _players(worth) - 1
    return np.array([(gains * present**sizes * (1 - present) ** (others - sizes)).sum() for gains, sizes in _gains(worth)])


def shapley(worth: Float[np.ndarray, "coalitions"]) -> Float[np.ndarray, "players"]:
    """Mean gain from each player's joining, over all orders of joining (L. S. Shapley, Contributions to the Theory of Games II, 1953)."""
    players = _players(worth)
    return np.array([(gains / [players * comb(players - 1, size) for size in sizes]).sum() for gains, sizes in _gains(worth)])


def _gains(worth: np.ndarray):
    """For each player: what it adds to every coalition of the others, and how many those are."""
    members = coalitions(_players(worth))
    numbers = np.arange(len(worth))
    for player in range(members.shape[1]):
        without = numbers[~members[:, player]]
        yield worth[without + 2**player] - worth[without], members[without].sum(1)


def _players(worth: np.ndarray) -> int:
    players = len(worth).bit_length() - 1
    if len(worth) != 2**players:
        raise ValueError(f"{len(worth)} worths: expected one for each subset of the players, a power of two")
    return players
