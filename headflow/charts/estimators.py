"""What an attribution costs and what it reaches: error against compute for every design and estimator, and for every example of a run."""

import altair as alt
import polars as pl

from headflow.charts import numbers, theme

MOST_EXAMPLES = 300


LEAST_ERROR = 1e-3
"""Errors below are drawn there: an exact estimate has none that a logarithmic axis could hold."""


def error_against_compute(curves: pl.DataFrame, wanted: float = 0.05) -> alt.FacetChart:
    """Relative error against cost, both on logarithmic axes; a line for each arm, a panel for each model.

    Args:
        curves: columns model, arm, forwards (cost in masked forwards), error (relative, mean over examples), corners, masks.
        wanted: relative error at which arms are compared, drawn as a rule.
    """
    rows = theme.drawable(curves.with_columns(pl.col("error").clip(LEAST_ERROR).alias("drawn"), pl.lit(wanted).alias("wanted")))
    models = rows["model"].unique(maintain_order=True).to_list()
    rows = rows.sort("arm", "forwards")
    arms = rows["arm"].unique(maintain_order=True).to_list()
    reach = [float(rows["forwards"].min() or 1.0), float(rows["forwards"].max() or 10.0)]
    least, most = (float(rows["drawn"].min() or wanted), float(rows["drawn"].max() or 1.0))
    errors = [least if least <= LEAST_ERROR else min(least, wanted) * 0.9, most]
    base = alt.Chart(rows)
    lines = base.mark_line(point={"size": 30, "filled": True}, strokeWidth=2, clip=False).encode(
        x=alt.X("forwards:Q", title="cost an example, masked forwards (log)", scale=alt.Scale(type="log", domain=reach, nice=False, padding=8)),
        y=alt.Y("drawn:Q", title="relative error of attributions (log)", scale=alt.Scale(type="log", domain=errors, nice=False)),
        color=theme.category("arm", arms, "design and estimator", orient="top", columns=3, symbolType="stroke"),
        tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("masks:Q"), alt.Tooltip("corners:Q"), alt.Tooltip("forwards:Q", format=".0f"),
                 alt.Tooltip("error:Q", title="relative error", format=".2~g")],
    )  # fmt: skip
    rule = base.mark_rule(strokeDash=[4, 3]).encode(y="min(wanted):Q")
    panels = alt.layer(lines, rule).properties(width=265 if len(models) > 1 else 500, height=220)
    header = alt.Header(titleOrient="bottom")
    return panels.facet(alt.Facet("model:N", title=f"dashed: error {wanted:g}", sort=models, header=header), columns=min(2, len(models)))


def effort(table: pl.DataFrame, pictures: pl.DataFrame, precision: float | None = None) -> alt.LayerChart:
    """Estimated error of each example against what it cost; the rule is the error asked for.

    Args:
        table: the effort table.
        pictures: ``id`` and ``image`` (a data URI), shown on hover.
        precision: the relative error asked for, if any.
    """
    rows = theme.drawable(numbers.thinned(table.filter(pl.col("relative_error").is_finite()).sort("id"), MOST_EXAMPLES))
    varied = rows["forwards"].n_unique() > 1
    # At one cost for all, dots are spread upward only to keep them apart (a golden-ratio sequence never lines up), below the rule's name.
    rows = rows.with_columns(((pl.int_range(pl.len()) * 0.618034) % 1.0).alias("aside"))
    y = alt.Y("aside:Q", axis=None, scale=alt.Scale(domain=[-0.1, 1.5]))
    if varied:
        y = alt.Y("forwards:Q", title="cost, masked runs", scale=alt.Scale(zero=False, padding=10))
    shown = pictures.filter(pl.col("id").is_in(rows["id"].to_list()))
    reach = alt.Scale(domain=[0, 1.06 * max([*rows["relative_error"].to_list(), precision or 0.0, 1e-6])], nice=False)
    dots = (
        alt.Chart(rows)
        .transform_lookup("id", from_=alt.LookupData(data=shown, key="id", fields=["image"]))
        .mark_point(size=45, color=theme.ACCENT, opacity=0.75)
        .encode(
            x=alt.X("relative_error:Q", title="estimated relative error of the attributions", axis=alt.Axis(format="~%"), scale=reach),
            y=y,
            tooltip=[alt.Tooltip("id:N", title="title"), "image:N", alt.Tooltip("relative_error:Q", title="relative error", format=".1%"),
                     alt.Tooltip("masks:Q", title="masked runs"), alt.Tooltip("corners:Q", title="gradients"),
                     alt.Tooltip("forwards:Q", title="cost of both, masked runs", format=".0f")],
        )
    )  # fmt: skip
    rule = [] if precision is None else [theme.rule_x(precision, "asked for")]
    return alt.layer(dots, *rule).properties(
        width=theme.WIDTH, height=220 if varied else 110, autosize=alt.AutoSizeParams(type="fit", contains="padding"), title="A dot an example"
    )
