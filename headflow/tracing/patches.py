"""Patches of neighbouring image tokens, and where to look closer: from coarse to fine, spending runs where the signal is.

Models that take pictures in tiles have thousands of image tokens, more than a regression can tell apart. A *partition* groups them into patches
that are cut together. The search starts from a few patches of equal size and halves some of them in every round, along the longer side of
what the patch covers on the picture (by order in the prompt where places are not known), until there are as many patches as may be.

*Which are halved.* To spread a patch's attribution evenly over its tokens is wrong by Σ (d_t − mean d)², the sum of squares within the patch, as in
the splits of a regression tree (Breiman, Friedman, Olshen and Stone, *Classification and Regression Trees*, 1984, section 8.4). Two things say how
large that is. Local differences (:mod:`headflow.local_differences`) give d_t for every single token from a few backward passes; what their own
sampling error adds to the sum of squares is taken off. Masks give what the patch does as a whole; a part that differences did not see, as where a
head is saturated, may sit in one token, and counts as if it did. The patch with the largest sum is halved, then the next, halves included.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush

import numpy as np
from jaxtyping import Bool, Float, Int

from headflow.errors import HeadflowError

FIRST = 16
"""Patches in the first round."""


def first_partition(centres: Float[np.ndarray, "tokens 2"], patches: int) -> Int[np.ndarray, " tokens"]:
    """Patches of sizes as equal as halving makes them; the patch of each token."""
    if not len(centres) or patches < 1:
        raise HeadflowError(f"{len(centres)} image tokens in {patches} patches: there must be at least one of each")
    return _halved([(np.arange(len(centres)), 0.0)], patches, centres, lambda tokens, _: float(len(tokens)))


def refined(
    partition: Int[np.ndarray, " tokens"], patches: int, centres: Float[np.ndarray, "tokens 2"], differences: Float[np.ndarray, "pairs tokens"],
    unseen: Float[np.ndarray, " before"],
) -> Int[np.ndarray, " tokens"]:  # fmt: skip
    """Halve patches in the order of what evenness gets wrong in them, until there are ``patches``, or nothing more is wrong.

    Args:
        partition: the patch of each token.
        patches: how many there shall be.
        centres: place of each token (:func:`known_centres`).
        differences: effect of each single token, one independent estimate a row.
        unseen: for each patch the square, freed of its error, of what masks say about it beyond the sum of its tokens' differences.
    """
    mean = differences.mean(0)
    noise = differences.var(0, ddof=1) / len(differences) if len(differences) > 1 else np.zeros_like(mean)

    def wrong(tokens: np.ndarray, extra: float) -> float:
        count = len(tokens)
        if count == 1:
            return 0.0
        within = ((mean[tokens] - mean[tokens].mean()) ** 2).sum() - (1 - 1 / count) * noise[tokens].sum()
        return max(0.0, float(within)) + max(0.0, extra) * (1 - 1 / count)

    return _halved([(np.flatnonzero(partition == patch), unseen[patch]) for patch in range(partition.max() + 1)], patches, centres, wrong)


def known_centres(boxes: Float[np.ndarray, "tokens 4"] | None, tokens: int) -> Float[np.ndarray, "tokens 2"]:
    """Centre of each token's box (left, top, right, bottom), pixels; a token without one (NaN) goes with the token before it, the
    first ones with the one after. Places in the prompt, all in one line, where no token has a box."""
    order = np.stack([np.arange(tokens, dtype=float), np.zeros(tokens)], 1)
    if boxes is None:
        return order
    known = np.isfinite(boxes).all(1)
    if not known.any():
        return order
    nearest = np.maximum.accumulate(np.where(known, np.arange(tokens), -1))
    nearest[nearest < 0] = np.argmax(known)
    return ((boxes[:, :2] + boxes[:, 2:]) / 2)[nearest]


def memberships(partition: Int[np.ndarray, " tokens"]) -> Bool[np.ndarray, "patches tokens"]:
    """The tokens of each patch."""
    return partition[None] == np.arange(partition.max() + 1)[:, None]


def _halved(
    parts: list[tuple[np.ndarray, float]], patches: int, centres: np.ndarray, wrong: Callable[[np.ndarray, float], float]
) -> Int[np.ndarray, " tokens"]:
    """Halve the part of the largest ``wrong(tokens, unseen)`` until there are enough; what is unseen is taken to lie in both halves alike."""

    def entry(tokens: np.ndarray, unseen: float) -> tuple[float, int, np.ndarray, float]:
        return -wrong(tokens, unseen), int(tokens[0]), tokens, unseen  # equal numbers go by the first token

    queue = [entry(*part) for part in parts]
    heapify(queue)
    while len(queue) < patches and queue[0][0] < 0 and len(queue[0][2]) > 1:
        _, _, tokens, unseen = heappop(queue)
        for half in halves(tokens, centres):
            heappush(queue, entry(half, unseen / 4))
    partition = np.empty(len(centres), int)
    for patch, (_, _, tokens, _) in enumerate(sorted(queue, key=lambda part: part[1])):
        partition[tokens] = patch
    return partition


def halves(tokens: Int[np.ndarray, " some"], centres: Float[np.ndarray, "tokens 2"]) -> Sequence[Int[np.ndarray, " half"]]:
    """Two parts of equal size (the first may have one more), cut across the longer side of what the tokens cover; each in rising order."""
    mine = centres[tokens]
    longer = int(np.argmax(np.ptp(mine, axis=0)))
    order = tokens[np.lexsort([tokens, mine[:, 1 - longer], mine[:, longer]])]
    middle = -(-len(order) // 2)
    return np.sort(order[:middle]), np.sort(order[middle:])
