"""How wrong a ridge estimate may be, when a few masks have to tell how much of the target is signal and how much is noise.

Ridge is the best guess for slopes β ~ N(0, τ²) and noise e ~ N(0, σ²) at the penalty λ = σ²/τ²; its error at a known λ is in D. Nychka, *Bayesian
confidence intervals for smoothing splines*, JASA 83, 1988. The penalty that leave-one-out picks is one draw of luck, though: where masks are
fewer than about two a head, or orthogonal, hardly anything tells λ, and errors computed as if it were known are too small. So every penalty is
weighed by how well it explains the targets (its marginal likelihood, σ² integrated out under the prior 1/σ²; G. Wahba, *A comparison of GCV and GML
for choosing the smoothing parameter*, Annals of Statistics 13, 1985), and the mean square error of the one estimate is averaged over all. The share of
variance that is signal, ω = τ²·Σs² / (τ²·Σs² + Mσ²) with the singular values s of M masks, has Jeffreys' prior for a share, Beta(½, ½).
"""

import numpy as np
from jaxtyping import Float

NEGLIGIBLE = 1e-4  # penalties that weigh less than this get no weight at all

# A slope that shrinkage hides is given away by what it shows: estimates whose square is so many times what the posterior expects are not taken to be drawn
# from the same distribution as the rest. Plain slopes are a few large ones among many small ones, so it is judged early; what is left of slopes
# when a gradient is taken off is more even. Chosen by simulation: coverage of heads that carry, and of all, are in tests/attribution.
OUTLYING_SLOPE, OUTLYING_DEVIATION = 1.0, 4.0


def weigh(
    squares: Float[np.ndarray, "rank #examples"], projected: Float[np.ndarray, "rank examples"], beyond: Float[np.ndarray, "examples"],
    penalties: Float[np.ndarray, "grid #examples"], count: int, least: Float[np.ndarray, "examples"],
) -> tuple[Float[np.ndarray, "grid examples"], Float[np.ndarray, "grid examples"]]:  # fmt: skip
    """Posterior weight of each penalty, and the posterior mean of σ² under it.

    Args:
        squares: squared singular values of the masks.
        projected: squared targets along the left singular vectors.
        beyond: sum of squares of the targets that no slopes explain.
        penalties: evenly spaced on a logarithmic scale.
        count: degrees of freedom of the targets: masks, less one if they were centred.
        least: what τ² is known to be no less than.
    """
    from scipy.special import gammainc

    log_weights, total = (np.empty((len(penalties), projected.shape[1])) for _ in range(2))
    for row, left, penalty in zip(log_weights, total, penalties, strict=True):
        kept = penalty / (squares + penalty)
        row[:] = np.log(kept).sum(0)
        left[:] = (kept * projected).sum(0)
    total = np.maximum(total + beyond, 1e-300)
    share = squares.sum(0) / (squares.sum(0) + count * penalties)
    log_weights = (log_weights + np.log(share) + np.log1p(-share) - count * np.log(total)) / 2
    noise, floor = total / max(count - 2, 1), penalties * least
    if floor.any():  # σ² is inverse gamma, cut off below λ·least
        with np.errstate(divide="ignore"):
            half = total / (2 * floor)
        possible, above = gammainc(count / 2, half), gammainc(max(count / 2 - 1, 0.5), half)
        log_weights += np.log(np.maximum(possible, 1e-300))
        noise = np.maximum(noise * np.divide(above, possible, out=np.ones_like(total), where=possible > 1e-12), floor)
    weights = np.exp(log_weights - log_weights.max(0))
    weights[weights < NEGLIGIBLE * weights.sum(0)] = 0.0  # for each example by itself, so that none depends on its neighbours
    return weights / weights.sum(0), noise


def outlying(
    squared: Float[np.ndarray, "*shape"], expected: Float[np.ndarray, "*shape"], doubt: Float[np.ndarray, "*shape"] | None
) -> Float[np.ndarray, "*shape"]:
    """The part of squared slopes by which they stand out of what is expected of them."""
    return np.maximum(squared - (OUTLYING_SLOPE if doubt is None else OUTLYING_DEVIATION) * expected, 0.0)
