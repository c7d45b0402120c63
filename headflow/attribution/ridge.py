"""Ridge regression of many examples on one design: penalty by leave-one-out, standard errors over the draw of masks.

Written out rather than left to sklearn's RidgeCV, because the standard errors need the same decomposition, and because a saturated
orthogonal design gives every penalty the same leave-one-out error: the smallest one must win then, not rounding.
"""

import numpy as np
from jaxtyping import Float

from headflow.errors import HeadflowError

# Penalties tried, relative to the sum of squares of an average column: from least squares to no effect at all.
PENALTIES = np.logspace(-10, 3, 53)
_TIE = 1e-6  # relative difference of leave-one-out errors that rounding can make


def ridge(
    design: Float[np.ndarray, "masks total"], targets: Float[np.ndarray, "examples masks"], used: int, standard_errors: bool, *,
    doubt: Float[np.ndarray, "examples total"] | None = None, settled: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Ridge without intercept, penalty by leave-one-out for each example: slopes, errors [examples, total], penalties, degrees of freedom.

    Args:
        used: 1 if masks and targets were centred, which takes one degree of freedom: 1/M of each mask's own weight.
        doubt: variance that each slope is known to have before the masks are looked at. Where shrinkage hides a part of a slope, the error is
            then no less than this and the square of what it shows: slopes that a few heads alone have are not taken to be as small as the rest.
        settled: share of every coordinate that lies in directions known beforehand, which add no error though the design says nothing of them.
    """
    left, singular, right = np.linalg.svd(design, full_matrices=False)
    if not singular.max() > 0:
        raise HeadflowError(f"all {len(design)} fit masks are the same: nothing to learn from them")
    known = singular > singular.max() * max(design.shape) * np.finfo(float).eps
    left, singular, right = left[:, known], singular[known], right[known]
    weights = left**2
    projected = left.T @ targets.T  # [rank, examples]
    beyond = targets.T - left @ projected  # what no penalty can fit
    spare = 1.0 - used / len(design) - weights.sum(1)  # the same for each mask's own weight in its prediction
    spare[np.abs(spare) < 1e-10] = 0.0  # rounding: a mask's share is either gone or at least 1/M
    penalties = PENALTIES * (singular**2).sum() / design.shape[1]
    scores = np.empty((len(penalties), len(targets)))
    for row, penalty in zip(scores, penalties, strict=True):
        kept = penalty / (singular**2 + penalty)
        residuals = beyond + left @ (kept[:, None] * projected)
        row[:] = ((residuals / (spare + weights @ kept)[:, None]) ** 2).mean(0)
    chosen = np.argmax(scores <= scores.min(0) * (1 + _TIE), axis=0)

    slopes = np.empty((len(targets), design.shape[1]))
    errors, freedom = np.zeros_like(slopes), np.empty(len(targets))
    for choice in np.unique(chosen):
        mine = np.flatnonzero(chosen == choice)
        kept = penalties[choice] / (singular**2 + penalties[choice])
        gains = right.T * (singular / (singular**2 + penalties[choice]))  # [total, rank]
        slopes[mine] = (gains @ projected[:, mine]).T
        left_over = spare + weights @ kept**2  # diagonal of (I - H)²: the share of each squared residual that survives the fit
        freedom[mine] = left_over.sum()
        if not standard_errors:
            continue
        if left_over.sum() < 0.5:
            errors[mine], freedom[mine] = _pseudo_error(slopes[mine])[:, None], max(design.shape[1] / 3, 1.0)
            continue
        residuals = beyond[:, mine] + left @ (kept[:, None] * projected[:, mine])
        noise = (residuals**2).sum(0) / left_over.sum()
        scatter = ((gains @ left.T) ** 2) @ (residuals**2 / np.maximum(left_over, 1e-9)[:, None])
        # expected square of λ(XᵀX + λ)⁻¹β for slopes of variance noise/λ, the prior under which ridge is the best guess
        hidden = (right.T**2) @ (kept**2) + np.maximum(1 - settled - (right**2).sum(0), 0.0)
        spread = np.broadcast_to(noise[:, None] / penalties[choice], slopes[mine].shape)
        if doubt is not None:
            spread = np.maximum(spread, doubt[mine] + slopes[mine] ** 2)
        errors[mine] = np.sqrt(scatter.T + hidden * spread)
    return slopes, errors, penalties[chosen], freedom


def orthogonal_ridge(
    signs: Float[np.ndarray, "masks total"], targets: Float[np.ndarray, "examples masks"], scales: Float[np.ndarray, "examples total"],
    standard_errors: bool, *, doubt: Float[np.ndarray, "examples total"] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """What ``ridge(signs * scales[e], targets[[e]])`` gives for each example e, where the columns of ``signs`` (±1) are orthogonal.

    Slopes, errors and doubts are those of the unscaled columns. There the decomposition is the design itself and every mask has the same
    weight in its own prediction, so that a thousand heads cost as little as ten. Where no residual is left, the pseudo standard error is one for
    all heads.
    """
    count, total = signs.shape
    effects = targets @ signs / count
    beyond = np.maximum((targets**2).sum(1) - count * (effects**2).sum(1), 0.0)
    beyond[beyond < 1e-12 * (targets**2).sum(1)] = 0.0
    squares = count * scales**2
    spare = 1.0 - total / count if count > total else 0.0
    penalties = PENALTIES[:, None] * squares.mean(1)  # [penalties, examples]
    scores = np.empty(penalties.shape)
    for row, penalty in zip(scores, penalties, strict=True):
        kept = penalty[:, None] / (squares + penalty[:, None])
        row[:] = (beyond + count * ((kept * effects) ** 2).sum(1)) / (spare + kept.sum(1) / count) ** 2
    chosen = np.argmax(scores <= scores.min(0) * (1 + _TIE), axis=0)
    penalty = penalties[chosen, np.arange(len(targets))]
    kept = penalty[:, None] / (squares + penalty[:, None])
    freedom = count * spare + (kept**2).sum(1)
    errors = np.zeros_like(effects)
    if standard_errors:
        noise = (beyond + count * ((kept * effects) ** 2).sum(1)) / np.maximum(freedom, 1e-9)
        spread = noise[:, None] * scales**2 / penalty[:, None]
        if doubt is not None:
            spread = np.maximum(spread, doubt + ((1 - kept) * effects) ** 2)
        errors = np.sqrt((1 - kept) ** 2 * noise[:, None] / count + kept**2 * spread)
        full = freedom < 0.5
        errors[full], freedom[full] = _pseudo_error(effects[full])[:, None], max(total / 3, 1.0)
    return (1 - kept) * effects, errors, penalty, freedom


def _pseudo_error(slopes: Float[np.ndarray, "examples total"]) -> Float[np.ndarray, "examples"]:
    """Lenth's pseudo standard error: a trimmed median of effects of which most are taken to be noise."""
    sizes = np.abs(slopes)
    rough = 1.5 * np.median(sizes, axis=1, keepdims=True)
    return 1.5 * np.nanmedian(np.where(sizes <= 2.5 * rough, sizes, np.nan), axis=1)
