"""Where the tokens of a description look, in words: at the image, at the rest of the prompt, at what has been said; where on the image, and how spread out."""

import polars as pl
from markupsafe import Markup

from headflow.analysis.sharing import PUBLISHED, largest
from headflow.charts.sharing import NAMES
from headflow.reporting.html import table
from headflow.reporting.words import chance, counted, interval, listed, percent
from headflow.tables.sharing import GROUPS

BLIND = "There are no maps: the layers' windows are too short for the words to reach back to the image."
NOTHING = "cannot be told: no picture was described with a single word."


def attention_fractions(fractions: pl.DataFrame) -> str:
    """How the generated tokens divide their attention, against the share of the tokens; and whether query tokens get as much as the paper saw."""
    rows = {row["group"]: row for row in fractions.filter(pl.col("layers") == "all").iter_rows(named=True)}
    if not rows:
        return f"What the words look at {NOTHING}"
    query, few, limit = rows["query"], PUBLISHED["query_tokens"], PUBLISHED["query_attention"]
    parts = listed([f"{percent(rows[group]['share'])} to {NAMES[group]} ({_ends(rows[group], 'share')})" for group in GROUPS])
    start = f"Generated tokens give {parts} of their attention, mean over {counted(query['pictures'], 'picture')}."
    tokens = f"{percent(query['token_share'])} of the tokens (in the paper under {few:.0%})"
    if query["share_low"] is None or query["share_low"] <= limit <= query["share_high"]:
        verdict = f"whether that is over {limit:.0%}, as in the paper, cannot be told"
    else:
        verdict = f"that is over {limit:.0%}, as in the paper" if query["share_low"] > limit else f"that is not over {limit:.0%}, unlike in the paper"
    return f"{start} The rest of the prompt is {tokens} and gets {_against(query)}; {verdict}.{_crossing(fractions)}"


def fractions_table(fractions: pl.DataFrame) -> Markup:
    """The same as a table, the paper's figures in the last column."""
    published = {"query": f"under {PUBLISHED['query_tokens']:.0%} of the tokens, over {PUBLISHED['query_attention']:.0%} of the attention"}
    rows = [
        [
            NAMES[row["group"]], f"{row['tokens']:.1f}",
            *(f"{percent(row[name])} ({_ends(row, name)})" for name in ("token_share", "even", "share")), published.get(row["group"], ""),
        ]
        for row in fractions.filter(pl.col("layers") == "all").iter_rows(named=True)
    ]  # fmt: skip
    return table(["tokens", "number", "share of the tokens", "attention, if it were even", "attention", "in the paper (other models)"], rows)


def layer_shares(means: pl.DataFrame) -> str:
    """How far the layers differ in what they look at, and which group gets most in how many of them."""
    if not len(means):
        return f"How attention changes with depth {NOTHING}"
    text, crossing = means.filter(~pl.col("crosses")), means.filter(pl.col("crosses"))["layer"].n_unique()
    # Under cross-attention only its layers see the image.
    group, start = ("query", f"{counted(crossing, 'layer')} of cross-attention see the image alone. In the others the") if crossing else ("image", "The")
    if not len(text):
        return "Every layer attends to the image alone, by cross-attention."
    rows = text.filter(pl.col("group") == group).sort("mean")
    least, most = rows.row(0, named=True), rows.row(-1, named=True)
    name = NAMES[group].removeprefix("the ")
    if rows.height == 1:
        first = f"{start} {name} gets {_told(most)} of the generated tokens' attention in the one layer there is"
    elif least["high"] is None or most["low"] <= least["high"]:
        first = f"{start} {name} gets {percent(least['mean'])} to {percent(most['mean'])} of the generated tokens' attention; that layers differ cannot be told"
    else:
        ends = f"{_told(least)} in layer {least['layer']} to {_told(most)} in layer {most['layer']}"
        first = f"{start} {name}'s share of the generated tokens' attention goes from {ends}"
    leads = text.sort("mean", descending=True).group_by("layer", maintain_order=True).first()["group"].to_list()
    leaders = [f"{NAMES[name]} in {counted(leads.count(name), 'layer')}" for name in GROUPS if name in leads]
    return f"{first}. The largest part goes to {listed(leaders)}."


def head_shares(heads: pl.DataFrame) -> str:
    """How far heads differ: which look at the image most and least, and how many look at it more than at all else."""
    text = heads.filter(~pl.col("crosses"))
    if not len(heads):
        return f"Which heads look at the image {NOTHING}"
    if len(text) < len(heads):
        return "The image is seen in layers of cross-attention alone, by heads that see nothing else; how much the heads differ in that cannot be told."
    image = text.filter(pl.col("group") == "image").sort("mean")
    least, most, majority = image.row(0, named=True), image.row(-1, named=True), int((image["mean"] > 0.5).sum())
    ends = [f"{_told(row)} (head {row['head']} of layer {row['layer']})" for row in (least, most)]
    return f"{majority:,} of {counted(len(image), 'head')} give more than half of their attention to the image; the shares go from {ends[0]} to {ends[1]}."


def layer_maps(maps: pl.DataFrame) -> str:
    """Whether the layers look at the same places, or why there are no maps."""
    if not len(maps):
        return f"Where on the image the words look {NOTHING}"
    if not maps["image_token"].any():
        return BLIND
    pictures, layers = maps["id"].n_unique(), maps["layer"].n_unique()
    if maps["left"].is_null().all():
        return f"Maps of {counted(pictures, 'picture')} cannot be drawn: which part of the picture an image token shows is not known for this model."
    if layers == 1:
        return f"Maps of {counted(pictures, 'picture')}; a single layer reads the image."
    first = maps.filter(pl.col("image_token")).sort("attention", descending=True).group_by("id", "layer", maintain_order=True).first()
    times = first.group_by("id", "token").len().group_by("id").agg(pl.col("len").max())["len"]
    share, tokens = float(times.mean()) / layers, maps.filter(pl.col("image_token")).group_by("id").agg(pl.col("token").n_unique())["token"].mean()
    return (
        f"The image token that gets the most attention in most layers of a picture does so in {percent(share)} of the {layers} layers, mean over "
        f"{counted(pictures, 'picture')} of {tokens:.0f} image tokens; it would be {percent(1 / layers)} if every layer had another."
    )


def map_spread(contrast: pl.DataFrame, rows: pl.DataFrame, *, top: float = 0.01, confidence: float = 0.95) -> str:
    """Whether maps are spread out in the middle layers and made of outliers early and late, as the paper saw, by both measures.

    Args:
        contrast: the table of spread over depth.
        rows: the table of the spread of each picture.
        top: share of the image tokens that counts as the largest ones.
        confidence: level of the intervals.
    """
    if not len(rows):
        return f"How spread out the maps are {NOTHING}"
    if not rows["image_tokens"].sum():
        return BLIND
    found = {row["measure"]: row for row in contrast.iter_rows(named=True)}
    if len(found) < 2:
        return "Whether the maps are more spread out in the middle layers cannot be told: fewer than three layers read the image."
    tokens, (wide, held) = round(float(rows["image_tokens"].mean())), (found["effective"], found["top"])
    most = largest(tokens, top)
    largest_ones = f"the largest token of {tokens:,} gets" if most == 1 else f"the {most:,} largest tokens of {tokens:,} get"
    means = [f"{percent(row['early'])}, {percent(row['middle'])} and {percent(row['late'])}" for row in (wide, held)]
    start = (
        f"In the first, middle and last third of the layers the effective number of tokens is {means[0]} of all, and {largest_ones} {means[1]} of the "
        "image's attention."
    )
    verdicts = [_verdict(row, confidence) for row in (wide, {**held, "difference": -held["difference"]})]
    told = f"{_difference(wide)} in effective tokens, {_difference(held)} in what the largest get; middle against the rest"
    if verdicts[0] != verdicts[1] or verdicts[0] is None:
        return f"{start} Whether the middle is more spread out than the ends, as in the paper, cannot be told ({told})."
    if verdicts[0]:
        return f"{start} The middle is more spread out than the ends, as in the paper ({told})."
    return f"{start} The middle is less spread out than the ends, the opposite of what the paper reports ({told})."


def _verdict(row: dict, confidence: float) -> bool | None:
    """Whether the middle is more spread out; None where that cannot be told."""
    return row["difference"] > 0 if row["p"] is not None and row["p"] < 1 - confidence else None


def _difference(row: dict) -> str:
    if row["low"] is None:
        return "no interval"
    return f"{interval(100 * row['low'], 100 * row['high'], signed=True)} points, {chance(row['p'])}"


def _crossing(fractions: pl.DataFrame) -> str:
    text = {row["group"]: percent(row["share"]) for row in fractions.filter(pl.col("layers") == "text").iter_rows(named=True)}
    if not text:
        return ""
    others = f"the other layers give {text['query']} to the rest of the prompt and {text['generated']} to what has been said"
    return f" The image's share is the share of layers of cross-attention, which see nothing else; {others}."


def _against(row: dict) -> str:
    """Attention against what even attention would give."""
    if row["share_low"] is None or row["even"] <= 0 or row["share_low"] <= row["even"] <= row["share_high"]:
        return f"{percent(row['share'])} of the attention, which cannot be told from an even share ({percent(row['even'])})"
    return f"{percent(row['share'])} of the attention, {row['share'] / row['even']:.2g} times an even share ({percent(row['even'])})"


def _ends(row: dict, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return "no interval" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def _told(row: dict) -> str:
    low, high = row["low"], row["high"]
    return percent(row["mean"]) if low is None or high is None else f"{percent(row['mean'])} [{percent(low)} to {percent(high)}]"
