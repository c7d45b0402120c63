"""Small functions of gates with exact Banzhaf and Shapley values by enumeration; none needs a model."""

import itertools
from math import comb
from typing import NamedTuple

import numpy as np

LAYERS, HEADS = 2, 5
TOTAL = LAYERS * HEADS
_CORNERS = np.array(list(itertools.product([0, 1], repeat=TOTAL)), float)


class Game:
    """f on [0, 1]^10: a linear part, products of two and three gates (linear in each gate), and, where asked for, parts that are not:

    ``either``: min(1, a + b), which either of two heads suffices for; ``both``: max(0, a + b - 1), which needs both; ``curved``: a saturating
    sum. On the corners the first two are OR and AND, but their gradients there are not the differences.
    """

    def __init__(self, seed: int, *, products: float = 0.5, either: float = 0.0, both: float = 0.0, curved: float = 0.0) -> None:
        random = np.random.default_rng(seed)
        self.linear = random.normal(size=TOTAL) * (random.random(TOTAL) < 0.7)
        self.products = [(random.permutation(TOTAL)[:order], products * random.normal()) for order in (2, 3) * 4]
        self.either, self.both, self.curved = either, both, curved

    def __call__(self, gates: np.ndarray) -> np.ndarray:
        g = gates.reshape(len(gates), -1).astype(float)
        value = 1 + g @ self.linear + sum(weight * g[:, members].prod(1) for members, weight in self.products)
        value = value + self.either * np.minimum(1, g[:, 0] + g[:, 1]) + self.both * np.maximum(0, g[:, 3] + g[:, 4] - 1)
        return value + self.curved * np.tanh(2 * (g[:, 0] + g[:, 1] + g[:, 2]) - 1)

    def gradients(self, corners: np.ndarray) -> np.ndarray:
        """∂f/∂gate at each corner; at the kink of a clipped sum the mean of both sides."""
        flat, step = corners.reshape(len(corners), -1).astype(float), 1e-5 * np.eye(TOTAL)
        shifted = np.stack([flat[:, None] + step, flat[:, None] - step])  # [up or down, corners, moved head, heads]
        up, down = self(shifted.reshape(-1, TOTAL)).reshape(2, len(flat), TOTAL)
        slopes = (up - down) / 2e-5
        return slopes.reshape(-1, LAYERS, HEADS)

    def exact(self, estimand: str) -> np.ndarray:
        """The values of all heads, from all 1024 corners."""
        values, sizes = self(_CORNERS).reshape((2,) * TOTAL), _CORNERS.sum(1).astype(int).reshape((2,) * TOTAL)
        found = []
        for head in range(TOTAL):
            gains, others = np.take(values, 1, head) - np.take(values, 0, head), np.take(sizes, 0, head)
            shares = np.array([1 / (TOTAL * comb(TOTAL - 1, size)) for size in range(TOTAL)])[others] if estimand == "shapley" else 0.5 ** (TOTAL - 1)
            found.append((gains * shares).sum())
        return np.array(found).reshape(LAYERS, HEADS)

    @property
    def ends(self) -> tuple[float, float]:
        """f with all heads and with none."""
        return float(self(np.ones((1, TOTAL)))[0]), float(self(np.zeros((1, TOTAL)))[0])


class Wide:
    """48 heads of which few carry, products of two and three gates, and alternatives (OR) whose gradient is that of a network: nothing once either is on.

    ``carriers``: share of heads with an effect of their own; ``alternatives``: pairs of which either suffices, with gradients wrong by half of ``weight``.
    """

    LAYERS, HEADS = 6, 8

    def __init__(self, seed: int, *, carriers: float = 0.3, products: float = 0.5, alternatives: int = 0, weight: float = 1.0) -> None:
        random, total = np.random.default_rng(seed), self.LAYERS * self.HEADS
        self.linear = random.normal(size=total) * (random.random(total) < carriers)
        self.products = [(random.permutation(total)[:order], products * random.normal()) for order in (2, 3) * 12]
        self.alternatives = [(random.permutation(total)[:2], weight * random.choice([-1, 1])) for _ in range(alternatives)]

    def __call__(self, masks: np.ndarray) -> np.ndarray:
        g = masks.reshape(len(masks), -1).astype(float)
        value = g @ self.linear + sum(weight * g[:, members].prod(1) for members, weight in self.products)
        return value + sum(weight * g[:, members].max(1) for members, weight in self.alternatives)

    def gradients(self, corners: np.ndarray) -> np.ndarray:
        g = corners.reshape(len(corners), -1).astype(float)
        slopes = np.tile(self.linear, (len(g), 1))
        for members, weight in self.products:
            for head in members:
                slopes[:, head] += weight * g[:, members[members != head]].prod(1)
        for members, weight in self.alternatives:
            slopes[:, members] += weight * (g[:, members].max(1) == 0)[:, None]
        return slopes.reshape(-1, self.LAYERS, self.HEADS)

    def exact(self) -> np.ndarray:
        """Banzhaf values: a product of k gates gives each 1/2^(k-1) of its weight, an alternative a half."""
        values = self.linear.copy()
        for members, weight in self.products:
            values[members] += weight / 2 ** (len(members) - 1)
        for members, weight in self.alternatives:
            values[members] += weight / 2
        return values.reshape(self.LAYERS, self.HEADS)


class Quality(NamedTuple):
    """Over many draws: share of intervals that hold the truth, claimed over actual error, and mean error of each head."""

    covered: float
    claimed: float
    bias: np.ndarray
    relative_error: float
