"""Single records: found in the store, or made and kept there."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from headflow.execution.executors.jobs import Records


def find_or_make(store: Records, unit: bytes, make: Callable[[], ArrayLike], size: int | None = None, *, finite: bool = False) -> Float[np.ndarray, " numbers"]:
    """The record of one unit; what the store lacks is made, and kept.

    Args:
        store: finished work.
        unit: key of the record.
        make: gives its numbers; called only if the store has no such record.
        size: how many numbers there have to be, where that is known: a record of another length is made anew.
        finite: numbers some of which are not finite are handed out but not kept.

    Raises:
        HeadflowError: the store cannot be used.
    """
    found = store.get([unit]).get(unit)
    if found is None or size not in (None, found.size):
        found = np.asarray(make(), np.float32).ravel()
        if not finite or np.isfinite(found).all():
            store.put([(unit, found)])
    return found
