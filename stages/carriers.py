"""The heads that tracing looks at alone: the first ones by mean head attribution."""

import numpy as np
from jaxtyping import Bool

from headflow.attribution.frames import attribution_grid
from headflow.errors import HeadflowError
from headflow.tables.ablations import ATTRIBUTIONS
from headflow.tracing.text_tokens import top_heads
from stages import paths


def read_top_heads(key: str, ids: list[str], count: int | None, share: float, *, group: str) -> Bool[np.ndarray, "layers heads"]:
    """The first heads of the mean head attribution of model ``key``.

    Args:
        ids: the explained examples.
        count: how many; None = as few as hold ``share`` of what all heads above 0 carry.
        group: group of the params that asks for them.

    Raises:
        HeadflowError: attributions of other examples than the features'; more heads than there are.
    """
    path = paths.attributions_dir(key) / "attributions.parquet"
    found, grid = attribution_grid(ATTRIBUTIONS.read(path))
    if found != ids:
        raise HeadflowError(f"{path}: attributions of other examples than the features'; run `dvc repro`")
    if count is not None and count > grid[0].size:
        raise HeadflowError(f"{group}.top_heads = {count}: the model has {grid[0].size} heads")
    return top_heads(grid, count, share)
