"""From a fit to the tables that the report and the later stages read."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from headflow.attribution.budget import forwards, relative_error
from headflow.attribution.regression import Attribution
from headflow.tables.ablations import ATTRIBUTIONS, EFFORT, FITS, PREDICTIONS
from headflow.tables.schema import Table


def attributions_table(ids: Sequence[str], fitted: Attribution, single_effects: Float[np.ndarray, "examples layers heads"]) -> pl.DataFrame:
    """A fit of several examples as an ATTRIBUTIONS table: example by example, layer by layer, head by head."""
    layer, head = (index.ravel() for index in np.indices(single_effects.shape[1:]))
    columns = {
        "id": np.repeat(np.asarray(ids, object), len(layer)), "layer": np.tile(layer, len(ids)), "head": np.tile(head, len(ids)),
        "attribution": fitted.attribution_.ravel(), "standard_error": fitted.standard_error_.ravel(), "single_head_effect": single_effects.ravel(),
    }  # fmt: skip
    return pl.DataFrame(columns, schema=_schema(ATTRIBUTIONS))


def fits_table(ids: Sequence[str], fitted: Attribution, intact: Float[np.ndarray, "examples"], ablated: Float[np.ndarray, "examples"]) -> pl.DataFrame:
    """The quality of each example's fit as a FITS table; r and R² are null where the target does not vary over the held-out masks."""
    columns = {
        "id": list(ids), "intercept": fitted.intercept_, "penalty": fitted.penalty_, "held_out_r": fitted.held_out_r_, "held_out_r2": fitted.held_out_r2_,
        "intact": intact, "ablated": ablated,
    }  # fmt: skip
    return pl.DataFrame(columns, schema=_schema(FITS)).with_columns(pl.col("held_out_r", "held_out_r2").fill_nan(None))


def effort_table(ids: Sequence[str], masks: Int[np.ndarray, "examples"], corners: int, fitted: Attribution) -> pl.DataFrame:
    """What each example took and how well it is known, as an EFFORT table; the error is null where nothing is attributed or it is not known."""
    error = relative_error(fitted)
    columns = {
        "id": list(ids), "masks": masks, "corners": [corners] * len(ids), "forwards": np.asarray(forwards(masks, corners), float),
        "relative_error": np.where(np.isfinite(error), error, np.nan),
    }  # fmt: skip
    return pl.DataFrame(columns, schema=_schema(EFFORT)).with_columns(pl.col("relative_error").fill_nan(None))


def predictions_table(
    ids: Sequence[str], masks: Sequence[int], actual: Float[np.ndarray, "examples masks"], predicted: Float[np.ndarray, "examples masks"]
) -> pl.DataFrame:
    """Actual and predicted targets under held-out masks as a PREDICTIONS table."""
    columns = {
        "id": np.repeat(np.asarray(ids, object), len(masks)), "mask": np.tile(np.asarray(masks, np.int64), len(ids)),
        "actual": actual.ravel(), "predicted": predicted.ravel(),
    }  # fmt: skip
    return pl.DataFrame(columns, schema=_schema(PREDICTIONS))


def _schema(table: Table) -> dict[str, pl.DataType | type[pl.DataType]]:
    return {name: column.dtype for name, column in table.columns.items()}
