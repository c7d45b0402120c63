"""What an attribution costs, and which design, estimator and budget a wanted precision takes.

Cost is counted in *masked forwards*: runs of the suffix under one mask. A gradient run, forward and backward, counts as 2.7 of them: measured on the
embedded model on a CPU, in float32; ``python -m bench estimators`` measures it again.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headflow.attribution.regression import Attribution
from headflow.errors import HeadflowError

GRADIENT_RUN = 2.7

# Relative errors of attributions on the embedded model (48 heads, 8 scenes, object question; `python -m bench estimators`), as constants of the laws
# below, which meet the prior form there within 15 %. They depend on how much the heads of a model act on each other: a plan is a first guess, and
# `precision` in the params is what holds.
_FOLDOVER = 0.095  # error of foldover: this × √(heads / masks)
_CORNERS = 0.21  # sampling error of the mean gradient: this / √corners
_BIAS = 0.025  # what remains of it however many corners there are


def forwards(masks: int | np.ndarray, corners: int | np.ndarray) -> float | np.ndarray:
    """Cost of a fit in masked forwards."""
    return masks + GRADIENT_RUN * corners


def relative_error(fitted: Attribution) -> Float[np.ndarray, "*examples"]:
    """Estimated relative error of each example's attributions, √Σ(standard error)² / √Σ(attribution)²: 0 = exact, 1 = all noise.

    Where nothing is attributed at all it is 0 if nothing is uncertain either, else infinite.
    """
    errors = np.sqrt((fitted.standard_error_**2).sum((-2, -1)))
    sizes = np.sqrt((fitted.attribution_**2).sum((-2, -1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors == 0, 0.0, errors / sizes)


@dataclass(frozen=True)
class Plan:
    """What to run on each example, and what it is expected to cost (masked forwards) and to reach (relative error)."""

    design: str
    estimator: str
    corners: int
    masks: int
    forwards: float
    relative_error: float


def plan(heads: int, precision: float, *, gradients: bool = True) -> Plan:
    """The cheapest plan that is expected to bring attributions of ``heads`` heads (layers × heads) to a relative error of ``precision``.

    Laws, with constants from the embedded model: foldover 0.095·√(heads / masks), from two masks a head on (fewer leave heads mixed up); the mean
    gradient √(0.21² / corners + 0.025²), whatever the number of heads; the prior form adds up their precisions, 1/error² = 1/gradient² +
    1/foldover². A gradient alone is never planned, as its bias cannot be told without masks: with gradients there are masks enough (32) to see it.

    Raises:
        HeadflowError: no heads, or a precision outside (0, 1).
    """
    if heads < 1 or not 0 < precision < 1:
        raise HeadflowError(f"heads = {heads}, precision = {precision}: a plan needs at least one head and a precision between 0 and 1")
    plain = _even(max((_FOLDOVER / precision) ** 2 * heads, 2 * heads))
    plans = [Plan("foldover_hadamard", "foldover", 0, plain, float(plain), _FOLDOVER * np.sqrt(heads / plain))]
    for corners in (2, 4, 8, 16, 32, 64, 128) if gradients else ():
        known = 1 / (_CORNERS**2 / corners + _BIAS**2)
        masks = _even(max((1 / precision**2 - known) * _FOLDOVER**2 * heads, 32))
        reached = 1 / np.sqrt(known + masks / heads / _FOLDOVER**2)
        plans.append(Plan("foldover_hadamard", "prior", corners, masks, float(forwards(masks, corners)), float(reached)))
    return min(plans, key=lambda one: one.forwards)


def _even(count: float) -> int:
    return 2 * int(np.ceil(count / 2 - 1e-9))
