"""Stop when an example is known well enough: fit after every few blocks of masks, and go on only while the error is too large.

Which masks are run depends on the targets and on the seed alone: the masks come in their fixed order, looks are at fixed numbers of them, and every look
starts from all masks so far. So a run that was killed, or is asked for more precision later, takes the same path and finds its blocks in the store.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from headflow.attribution.budget import relative_error
from headflow.attribution.regression import fit

FIRST = 32  # masks before the first look
LOOK = 64  # masks between later looks at least; the length of a record in the result store, so that every look ends with a whole one
GROWTH = 1.25  # later looks lie further apart: many looks at one error find it small by chance
MARGIN = 1.1  # an error has to be this much below the wanted one before it is believed: the smallest of several looks flatters


def looks(count: int) -> list[int]:
    """Numbers of masks after which the error is looked at: 32, then multiples of 64, each at least 1.25 times the one before, and ``count``."""
    found, at = [FIRST] if count > FIRST else [], LOOK
    while at < count:
        found.append(at)
        at = max(at + LOOK, int(np.ceil(at * GROWTH / LOOK)) * LOOK)
    return [*found, count]


def run_until_precise(
    masks: Bool[np.ndarray, "masks layers heads"], measure: Callable[[int], Float[np.ndarray, "first"]], precision: float, *,
    least: int = 0, **options,
) -> tuple[Float[np.ndarray, "first"], float]:  # fmt: skip
    """Targets under the first masks, as many as one example needs, and the relative error that was estimated at the last look.

    Args:
        masks: the most that are run.
        measure: targets under the first so many masks.
        precision: wanted relative error (:func:`headflow.attribution.budget.relative_error`).
        least: looks below this many masks are left out.
        options: for :func:`headflow.attribution.regression.fit`.
    """
    for count in looks(len(masks)):
        if count < least and count < len(masks):
            continue
        targets = measure(count)
        weights = options.get("weights")
        chosen = options | ({"weights": weights[:count]} if weights is not None else {})
        error = float(relative_error(fit(masks[:count], np.asarray(targets, float), **chosen)))
        if error * MARGIN <= precision:
            break
    return targets, error
