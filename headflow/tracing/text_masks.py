"""Tokens of the text as components: the masks of one example, and the regression that reads them (METHOD, "Tokens")."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

from headflow.attribution.budget import forwards
from headflow.attribution.masks import sample_corners, sample_masks
from headflow.attribution.regression import Attribution, fit, goodness
from headflow.errors import HeadflowError
from headflow.models.planted.games import coalitions

EXHAUSTIVE = "exhaustive"
"""The estimator where every combination of tokens was run."""
_MOST_EXHAUSTIVE = 20


@dataclass(frozen=True)
class Plan:
    """The masks of examples with one number of tokens; 1 = intact.

    Attributes:
        masks: intact, ablated, each component alone, and then those of the regression: held out and fit, or every combination.
        corners: masks at which gradients are taken.
        held_out, fit: where those masks stand.
        exhaustive: whether ``fit`` is every combination, so that nothing is drawn or held out.
    """

    masks: Bool[np.ndarray, "masks windows tokens"]
    corners: Bool[np.ndarray, "corners windows tokens"]
    held_out: slice
    fit: slice
    exhaustive: bool

    @property
    def starts(self) -> list[int]:
        """Where groups of masks begin that grow independently of each other."""
        return sorted({0, self.held_out.start, self.fit.start})

    @property
    def forwards(self) -> float:
        """Masked forwards of one example, a gradient counted as 2.7."""
        return float(forwards(len(self.masks), len(self.corners)))


@lru_cache(maxsize=256)
def plan(windows: int, tokens: int, *, count: int = 64, corners: int = 8, held_out: int = 24, seed: int = 0) -> Plan:
    """Decide which tokens are cut together.

    Where all 2^(windows · tokens) combinations cost no more than the masks and gradients asked for, all are run: attributions are then exact.

    Raises:
        HeadflowError: nothing to be cut.
    """
    total = windows * tokens
    if total < 1:
        raise HeadflowError(f"text tokens: {windows} windows of layers × {tokens} tokens: there is nothing to cut")
    shape = (1, windows, tokens)
    parts = [np.ones(shape, bool), np.zeros(shape, bool), sample_masks(windows, tokens, total, design="single")]
    done = 2 + total
    if total <= _MOST_EXHAUSTIVE and 2**total <= held_out + forwards(count, corners):
        masks = np.concatenate([*parts, coalitions(total).reshape(-1, windows, tokens)])
        return Plan(masks, np.ones((0, windows, tokens), bool), slice(done, done), slice(done, len(masks)), True)
    parts += [
        sample_masks(windows, tokens, held_out, design="bernoulli", seed=seed, stream="held_out text"),
        sample_masks(windows, tokens, count, design="auto" if not corners else "foldover_hadamard", seed=seed, stream="fit text"),
    ]
    gradients = sample_corners(windows, tokens, corners, seed=seed) if corners else np.ones((0, windows, tokens), bool)
    return Plan(np.concatenate(parts), gradients, slice(done, done + held_out), slice(done + held_out, None), False)


@dataclass(frozen=True)
class Traced:
    """What was found for examples with one number of tokens; target units.

    Attributes:
        fitted: attributions, their errors and how far they predict masks that they have not seen.
        alone: f(intact) − f(only this token cut).
        intact, ablated: the target with no token cut and with all cut.
    """

    fitted: Attribution
    alone: Float[np.ndarray, "examples windows tokens"]
    intact: Float[np.ndarray, "examples"]
    ablated: Float[np.ndarray, "examples"]


def attribute(
    plan: Plan, targets: Float[np.ndarray, "examples masks"], gradients: Float[np.ndarray, "examples corners windows tokens"] | None = None,
    *, names: Sequence[str] | None = None, seed: int = 0,
) -> Traced:  # fmt: skip
    """Attributions of every token for examples that share one plan.

    They are Banzhaf values: what the target gains when the token sees the picture, averaged over all sets of the other tokens alike.
    ``fitted.held_out_r_`` is over held-out masks; where all combinations were run, over predictions of each from all others.

    Raises:
        HeadflowError: see :func:`headflow.attribution.regression.fit`.
    """
    targets = np.asarray(targets, float)
    shape = plan.masks.shape[1:]
    intact, ablated = targets[:, 0], targets[:, 1]
    alone = (intact[:, None] - targets[:, 2 : 2 + int(np.prod(shape))]).reshape(-1, *shape)
    masks, outcomes = plan.masks[plan.fit], targets[:, plan.fit]
    if plan.exhaustive:
        return Traced(_all_combinations(masks, outcomes), alone, intact, ablated)
    found = fit(
        masks, outcomes, gradients=gradients if len(plan.corners) else None, held_out=(plan.masks[plan.held_out], targets[:, plan.held_out]),
        names=names, seed=seed,
    )  # fmt: skip
    return Traced(found, alone, intact, ablated)


def _all_combinations(masks: Bool[np.ndarray, "masks windows tokens"], targets: Float[np.ndarray, "examples masks"]) -> Attribution:
    """Least squares over every corner gives the Banzhaf values (P. L. Hammer and R. Holzman, *ZOR* 36, 1992); each mask is predicted from the others."""
    signs = np.where(masks.reshape(len(masks), -1), 1.0, -1.0)
    slopes = targets @ signs / len(masks)
    middle = targets.mean(1)
    leverage = (signs.shape[1] + 1) / len(masks)
    none = np.zeros(len(targets))
    r = r2 = np.full(len(targets), np.nan)
    if leverage < 1:
        left = (targets - middle[:, None] - slopes @ signs.T) / (1 - leverage)
        r, r2 = goodness(targets, targets - left)
    attribution = 2 * slopes.reshape(-1, *masks.shape[1:])
    return Attribution(EXHAUSTIVE, attribution, np.zeros_like(attribution), middle - slopes.sum(1), none, none, r, r2)
