"""How the fit grows with the number of masks: would fewer have done, would more help?"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from headflow.attribution.regression import correlations, fit, resolve_estimator
from headflow.tables.ablations import GROWTH


def growth(
    names: Sequence[str], masks: Bool[np.ndarray, "masks layers heads"], targets: Float[np.ndarray, "examples masks"],
    held_out: tuple[Bool[np.ndarray, "held layers heads"], Float[np.ndarray, "examples held"]], *,
    estimator: str = "auto", gradients: Float[np.ndarray, "examples corners layers heads"] | None = None, seed: int = 0, first: int = 16, **options,
) -> pl.DataFrame:  # fmt: skip
    """Fit on the first 16, 32, 64 … and on all masks: a GROWTH table, one row for each example and number of masks.

    One estimator serves every size, the one that :func:`resolve_estimator` takes for all masks, so that the curve shows the masks and
    not a change of method. ``agreement_r`` compares fits on the first and the second half of the masks; as many as two are left
    out to give both halves whole complementary pairs. It is null where the estimator is foldover and a half has fewer than two masks
    a head: rows of one orthogonal design have nothing in common, so such halves could not agree however good they were. Both
    correlations are null where one side does not vary. With the estimator 'prior' each half starts from the gradients of half of the
    corners, so that the two share nothing; it is null where there are fewer than two pairs of corners. The estimator 'gradient', which
    masks do not change, and masks that ablate one head each (a part of them leaves heads unmeasured) give an empty table.

    ``options`` are further ones of :func:`headflow.attribution.regression.fit`.

    Raises:
        HeadflowError: see :func:`headflow.attribution.regression.fit`.
    """
    schema = {name: column.dtype for name, column in GROWTH.columns.items()}
    resolved = "single" if estimator == "single" else resolve_estimator(estimator, masks, gradients=gradients is not None)
    if resolved in ("single", "gradient"):
        return pl.DataFrame(schema=schema)
    corners = 0 if gradients is None else gradients.shape[1] // 4 * 2
    # With one pair both halves have to use it, and share its error.
    shares = (slice(None), slice(0, corners or None), slice(corners, 2 * corners or None))
    frames = []
    for count in sizes(len(masks), first):
        half = count // 4 * 2
        whole, one, other = (
            fit(
                masks[part], targets[:, part], estimator=resolved, names=names, held_out=held_out, seed=seed, standard_errors=False,
                **_with_part(options, part), **({} if resolved != "prior" else {"gradients": gradients[:, corners]}),
            )
            for part, corners in zip((slice(0, count), slice(0, half), slice(half, 2 * half)), shares, strict=True)
        )  # fmt: skip
        agreement = correlations(*(f.attribution_.reshape(len(names), -1) for f in (one, other)))
        if resolved == "foldover" and half < 2 * masks[0].size:
            agreement = np.full(len(names), np.nan)
        if resolved == "prior" and not corners:
            agreement = np.full(len(names), np.nan)
        columns = {"id": list(names), "masks": [count] * len(names), "held_out_r": whole.held_out_r_, "agreement_r": agreement}
        frames.append(pl.DataFrame(columns, schema=schema).with_columns(pl.col("held_out_r", "agreement_r").fill_nan(None)))
    return pl.concat(frames)


def _with_part(options: dict, part: slice) -> dict:
    """The options for a part of the masks: weights belong to masks."""
    return options if options.get("weights") is None else options | {"weights": options["weights"][part]}


def sizes(count: int, first: int = 16) -> list[int]:
    """first, 2·first, 4·first … below ``count``, and ``count`` itself; a count below 8 has no two halves to fit."""
    doubled = [first * 2**step for step in range(count.bit_length()) if first * 2**step < count]
    return [size for size in (*doubled, count) if size >= 8]
