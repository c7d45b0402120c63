"""Shapley values from masks: a design that draws their sizes by the Shapley kernel, and the constraint that they add up.

The Shapley values φ minimise Σ over masks of k(m)·(f(m) - f(∅) - φ·m)² subject to Σφ = f(all) - f(∅), where masks with j of n heads intact
have together the weight 1/(j·(n - j)) (A. Charnes et al. 1988; S. Lundberg and S.-I. Lee, NeurIPS 2017, KernelSHAP). Drawn from
that kernel, masks need no weights; each is run with its complement, which takes all even-order interactions out (I. Covert and S.-I. Lee, AISTATS
2021, paired sampling). The constraint is exact: the fit runs on what is orthogonal to it.
"""

import numpy as np
from jaxtyping import Bool, Float

from headflow.errors import HeadflowError
from headflow.seeds import generator

_BLOCK = 128  # pairs whose sizes are spread evenly


def size_shares(total: int) -> Float[np.ndarray, "total+1"]:
    """Share of the kernel's masks that have 0, 1, …, n heads intact; none has all or none."""
    sizes = np.arange(1, total)
    shares = np.zeros(total + 1)
    shares[1:total] = 1 / (sizes * (total - sizes))
    return shares / shares.sum()


def kernel_masks(total: int, count: int, *, seed: int, stream: str) -> Bool[np.ndarray, "count total"]:
    """Masks by the Shapley kernel, each followed by its complement; mask i depends on the seed, the stream and i alone.

    Raises:
        HeadflowError: fewer than two heads, for which there is nothing to draw.
    """
    if total < 2:
        raise HeadflowError("design 'kernel' needs at least two heads")
    ends = np.cumsum(size_shares(total))
    rows = []
    for block in range(-(-count // (2 * _BLOCK))):
        random = generator(seed, f"{stream} kernel", block)
        # One draw in each of equal strata, in random order: sizes come out as the kernel says, nearly without scatter.
        places = (random.permutation(_BLOCK) + random.random(_BLOCK)) / _BLOCK
        sizes = np.clip(np.searchsorted(ends, places, side="right"), 1, total - 1)
        ranks = random.random((_BLOCK, total)).argsort(1).argsort(1)
        masks = ranks < sizes[:, None]
        rows.append(np.stack([masks, ~masks], 1).reshape(-1, total))
    return np.concatenate(rows)[:count]


def mask_weights(masks: Bool[np.ndarray, "masks layers heads"], design: str, estimand: str) -> Float[np.ndarray, "masks"] | None:
    """The importance of each mask where it was drawn for another estimand than is asked for; None where it was not."""
    return banzhaf_weights(masks) if design == "kernel" and estimand == "banzhaf" else None


def banzhaf_weights(masks: Bool[np.ndarray, "masks layers heads"]) -> Float[np.ndarray, "masks"]:
    """Importance weights that turn masks drawn by the Shapley kernel into evenly drawn ones, with mean near 1.

    So the Banzhaf values can be read from the same runs, at the price of those whose size is far from half of the heads: they weigh next to
    nothing. The converse does not work: even draws hold no masks of few or of nearly all heads.
    """
    from scipy.stats import binom

    total = masks[0].size
    sizes = masks.sum((1, 2))
    return binom.pmf(sizes, total, 0.5) / size_shares(total)[sizes]
