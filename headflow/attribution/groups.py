"""Attribution of groups of examples: which heads carry any picture, which only pictures of one kind."""

from collections.abc import Mapping

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from headflow.tables.ablations import HEAD_SUMMARY

LABEL_PREFIXES = ("meaning_", "looks_")


def label_columns(examples: pl.DataFrame) -> list[str]:
    """The columns of an examples table that hold labels of meaning or looks, meaning first."""
    return [name for prefix in LABEL_PREFIXES for name in examples.columns if name.startswith(prefix)]


def label_groups(examples: pl.DataFrame, *, least: int = 3) -> dict[str, Bool[np.ndarray, "examples"]]:
    """'all', and 'label=value' for every value of a label that at least ``least`` examples have; in the order of the columns and values."""
    groups = {"all": np.ones(len(examples), bool)}
    for label in label_columns(examples):
        for value in examples[label].drop_nulls().unique().sort():
            members = (examples[label] == value).fill_null(False).to_numpy()
            if members.sum() >= least:
                groups[f"{label}={value}"] = members
    return groups


def mean_interval(
    values: Float[np.ndarray, "examples *rest"], confidence: float = 0.95
) -> tuple[Float[np.ndarray, "*rest"], Float[np.ndarray, "*rest"], Float[np.ndarray, "*rest"]]:
    """Mean over examples with its Student-t interval, mean ± t·s/√n; the ends are nan for a single example.

    The spread over examples holds the error of each example's own fit, so nothing is added for it.
    """
    from scipy.stats import t

    count, mean = len(values), values.mean(0)
    if count < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    reach = t.ppf((1 + confidence) / 2, count - 1) * values.std(0, ddof=1) / np.sqrt(count)
    return mean, mean - reach, mean + reach


def summarise(
    attributions: Float[np.ndarray, "examples layers heads"], single_effects: Float[np.ndarray, "examples layers heads"],
    groups: Mapping[str, Bool[np.ndarray, "examples"]], *, confidence: float = 0.95,
) -> pl.DataFrame:  # fmt: skip
    """Mean attribution of every head in every group, with its interval over examples: a HEAD_SUMMARY table.

    The interval says where the mean of the *population* of such examples lies; with one example it is null.
    """
    layers, heads = attributions.shape[1:]
    layer, head = (index.ravel() for index in np.indices((layers, heads)))
    frames = []
    for group, members in groups.items():
        mean, low, high = mean_interval(attributions[members], confidence)
        columns = {
            "group": [group] * layers * heads, "layer": layer, "head": head, "mean": mean.ravel(), "low": low.ravel(), "high": high.ravel(),
            "single_mean": single_effects[members].mean(0).ravel(), "examples": [int(members.sum())] * layers * heads,
        }  # fmt: skip
        frame = pl.DataFrame(columns, schema={name: column.dtype for name, column in HEAD_SUMMARY.columns.items()})
        frames.append(frame.with_columns(pl.col("low", "high").fill_nan(None)))
    return pl.concat(frames)
