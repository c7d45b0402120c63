"""How far the linear fit can be trusted: held-out masks, and more masks."""

import altair as alt
import polars as pl

from headflow.charts import numbers, theme

MOST_POINTS = 1500
MOST_PICTURES = 300


def held_out(predictions: pl.DataFrame, fits: pl.DataFrame, pictures: pl.DataFrame, unit: str = "logits") -> alt.HConcatChart:
    """Left: predicted against actual target on held-out masks. Right: the correlation of each example, with its picture on hover."""
    points = theme.drawable(numbers.thinned(predictions.sort("id", "mask"), MOST_POINTS))
    known = [value for column in ("actual", "predicted") for value in points[column].drop_nulls().to_list()] or [0.0, 1.0]
    ends = pl.DataFrame({"x": [min(known), max(known)]})
    same = alt.Chart(ends).mark_line(color=theme.INK, strokeDash=[4, 3], strokeWidth=1).encode(x="x:Q", y="x:Q")
    scale = alt.Scale(domain=[min(known), max(known)], nice=True)
    scatter = (
        alt.Chart(points)
        .transform_lookup("id", from_=alt.LookupData(data=pictures.filter(pl.col("id").is_in(points["id"].to_list())), key="id", fields=["image"]))
        .mark_point(size=14, opacity=0.35, color=theme.ACCENT)
        .encode(
            x=alt.X("predicted:Q", title=f"target predicted by the fit, {unit}", scale=scale),
            y=alt.Y("actual:Q", title=f"target in the model, {unit}", scale=scale),
            tooltip=[
                alt.Tooltip("id:N", title="title"),
                alt.Tooltip("image:N"),
                alt.Tooltip("mask:Q"),
                alt.Tooltip("predicted:Q", format=".2f"),
                alt.Tooltip("actual:Q", format=".2f"),
            ],
        )
    )
    left = (scatter + same).properties(width=360, height=330, title="Held-out masks (dashed: prediction = model)")
    return alt.hconcat(left, _per_example(fits, pictures), spacing=36)


def _per_example(fits: pl.DataFrame, pictures: pl.DataFrame) -> alt.LayerChart:
    rows = theme.drawable(numbers.thinned(fits.filter(pl.col("held_out_r").is_finite()).sort("id"), MOST_PICTURES)).with_columns(
        # Spread sideways only to keep the dots apart: a golden-ratio sequence never lines up.
        ((pl.int_range(pl.len()) * 0.618034) % 1.0).alias("aside")
    )
    shown = pictures.filter(pl.col("id").is_in(rows["id"].to_list()))
    low = min(0.0, float(rows["held_out_r"].min() or 0.0))
    dots = (
        alt.Chart(rows)
        .transform_lookup("id", from_=alt.LookupData(data=shown, key="id", fields=["image"]))
        .mark_point(size=42, color=theme.ACCENT, opacity=0.75)
        .encode(
            x=alt.X("aside:Q", axis=None, scale=alt.Scale(domain=[-0.15, 1.7])),  # room for the rules' names on the right
            y=alt.Y("held_out_r:Q", title="Pearson r within the example", scale=alt.Scale(domain=[low, 1.0])),
            tooltip=[alt.Tooltip("id:N", title="title"), alt.Tooltip("image:N"), alt.Tooltip("held_out_r:Q", title="r", format=".3f"),
                     alt.Tooltip("held_out_r2:Q", title="R²", format=".3f"), alt.Tooltip("intact:Q", title="target, intact", format=".2f"),
                     alt.Tooltip("ablated:Q", title="target, all heads cut", format=".2f")],
        )
    )  # fmt: skip
    middle = rows["held_out_r"].median()
    rules = [theme.rule_y(0, "no relation"), *([theme.rule_y(float(middle), "median")] if middle is not None else [])]
    return alt.layer(dots, *rules).properties(width=185, height=330, title="A dot an example")


def growth(growth_table: pl.DataFrame) -> alt.HConcatChart:
    """Held-out r and split-half agreement against the number of masks: median and middle 80 % of the examples."""
    rows = theme.drawable(numbers.growth_by_masks(growth_table))
    panels = {"held_out_r": "Predicts unseen masks", "agreement_r": "Agrees with itself (split halves)"}
    drawn = {title: part for measure, title in panels.items() if not (part := rows.filter(pl.col("measure") == measure)).is_empty() or measure == "held_out_r"}
    sizes = sorted(rows["masks"].unique())  # both panels share the axis, though halves of few masks are not compared
    width = 280 if len(drawn) > 1 else theme.WIDTH - 80
    return alt.hconcat(*(_growth_panel(part, title, sizes, width) for title, part in drawn.items()), spacing=40)


def _growth_panel(rows: pl.DataFrame, title: str, sizes: list[int], width: int) -> alt.LayerChart:
    lowest = float(rows["low"].min() or 0.0)
    domain = [min(0.0, lowest), 1.0]
    reach = {"domain": [sizes[0], sizes[-1]]} if sizes else {}
    axis = alt.Axis(values=sizes, format="d", grid=False, labelOverlap="greedy")
    base = alt.Chart(rows).encode(
        x=alt.X("masks:Q", title="masks used for the fit (log scale)", scale=alt.Scale(type="log", nice=False, padding=10, **reach), axis=axis),
        tooltip=[alt.Tooltip("masks:Q"), alt.Tooltip("median:Q", format=".3f"), alt.Tooltip("low:Q", title="10th percentile", format=".3f"),
                 alt.Tooltip("high:Q", title="90th percentile", format=".3f"), alt.Tooltip("examples:Q")],
    )  # fmt: skip
    band = base.mark_area(opacity=0.22, color=theme.ACCENT).encode(y=alt.Y("low:Q", title="Pearson r", scale=alt.Scale(domain=domain, clamp=True)), y2="high:Q")
    line = base.mark_line(color=theme.ACCENT, point={"color": theme.ACCENT, "size": 50}).encode(y="median:Q")
    return (band + line + theme.rule_y(1.0)).properties(width=width, height=250, title=title)
