"""The prompt itself, token by token: which tokens of the text receive the picture."""

import altair as alt
import polars as pl

from headflow.charts import theme

HEADS = {"all": "all heads", "top": "the top heads alone"}
ROLES = {
    "system": "before the picture", "image": "picture token", "question": "question", "role": "role", "final": "final", "answer": "answer",
    "before": "up to the question's end", "after": "after the question",
}  # fmt: skip
MOST_TOKENS = 60
"""Tokens drawn; of longer prompts those that matter most."""
_ROW, _LETTER, _LINE = 22, 7.6, 46
_PALE = 0.62  # share of the scale's end from which white letters are read more easily


def template_tokens(
    slots: pl.DataFrame, template: str | None = None, *, totals: dict[str, float] | None = None, top: int | None = None, unit: str = "logits"
) -> alt.HConcatChart:
    """One template's prompt read downward, and beside each token its mean attribution with interval: with all heads, and with the top heads alone.

    Args:
        slots: the text slots table.
        template: whose slots are drawn; None = that of most examples.
        totals: for each set of heads what they bring to the answer altogether, mean over examples; drawn as a rule.
        top: number of top heads, for the heading.
    """
    name = template if template is not None else largest_template(slots)
    rows = slots.filter(pl.col("template").eq_missing(pl.lit(name)), pl.col("window").is_null())
    first = rows.filter(pl.col("heads") == "all")
    if first.height > MOST_TOKENS:
        kept = first.sort(pl.col("mean").abs(), descending=True, nulls_last=True).head(MOST_TOKENS)["slot"]
        rows, first = (frame.filter(pl.col("slot").is_in(kept.to_list())) for frame in (rows, first))
    order = [str(slot) for slot in first.sort("slot")["slot"]]
    rows = theme.drawable(rows).with_columns(
        pl.col("slot").cast(pl.String).alias("place"), _visible().alias("token"), pl.col("role").replace(ROLES).alias("part"),
        pl.col("heads").replace(HEADS).alias("which"),
    )  # fmt: skip
    height = _ROW * max(1, len(order))
    y = alt.Y("place:N", scale=alt.Scale(domain=order, paddingInner=0.12), axis=None)
    ends = [value for column in ("mean", "low", "high") for value in rows[column].drop_nulls().to_list()] + [0.0, *(totals or {}).values()]
    low, high = (min(ends), max(ends)) if max(ends) > min(ends) else (0.0, 1.0)
    reach = float(rows["mean"].abs().max() or 0.0) or 1.0
    headings = HEADS | ({"top": f"the top {top} {'head' if top == 1 else 'heads'} alone"} if top else {})
    prompt = _prompt(rows.filter(pl.col("heads") == "all"), y, reach, unit)
    panels: list[alt.LayerChart] = [prompt.properties(width=170, height=height, title="The prompt, read downward")]
    for heads, heading in headings.items():
        mine = rows.filter(pl.col("heads") == heads)
        if len(mine):
            bars = _bars(mine, y, (low, high), reach, unit, (totals or {}).get(heads))
            panels.append(bars.properties(width=215, height=height, title=f"With {heading}"))
    return alt.hconcat(*panels, spacing=14)


def _prompt(rows: pl.DataFrame, y: alt.Y, reach: float, unit: str) -> alt.LayerChart:
    """Cells with the tokens, coloured by attribution; the role stands beside the first token of each."""
    colour = alt.Color("mean:Q", legend=None, scale=alt.Scale(scheme=theme.SIGNED, domain=[-reach, reach], domainMid=0))
    base = alt.Chart(rows).encode(y=y, tooltip=_tooltip(unit))
    cells = base.mark_rect(cornerRadius=3).encode(x=alt.value(62), x2=alt.value(170), color=colour)
    ink = alt.condition(f"abs(datum.mean) > {_PALE * reach}", alt.value("#ffffff"), alt.value(theme.INK))
    words = base.mark_text(align="left", fontSize=12, limit=100, font="monospace").encode(x=alt.value(68), text="token:N", color=ink)
    starts = rows.with_columns(pl.col("slot").cast(pl.Int64)).sort("slot").group_by("part", maintain_order=True).first()
    roles = alt.Chart(starts).mark_text(align="left", color=theme.QUIET, fontSize=12, limit=60).encode(y=y, x=alt.value(0), text="part:N")
    return alt.layer(cells, words, roles)


def _bars(rows: pl.DataFrame, y: alt.Y, ends: tuple[float, float], reach: float, unit: str, total: float | None) -> alt.LayerChart:
    title = f"attribution, {unit}"
    x = alt.X("mean:Q", title=title, axis=alt.Axis(tickCount=5), scale=alt.Scale(domain=ends, nice=True))
    colour = alt.Color("mean:Q", legend=None, scale=alt.Scale(scheme=theme.SIGNED, domain=[-reach, reach], domainMid=0))
    base = alt.Chart(rows).encode(y=y, tooltip=_tooltip(unit))
    bars = base.mark_bar(height=13, stroke=theme.RULE, strokeWidth=0.5).encode(x=x, color=colour)
    spans = base.mark_rule(color=theme.INK, strokeWidth=1.4).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    layers = [theme.rule_x(0.0), bars, spans]
    if total is not None:
        layers.insert(0, theme.rule_x(total, "all tokens cut", left=True))
    return alt.layer(*layers)


def _tooltip(unit: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip("token:N"), alt.Tooltip("part:N", title="role"), alt.Tooltip("which:N", title="cut"),
        alt.Tooltip("mean:Q", title=f"attribution, {unit}", format="+.3f"), alt.Tooltip("low:Q", title="interval from", format="+.3f"),
        alt.Tooltip("high:Q", title="to", format="+.3f"), alt.Tooltip("share:Q", title="share of the whole effect", format="+.1%"),
        alt.Tooltip("alone:Q", title="effect when cut alone", format="+.3f"), alt.Tooltip("size:Q", title="mean size", format=".3f"),
        alt.Tooltip("examples:Q"),
    ]  # fmt: skip


def example_prompt(tokens: pl.DataFrame, heads: str = "all", unit: str = "logits") -> alt.LayerChart:
    """One example's prompt as it is read, coloured by attribution; below each token its number, plus or minus the half of its interval.

    Args:
        tokens: the text tokens table, of one example.
    """
    rows = tokens.filter(pl.col("heads") == heads)
    summed = rows.group_by("token", maintain_order=True).agg(
        pl.col("text").first(), pl.col("role").first(), pl.col("attribution").sum(), pl.col("alone").sum(),
        # Errors of the bands of one token are those of one regression, nearly independent.
        ((pl.col("high") - pl.col("low")) / 2).pow(2).sum().sqrt().alias("half"),
    ).sort("token")  # fmt: skip
    summed = theme.drawable(summed).with_columns(_visible().alias("word"), pl.col("role").replace(ROLES).alias("part"))
    numbers = [_number(*row) for row in summed.select("attribution", pl.col("half").fill_null(0.0)).rows()]
    words = [word if len(word) <= 24 else word[:23] + "…" for word in summed["word"]]
    left, top, places = 0.0, 0.0, []
    for word, number, role in zip(words, numbers, summed["role"], strict=True):
        width = max(_LETTER * len(word), 0.78 * _LETTER * len(number)) + 14
        if left and left + width > theme.WIDTH - 12:
            left, top = 0.0, top + _LINE
        places.append((left, left + width - 4, top, top + 22, (left + left + width - 4) / 2, top + 11, top + 31, role))
        left += width
    geometry = pl.DataFrame(places, schema=["x", "x2", "y", "y2", "middle", "centre", "below", "_"], orient="row").drop("_")
    drawn = pl.concat([summed.with_columns(word=pl.Series(words, dtype=pl.String), number=pl.Series(numbers, dtype=pl.String)), geometry], how="horizontal")
    reach = float(drawn["attribution"].abs().max() or 0.0) or 1.0
    height = top + _LINE
    frame = {"scale": alt.Scale(domain=[0, theme.WIDTH - 12], nice=False, zero=False), "axis": None}
    down = {"scale": alt.Scale(domain=[height, 0], nice=False, zero=False), "axis": None}
    tooltip = [
        alt.Tooltip("word:N", title="token"), alt.Tooltip("part:N", title="role"), alt.Tooltip("number:N", title=f"attribution, {unit}"),
        alt.Tooltip("alone:Q", title="effect when cut alone", format="+.3f"),
    ]  # fmt: skip
    base = alt.Chart(drawn).encode(tooltip=tooltip)
    colour = theme.signed("attribution", drawn, f"attribution, {unit}", orient="top", direction="horizontal")
    cells = base.mark_rect(cornerRadius=3, stroke=theme.FAINT).encode(x=alt.X("x:Q", **frame), x2="x2:Q", y=alt.Y("y:Q", **down), y2="y2:Q", color=colour)
    ink = alt.condition(f"abs(datum.attribution) > {_PALE * reach}", alt.value("#ffffff"), alt.value(theme.INK))
    texts = base.mark_text(fontSize=12, font="monospace").encode(x=alt.X("middle:Q", **frame), y=alt.Y("centre:Q", **down), text="word:N", color=ink)
    below = base.mark_text(fontSize=10, color=theme.QUIET).encode(x=alt.X("middle:Q", **frame), y=alt.Y("below:Q", **down), text="number:N")
    return alt.layer(cells, texts, below).properties(width=theme.WIDTH - 12, height=height)


def _number(value: float, half: float) -> str:
    """A value with its sign and, where there is one, half of its interval."""
    text = f"{value:+.2f}" if abs(value) >= 0.005 else "0.00"
    return text.replace("-", "−") + (f" ± {half:.2f}" if half else "")


def role_shares(roles: pl.DataFrame, template: str | None = None) -> alt.LayerChart:
    """What share of the effect the tokens of each role receive, with all heads (filled) and with the top heads alone (hollow).

    Args:
        roles: the text roles table.
        template: whose examples are meant; None = all.
    """
    rows = theme.drawable(
        roles.filter(pl.col("template").eq_missing(pl.lit(template)), pl.col("window").is_null(), ~pl.col("role").is_in(["all", "before", "after"]))
    )
    order = [ROLES[role] for role in ROLES if role in set(rows["role"])]
    rows = rows.with_columns(pl.col("role").replace(ROLES).alias("part"), pl.col("heads").replace(HEADS).alias("which"))
    which = [HEADS[heads] for heads in HEADS if heads in set(rows["heads"])]
    ends = [value for column in ("share", "share_low", "share_high") for value in rows[column].drop_nulls().to_list()] + [0.0, 1.0]
    scale = alt.Scale(domain=[min(ends), max(ends)])
    title = "share of the effect of all tokens together"
    x = alt.X("share:Q", title=title, scale=scale, axis=alt.Axis(format="%", tickCount=6))
    offset = alt.YOffset("which:N", scale=alt.Scale(domain=which, paddingOuter=0.3))
    base = alt.Chart(rows).encode(y=alt.Y("part:N", title=None, scale=alt.Scale(domain=order, paddingInner=0.2)), yOffset=offset)
    spans = base.mark_rule(strokeWidth=2.5, opacity=0.55, color=theme.ACCENT).encode(x=alt.X("share_low:Q", title=title, scale=scale), x2="share_high:Q")
    inside = alt.Scale(domain=list(HEADS.values()), range=[theme.ACCENT, "#ffffff"])
    dots = base.mark_point(size=80, strokeWidth=1.8, stroke=theme.ACCENT).encode(
        x=x,
        fill=alt.Fill("which:N", title=None, scale=inside, legend=alt.Legend(orient="top", labelLimit=260)),
        tooltip=[
            alt.Tooltip("part:N", title="role"), alt.Tooltip("which:N", title="cut"), alt.Tooltip("tokens:Q", title="tokens", format=".1f"),
            alt.Tooltip("share:Q", format="+.1%"), alt.Tooltip("share_low:Q", title="interval from", format="+.1%"),
            alt.Tooltip("share_high:Q", title="to", format="+.1%"), alt.Tooltip("mean:Q", title="attribution", format="+.3f"), alt.Tooltip("examples:Q"),
        ],
    )  # fmt: skip
    rules = [theme.rule_x(0.0), theme.rule_x(1.0)]
    return alt.layer(*rules, spans, dots).properties(
        width=theme.WIDTH, height=90 + 48 * len(order), autosize=alt.AutoSizeParams(type="fit", contains="padding")
    )


def token_depths(slots: pl.DataFrame, bands: list[str], template: str | None = None, heads: str = "all", unit: str = "logits") -> alt.LayerChart:
    """In which layers each token receives the picture: tokens from left to right, layers upward. For runs with several bands of layers.

    Args:
        bands: name of each band, such as "0–1", from the input upward.
    """
    name = template if template is not None else largest_template(slots)
    rows = slots.filter(pl.col("template").eq_missing(pl.lit(name)), pl.col("heads") == heads, pl.col("window").is_not_null())
    rows = theme.drawable(rows).with_columns(
        _visible().alias("token"), pl.format("{} {}", pl.col("slot") + 1, _visible()).alias("place"), pl.col("role").replace(ROLES).alias("part"),
        pl.col("window").replace_strict(dict(enumerate(bands)), return_dtype=pl.String).alias("layers"), pl.lit(HEADS[heads]).alias("which"),
    )  # fmt: skip
    order = rows.sort("slot")["place"].unique(maintain_order=True).to_list()
    cells = alt.Chart(rows).mark_rect(cornerRadius=2).encode(
        x=alt.X("place:N", title="token", scale=alt.Scale(domain=order), axis=alt.Axis(labelAngle=-60, labelLimit=110)),
        y=alt.Y("layers:N", title="decoder layers", scale=alt.Scale(domain=list(reversed(bands)))),
        color=theme.signed("mean", rows, f"attribution, {unit}", orient="top", direction="horizontal"),
        tooltip=[*_tooltip(unit), alt.Tooltip("layers:N")],
    )  # fmt: skip
    return alt.layer(cells).properties(width=theme.WIDTH - 80, height=max(60, 30 * len(bands)))


def largest_template(slots: pl.DataFrame) -> str | None:
    """The template of most examples; the first of several."""
    if slots.is_empty():
        return None
    sizes = slots.group_by("template", maintain_order=True).agg(pl.col("examples").max())
    return sizes.sort("examples", descending=True, maintain_order=True)["template"][0]


def _visible() -> pl.Expr:
    """Tokens with their spaces and line breaks made visible."""
    text = pl.col("text").str.replace_all("\n", "↵", literal=True)
    for mark, shown in (("Ċ", "↵"), ("▁", " "), ("Ġ", " "), ("\t", "⇥")):
        text = text.str.replace_all(mark, shown, literal=True)
    return pl.when(text.str.strip_chars() == "").then(pl.lit("␣")).otherwise(text.str.strip_chars())
