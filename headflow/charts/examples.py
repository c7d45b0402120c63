"""Examples side by side: whose attributions are alike, and which labels say so."""

import re

import altair as alt
import polars as pl

from headflow.charts import numbers, theme

MOST_EXAMPLES = 300
MOST_THUMBNAILS = 120
THUMBNAIL, FEW, LARGER = 28, 30, 48
"""Side of a picture on the map, pixels; LARGER where there are no more than FEW of them."""
MOST_COLOURS = 10
ALPHA = 0.05
FRAME = alt.ViewBackground(stroke=theme.FAINT)


def example_map(positions: pl.DataFrame, labels: pl.DataFrame, pictures: pl.DataFrame) -> alt.VConcatChart:
    """Above: each example's picture where its attributions put it. Below: the same map coloured by one label each.

    Args:
        positions: the example map table.
        labels: ``id`` and one text column a label, named ``meaning_…`` or ``looks_…``.
        pictures: ``id`` and ``image`` (a data URI).
    """
    names = [name for name in labels.columns if name.startswith(("meaning_", "looks_"))]
    # A column may be called anything; inside a chart it goes by its place, as Vega reads dots and brackets in names as paths.
    safe = {name: f"label{place}" for place, name in enumerate(names)}
    rows = theme.drawable(numbers.thinned(positions.sort("id"), MOST_EXAMPLES)).join(labels.rename(safe), on="id", how="left")
    shown = pictures.filter(pl.col("id").is_in(rows["id"].to_list()))
    base = alt.Chart(rows).transform_lookup("id", from_=alt.LookupData(data=shown, key="id", fields=["image"]))
    tooltip = [alt.Tooltip("image:N"), *(alt.Tooltip(f"{field}:N", title=_bare(name)) for name, field in safe.items()), alt.Tooltip("id:N", title="example")]
    panels = [_coloured(base, safe[name], name, theme.palette(labels[name]), tooltip) for name in names if 2 <= labels[name].n_unique() <= MOST_COLOURS]
    return alt.vconcat(
        _thumbnails(base, rows, tooltip),
        *(alt.hconcat(*panels[i : i + 2], spacing=128, bounds="flush").resolve_scale(fill="independent") for i in range(0, len(panels), 2)),
    ).resolve_scale(fill="independent")


def _thumbnails(base: alt.Chart, rows: pl.DataFrame, tooltip: list[alt.Tooltip]) -> alt.LayerChart | alt.Chart:
    axes = {"x": _coordinate("x"), "y": _coordinate("y")}
    if rows.height > MOST_THUMBNAILS:
        return (
            base.mark_point(size=45, color=theme.ACCENT, opacity=0.7)
            .encode(**axes, tooltip=tooltip)
            .properties(width=650, height=400, view=FRAME, title="Every example where its attributions put it")
        )
    side = LARGER if rows.height <= FEW else THUMBNAIL
    frames = base.mark_square(size=(side + 2) ** 2, color="#ffffff", opacity=1, stroke=theme.RULE, strokeWidth=0.8).encode(**axes)
    images = base.mark_image(width=side, height=side).encode(**axes, url="image:N", tooltip=tooltip)
    return (frames + images).properties(width=650, height=430, view=FRAME, title="Every picture where its attributions put it")


def _coloured(base: alt.Chart, field: str, name: str, colours: dict[str, str], tooltip: list[alt.Tooltip]) -> alt.Chart:
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    fill = alt.Fill(f"{field}:N", title=None, scale=scale, legend=alt.Legend(labelLimit=90))
    return (
        base.mark_point(size=48, opacity=0.95, stroke=theme.QUIET, strokeWidth=0.5)
        .encode(x=_coordinate("x"), y=_coordinate("y"), fill=fill, tooltip=tooltip)
        .properties(width=225, height=200, view=FRAME, title=f"Coloured by {plain(name)}")
    )


def _coordinate(field: str) -> alt.X | alt.Y:
    # Distances on such a map have no unit, so numbers on its axes would only mislead.
    channel = alt.X if field == "x" else alt.Y
    scale = alt.Scale(zero=False, nice=False, padding=LARGER // 2 + 4)
    return channel(f"{field}:Q", title=None, scale=scale, axis=alt.Axis(labels=False, ticks=False, grid=False, domain=False))


def separation(table: pl.DataFrame) -> alt.HConcatChart:
    """For each label: variance explained, nearest-neighbour purity and silhouette; filled where its p, corrected for the number of labels, is below 0.05."""
    for measure in ("explained", "purity", "silhouette"):
        table = numbers.with_adjusted(table, measure)
    rows = theme.drawable(table).with_columns(pl.format("{}: {}", "kind", pl.col("label").map_elements(plain, return_dtype=pl.String)).alias("name"))
    rows = rows.sort(["kind", "explained"], descending=[True, True])
    panels = [
        _measure(rows, "explained", "explained_chance", "variance explained, share", labelled=True),
        _measure(rows, "purity", "purity_chance", "nearest neighbours alike, share", labelled=False),
        _measure(rows, "silhouette", "silhouette_chance", "silhouette, −1 to 1", labelled=False),
    ]
    return alt.hconcat(*panels, spacing=22)


def _measure(rows: pl.DataFrame, value: str, chance: str, title: str, *, labelled: bool) -> alt.LayerChart:
    axis, adjusted = alt.Axis(labelLimit=150) if labelled else None, f"{value}_adjusted"
    y = alt.Y("name:N", scale=alt.Scale(domain=rows["name"].to_list()), title=None, axis=axis)
    known = [number for column in (value, chance) for number in rows[column].drop_nulls().to_list()]
    domain = [min(0.0, *known, 0.0), max(0.1, *known, 0.1)]
    x = alt.X(f"{value}:Q", title=title, scale=alt.Scale(domain=domain, nice=True), axis=alt.Axis(tickCount=4))
    colour = alt.Scale(domain=list(theme.KINDS), range=list(theme.KINDS.values()))
    base = alt.Chart(rows).encode(y=y)
    ticks = base.mark_tick(color=theme.INK, thickness=2, height=18).encode(x=f"{chance}:Q")
    lines = base.mark_rule(strokeWidth=1.5, opacity=0.5).encode(x=x, x2=f"{chance}:Q", color=alt.Color("kind:N", scale=colour, legend=None))
    dots = base.mark_point(size=85, strokeWidth=1.8).encode(
        x=x,
        stroke=alt.Stroke("kind:N", title=None, scale=colour, legend=None),
        fill=alt.condition(f"datum.{adjusted} !== null && datum.{adjusted} < {ALPHA}", alt.Fill("kind:N", scale=colour, legend=None), alt.value("#ffffff")),
        tooltip=[alt.Tooltip("name:N", title="label"), "kind:N", alt.Tooltip(f"{value}:Q", format=".3f"),
                 alt.Tooltip(f"{chance}:Q", title="chance", format=".3f"), alt.Tooltip(f"{value}_p:Q", title="p", format=".3f"),
                 alt.Tooltip(f"{adjusted}:Q", title="p, corrected", format=".3f"), "values:Q", "examples:Q"],
    )  # fmt: skip
    return (ticks + lines + dots).properties(width=165, height=max(60, 34 * rows.height))


def plain(label: str) -> str:
    """A label column's name in words, e.g. ``looks_hand_drawn`` → ``hand drawn``."""
    return " ".join(label.split("_", 1)[-1].replace("_", " ").split())


def _bare(label: str) -> str:
    """:func:`plain` without quotes and the like: Vega-Lite pastes the names of a tooltip's rows into code as they are."""
    return re.sub(r"[^\w .,()+/-]", " ", plain(label))
