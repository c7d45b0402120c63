"""Meaning or looks: what makes two pictures be served by the same heads."""

import altair as alt
import polars as pl

from headflow.attribution.multiple import holm
from headflow.charts import theme
from headflow.charts.examples import ALPHA, plain

GROUPS = {
    (True, True): ("same object, same look", "both"),
    (True, False): ("same object, another look", "meaning"),
    (False, True): ("another object, same look", "looks"),
    (False, False): ("another object, another look", "neither"),
}
"""Names of the groups of pairs, top to bottom, and what their pictures share."""
_SIDE, _ROW = 44, 54
"""Side of a picture of a pair and height of its row, pixels."""
COLOURS = {"both": theme.INK, **theme.KINDS, "neither": theme.RULE}


def look_pairs(table: pl.DataFrame, look: str = "looks", pictures: pl.DataFrame | None = None) -> alt.HConcatChart | alt.LayerChart:
    """How alike two pictures are, by what they share: in the heads that serve them, and, beside it, in the vision tower.

    If heads follow meaning, the second dot lies far right of the third on the left side, whatever the vision tower sees on the right.

    Args:
        table: the look pairs table.
        look: whose rows are drawn.
        pictures: ``id`` and ``image`` (a data URI) of at least the pairs' examples: a typical pair of each group is shown.
    """
    images = {} if pictures is None else dict(pictures.select("id", "image").iter_rows())
    rows = table.filter(pl.col("look") == look).to_dicts()
    for row in rows:
        row["group"], row["shared"] = GROUPS[row["same_meaning"], row["same_look"]]
        row["group"] += f" ({row['pairs']:,} {'pair' if row['pairs'] == 1 else 'pairs'})"
        row |= {"image_a": images.get(row["id_a"]), "image_b": images.get(row["id_b"])}
    order = [row["group"] for key in GROUPS for row in rows if (row["same_meaning"], row["same_look"]) == key]
    schema = table.schema | {"group": pl.String, "shared": pl.String, "image_a": pl.String, "image_b": pl.String}
    frame = theme.drawable(pl.DataFrame(rows, schema=schema))
    shown = not frame["image_a"].drop_nulls().is_empty()
    panels = [_typical(frame, order)] if shown else []
    panels.append(_likeness(frame, order, "similarity", "similarity of attributions, cosine", "In the heads that serve them", labelled=not shown, low=shown))
    if not frame["vision"].drop_nulls().is_empty():
        panels.append(_likeness(frame, order, "vision", "similarity of features, cosine", "In what the vision tower sees", labelled=False, low=shown))
    return alt.hconcat(*panels, spacing=22) if len(panels) > 1 else panels[0]


def _typical(frame: pl.DataFrame, order: list[str]) -> alt.LayerChart:
    """The two pictures of a typical pair, beside the name of its group."""
    y = alt.Y("group:N", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(labelLimit=260))
    base = alt.Chart(frame.select("group", "image_a", "image_b").drop_nulls()).encode(y=y)
    sides = [base.mark_image(width=_SIDE, height=_SIDE).encode(x=alt.value(place), url=url) for url, place in (("image_a:N", 24), ("image_b:N", 72))]
    return alt.layer(*sides).properties(width=96, height=_ROW * len(GROUPS), title="A typical pair")


def _likeness(frame: pl.DataFrame, order: list[str], value: str, title: str, heading: str, *, labelled: bool, low: bool) -> alt.LayerChart:
    y = alt.Y("group:N", title=None, scale=alt.Scale(domain=order), axis=alt.Axis(labelLimit=260) if labelled else None)
    colour = alt.Color("shared:N", scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())), legend=None)
    x = alt.X(f"{value}:Q", title=title, scale=alt.Scale(zero=False, padding=12), axis=alt.Axis(tickCount=4 if low else 5))
    base = alt.Chart(frame.drop("image_a", "image_b")).encode(y=y)
    layers = [base.mark_point(size=120).encode(
        x=x, color=colour,
        tooltip=["group:N", alt.Tooltip(f"{value}:Q", title=title, format="+.3f"),
                 *([alt.Tooltip("low:Q", format="+.3f"), alt.Tooltip("high:Q", format="+.3f")] if value == "similarity" else [])],
    )]  # fmt: skip
    if value == "similarity":  # the intervals are its own
        layers.insert(0, base.mark_rule(strokeWidth=3, opacity=0.55).encode(x=alt.X("low:Q", title=title), x2="high:Q", color=colour))
    base_line = frame.filter(~pl.col("same_meaning") & ~pl.col("same_look"))[value].drop_nulls()
    if len(base_line):
        layers.insert(0, theme.rule_x(float(base_line[0])))
    width = 176 if low else 230
    return alt.layer(*layers).properties(width=width, height=_ROW * len(GROUPS) if low else 150, title=heading)


def unique_effects(table: pl.DataFrame) -> alt.LayerChart:
    """What each label explains beyond the labels of the other kind; the tick is chance.

    Filled where its p-value is below 0.05 by Holm's correction, over the two kinds or over the single labels.
    """
    rows = theme.drawable(_with_adjusted(table.drop_nulls("unique"))).with_columns(
        pl.when(pl.col("label") == pl.col("kind")).then(pl.format("all of {}", "kind"))
        .otherwise(pl.format("{}: {}", "kind", pl.col("label").map_elements(plain, return_dtype=pl.String))).alias("name")
    )  # fmt: skip
    colour = alt.Scale(domain=list(theme.KINDS), range=list(theme.KINDS.values()))
    x = alt.X("unique:Q", title="variance explained beyond the other kind, share", scale=alt.Scale(domainMin=0))
    base = alt.Chart(rows).encode(y=alt.Y("name:N", title=None, scale=alt.Scale(domain=rows["name"].to_list()), axis=alt.Axis(labelLimit=180)))
    lines = base.mark_rule(strokeWidth=1.5, opacity=0.5).encode(x=x, x2="unique_chance:Q", color=alt.Color("kind:N", scale=colour, legend=None))
    ticks = base.mark_tick(color=theme.INK, thickness=2, height=18).encode(x="unique_chance:Q")
    dots = base.mark_point(size=95, strokeWidth=1.8).encode(
        x=x,
        stroke=alt.Stroke("kind:N", scale=colour, legend=None),
        fill=alt.condition(f"datum.adjusted < {ALPHA}", alt.Fill("kind:N", scale=colour, legend=None), alt.value("#ffffff")),
        tooltip=[alt.Tooltip("name:N", title="label"), alt.Tooltip("unique:Q", format=".3f"), alt.Tooltip("unique_chance:Q", title="chance", format=".3f"),
                 alt.Tooltip("unique_p:Q", title="p", format=".3f"), alt.Tooltip("adjusted:Q", title="p, corrected", format=".3f"),
                 "degrees:Q", "left:Q", "examples:Q"],
    )  # fmt: skip
    return (lines + ticks + dots).properties(
        width=theme.WIDTH, height=56 + 29 * max(1, rows.height), autosize=alt.AutoSizeParams(type="fit", contains="padding")
    )


def _with_adjusted(table: pl.DataFrame) -> pl.DataFrame:
    """``table`` with ``adjusted``: Holm's p-values, of the two kinds among themselves and of the single labels among themselves."""
    whole = (table["label"] == table["kind"]).to_list()
    adjusted = [1.0] * table.height
    for of_kinds in (True, False):
        places = [place for place, is_kind in enumerate(whole) if is_kind == of_kinds]
        for place, p in zip(places, holm(table["unique_p"].gather(places).to_list()) if places else [], strict=True):
            adjusted[place] = float(p)
    return table.with_columns(pl.Series("adjusted", adjusted, dtype=pl.Float64))


def similarities(table: pl.DataFrame) -> alt.LayerChart:
    """Partial correlation of attribution similarity with agreement in meaning, in looks and with the vision tower; hollow: plain correlation."""
    names = {"meaning": "same meaning", "looks": "same looks", "vision": "alike to the vision tower"}
    rows = theme.drawable(table.filter(pl.col("what").is_in(list(names)))).with_columns(pl.col("what").replace_strict(names).alias("name"))
    colours = {**theme.KINDS, "vision": theme.ACCENT}
    colour = alt.Color("kind:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=None)
    base = alt.Chart(rows).encode(y=alt.Y("name:N", title=None, scale=alt.Scale(domain=rows["name"].to_list()), axis=alt.Axis(labelLimit=180)))
    title = "correlation with similarity of attributions, the other two held constant"
    spans = base.mark_rule(strokeWidth=3, opacity=0.55).encode(
        x=alt.X("partial_low:Q", title=title, scale=alt.Scale(padding=8)), x2="partial_high:Q", color=colour
    )
    dots = base.mark_point(size=110).encode(
        x=alt.X("partial:Q", title=title),
        color=colour,
        tooltip=[alt.Tooltip("name:N"), alt.Tooltip("partial:Q", format="+.3f"), alt.Tooltip("partial_low:Q", format="+.3f"),
                 alt.Tooltip("partial_high:Q", format="+.3f"), alt.Tooltip("r:Q", title="plain", format="+.3f"), "given:N", "pairs:Q"],
    )  # fmt: skip
    plain_r = base.mark_point(size=70, filled=False, strokeWidth=1.5, color=theme.RULE).encode(x="r:Q")
    return (theme.rule_x(0.0) + spans + plain_r + dots).properties(
        width=theme.WIDTH, height=56 + 26 * max(1, rows.height), autosize=alt.AutoSizeParams(type="fit", contains="padding")
    )
