"""Gate gradients: every head's effect from a handful of forward and backward passes.

A gate g in [0, 1] mixes a head's two outputs, g·(with the picture) + (1 - g)·(with the baseline); at 0 and 1 that is the ablation. At a
corner m of the cube of all gates, ∂f/∂g is the first-order effect of every head at once (headflow.ablation.gate_gradients). Its mean over
random corners estimates what the regression on masks estimates, and is exact where f is linear in each gate (multilinear in all). Where it
is not, as where a head saturates or is needed by a threshold, the mean gradient is biased however many corners there are: the prior form
(:mod:`headflow.attribution.prior`) then mends it.

Over corners with every head intact with probability q, the mean is the q-weighted Banzhaf value; over corners with q itself drawn evenly from
(0, 1), the Shapley value (G. Owen, *Multilinear extensions of games*, Management Science 18, 1972).
"""

import numpy as np
from jaxtyping import Float

from headflow.errors import HeadflowError

FLOOR = 0.05  # least scale of a head's prior, share of the largest: no head is ruled out because its gradient happens to stand still


def mean_gradient(
    gradients: Float[np.ndarray, "examples corners layers heads"],
) -> tuple[Float[np.ndarray, "examples total"], Float[np.ndarray, "examples total"]]:
    """Mean gradient over corners and its standard error over their draw; consecutive corners form a pair and are one draw.

    The error does not hold the bias that a gradient has where the target is not linear in a gate: masks tell that. With one pair it is nan.
    """
    flat = gradients.reshape(*gradients.shape[:2], -1).astype(float)
    pairs = flat.shape[1] // 2
    if pairs < 1:
        raise HeadflowError(f"gradients at {flat.shape[1]} corners: at least one pair is needed; set masks.corners to 2 or more")
    middles = flat[:, : 2 * pairs].reshape(len(flat), pairs, 2, -1).mean(2)
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.sqrt(((middles - middles.mean(1, keepdims=True)) ** 2).sum(1) / (pairs - 1) / pairs) if pairs > 1 else np.full_like(middles[:, 0], np.nan)
    return middles.mean(1), errors


def doubt(gradients: Float[np.ndarray, "examples corners layers heads"]) -> tuple[Float[np.ndarray, "examples total"], Float[np.ndarray, "examples"]]:
    """Standard error of the mean gradient over the draw of corners, and the mean variance that it has at the least.

    From two pairs on, those of :func:`mean_gradient`. One pair shows no spread between pairs. What its two corners differ in cancels in their mean, but
    where gradients change with one head they mostly change with two as well: a third of the variance between corners stands in, a quarter of it
    shared by all heads, and half of that is taken to be sure. That is a rule of thumb, from planted games and the embedded model.
    """
    flat = gradients.reshape(*gradients.shape[:2], -1).astype(float)
    if flat.shape[1] // 2 > 1:
        errors = mean_gradient(gradients)[1]
        return errors, (errors**2).mean(1)
    within = flat[:, :2].var(1)
    variance = (0.75 * within + 0.25 * within.mean(1, keepdims=True)) / 3
    return np.sqrt(variance), variance.mean(1) / 2


def unsteadiness(gradients: Float[np.ndarray, "examples corners layers heads"]) -> Float[np.ndarray, "examples total"]:
    """How much each head's gradient changes from corner to corner, as scales with a mean square of 1 in each example.

    A head whose gradient never changes acts alone, and its mean gradient is its effect; where it changes, the head interacts, and that is
    where a mean gradient can be wrong. So these are the scales on which a regression may move away from the gradient.
    """
    flat = gradients.reshape(*gradients.shape[:2], -1).astype(float)
    spread = flat.std(1)
    largest = spread.max(1, keepdims=True)
    rounding = 1e-9 * np.abs(flat).max((1, 2))[:, None]
    spread = np.where(largest > rounding, spread + FLOOR * largest, 1.0)
    return spread / np.sqrt((spread**2).mean(1, keepdims=True))
