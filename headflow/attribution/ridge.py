"""Ridge regression of many examples on one design: penalty by leave-one-out, standard errors over the draw of masks and over what it may hide.

Written out rather than left to sklearn's RidgeCV, because the standard errors need the same decomposition, and because a saturated
orthogonal design gives every penalty the same leave-one-out error: the smallest one must win then, not rounding.
"""

import numpy as np
from jaxtyping import Float

from headflow.attribution.posterior import outlying, weigh
from headflow.errors import HeadflowError

# Penalties tried, relative to the sum of squares of an average column: from least squares to no effect at all.
PENALTIES = np.logspace(-10, 3, 53)
_TIE = 1e-6  # relative difference of leave-one-out errors that rounding can make


def ridge(
    design: Float[np.ndarray, "masks total"], targets: Float[np.ndarray, "examples masks"], used: int, standard_errors: bool, *,
    doubt: Float[np.ndarray, "examples total"] | None = None, least: Float[np.ndarray, "examples"] | None = None, settled: float = 0.0,
    still: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Ridge without intercept, penalty by leave-one-out for each example: slopes, errors [examples, total], penalties, degrees of freedom.

    Errors are root mean square errors, averaged over all that the penalty might have been (:mod:`headflow.attribution.posterior`), so that their
    intervals are those of the normal distribution: the degrees of freedom are infinite. Where no residual is left and nothing is known beforehand, they
    are pseudo standard errors, with degrees of freedom of their own.

    Args:
        used: 1 if masks and targets were centred, which takes one degree of freedom: 1/M of each mask's own weight.
        doubt: variance that each slope is known to have before the masks are looked at; where shrinkage hides a slope, its error is no less.
        least: variance that all slopes are known to have together, on average.
        settled: share of every coordinate that lies in directions known beforehand, which add no error though the design says nothing of them.
        still: leave all slopes at zero, and say how wrong that is.
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

    unexplained = (beyond**2).sum(0)
    unexplained[unexplained < 1e-12 * (targets**2).sum(1)] = 0.0
    least = np.zeros(len(targets)) if least is None else least
    power = right.T**2
    unseen = np.maximum(1 - settled - power.sum(1), 0.0)[:, None]
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
        lost = np.maximum(1 - settled - power @ (1 - kept), 0.0)  # share of each slope that its own estimate does not show
        if left_over.sum() < 0.5 and doubt is None:
            pseudo = _pseudo_error(slopes[mine])[:, None]
            errors[mine] = np.sqrt(pseudo**2 + (lost / np.maximum(1 - lost, 1e-9) * slopes[mine]) ** 2)
            freedom[mine] = max(design.shape[1] / 3, 1.0)
            continue
        freedom[mine] = np.inf
        posterior, noise = weigh((singular**2)[:, None], projected[:, mine] ** 2, unexplained[mine], penalties[:, None], _distinct(design) - used, least[mine])
        uneven = _unevenness(gains @ left.T, beyond[:, mine] + left @ (kept[:, None] * projected[:, mine]), left_over)
        square = np.zeros((design.shape[1], len(mine)))
        for other, weight, variance in zip(penalties, posterior, noise, strict=True):
            if not weight.any():
                continue
            shown = 0.0 if still else singular / (singular**2 + penalties[choice])
            apart = right.T @ ((shown - singular / (singular**2 + other))[:, None] * projected[:, mine])
            spread = power @ (1 / (singular**2 + other))[:, None] + unseen / other
            square += weight * (apart**2 + variance * spread * uneven)
        signal, sampling = (posterior * noise / penalties[:, None]).sum(0), (posterior * noise).sum(0) * (gains**2).sum(1)[:, None] * uneven
        lost, hidden = lost[:, None], (power @ kept**2)[:, None] + unseen
        expected = signal * ((1 - lost) ** 2 + np.maximum(hidden - lost**2, 0)) + sampling
        # A slope hardly seen says more of others than of itself, so it is not scaled up by more than ten.
        loud = outlying(slopes[mine].T ** 2, expected, doubt) / np.maximum(1 - lost, 0.1) ** 2
        if doubt is not None:
            square = np.maximum(square, (1.0 if still else hidden) * doubt[mine].T)
        errors[mine] = np.sqrt(square + (1.0 if still else lost**2) * loud).T
    if still:
        slopes[:] = 0.0
    return slopes, errors, penalties[chosen], freedom


def orthogonal_ridge(
    signs: Float[np.ndarray, "masks total"], targets: Float[np.ndarray, "examples masks"], scales: Float[np.ndarray, "examples total"],
    standard_errors: bool, *, doubt: Float[np.ndarray, "examples total"], least: Float[np.ndarray, "examples"], still: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """What ``ridge(signs * scales[e], targets[[e]])`` gives for each example e, where the columns of ``signs`` (±1) are orthogonal.

    Slopes, errors and doubts are those of the unscaled columns. There the decomposition is the design itself and every mask has the same
    weight in its own prediction, so that a thousand heads cost as little as ten.
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
    errors = np.zeros_like(effects)
    lost = np.ones_like(kept) if still else kept
    if standard_errors:
        weights, noise = weigh(squares.T, count * effects.T**2, beyond, penalties, count, least)
        for other, weight, variance in zip(penalties, weights, noise, strict=True):
            if not weight.any():
                continue
            share = other[:, None] / (squares + other[:, None])
            errors += weight[:, None] * (((lost - share) * effects) ** 2 + (1 - share) * variance[:, None] / count)
        signal, sampling = (weights * noise / penalties).sum(0)[:, None] * scales**2, (weights * noise).sum(0)[:, None] / count
        errors = np.sqrt(np.maximum(errors, lost**2 * doubt) + lost**2 * outlying(effects**2, signal + sampling, doubt))
    freedom = np.full(len(targets), np.inf)
    return (1 - lost) * effects, errors, penalty, freedom


def _distinct(design: Float[np.ndarray, "masks total"]) -> int:
    """Masks that are neither equal nor opposite: the target is a function of the mask, and a mask run twice tells nothing new."""
    marks = np.abs(design @ np.random.default_rng(0).normal(size=design.shape[1]))
    return len(np.unique((marks / max(marks.max(), 1e-300)).round(10)))


def _unevenness(
    gains: Float[np.ndarray, "total masks"], residuals: Float[np.ndarray, "masks examples"], left_over: Float[np.ndarray, "masks"]
) -> Float[np.ndarray, "total examples"] | float:
    """Sampling variance of each slope where the noise may differ from mask to mask, over that of even noise; 1 where no residual is left.

    HC2: J. G. MacKinnon and H. White, *Some heteroskedasticity-consistent covariance matrix estimators with improved finite sample properties*,
    J. Econometrics 29, 1985.
    """
    if left_over.sum() < 0.5:
        return 1.0
    even = (gains**2).sum(1)[:, None] * ((residuals**2).sum(0) / left_over.sum())
    found = np.divide((gains**2) @ (residuals**2 / np.maximum(left_over, 1e-9)[:, None]), even, out=np.ones_like(even), where=even > 0)
    return np.clip(found, 0.2, 5.0)  # beyond that it is a mask whose residual the fit has used up, divided by nearly nothing


def _pseudo_error(slopes: Float[np.ndarray, "examples total"]) -> Float[np.ndarray, "examples"]:
    """Lenth's pseudo standard error: a trimmed median of effects of which most are taken to be noise."""
    sizes = np.abs(slopes)
    rough = 1.5 * np.median(sizes, axis=1, keepdims=True)
    return 1.5 * np.nanmedian(np.where(sizes <= 2.5 * rough, sizes, np.nan), axis=1)
