"""Pairs of heads that compensate for or need each other: the second-order terms that a sum over heads cannot hold.

The interaction of heads i and j is their second difference, f(both) - f(i alone) - f(j alone) + f(neither), averaged over the states of all other
heads (M. Grabisch and M. Roubens, *An axiomatic approach to the concept of interaction among players in cooperative games*, Int. J. Game Theory 28,
1999; at ablation probability 0.5 the Banzhaf interaction index). Negative: either head does what both do (OR), they *compensate* for each other.
Positive: neither does alone what both do (AND), they *need* each other. With masks m of independent bits kept with probability π it is the coefficient
of z = (m_i - π)(m_j - π), because all such products are uncorrelated with each other, with the heads themselves and with every higher order.
Masks of the Shapley kernel are no such bits: their sizes tie all products together, and most of them say next to nothing of a pair, so that the test
below would find pairs where there are none. With them no pair is tested.

The examples share their masks, so examples are no independent witnesses of a pair: whatever another interaction leaks into it under these masks, it
leaks for all of them. Masks are the units here, and the response is the mean target over examples, whose interaction is the examples' mean
interaction. False discoveries are kept down by sample splitting (D. R. Cox, *A note on data-splitting*, Biometrika 62, 1975):

1. on the *fit* masks, every pair is scored against the residuals of the first-order fit, and a lasso chooses among the best. Where masks come in
   complementary pairs the half-sums (f(m) + f(not m)) / 2 are used, which hold exactly the even-order terms. An orthogonal design may alias pairs
   completely with one another, so nothing is claimed from these masks;
2. on the *held-out* masks, independent bits that neither fit nor choice has seen, the chosen pairs are estimated together by least squares
   with standard errors that allow for any spread of the rest (HC2: J. G. MacKinnon and H. White, J. Econometrics 29, 1985), and the false-discovery rate is
   held by Y. Benjamini and Y. Hochberg's procedure (J. R. Stat. Soc. B 57, 1995) over the chosen pairs alone. Estimates and intervals
   are free of the choice's luck, since it was made on other masks.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from headflow.attribution.masks import in_complementary_pairs
from headflow.attribution.regression import Attribution, goodness
from headflow.errors import HeadflowError
from headflow.tables.interactions import INTERACTION_FITS, INTERACTIONS

COMPENSATE, NEED, UNCLEAR = "compensate", "need each other", "unclear"

_CANDIDATES = 300  # pairs that the lasso chooses from: more than the held-out masks could tell apart
_MASKS_A_PAIR = 5  # held-out masks for each pair that is tested, so that least squares keeps freedom to judge its error
_NOTHING = 1e-9  # residuals smaller than this share of the target's spread are rounding


@dataclass(frozen=True)
class Interactions:
    """The pairs tested, by falling size of their effect; effects in target units.

    ``heads_`` numbers heads layer by layer. ``example_effect_`` are the pairs' effects in single examples, from the same held-out masks, so
    their noise is shared. ``plain_r_`` and ``pairs_r_`` are held-out correlations of the first-order fit alone and with the chosen pairs added, whose
    terms come from the fit masks, so that neither has seen the held-out masks.
    """

    layers: int
    per_layer: int
    level: float
    heads_: Int[np.ndarray, "pairs 2"]
    effect_: Float[np.ndarray, "pairs"]
    standard_error_: Float[np.ndarray, "pairs"]
    low_: Float[np.ndarray, "pairs"]
    high_: Float[np.ndarray, "pairs"]
    p_: Float[np.ndarray, "pairs"]
    q_: Float[np.ndarray, "pairs"]
    example_effect_: Float[np.ndarray, "examples pairs"]
    scored_: int
    plain_r_: Float[np.ndarray, "examples"]
    plain_r2_: Float[np.ndarray, "examples"]
    pairs_r_: Float[np.ndarray, "examples"]
    pairs_r2_: Float[np.ndarray, "examples"]

    @property
    def found_(self) -> Bool[np.ndarray, "pairs"]:
        """The pairs whose q-value is at most the level."""
        return self.q_ <= self.level

    @property
    def kind_(self) -> list[str]:
        """What each pair does: COMPENSATE, NEED, or UNCLEAR where its q-value is above the level."""
        return [UNCLEAR if not found else COMPENSATE if effect < 0 else NEED for found, effect in zip(self.found_, self.effect_, strict=True)]

    def table(self) -> pl.DataFrame:
        """As an INTERACTIONS table."""
        layer, head = np.divmod(self.heads_, self.per_layer)
        same = (np.sign(self.example_effect_) == np.sign(self.effect_)).mean(0) if len(self.example_effect_) else np.zeros(len(self.effect_))
        columns = {
            "layer": layer[:, 0], "head": head[:, 0], "other_layer": layer[:, 1], "other_head": head[:, 1], "effect": self.effect_,
            "standard_error": self.standard_error_, "low": self.low_, "high": self.high_, "p": self.p_, "q": self.q_, "kind": self.kind_, "same_sign": same,
        }  # fmt: skip
        return pl.DataFrame(columns, schema={name: column.dtype for name, column in INTERACTIONS.columns.items()})

    def fits_table(self, ids: Sequence[str]) -> pl.DataFrame:
        """The held-out fit of each example with and without pairs as an INTERACTION_FITS table; undefined correlations are null."""
        columns = {
            "id": list(ids), "held_out_r": self.plain_r_, "held_out_r2": self.plain_r2_, "held_out_r_pairs": self.pairs_r_,
            "held_out_r2_pairs": self.pairs_r2_,
        }  # fmt: skip
        return pl.DataFrame(columns, schema={name: column.dtype for name, column in INTERACTION_FITS.columns.items()}).fill_nan(None)

    def metrics(self) -> dict[str, float | int | None]:
        """Counts and mean held-out fits, for a metrics file."""
        kinds = self.kind_
        return {
            "pairs_scored": self.scored_,
            "pairs_tested": len(self.effect_),
            "pairs_compensating": kinds.count(COMPENSATE),
            "pairs_needing_each_other": kinds.count(NEED),
            "false_discovery_rate": self.level,
            "mean_held_out_r": _mean(self.plain_r_),
            "mean_held_out_r_with_pairs": _mean(self.pairs_r_),
            "mean_held_out_r2": _mean(self.plain_r2_),
            "mean_held_out_r2_with_pairs": _mean(self.pairs_r2_),
        }


def find_interactions(
    fitted: Attribution, masks: Bool[np.ndarray, "masks layers heads"], targets: Float[np.ndarray, "examples masks"],
    held_out: tuple[Bool[np.ndarray, "held layers heads"], Float[np.ndarray, "examples held"]], *,
    ablation_probability: float = 0.5, estimand: str = "banzhaf", level: float = 0.05, most: int = 100, confidence: float = 0.95,
) -> Interactions:  # fmt: skip
    """Choose pairs of heads on the fit masks, test them on the held-out masks; see the module. Nothing is drawn at random.

    Args:
        fitted: the first-order fit of all these examples, from these masks.
        masks, targets: those of the fit, of any design that ablates many heads at once. If every mask ablates at most one head,
            no two heads are ever ablated together, and nothing is found.
        held_out: masks of independent bits (design bernoulli with ``ablation_probability``) and their targets.
        estimand: that of the masks; for ``shapley`` nothing is tested, see the module.
        level: false-discovery rate held among the pairs found.
        most: pairs tested at most; also at most one for every five held-out masks.
        confidence: of each pair's interval, for itself.

    Raises:
        HeadflowError: fewer than 20 held-out masks, or shapes that do not fit.
    """
    others, actual = held_out
    count, layers, per_layer = masks.shape
    examples = len(targets)
    for what, some, values in (("fit", masks, targets), ("held-out", others, actual)):
        if some.shape[1:] != (layers, per_layer) or values.shape != (examples, len(some)):
            raise HeadflowError(f"{what} masks {list(some.shape)} and targets {list(values.shape)} misfit {layers} × {per_layer} heads of {examples} examples")
    if len(others) < 20:
        raise HeadflowError(f"{len(others)} held-out masks: interactions need at least 20; set masks.held_out")
    keep = 1.0 - ablation_probability
    seen, unseen = _centred(masks, keep), _centred(others, keep)
    residuals = targets - fitted.predict(masks)
    if in_complementary_pairs(masks):
        paired = count // 2 * 2
        residuals, seen = (residuals[:, 0:paired:2] + residuals[:, 1:paired:2]) / 2, seen[0:paired:2]
    residuals = residuals - residuals.mean(1, keepdims=True)
    response = residuals.mean(0)

    chosen = np.empty((0, 2), int)
    telling = estimand != "shapley" and ((~masks).sum((1, 2)) > 1).any() and layers * per_layer > 1 and len(response) >= 10
    if telling and np.abs(response).max() > _NOTHING * np.ptp(targets, axis=1).max(initial=0.0):
        chosen = _choose(seen, response, min(most, len(others) // _MASKS_A_PAIR))

    plain = fitted.predict(others)
    left = actual - plain
    estimates, error, freedom = _least_squares(products(unseen, chosen), left)
    effect = estimates.mean(0)
    from scipy.stats import false_discovery_control, t

    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(error > 0, 2 * t.sf(np.abs(effect) / error, freedom), np.where(effect == 0, 1.0, 0.0))
    q = false_discovery_control(p) if len(p) else p
    reach = t.ppf((1 + confidence) / 2, freedom) * error
    improved = plain + _pair_terms(products(seen, chosen), residuals, products(unseen, chosen))
    order = np.argsort(-np.abs(effect), kind="stable")
    return Interactions(
        layers, per_layer, level, chosen[order], effect[order], error[order], (effect - reach)[order], (effect + reach)[order], p[order], q[order],
        estimates[:, order], (layers * per_layer) * (layers * per_layer - 1) // 2 if telling else 0, *goodness(actual, plain), *goodness(actual, improved),
    )  # fmt: skip


def pair_scores(centred: Float[np.ndarray, "masks total"], response: Float[np.ndarray, "masks"]) -> Float[np.ndarray, "total total"]:
    """Correlation of the response with the product of every two columns, times its own length; 0 for products that do not vary.

    One product of matrices for all pairs, Xᵀ·diag(r)·X: half a million pairs of 1024 heads need no design of their own.
    """
    response = response - response.mean()
    sums = centred.T @ (response[:, None] * centred)
    squares = centred**2
    spread = squares.T @ squares - (centred.T @ centred) ** 2 / len(centred)
    varies = spread > 1e-9 * np.abs(squares).max(initial=0.0) ** 2 * len(centred)
    return np.divide(sums, np.sqrt(np.maximum(spread, 0)), out=np.zeros_like(sums), where=varies)


def products(centred: Float[np.ndarray, "masks total"], pairs: Int[np.ndarray, "pairs 2"]) -> Float[np.ndarray, "masks pairs"]:
    """The product of the two columns of each pair."""
    return centred[:, pairs[:, 0]] * centred[:, pairs[:, 1]]


def _centred(masks: Bool[np.ndarray, "masks layers heads"], keep: float) -> Float[np.ndarray, "masks total"]:
    return masks.reshape(len(masks), -1) - keep


def _choose(centred: Float[np.ndarray, "masks total"], response: Float[np.ndarray, "masks"], most: int) -> Int[np.ndarray, "pairs 2"]:
    """The pairs that a lasso keeps of those that score best; at most ``most``, largest first."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso, LassoCV

    scores = np.abs(np.triu(pair_scores(centred, response), 1)).ravel()
    count = min(_CANDIDATES, int((scores > 0).sum()))
    best = np.argpartition(-scores, count - 1)[:count] if count else np.empty(0, int)
    best = best[np.lexsort((best, -scores[best]))]
    pairs = np.stack(np.divmod(best, centred.shape[1]), axis=1)
    if not count:
        return pairs
    design = products(centred, pairs)
    design = (design - design.mean(0)) / design.std(0)
    response = response / response.std()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # on the smallest penalties of the path, which lose the cross-validation
        path = LassoCV(alphas=20, eps=0.02, cv=5, max_iter=1000).fit(design, response)
        # The sparsest fit that is worse than the best by no more than one standard error: every pair too many costs power in the test.
        errors = path.mse_path_
        least = int(np.argmin(errors.mean(1)))
        enough = int(np.argmax(errors.mean(1) <= errors[least].mean() + errors[least].std(ddof=1) / np.sqrt(errors.shape[1])))
        weights = np.abs(Lasso(path.alphas_[enough], max_iter=1000).fit(design, response).coef_)
    return pairs[np.argsort(-weights, kind="stable")[: min(most, int((weights > 0).sum()))]]


def _least_squares(
    design: Float[np.ndarray, "masks pairs"], responses: Float[np.ndarray, "examples masks"]
) -> tuple[Float[np.ndarray, "examples pairs"], Float[np.ndarray, "pairs"], int]:
    """Coefficients of each example, HC2 errors of their mean, and degrees of freedom; an intercept is taken out."""
    if not design.shape[1]:
        return np.empty((len(responses), 0)), np.empty(0), max(len(design) - 1, 1)
    whole = np.concatenate([np.ones((len(design), 1)), design], axis=1)
    gains = np.linalg.pinv(whole)  # [1 + pairs, masks]
    mean = responses.mean(0)
    remainder = mean - whole @ (gains @ mean)
    share = np.einsum("mp,pm->m", whole, gains)  # leverage
    error = np.sqrt((gains**2) @ (remainder**2 / np.maximum(1.0 - share, 1e-9)))
    return (responses @ gains.T)[:, 1:], error[1:], max(len(design) - whole.shape[1], 1)


def _pair_terms(
    design: Float[np.ndarray, "masks pairs"], residuals: Float[np.ndarray, "examples masks"], elsewhere: Float[np.ndarray, "held pairs"]
) -> Float[np.ndarray, "examples held"]:
    """What the pairs add to each example's prediction: ridge on the residuals of the fit masks, penalty by leave-one-out for each example."""
    if not design.shape[1]:
        return np.zeros((len(residuals), len(elsewhere)))
    from sklearn.linear_model import RidgeCV

    penalties = np.logspace(-6, 2, 25) * (design.std(0) ** 2).sum() / design.shape[1] * len(design)
    model = RidgeCV(alphas=penalties, alpha_per_target=True).fit(design, residuals.T)
    return model.predict(elsewhere).reshape(len(elsewhere), -1).T


def _mean(values: np.ndarray) -> float | None:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else None
