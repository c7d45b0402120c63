"""The small tables between headflow's tables and its figures; sentences are made from the same ones."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy import stats

from headflow.attribution.multiple import holm


def interval(values: Sequence[float] | np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Mean of ``values`` and the ends of its Student-t interval; the ends are NaN for fewer than two values."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return float("nan"), float("nan"), float("nan")
    mean = float(finite.mean())
    if finite.size < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.5 + confidence / 2, finite.size - 1) * finite.std(ddof=1) / np.sqrt(finite.size))
    return mean, mean - half, mean + half


def share_interval(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a share of ``hits`` in ``total``."""
    if total == 0:
        return 0.0, 1.0
    found = stats.binomtest(hits, total).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def rank_correlation(left: np.ndarray, right: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Spearman's rho and its interval by Fisher's transform; all NaN where it is undefined."""
    fine = np.isfinite(left) & np.isfinite(right)
    left, right = left[fine], right[fine]
    if left.size < 4 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan"), float("nan"), float("nan")
    rho = float(stats.spearmanr(left, right).statistic)
    # 1.06: the usual correction of Fisher's standard error for ranks.
    half = stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(1.06 / (left.size - 3))
    middle = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    return rho, float(np.tanh(middle - half)), float(np.tanh(middle + half))


def overall(head_summary: pl.DataFrame) -> pl.DataFrame:
    """The head summary over all examples, one row a head, with ``clear``: the interval excludes zero."""
    rows = head_summary.filter(pl.col("group") == "all").sort("layer", "head")
    ends_known = pl.col("low").is_finite() & pl.col("high").is_finite()
    clear = ends_known & ((pl.col("low") > 0) | (pl.col("high") < 0))
    return rows.with_columns(clear.fill_null(False).alias("clear"), head_name("layer", "head"))


def head_name(layer: str, head: str) -> pl.Expr:
    """A head's short name, e.g. ``L3 H5``, as column ``name_of_head``."""
    return pl.format("L{} H{}", pl.col(layer), pl.col(head)).alias("name_of_head")


def strongest(head_summary: pl.DataFrame, count: int) -> pl.DataFrame:
    """The ``count`` heads of largest absolute mean attribution, largest first, with ``rank`` from 1."""
    rows = overall(head_summary).sort(pl.col("mean").abs(), descending=True).head(count)
    return rows.with_row_index("rank", offset=1)


def neighbours(layers: Sequence[int]) -> bool:
    """Whether ``layers`` are several and follow one another, so that a line may join them; those of cross-attention stand apart."""
    found = sorted(set(layers))
    return len(found) > 1 and found[-1] - found[0] == len(found) - 1


def layer_sums(attributions: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """Attribution summed over a layer's heads: ``layer, mean, low, high`` over examples; target units."""
    sums = attributions.group_by("id", "layer").agg(pl.col("attribution").sum())
    rows = [
        {"layer": layer, **dict(zip(("mean", "low", "high"), interval(part["attribution"].to_numpy(), confidence), strict=True))}
        for (layer,), part in sums.group_by("layer")
    ]
    return pl.DataFrame(rows, schema={"layer": pl.Int64, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}).sort("layer")


def effect_sums(attributions: pl.DataFrame, fits: pl.DataFrame) -> pl.DataFrame:
    """One row an example: ``id, total, attributions, singles``; target units.

    ``total`` is the target's fall when all heads are ablated at once; the others are sums over heads.
    ``singles`` is null for an example whose single-head runs are not all there.
    """
    single = pl.col("single_head_effect")
    sums = attributions.group_by("id").agg(
        pl.col("attribution").sum().alias("attributions"),
        pl.when(single.is_finite().fill_null(False).all()).then(single.sum()).alias("singles"),
    )
    totals = fits.select("id", (pl.col("intact") - pl.col("ablated")).alias("total"))
    return totals.join(sums, on="id").sort("id")


def attention_by_head(attention: pl.DataFrame, head_summary: pl.DataFrame, ids: Sequence[str]) -> pl.DataFrame:
    """Per head: mean share of the final token's attention on the image (over ``ids``) beside its mean attribution."""
    shares = attention.filter(pl.col("id").is_in(list(ids))).group_by("layer", "head").agg(pl.col("final_to_image").mean().alias("attention"))
    return overall(head_summary).join(shares, on=["layer", "head"], how="inner").sort("layer", "head")


def even_attention(features: pl.DataFrame, ids: Sequence[str]) -> float:
    """Share of attention the image span would get if the final token attended to every position alike."""
    rows = features.filter(pl.col("id").is_in(list(ids)))
    return float((rows["image_stop"] - rows["image_start"]).sum() / max(rows["tokens"].list.len().sum(), 1))


def growth_by_masks(growth: pl.DataFrame) -> pl.DataFrame:
    """Per number of masks and measure: median and the middle 80 % over examples: ``masks, measure, low, median, high``."""
    long = growth.unpivot(["held_out_r", "agreement_r"], index=["id", "masks"], variable_name="measure", value_name="r")
    long = long.filter(pl.col("r").is_finite())
    return (
        long.group_by("masks", "measure")
        .agg(
            pl.col("r").quantile(0.1, "linear").alias("low"),
            pl.col("r").median().alias("median"),
            pl.col("r").quantile(0.9, "linear").alias("high"),
            pl.len().alias("examples"),
        )
        .sort("measure", "masks")
    )


def with_adjusted(table: pl.DataFrame, measure: str) -> pl.DataFrame:
    """The separation ``table`` with ``{measure}_adjusted``: its p-values by Holm's correction over the labels in which all is known of it; else null."""
    known = pl.all_horizontal(pl.col(name).is_finite().fill_null(False) for name in (measure, f"{measure}_chance", f"{measure}_p"))
    tested = table.with_row_index("place").filter(known)
    adjusted = tested.select("place", pl.Series(f"{measure}_adjusted", holm(tested[f"{measure}_p"].to_list()), dtype=pl.Float64))
    return table.with_row_index("place").join(adjusted, on="place", how="left", maintain_order="left").drop("place")


def thinned(frame: pl.DataFrame, most: int) -> pl.DataFrame:
    """At most ``most`` rows, evenly spaced through ``frame``: a figure shows no more, and the page stays small."""
    if frame.height <= most:
        return frame
    return frame[np.linspace(0, frame.height - 1, most).round().astype(int).tolist()]
