"""From masks and targets to attributions: one regression f(m) = b + Σ a(l,h)·m(l,h) for each example.

a(l,h) is the attribution of a head: what the target gains when the head is intact rather than ablated, averaged over the states of the other
heads. Kim et al. 2025 (arXiv 2509.17588, head attribution) after COAR (Shah, Ilyas and Madry 2024, arXiv 2404.11534).

Which average is the *estimand*, and the masks decide it. Where every head is intact with probability q independently of the others, the
coefficient is E[f | head intact] - E[f | head ablated], the q-weighted Banzhaf value: at q = 0.5 every set of other heads counts the same (the
Banzhaf value), near 1 hardly more than one other head is missing (the single-head effect is the limit), near 0 hardly one is there. The
Shapley value averages over all q alike; it needs masks of every size (:mod:`headflow.attribution.shapley`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from headflow.attribution.gradients import doubt, mean_gradient, unsteadiness
from headflow.attribution.masks import in_complementary_pairs
from headflow.attribution.prior import ridge_from
from headflow.attribution.ridge import ridge
from headflow.errors import HeadflowError
from headflow.seeds import generator

Estimator = Literal["auto", "ridge", "lasso", "foldover", "prior", "gradient"]
Estimand = Literal["banzhaf", "shapley"]


@dataclass(frozen=True)
class Attribution:
    """A fitted regression for a batch of examples; for a single example every ``*examples`` axis is absent.

    ``penalty_`` is in the units of its estimator: ridge, foldover and prior on masks coded ±1, lasso on standardised masks; 0 where there is none.
    ``degrees_of_freedom_`` are those of the intervals; infinite where the error is averaged over all that is not known of it.
    ``held_out_*`` are None if no held-out masks were given.
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


def resolve_estimator(estimator: Estimator, masks: Bool[np.ndarray, "masks layers heads"], *, gradients: bool = False) -> str:
    """The estimator behind ``auto``; 'single' where every mask ablates at most one head.

    Where there are ``gradients``, prior. Else with fewer than two masks a head lasso does best; from there on foldover if the masks come in
    complementary pairs, else ridge.

    Raises:
        HeadflowError: an unknown estimator, or one that these masks cannot serve.
    """
    if estimator not in get_args(Estimator):
        raise HeadflowError(f"estimator = {estimator!r}: must be one of {', '.join(get_args(Estimator))}")
    if len(masks) and ((~masks).sum((1, 2)) <= 1).all():
        if estimator != "auto":
            raise HeadflowError(f"fit.estimator = {estimator!r}: masks that ablate one head each allow plain differences only; set it to 'auto'")
        return "single"
    paired = in_complementary_pairs(masks)
    if estimator == "foldover" and not paired:
        raise HeadflowError("fit.estimator = 'foldover': needs complementary pairs; set masks.design to 'foldover_hadamard' or the estimator to 'auto'")
    if estimator in ("prior", "gradient") and not gradients:
        raise HeadflowError(f"fit.estimator = {estimator!r}: needs gradients; set masks.corners to 2 or more")
    if estimator != "auto":
        return estimator
    if gradients:
        return "prior"
    if len(masks) < 2 * masks[0].size:
        return "lasso"
    return "foldover" if paired else "ridge"


def fit(
    masks: Bool[np.ndarray, "masks layers heads"], targets: Float[np.ndarray, "*examples masks"], *,
    estimator: str = "auto", gradients: Float[np.ndarray, "*examples corners layers heads"] | None = None,
    estimand: Estimand = "banzhaf", ends: tuple[Float[np.ndarray, "*examples"], Float[np.ndarray, "*examples"]] | None = None,
    weights: Float[np.ndarray, "masks"] | None = None,
    held_out: tuple[Bool[np.ndarray, "held layers heads"], Float[np.ndarray, "*examples held"]] | None = None,
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
        prior: ridge (on half-differences, where masks come in complementary pairs) pulled to the mean gradient instead of to zero; see
            :mod:`headflow.attribution.prior`. Consistent whatever the gradient.
        gradient: the mean gradient alone; masks give the intercept and the standard errors. Biased where the target is not linear in a gate:
            the masks tell by how much, and where they are few, the intervals are wide; see :mod:`headflow.attribution.gradients`.
        auto: see :func:`resolve_estimator`. Masks that ablate one head each are read as plain differences from the intact mask.

    Standard errors are root mean square errors: over the draw of masks and corners, and over what shrinkage or the bias of a gradient may hide.
    Ridge, foldover, prior and gradient: averaged over all penalties by how well they explain the targets
    (:mod:`headflow.attribution.posterior`), with sampling errors that allow for uneven noise (HC2: J. G. MacKinnon and H. White, J. Econometrics 29,
    1985); the pairs are the units where masks come in pairs. Their 95 % intervals hold 90 to 99 % of planted effects (tests/attribution); from half as many
    Bernoulli masks as heads, ridge without gradients holds fewer of the largest. A gradient's are on the wide side. A foldover with no more pairs than
    heads leaves no residual: the error is then the pseudo standard error of its effects (R. V. Lenth, Technometrics 31, 1989), too large if most heads
    matter, and what each slope loses. Lasso: bootstrap over masks (pairs, where they come in pairs) at the chosen penalty, plus the squared pull
    of the penalty. Single: 0, as nothing is drawn.

    Args:
        gradients: ∂f/∂gate at corners in consecutive pairs, drawn for the same estimand as the masks; target units.
        estimand: ``shapley`` for masks of the design 'kernel', fitted with the constraint that attributions add up to the total effect.
        ends: shapley only: targets with all heads intact and with all ablated.
        weights: importance of each mask (foldover and prior on complementary pairs only; both masks of a pair alike), such as
            :func:`headflow.attribution.shapley.banzhaf_weights`.
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
    if gradients is not None:
        gradients = _checked_gradients(gradients, masks, batch, names)
    resolved = "single" if estimator == "single" else resolve_estimator(estimator, masks, gradients=gradients is not None)
    still = resolved == "gradient"
    if resolved in ("foldover", "prior", "gradient") and in_complementary_pairs(masks):
        solved = _fit_pairs(masks, batch, None if resolved == "foldover" else gradients, _totals(estimand, ends, batch), weights, standard_errors, still)
    elif estimand == "shapley":
        raise HeadflowError(f"estimand 'shapley': estimator {resolved!r} cannot give it; use design 'kernel' with estimator 'foldover', 'prior' or 'auto'")
    elif weights is not None:
        raise HeadflowError(f"weighted masks: estimator {resolved!r} takes none; use complementary pairs with 'foldover' or 'prior'")
    elif resolved in ("prior", "gradient"):
        solved = _fit_prior(masks, batch, gradients, standard_errors, still)
    else:
        solved = {"ridge": _fit_ridge, "lasso": _fit_lasso, "single": _fit_single}[resolved](masks, batch, seed, standard_errors)
    coefficients, errors, intercept, penalty, freedom = solved
    shape = (len(batch), *masks.shape[1:])
    arrays = [coefficients.reshape(shape), errors.reshape(shape), intercept, penalty, freedom]
    if held_out is not None:
        others, actual = held_out[0], _checked(*held_out, names, "held-out")
        fitted = Attribution(resolved, *arrays)
        arrays += goodness(actual, fitted.predict(others))
    return Attribution(resolved, *(array[0] if alone else array for array in arrays))


def in_order(parts: Sequence[tuple[np.ndarray, Attribution]]) -> Attribution:
    """Fits of different examples as one: each part comes with the places of its examples.

    Raises:
        HeadflowError: the parts were fitted by different estimators.
    """
    if len({part.estimator_ for _, part in parts}) > 1:
        raise HeadflowError(f"examples were fitted by different estimators ({', '.join(sorted({part.estimator_ for _, part in parts}))}); name fit.estimator")
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    arrays = {}
    for field in fields(Attribution)[1:]:
        values = [getattr(part, field.name) for _, part in parts]
        arrays[field.name] = None if values[0] is None else np.concatenate(values)[order]
    return Attribution(parts[0][1].estimator_, **arrays)


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
    slopes, errors, penalty, freedom = ridge(signs - means, targets - middle[:, None], 1, standard_errors)
    return 2 * slopes, 2 * errors, middle - slopes @ (means + 1), penalty, freedom


def _fit_pairs(masks, targets, gradients, totals, weights, standard_errors, still):
    """Foldover, prior and gradient on complementary pairs, for either estimand: regression of half-differences on ±1-coded masks."""
    paired = len(masks) // 2 * 2
    first, second = targets[:, 0:paired:2], targets[:, 1:paired:2]
    signs, differences = _signs(masks[0:paired:2]), (first - second) / 2
    total, settled, share = signs.shape[1], 0.0, np.zeros((len(targets), 1))
    rows = np.ones(len(signs)) if weights is None else weights[0:paired:2] / weights[0:paired:2].mean()
    middle = ((first + second) / 2 * rows).mean(1)
    if totals is not None:
        # φ = total/n + ψ with Σψ = 0: take the known part off the differences and, as ψ is orthogonal to it, off the masks.
        share = totals[:, None] / (2 * total)
        differences = differences - share * signs.sum(1)
        signs, settled = signs - signs.mean(1, keepdims=True), 1 / total
    signs, differences = signs * np.sqrt(rows)[:, None], differences * np.sqrt(rows)
    if gradients is None:
        slopes, errors, penalty, freedom = ridge(signs, differences, 0, standard_errors, settled=settled)
    else:
        prior, scales = mean_gradient(gradients)[0], unsteadiness(gradients)
        (unsure, least), stays = doubt(gradients), prior / 2
        if totals is not None:
            # Scales of their own would set a representative apart that does not add up to zero, so all heads are pulled alike.
            prior, scales = prior - prior.mean(1, keepdims=True), np.ones_like(prior)
        slopes, errors, penalty, freedom = ridge_from(
            prior / 2, unsure / 2, least / 4, scales, signs, differences, 0, standard_errors, settled=settled, still=still
        )  # fmt: skip
    if totals is not None:
        slopes = slopes - slopes.mean(1, keepdims=True) + share
    if still:  # gradients need not add up to the total effect, and by how much they do not is known
        errors = np.hypot(errors, (slopes - stays).mean(1, keepdims=True)) if standard_errors else errors
        slopes, penalty = stays, np.zeros(len(targets))
    return 2 * slopes, 2 * errors, middle - slopes.sum(1), penalty, freedom


def _fit_prior(masks, targets, gradients, standard_errors, still):
    signs, prior, (unsure, least) = _signs(masks), mean_gradient(gradients)[0], doubt(gradients)
    means, middle = signs.mean(0), targets.mean(1)
    slopes, errors, penalty, freedom = ridge_from(
        prior / 2, unsure / 2, least / 4, unsteadiness(gradients), signs - means, targets - middle[:, None], 1, standard_errors, still=still
    )  # fmt: skip
    penalty = np.zeros_like(penalty) if still else penalty
    return 2 * slopes, 2 * errors, middle - slopes @ (means + 1), penalty, freedom


def _totals(estimand: str, ends, targets: np.ndarray) -> Float[np.ndarray, "examples"] | None:
    """f(all intact) - f(all ablated), which Shapley values add up to; None for other estimands."""
    if estimand not in get_args(Estimand):
        raise HeadflowError(f"estimand = {estimand!r}: must be one of {', '.join(get_args(Estimand))}")
    if estimand == "banzhaf":
        return None
    if ends is None:
        raise HeadflowError("estimand 'shapley': needs `ends`, the targets with all heads intact and with all ablated")
    intact, ablated = (np.atleast_1d(np.asarray(end, float)) for end in ends)
    if intact.shape != (len(targets),) or ablated.shape != intact.shape or not np.isfinite(intact - ablated).all():
        raise HeadflowError(f"estimand 'shapley': `ends` has to hold two finite targets for each of the {len(targets)} examples")
    return intact - ablated


def _checked_gradients(gradients: np.ndarray, masks: np.ndarray, targets: np.ndarray, names: Sequence[str] | None) -> np.ndarray:
    gradients = np.asarray(gradients)
    gradients = gradients[None] if gradients.ndim == 3 else gradients
    if gradients.ndim != 4 or len(gradients) != len(targets) or gradients.shape[2:] != masks.shape[1:]:
        raise HeadflowError(f"gradients: expected [{len(targets)} examples, corners, {masks.shape[1]}, {masks.shape[2]}], got {list(gradients.shape)}")
    wrong = np.argwhere(~np.isfinite(gradients).all((2, 3)))
    if len(wrong):
        example, corner = wrong[0]
        raise HeadflowError(f"example {names[example] if names is not None else example}: its gradient at corner {corner} is not finite; try a wider dtype")
    return gradients


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


def _fit_lasso(masks, targets, seed, standard_errors, draws: int = 50):
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LassoCV, lasso_path

    intact = masks.reshape(len(masks), -1).astype(float)
    means, spreads = intact.mean(0), intact.std(0)
    spreads[spreads == 0] = 1.0  # a head in one state throughout: its column is zero and stays without effect
    standard = (intact - means) / spreads
    middle = targets.mean(1)
    weights, penalty = np.zeros((len(targets), standard.shape[1])), np.zeros(len(targets))
    vary = np.flatnonzero(~_constant(targets))
    # What comes here has been checked: checking it again for every redrawn sample would take longer than the fits.
    with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
        warnings.simplefilter("ignore", ConvergenceWarning)  # on the smallest penalties of the path, which lose the cross-validation
        for example in vary:
            model = LassoCV(alphas=30, cv=min(5, len(masks)), max_iter=5000).fit(standard, targets[example])
            weights[example], penalty[example] = model.coef_, model.alpha_
        redrawn = np.zeros((draws, *weights.shape))
        for draw in range(draws if standard_errors else 0):
            rows = _resampled(masks, generator(seed, "lasso bootstrap", draw))
            columns = np.asfortranarray(standard[rows] - standard[rows].mean(0))
            gram = columns.T @ columns
            for example in vary:
                answer = targets[example, rows] - targets[example, rows].mean()
                path = lasso_path(
                    columns, answer, alphas=[penalty[example]], precompute=gram, Xy=columns.T @ answer, coef_init=weights[example], max_iter=5000,
                    check_input=False,
                )  # fmt: skip
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
