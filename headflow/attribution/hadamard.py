"""Hadamard matrices: square ±1 matrices with orthogonal columns, the backbone of short balanced designs.

``scipy.linalg.hadamard`` knows powers of two only, so a design for 48 heads would need 64 rows. Adding Paley's first construction
(order q + 1 for a prime q = 3 mod 4) and doubling it in Sylvester's way gives many orders between: 4, 8, 12, 16, 20, 24, 32, 40, 44, 48 …

R. E. A. C. Paley, *On orthogonal matrices*, J. Math. Phys. 12 (1933); J. J. Sylvester, Phil. Mag. 34 (1867).
"""

import numpy as np
from jaxtyping import Int8


def order_at_least(least: int) -> int:
    """The smallest order ≥ ``least`` that :func:`hadamard` can build."""
    order = max(least, 1)
    while _core(order) is None:
        order += 1
    return order


def hadamard(order: int) -> Int8[np.ndarray, "order order"]:
    """A Hadamard matrix H of this order: entries ±1, H·Hᵀ = order·I.

    Raises:
        ValueError: the order is not a power of two times 1 or q + 1 (q prime, q = 3 mod 4).
    """
    core = _core(order)
    if core is None:
        raise ValueError(f"no construction for a Hadamard matrix of order {order}; the next larger one is {order_at_least(order)}")
    matrix = _paley(core - 1) if core > 1 else np.ones((1, 1), np.int8)
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _core(order: int) -> int | None:
    """The order from which doubling reaches ``order``: 1, or q + 1 of a Paley matrix; None if there is none."""
    if order < 1:
        return None
    core = order
    while True:
        if core == 1 or (core % 4 == 0 and _is_prime(core - 1)):
            return core
        if core % 2:
            return None
        core //= 2


def _paley(q: int) -> Int8[np.ndarray, "q+1 q+1"]:
    """I + S, where S is skew and holds the quadratic characters of all differences mod q."""
    character = np.full(q, -1, np.int8)
    character[np.arange(1, q, dtype=np.int64) ** 2 % q] = 1
    character[0] = 0
    places = np.arange(q)
    skew = np.zeros((q + 1, q + 1), np.int8)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = character[(places[:, None] - places[None, :]) % q]
    return skew + np.eye(q + 1, dtype=np.int8)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
