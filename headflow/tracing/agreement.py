"""Does a head look where its information comes from? Attention maps against attribution maps, by rank correlation."""

import numpy as np
import polars as pl
from jaxtyping import Float


def map_agreement(head_maps: pl.DataFrame) -> pl.DataFrame:
    """``id``, ``layer``, ``head``, and Spearman's rank correlation over the image tokens of the final token's attention with the attribution.

    ``agreement`` is with the attribution as it is (does the head look at what helps the target?), ``agreement_size`` with its absolute value (does it look at
    what matters either way?); null where a map is the same everywhere. 0 is chance.

    Args:
        head_maps: a HEAD_MAPS table.
    """
    keys = ["id", "layer", "head"]
    ranks = head_maps.select(
        *keys,
        attention=pl.col("attention").rank().over(keys), signed=pl.col("attribution").rank().over(keys), size=pl.col("attribution").abs().rank().over(keys),
    )  # fmt: skip
    found = ranks.group_by(keys, maintain_order=True).agg(agreement=pl.corr("attention", "signed"), agreement_size=pl.corr("attention", "size"))
    return found.with_columns(pl.col("agreement", "agreement_size").fill_nan(None))


def over_examples(agreement: pl.DataFrame, column: str = "agreement") -> Float[np.ndarray, " examples"]:
    """Mean over heads, for every example; examples without any value are left out."""
    means = agreement.group_by("id", maintain_order=True).agg(pl.col(column).mean())
    return means[column].drop_nulls().to_numpy()
