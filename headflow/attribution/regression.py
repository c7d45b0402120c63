"""From masks and targets to attributions: one regression f(m) = b + Σ a(l,h)·m(l,h) for each example.

a(l,h) is the attribution of a head: what the target gains when the head is intact rather than ablated, averaged over the states of the other
heads. Kim et al. 2025 (arXiv 2509.17588, head attribution) after COAR (Shah, Ilyas and Madry 2024, arXiv 2404.11534); at ablation
probability 0.5 it is the head's Banzhaf value.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from headflow.attribution.masks import in_complementary_pairs
from headflow.errors import HeadflowError
from headflow.seeds import generator

Estimator = Literal["auto", "ridge", "lasso", "foldover"]

# Penalties tried, relative to the sum of squares of an average column: from least squares to no effect at all.
_PENALTIES = np.logspace(-10, 3, 53)
_TIE = 1e-6  # relative difference of leave-one-out errors that rounding can make


@dataclass(frozen=True)
class Attribution:
    """A fitted regression for a batch of examples; for a single example every ``*examples`` axis is absent.

    ``penalty_`` is in the units of its estimator: ridge and foldover on masks coded ±1, lasso on standardised masks; 0 where there is none.
    ``degrees_of_freedom_`` are those left to judge the error by. ``held_out_*`` are None if no held-out masks were given.
    """

    estimator_: str
    attribution_: Float[np.ndarray, "*examples layers heads"]
    standard_error_: Float[np.ndarray, "*examples layers heads"]
    intercept_: Float[np.ndarray, "*examples"]
    penalty_: Float[np.ndarray, "*examples"]
    degrees_of_freedom_: Float[np.ndarray, "*examples"]
    held_out_r_: Float[np.ndarray, "*examples"] | None = None
    held_out_r2_: Float[np.ndarray, "*examples"] | None = None

    def predict(self, masks: Bool[np.ndarray, "masks layers heads"]) -> Float[np.ndarray, "*examples masks"]:
        """The target under other masks, in target units."""
        flat = self.attribution_.reshape(*self.attribution_.shape[:-2], -1)
        return self.intercept_[..., None] + flat @ masks.reshape(len(masks), -1).T.astype(float)

    def interval(self, confidence: float = 0.95) -> tuple[Float[np.ndarray, "*examples layers heads"], Float[np.ndarray, "*examples layers heads"]]:
        """Lower and upper ends of each attribution's confidence interval (Student's t), in target units."""
        from scipy.stats import t

        reach = t.ppf((1 + confidence) / 2, np.maximum(self.degrees_of_freedom_, 1.0))[..., None, None] * self.standard_error_
        return self.attribution_ - reach, self.attribution_ + reach


def resolve_estimator(estimator: Estimator, masks: Bool[np.ndarray, "masks layers heads"]) -> str:
    """The estimator behind ``auto``; 'single' where every mask ablates at most one head.

    With fewer than two masks a head lasso does best; from there on foldover if the masks come in complementary pairs, else ridge.

    Raises:
        HeadflowError: an unknown estimator, or one that these masks cannot serve.
    """
    if estimator not in get_args(Estimator):
        raise HeadflowError(f"estimator = {estimator!r}: must be one of {', '.join(get_args(Estimator))}")
    if ((~masks).sum((1, 2)) <= 1).all():
        if estimator != "auto":
            raise HeadflowError(f"fit.estimator = {estimator!r}: masks that ablate one head each allow plain differences only; set it to 'auto'")
        return "single"
    paired = in_complementary_pairs(masks)
    if estimator == "foldover" and not paired:
        raise HeadflowError("fit.estimator = 'foldover': needs complementary pairs; set masks.design to 'foldover_hadamard' or the estimator to 'auto'")
    if estimator != "auto":
        return estimator
    if len(masks) < 2 * masks[0].size:
        return "lasso"
    return "foldover" if paired else "ridge"


def fit(
    masks: Bool[np.ndarray, "masks layers heads"], targets: Float[np.ndarray, "*examples masks"], *,
    estimator: str = "auto", held_out: tuple[Bool[np.ndarray, "held layers heads"], Float[np.ndarray, "*examples held"]] | None = None,
    names: Sequence[str] | None = None, seed: int = 0, standard_errors: bool = True,
) -> Attribution:  # fmt: skip
    """Fit one linear model of the target to each example; all examples share the masks.

    Estimators:
        ridge: penalty by leave-one-out for each example (G. H. Golub, M. Heath and G. Wahba, *Generalized cross-validation as a method for
            choosing a good ridge parameter*, Technometrics 21, 1979), on one decomposition of the masks for all examples and penalties.
        foldover: ridge without intercept on half the difference of each complementary pair, which cancels every even-order interaction
            (G. E. P. Box and J. S. Hunter, *The 2^(k-p) fractional factorial designs*, Technometrics 3, 1961). Intercept from the pair means.
            An odd mask at the end is left out.
        lasso: on standardised masks, penalty by five-fold cross-validation, as in ContextCite (Cohen-Wang et al. 2024). Cost grows with each example.
        auto: see :func:`resolve_estimator`. Masks that ablate one head each are read as plain differences from the intact mask.

    Standard errors are over the draw of masks: what another draw would change. Ridge and foldover: heteroscedasticity-consistent, with
    each squared residual divided by the share of it that the fit leaves (HC2: J. G. MacKinnon and H. White, J. Econometrics 29, 1985), plus
    the expected squared bias of shrinkage (D. Nychka, JASA 83, 1988); the pairs are the units of foldover. A foldover with as
    many pairs as heads leaves no residual: the error is then the pseudo standard error of its effects (R. V. Lenth, Technometrics 31, 1989),
    too large if most heads matter. Lasso: bootstrap over masks (pairs, where they come in pairs) at the chosen penalty, plus the
    squared pull of the penalty. Single: 0, as nothing is drawn.

    Args:
        names: names of the examples, for messages.
        held_out: masks and targets that judge the fit: Pearson r and R². Both are nan for a target that does not vary; a prediction that
            does not vary has r = 0.
        seed: of the bootstrap.
        standard_errors: False leaves them 0 and saves their cost.

    Raises:
        HeadflowError: a target that is not finite (names the example and the mask), shapes that do not fit, fewer than 4 masks, or see
            :func:`resolve_estimator`.
    """
    alone = targets.ndim == 1
    batch = _checked(masks, targets, names, "fit")
    resolved = "single" if estimator == "single" else resolve_estimator(estimator, masks)
    solve = {"ridge": _fit_ridge, "foldover": _fit_foldover, "lasso": _fit_lasso, "single": _fit_single}[resolved]
    coefficients, errors, intercept, penalty, freedom = solve(masks, batch, seed, standard_errors)
    shape = (len(batch), *masks.shape[1:])
    arrays = [coefficients.reshape(shape), errors.reshape(shape), intercept, penalty, freedom]
    if held_out is not None:
        others, actual = held_out[0], _checked(*held_out, names, "held-out")
        fitted = Attribution(resolved, *arrays)
        arrays += goodness(actual, fitted.predict(others))
    return Attribution(resolved, *(array[0] if alone else array for array in arrays))


def goodness(
    actual: Float[np.ndarray, "examples masks"], predicted: Float[np.ndarray, "examples masks"]
) -> tuple[Float[np.ndarray, "examples"], Float[np.ndarray, "examples"]]:
    """Pearson r and R² of each row; see :func:`fit` for targets or predictions that do not vary."""
    flat, dull = _constant(actual), _constant(predicted)
    a = actual - actual.mean(1, keepdims=True)
    p = predicted - predicted.mean(1, keepdims=True)
    spread = (a**2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (a * p).sum(1) / np.sqrt(spread * (p**2).sum(1))
        r2 = 1 - ((actual - predicted) ** 2).sum(1) / spread
    r[dull] = 0.0
    r[flat], r2[flat] = np.nan, np.nan
    return r, r2


def correlations(a: Float[np.ndarray, "rows columns"], b: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows"]:
    """Pearson r of each row of ``a`` with the same row of ``b``; nan where either does not vary."""
    r, _ = goodness(a, b)
    r[_constant(b)] = np.nan
    return r


def _constant(rows: Float[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows"]:
    """Rows that vary by no more than the rounding of double precision."""
    return np.ptp(rows, axis=1) <= 1e-12 * np.abs(rows).max(1)


def _checked(masks: np.ndarray, targets: np.ndarray, names: Sequence[str] | None, what: str) -> Float[np.ndarray, "examples masks"]:
    if masks.ndim != 3 or masks.dtype != bool:
        raise HeadflowError(f"{what} masks: expected booleans [masks, layers, heads], got {masks.dtype} {list(masks.shape)}")
    batch = np.atleast_2d(np.asarray(targets, float))
    if batch.ndim != 2 or batch.shape[1] != len(masks):
        raise HeadflowError(f"{what} targets: expected [examples, {len(masks)}] or [{len(masks)}], got {list(np.shape(targets))}")
    if len(masks) < 4 and what == "fit":
        raise HeadflowError(f"{len(masks)} fit masks: at least 4 are needed")
    wrong = np.argwhere(~np.isfinite(batch))
    if len(wrong):
        example, mask = wrong[0]
        name = names[example] if names is not None else example
        raise HeadflowError(
            f"example {name}: its target under {what} mask {mask} is {batch[example, mask]}; look for overflow in the model (a wider dtype helps)"
            f" or leave the example out"
        )
    return batch


def _signs(masks: Bool[np.ndarray, "masks layers heads"]) -> Float[np.ndarray, "masks total"]:
    return np.where(masks.reshape(len(masks), -1), 1.0, -1.0)


def _fit_ridge(masks, targets, seed, standard_errors):
    signs = _signs(masks)
    means, middle = signs.mean(0), targets.mean(1)
    slopes, errors, penalty, freedom = _ridge(signs - means, targets - middle[:, None], 1, standard_errors)
    return 2 * slopes, 2 * errors, middle - slopes @ (means + 1), penalty, freedom


def _fit_foldover(masks, targets, seed, standard_errors):
    paired = len(masks) // 2 * 2
    first, second = targets[:, 0:paired:2], targets[:, 1:paired:2]
    slopes, errors, penalty, freedom = _ridge(_signs(masks[0:paired:2]), (first - second) / 2, 0, standard_errors)
    return 2 * slopes, 2 * errors, ((first + second) / 2).mean(1) - slopes.sum(1), penalty, freedom


def _fit_single(masks, targets, seed, standard_errors):
    flat = masks.reshape(len(masks), -1)
    whole = flat.all(1)
    if not whole.any() or not (~flat).any(0).all():
        raise HeadflowError(
            f"masks that ablate one head each need the intact mask and one mask for each of the {flat.shape[1]} heads; set masks.count to {flat.shape[1]}"
        )
    intact = targets[:, np.argmax(whole)]
    effects = intact[:, None] - targets[:, np.argmax(~flat, axis=0)]
    none = np.zeros(len(targets))
    return effects, np.zeros_like(effects), intact - effects.sum(1), none, none


def _ridge(
    design: Float[np.ndarray, "masks total"], targets: Float[np.ndarray, "examples masks"], used: int, standard_errors: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ridge without intercept, penalty by leave-one-out for each example: slopes, errors [examples, total], penalties, degrees of freedom.

    ``used`` = 1 if masks and targets were centred, which takes one degree of freedom: 1/M of each mask's own weight.
    Written out rather than left to sklearn's RidgeCV, because the standard errors need the same decomposition, and because a
    saturated orthogonal design gives every penalty the same leave-one-out error: the smallest one must win then, not rounding.
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
    penalties = _PENALTIES * (singular**2).sum() / design.shape[1]
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
        pull = ((right.T**2) @ (kept**2) + 1 - (right**2).sum(0)) / penalties[choice]
        errors[mine] = np.sqrt(scatter + pull[:, None] * noise).T
    return slopes, errors, penalties[chosen], freedom


def _pseudo_error(slopes: Float[np.ndarray, "examples total"]) -> Float[np.ndarray, "examples"]:
    """Lenth's pseudo standard error: a trimmed median of effects of which most are taken to be noise."""
    sizes = np.abs(slopes)
    rough = 1.5 * np.median(sizes, axis=1, keepdims=True)
    return 1.5 * np.nanmedian(np.where(sizes <= 2.5 * rough, sizes, np.nan), axis=1)


def _fit_lasso(masks, targets, seed, standard_errors, draws: int = 50):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LassoCV, lasso_path

    intact = masks.reshape(len(masks), -1).astype(float)
    means, spreads = intact.mean(0), intact.std(0)
    spreads[spreads == 0] = 1.0  # a head in one state throughout: its column is zero and stays without effect
    standard = (intact - means) / spreads
    middle = targets.mean(1)
    weights, penalty = np.zeros((len(targets), standard.shape[1])), np.zeros(len(targets))
    vary = np.flatnonzero(~_constant(targets))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # on the smallest penalties of the path, which lose the cross-validation
        for example in vary:
            model = LassoCV(alphas=30, cv=min(5, len(masks)), max_iter=5000).fit(standard, targets[example])
            weights[example], penalty[example] = model.coef_, model.alpha_
        redrawn = np.zeros((draws, *weights.shape))
        for draw in range(draws if standard_errors else 0):
            rows = _resampled(masks, generator(seed, "lasso bootstrap", draw))
            columns = standard[rows] - standard[rows].mean(0)
            gram = columns.T @ columns
            for example in vary:
                answer = targets[example, rows] - targets[example, rows].mean()
                path = lasso_path(columns, answer, alphas=[penalty[example]], precompute=gram, Xy=columns.T @ answer, coef_init=weights[example], max_iter=5000)
                redrawn[draw, example] = path[1][:, 0]
    errors = np.sqrt(redrawn.var(0, ddof=1) + penalty[:, None] ** 2) if standard_errors else np.zeros_like(weights)
    slopes = weights / spreads
    return slopes, errors / spreads, middle - slopes @ means, penalty, np.maximum(len(masks) - 1.0 - (weights != 0).sum(1), 1.0)


def _resampled(masks: Bool[np.ndarray, "masks layers heads"], random: np.random.Generator) -> np.ndarray:
    """Rows of one bootstrap draw; complementary pairs are drawn together, as they were made together."""
    if not in_complementary_pairs(masks):
        return random.integers(0, len(masks), len(masks))
    pairs = random.integers(0, len(masks) // 2, len(masks) // 2)
    return (2 * pairs[:, None] + np.arange(2)).ravel()
