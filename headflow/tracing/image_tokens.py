"""Image tokens as components: which of them give the picture to the text (METHOD, "Tokens").

The attribution of a token is what the target gains when the text reads its real key and value rather than the baseline's, averaged over sets
of the other tokens: the regression of head attribution with tokens in the place of heads, and with local differences
(:mod:`headflow.local_differences`) in the place of gate gradients. Where there are more tokens than a regression can tell apart, patches of them
are cut together, found by :mod:`headflow.tracing.patches`.

The average is over sets of all sizes alike (Shapley values) by default. A vision tower spreads what it sees over many tokens, and half of
them often say as much as all: averaged over halves (Banzhaf values) every token is then worth next to nothing. Shapley values add up to the whole
effect whatever is redundant.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from headflow.attribution.budget import forwards
from headflow.attribution.masks import sample_corners, sample_masks
from headflow.attribution.regression import Attribution, fit, goodness
from headflow.seeds import generator
from headflow.tracing import patches

_CLEARLY = 0.05
"""What a regression has to explain of the variance over held-out masks that the differences leave, share."""

_MOST_SCALING = 4.0
"""Local differences whose sum is further off than this factor are no guide to scale."""

DIFFERENCES = "differences"
"""The estimator where the scaled mean of local differences stands by itself."""

BIAS = 0.15
"""Allowance for the bias of local differences, a share of the root mean square attribution of the example: what it is on the embedded model
(``python -m bench tokens``)."""

Groups = Bool[np.ndarray, "groups tokens"]


@dataclass(frozen=True)
class Effort:
    """What one example may cost.

    Attributes:
        alone: up to so many image tokens, each is a component of its own; of more, so many patches are made.
        count: fit masks, those of the search included.
        corners: masks at which local differences are taken, those of the search included.
        held_out: masks that judge the fit.
        estimand: ``shapley`` or ``banzhaf``.
        search: share of the fit masks and corners that goes into finding the patches, where there are too many tokens.
        seed: of all masks.
    """

    alone: int = 100
    count: int = 64
    corners: int = 32
    held_out: int = 48
    estimand: str = "shapley"
    search: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Runs:
    """Runs of one example.

    Attributes:
        targets: f for each mask over groups of image tokens, 1 = intact.
        differences: f and the local differences of each group.
    """

    targets: Callable[[Groups, Bool[np.ndarray, "masks groups"]], Float[np.ndarray, " masks"]]
    differences: Callable[[Groups, Bool[np.ndarray, "masks groups"]], tuple[Float[np.ndarray, " masks"], Float[np.ndarray, "masks groups"]]]


@dataclass(frozen=True)
class Round:
    """What one round of the search saw: its patches, and what they do as wholes (target units); and the masks and corners that it took."""

    partition: Int[np.ndarray, " tokens"]
    attribution: Float[np.ndarray, " patches"]
    error: Float[np.ndarray, " patches"]
    spent: tuple[int, int]


@dataclass(frozen=True)
class Traced:
    """What was found for one example; target units.

    Attributes:
        partition: the component of each token; a component of one token where there are few.
        fitted: attributions of the components, ``[1, components]``, their errors and how far they predict masks that they have not seen.
        intact, ablated: the target with no token cut and with all cut.
        rounds: of the search, coarse to fine.
        masks, corners: that were run, search and held-out masks included.
    """

    partition: Int[np.ndarray, " tokens"]
    fitted: Attribution
    intact: float
    ablated: float
    masks: int
    corners: int
    rounds: list[Round] = field(default_factory=list)

    @property
    def sizes(self) -> Int[np.ndarray, " tokens"]:
        """Tokens in each token's component."""
        return np.bincount(self.partition)[self.partition]

    @property
    def attribution(self) -> Float[np.ndarray, " tokens"]:
        """Of each token: its component's, in equal parts."""
        return self.fitted.attribution_[0][self.partition] / self.sizes

    @property
    def error(self) -> Float[np.ndarray, " tokens"]:
        """Standard error of :attr:`attribution` (:func:`with_errors`); that tokens of one patch may differ is not in it."""
        return self.fitted.standard_error_[0][self.partition] / self.sizes

    def interval(self, confidence: float) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
        """Lower and upper ends of each token's interval over the draw of masks."""
        return tuple(end[0][self.partition] / self.sizes for end in self.fitted.interval(confidence))

    @property
    def forwards(self) -> float:
        """Cost in masked forwards."""
        return float(forwards(self.masks, self.corners))


def trace(runs: Runs, centres: Float[np.ndarray, "tokens 2"], effort: Effort, partition: Int[np.ndarray, " tokens"] | None = None) -> Traced:
    """Attribute the target of one example to its image tokens.

    Args:
        runs: how masks are run.
        centres: place of each token (:func:`headflow.tracing.patches.known_centres`); what is near goes together.
        effort: what it may cost.
        partition: the component of each token; None = each alone, or in patches that are searched for where there are too many.

    Raises:
        HeadflowError: there is no image token, or see :func:`headflow.attribution.regression.fit`.
    """
    tokens, rounds = len(centres), []
    everything = np.ones((1, tokens), bool)
    intact, ablated = (float(value) for value in runs.targets(everything, np.array([[True], [False]])))
    if partition is None and tokens > effort.alone:
        partition, rounds = search(runs, centres, effort, (intact, ablated))
    elif partition is None:
        partition = np.arange(tokens)
    sought = [sum(one.spent[kind] for one in rounds) for kind in (0, 1)]
    count, corners = max(4, effort.count - sought[0]), max(2, effort.corners - sought[1])
    groups = patches.memberships(partition)
    design = "kernel" if effort.estimand == "shapley" else "bernoulli"
    held_out = sample_masks(1, len(groups), effort.held_out, design=design, seed=effort.seed, stream="held_out image tokens")
    masks, states, differences = drawn(runs, groups, count, corners, effort, "image tokens", flipped=groups)
    judged = held_out, runs.targets(groups, held_out[:, 0])
    fitted = solve(runs, groups, masks, differences, effort, (intact, ablated), held_out=judged)
    if effort.estimand == "shapley":
        fitted = better(fitted, differences, (intact, ablated), judged)
        fitted = with_errors(fitted, states, differences, (intact, ablated))
    return Traced(partition, fitted, intact, ablated, 2 + len(held_out) + count + sought[0], corners + sought[1], rounds)


def drawn(
    runs: Runs, groups: Groups, count: int, corners: int, effort: Effort, stream: str, flipped: Groups
) -> tuple[Bool[np.ndarray, "count 1 groups"], Bool[np.ndarray, "corners groups"], Float[np.ndarray, "corners flipped"]]:
    """Fit masks over ``groups``, corners over them, and there the local differences of the groups ``flipped``, which are parts of them."""
    design = "kernel" if effort.estimand == "shapley" else "foldover_hadamard"
    masks = sample_masks(1, len(groups), count, design=design, seed=effort.seed, stream=f"fit {stream}")
    seed = int(generator(effort.seed, f"corners {stream}").integers(2**62))
    states = sample_corners(1, len(groups), corners, estimand=effort.estimand, seed=seed)[:, 0]
    holder = (flipped[:, None] & groups[None]).any(2).argmax(1)
    return masks, states, runs.differences(flipped, states[:, holder])[1]


def solve(
    runs: Runs, groups: Groups, masks: Bool[np.ndarray, "count 1 groups"], differences: Float[np.ndarray, "corners groups"], effort: Effort,
    ends: tuple[float, float], **options,
) -> Attribution:  # fmt: skip
    """The regression on ``masks`` that starts from the mean of ``differences``; ``ends`` are the targets with no token cut and with all cut.

    Local differences say which tokens matter, but are of first order in what comes after a head: where few tokens are left and each of them
    counts, they overshoot together. Shapley values add up to the whole effect, so differences are first scaled to do so too.
    """
    targets = runs.targets(groups, masks[:, 0])
    if effort.estimand == "shapley":
        options["ends"] = ends
        differences = differences * _scaling(differences.mean(0), ends)
    return fit(masks, targets, gradients=differences[:, None], estimand=effort.estimand, seed=effort.seed, **options)


def _scaling(differences: Float[np.ndarray, "*some groups"], ends: tuple[float, float]) -> Float[np.ndarray, "*some"]:
    """What brings the sum of local differences to the whole effect, within bounds; 1 where they are of opposite signs."""
    whole, summed = ends[0] - ends[1], differences.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole * summed > 0, np.clip(whole / summed, 1 / _MOST_SCALING, _MOST_SCALING), 1.0)


def better(
    fitted: Attribution, differences: Float[np.ndarray, "corners groups"], ends: tuple[float, float],
    judged: tuple[Bool[np.ndarray, "held 1 groups"], Float[np.ndarray, " held"]],
) -> Attribution:  # fmt: skip
    """The fit, where it clearly predicts masks better that it has not seen, or the scaled mean difference that it started from.

    Masks of few tokens scatter so much that a regression on some dozens of them can do harm; on many it mends what differences get wrong.
    """
    mean = differences.mean(0, dtype=float)
    start = (mean * _scaling(mean, ends))[None]
    start = start + (ends[0] - ends[1] - start.sum()) / start.size  # nothing where the scaling has done it
    held_out, actual = judged
    # Masks come in complementary pairs, so that a token is intact in half of them.
    intercept = fitted.intercept_ + (fitted.attribution_.sum() - start.sum()) / 2
    alone = replace(fitted, estimator_=DIFFERENCES, attribution_=start, intercept_=intercept, penalty_=np.zeros(()))
    r, r2 = (value[0] for value in goodness(np.asarray(actual, float)[None], alone.predict(held_out)[None]))
    if not np.isfinite(r) or 1 - fitted.held_out_r_**2 < (1 - r**2) * (1 - _CLEARLY):
        return fitted
    return replace(alone, held_out_r_=r, held_out_r2_=r2)


def with_errors(
    fitted: Attribution, states: Bool[np.ndarray, "corners groups"], differences: Float[np.ndarray, "corners groups"], ends: tuple[float, float]
) -> Attribution:
    """The fit of Shapley values with errors that fit how it came about.

    Where an estimate starts from scaled differences, the errors of a ridge on masks say how little the masks alone would know. These are: the
    variance over the draw of corners; what the masks moved the estimate by; and :data:`BIAS`. Pairs of corners are spread evenly over sizes, so
    their variance is read from differences between neighbours in size (K. M. Wolter, *An investigation of some estimators of variance for
    systematic sampling*, JASA 79, 1984), after what the scaling takes out of them.
    """
    pairs = differences.reshape(len(differences) // 2, 2, -1).mean(1).astype(float)
    count = len(pairs)
    if count < 3:
        return fitted
    mean, scaling = pairs.mean(0), _scaling(pairs.mean(0), ends)
    rest = scaling * pairs
    if np.isclose(scaling * mean.sum(), ends[0] - ends[1]):  # then a pair that is larger as a whole changes nothing
        rest = rest - scaling * np.outer(pairs.sum(1), mean / mean.sum())
    sizes = states[::2].sum(1)
    order = np.argsort(np.minimum(sizes, states.shape[1] - sizes), kind="stable")
    variance = (np.diff(rest[order], axis=0) ** 2).sum(0) / (2 * (count - 1)) / count
    values = fitted.attribution_[0]
    errors = np.sqrt(variance + (values - scaling * mean) ** 2 + BIAS**2 * (values**2).mean())
    return replace(fitted, standard_error_=errors[None], degrees_of_freedom_=np.asarray(count - 1.0))


def search(
    runs: Runs, centres: Float[np.ndarray, "tokens 2"], effort: Effort, ends: tuple[float, float]
) -> tuple[Int[np.ndarray, " tokens"], list[Round]]:
    """From few patches to ``effort.alone`` of them, twice as many in each round, halved where evenness is most wrong.

    Every round runs its part of the masks over its patches, and takes the differences of every *single* token at its part of the corners;
    differences of earlier rounds are kept.

    Returns:
        The partition and the rounds.
    """
    sizes = [max(2, min(patches.FIRST, effort.alone // 2))]
    while sizes[-1] < effort.alone:
        sizes.append(min(2 * sizes[-1], effort.alone))
    count, corners = (2 * max(least, int(effort.search * whole / 2 / (len(sizes) - 1))) for whole, least in ((effort.count, 2), (effort.corners, 1)))
    single, seen, rounds = np.eye(len(centres), dtype=bool), [], []
    partition = patches.first_partition(centres, sizes[0])
    for number, wanted in enumerate(sizes[1:]):
        groups = patches.memberships(partition)
        masks, _, differences = drawn(runs, groups, count, corners, effort, f"image patches {number}", flipped=single)
        seen.append(differences.reshape(-1, 2, len(centres)).mean(1))
        fitted = solve(runs, groups, masks, differences @ groups.T, effort, ends)
        whole, error = fitted.attribution_[0], fitted.standard_error_[0]
        rounds.append(Round(partition, whole, error, (count, corners)))
        differences = np.concatenate(seen)
        unseen = (whole - groups @ differences.mean(0)) ** 2 - error**2
        partition = patches.refined(partition, wanted, centres, differences, unseen)
    return partition, rounds
