"""Image tokens as components: which of them give the picture to the text (METHOD, "Tokens").

The attribution of a token is what the target gains when the text reads its real key and value rather than the baseline's, averaged over all
sets of the other tokens (a Banzhaf value): the regression of head attribution with tokens in the place of heads, and with local
differences (:mod:`headflow.local_differences`) in the place of gate gradients. Where there are more tokens than a regression can tell
apart, patches of them are cut together, found by :mod:`headflow.tracing.patches`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from headflow.attribution.budget import forwards
from headflow.attribution.masks import sample_masks
from headflow.attribution.regression import Attribution, fit
from headflow.tracing import patches

Groups = Bool[np.ndarray, "groups tokens"]


@dataclass(frozen=True)
class Effort:
    """What one example may cost.

    Attributes:
        alone: up to so many image tokens, each is a component of its own; of more, so many patches are made.
        count: fit masks, those of the search included.
        corners: masks at which local differences are taken, those of the search included.
        held_out: masks that judge the fit.
        search: share of the fit masks and corners that goes into finding the patches, where there are too many tokens.
        seed: of all masks.
    """

    alone: int = 100
    count: int = 128
    corners: int = 32
    held_out: int = 64
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
        """Standard error of :attr:`attribution`; that tokens of one patch may differ is not in it."""
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
    tokens, rounds, count, corners = len(centres), [], effort.count, effort.corners
    if partition is None and tokens > effort.alone:
        partition, rounds = search(runs, centres, effort)
    elif partition is None:
        partition = np.arange(tokens)
    sought = [sum(one.spent[kind] for one in rounds) for kind in (0, 1)]
    count, corners = max(4, count - sought[0]), max(2, corners - sought[1])
    groups = patches.memberships(partition)
    ends = np.arange(2)[::-1, None].repeat(len(groups), 1).astype(bool)
    held_out = sample_masks(1, len(groups), effort.held_out, design="bernoulli", seed=effort.seed, stream="held_out image tokens")[:, 0]
    values = runs.targets(groups, np.concatenate([ends, held_out]))
    fitted = attribute(runs, groups, count, corners, effort.seed, "image tokens", held_out=(held_out[:, None], values[2:]))
    return Traced(partition, fitted, float(values[0]), float(values[1]), 2 + len(held_out) + count + sought[0], corners + sought[1], rounds)


def attribute(runs: Runs, groups: Groups, count: int, corners: int, seed: int, stream: str, **options) -> Attribution:
    """Regression on ``count`` masks over ``groups`` that starts from local differences at ``corners`` masks (0 = from nothing)."""
    masks = sample_masks(1, len(groups), count, design="foldover_hadamard" if corners else "auto", seed=seed, stream=f"fit {stream}")
    targets = runs.targets(groups, masks[:, 0])
    if not corners:
        return fit(masks, targets, seed=seed, **options)
    drawn = sample_masks(1, len(groups), corners, design="antithetic", seed=seed, stream=f"corners {stream}")
    _, differences = runs.differences(groups, drawn[:, 0])
    return fit(masks, targets, gradients=differences[:, None], seed=seed, **options)


def search(runs: Runs, centres: Float[np.ndarray, "tokens 2"], effort: Effort) -> tuple[Int[np.ndarray, " tokens"], list[Round]]:
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
        groups, stream = patches.memberships(partition), f"image patches {number}"
        drawn = sample_masks(1, len(groups), corners, design="antithetic", seed=effort.seed, stream=f"corners {stream}")[:, 0]
        _, differences = runs.differences(single, drawn[:, partition])
        seen.append(differences.reshape(-1, 2, len(centres)).mean(1))
        masks = sample_masks(1, len(groups), count, design="foldover_hadamard", seed=effort.seed, stream=f"fit {stream}")
        fitted = fit(masks, runs.targets(groups, masks[:, 0]), gradients=(differences @ groups.T)[:, None], seed=effort.seed)
        whole, error = fitted.attribution_[0], fitted.standard_error_[0]
        rounds.append(Round(partition, whole, error, (count, corners)))
        differences = np.concatenate(seen)
        unseen = (whole - groups @ differences.mean(0)) ** 2 - error**2
        partition = patches.refined(partition, wanted, centres, differences, unseen)
    return partition, rounds
