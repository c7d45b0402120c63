"""What an attribution costs and what it reaches: error against compute for every design and estimator."""

import altair as alt
import polars as pl

from headflow.charts import theme


def error_against_compute(curves: pl.DataFrame, wanted: float = 0.05) -> alt.LayerChart:
    """Relative error against cost, both on logarithmic axes; a line for each arm.

    Args:
        curves: columns arm, forwards (cost in masked forwards), error (relative, mean over examples), corners, masks.
        wanted: relative error at which arms are compared, drawn as a rule.
    """
    rows = theme.drawable(curves.sort("arm", "forwards"))
    arms = rows["arm"].unique(maintain_order=True).to_list()
    reach = [float(rows["forwards"].min() or 1.0), float(rows["forwards"].max() or 10.0)]
    errors = [min(float(rows["error"].min() or wanted), wanted) * 0.9, float(rows["error"].max() or 1.0)]
    lines = (
        alt.Chart(rows)
        .mark_line(point={"size": 36, "filled": True}, strokeWidth=2)
        .encode(
            x=alt.X("forwards:Q", title="cost of one example, masked forwards (log scale)", scale=alt.Scale(type="log", domain=reach, nice=False, padding=8)),
            y=alt.Y("error:Q", title="relative error of the attributions (log scale)", scale=alt.Scale(type="log", domain=errors, nice=False)),
            color=theme.category("arm", arms, "design and estimator", orient="right"),
            tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("masks:Q"), alt.Tooltip("corners:Q"), alt.Tooltip("forwards:Q", format=".0f"),
                     alt.Tooltip("error:Q", title="relative error", format=".3f")],
        )
    )  # fmt: skip
    return (lines + theme.rule_y(wanted, f"error {wanted:g}")).properties(width=430, height=320)
