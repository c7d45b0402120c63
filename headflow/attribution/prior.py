"""Regression with a gradient prior: what masks say, starting from what gradients say.

Ridge on the residuals r(m) = f(m) - Σ ĝ·m, where ĝ is the mean gate gradient: the coefficients are pulled to the gradient instead of to zero.
The penalty is chosen by leave-one-out on the masks, so the fit leaves the gradient as far as the masks ask for; as they grow the penalty loses
its hold and the estimate tends to that of plain regression, whatever the gradient was. Heads are pulled the more strongly the steadier their
gradient is (:func:`headflow.attribution.gradients.unsteadiness`); the scales also tell penalties apart where an orthogonal design with as
many pairs as heads gives them all the same leave-one-out error.
"""

import numpy as np
from jaxtyping import Float

from headflow.attribution.ridge import orthogonal_ridge, ridge


def ridge_from(
    prior: Float[np.ndarray, "examples total"], doubt: Float[np.ndarray, "examples total"], least: Float[np.ndarray, "examples"],
    scales: Float[np.ndarray, "examples total"], design: Float[np.ndarray, "masks total"], targets: Float[np.ndarray, "examples masks"], used: int,
    standard_errors: bool, *, settled: float = 0.0, still: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Slopes, errors [examples, total], penalties and degrees of freedom of ridge pulled to ``prior``, each example with its own scales.

    Args:
        prior, doubt: slopes to start from, and their standard errors.
        least: mean variance that the slopes are sure to have about ``prior``.
        scales: of each head's prior, relative.
        design, targets, used, settled: as for :func:`headflow.attribution.ridge.ridge`.
        still: stay at ``prior``; the errors say how far the targets are from it.
    """
    residuals = targets - prior @ design.T
    variance = doubt**2
    count = len(design)
    if used == 0 and (np.abs(design) == 1).all() and np.abs(design.T @ design - count * np.eye(design.shape[1])).max() < 1e-9 * count:
        slopes, errors, penalty, freedom = orthogonal_ridge(design, residuals, scales, standard_errors, doubt=variance, least=least, still=still)
        return prior + slopes, errors, penalty, freedom
    slopes, errors = np.empty_like(prior), np.empty_like(prior)
    penalty, freedom = np.empty(len(prior)), np.empty(len(prior))
    for e, scale in enumerate(scales):
        found = ridge(
            design * scale, residuals[[e]], used, standard_errors, doubt=variance[[e]] / scale**2, least=least[[e]], settled=settled, still=still
        )  # fmt: skip
        slopes[e], errors[e], penalty[e], freedom[e] = found[0][0] * scale, found[1][0] * scale, found[2][0], found[3][0]
    return prior + slopes, errors, penalty, freedom
