"""From tables to arrays: targets as a matrix, attributions as a grid of heads for each example."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float

from headflow.errors import HeadflowError


def target_matrix(targets: pl.DataFrame, ids: Sequence[str], masks: Sequence[int]) -> Float[np.ndarray, "examples masks"]:
    """A TARGETS table as a matrix with these examples as rows and these masks as columns.

    Raises:
        HeadflowError: one of them is missing, or stands in the table twice.
    """
    rows = pl.DataFrame({"id": list(ids), "row": np.arange(len(ids))}, schema={"id": pl.String, "row": pl.Int64})
    columns = pl.DataFrame({"mask": list(masks), "column": np.arange(len(masks))}, schema={"mask": pl.Int64, "column": pl.Int64})
    found = targets.join(rows, on="id").join(columns, on="mask")
    counts = np.zeros((len(ids), len(masks)), int)
    np.add.at(counts, (found["row"].to_numpy(), found["column"].to_numpy()), 1)
    wrong = np.argwhere(counts != 1)
    if len(wrong):
        row, column = wrong[0]
        times = counts[row, column] or "no"
        raise HeadflowError(f"the targets table has {times} entries for example {ids[row]}, mask {masks[column]}; run `dvc repro` to run the ablations again")
    matrix = np.empty(counts.shape)
    matrix[found["row"].to_numpy(), found["column"].to_numpy()] = found["target"].fill_null(np.nan).to_numpy()
    return matrix


def gradient_array(
    gradients: pl.DataFrame, ids: Sequence[str], corners: Sequence[int], layers: int, heads: int
) -> Float[np.ndarray, "examples corners layers heads"] | None:
    """A GRADIENTS table as an array for these examples and corners; None if there are no corners.

    Raises:
        HeadflowError: one of them is missing, stands in the table twice, or has gradients for another number of heads.
    """
    if not len(corners):
        return None
    numbered = gradients.with_row_index("row").with_columns(target=pl.col("row").cast(pl.Float64)).select("id", "mask", "target")
    rows = target_matrix(numbered, ids, corners).astype(int)
    lengths = gradients["gradient"].list.len()
    if len(lengths) and (lengths != layers * heads).any():
        raise HeadflowError(f"the gradients table holds {lengths.max()} heads, the model has {layers} layers × {heads} heads; run `dvc repro`")
    flat = gradients["gradient"].explode().to_numpy().reshape(len(gradients), layers, heads)
    return flat[rows]


def masks_done(targets: pl.DataFrame, ids: Sequence[str], masks: Sequence[int]) -> np.ndarray:
    """How many of these masks, from the first on, each example was run under; where a run stopped early they are fewer than all."""
    counts = targets.filter(pl.col("mask").is_in(list(masks))).group_by("id").len()
    return np.array([dict(counts.iter_rows()).get(name, 0) for name in ids])


def attribution_grid(attributions: pl.DataFrame, column: str = "attribution") -> tuple[list[str], Float[np.ndarray, "examples layers heads"]]:
    """One column of an ATTRIBUTIONS table as a grid for each example, and the examples' ids, in the order of the table.

    Raises:
        HeadflowError: an example has not exactly one row for every head of every layer.
    """
    ids = attributions["id"].unique(maintain_order=True).to_list()
    layers, heads = (int(attributions[name].max()) + 1 if len(attributions) else 0 for name in ("layer", "head"))
    rows = pl.DataFrame({"id": ids, "row": np.arange(len(ids))}, schema={"id": pl.String, "row": pl.Int64})
    places = [attributions.join(rows, on="id", how="left", maintain_order="left")["row"].to_numpy()]
    places += [attributions[name].to_numpy() for name in ("layer", "head")]
    counts = np.zeros((len(ids), layers, heads), int)
    np.add.at(counts, tuple(places), 1)
    wrong = np.argwhere(counts != 1)
    if len(wrong):
        example, layer, head = wrong[0]
        found = counts[example, layer, head]
        raise HeadflowError(f"the attributions table has {found} rows for example {ids[example]}, layer {layer}, head {head}; run `dvc repro`")
    grid = np.empty(counts.shape)
    grid[tuple(places)] = attributions[column].to_numpy()
    return ids, grid
