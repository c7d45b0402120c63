"""Which image tokens give the picture, in sentences: where they lie, how few they are, and whether any of the background matter."""

import numpy as np
import polars as pl

from headflow.reporting.words import chance, correlation, counted, interval, number, percent
from headflow.tracing.image_tables import HELD, PARTS
from headflow.tracing.intervals import mean, numbered

ALPHA = 0.05
NO_OBJECTS = "Where on the pictures it lies cannot be told: these examples come without masks of their objects, or the place of image tokens is not known."
_PLACES = {"object": "the main object", "others": "other objects", "background": "the background"}


def token_maps(fits: pl.DataFrame, unit: str = "logits") -> str:
    """How much the picture gives, in how many parts it was cut, and how far the maps can be trusted."""
    rows = fits.filter(heads="all")
    effect, r, error = float((rows["intact"] - rows["ablated"]).mean()), rows["held_out_r"].drop_nulls(), rows["relative_error"].drop_nulls()
    whole = f"All image tokens together are worth {number(effect)} {unit} on average"
    patches = rows.filter(pl.col("components") < pl.col("tokens"))
    cut = "each image token was cut off alone" if patches.is_empty() else (
        f"the {_count(patches['tokens'].mean())} image tokens were cut off in {_count(patches['components'].mean())} patches, smaller where more "
        "of it comes from"
    )  # fmt: skip
    trust = (
        f"the sum of the attributions of those that are intact predicts unseen masks with r = {correlation(r.mean())} (from {correlation(r.min())} to "
        f"{correlation(r.max())} over {counted(len(r), 'example')})"
        if len(r) else "how well the attributions predict unseen masks cannot be told, as the target does not vary"
    )  # fmt: skip
    rest = f", and their estimated relative error is {percent(error.mean())}" if len(error) else ""
    checked = int(rows["patches_checked"].sum())
    agreeing = percent(rows["patches_agreeing"].sum() / checked) if checked else ""
    parts = f" Of {counted(checked, 'patch', 'patches')} halved on the way, {agreeing} are the sum of their parts within error." if checked else ""
    return f"{whole}; {cut}, and {trust}{rest}.{_redundant(r)}{parts}"


def _redundant(r: pl.Series) -> str:
    if not len(r) or r.mean() >= 0.8:
        return ""
    return " Much of what tokens do depends on which others are there, so that no sum of single tokens predicts it well: read the maps as averages."


def shares(means: pl.DataFrame) -> str:
    """Does the object give more than its area, and more than its attention? Corrected for the three parts."""
    rows = {(row["what"], row["part"]): row for row in means.iter_rows(named=True)}
    if ("attribution", "object") not in rows or rows["attribution", "object"]["mean"] is None:
        return NO_OBJECTS
    own = rows["attribution", "object"]
    area = rows["even", "object"]["mean"]
    amount = f"{percent(own['mean'])} ({_span(own)}) of the attribution lies in the main object, where {percent(area)} of the tokens' area is"
    told = {1: "The object gives more than its area", -1: "The object gives less than its area"}
    start = told.get(_sign(own), "Whether the object gives more than its area cannot be told")
    net = rows.get(("net", "object"))
    signed = f" (of the signed sum, in which errors of single tokens cancel, {percent(net['mean'])})" if net and net["mean"] is not None else ""
    looked = rows["attention", "object"]
    beside = f"; of the final token's attention to the picture {percent(looked['mean'])} ({_span(looked)}) falls there"
    apart = own["low"] is not None and looked["low"] is not None and (own["low"] > looked["high"] or own["high"] < looked["low"])
    more = "more than" if own["mean"] > looked["mean"] else "less than"
    beside += f", so that attention says {'less' if more == 'more than' else 'more'} of the object than attribution does" if apart else ""
    others = [f"{percent(rows['attribution', part]['mean'])} in {_PLACES[part]} ({_against(rows['attribution', part])})" for part in list(PARTS)[1:]]
    count = own["pictures"]
    return (
        f"{start}: {amount}{signed}, {chance(own['p_holm'])} over {counted(count, 'picture')}{beside}. Of the rest, "
        f"{' and '.join(others)}; a token at an object's edge counts by the part of it that the object covers."
    )


def _against(row: dict) -> str:
    side = {1: "more than its area", -1: "less than its area"}.get(_sign(row), "more or less than its area cannot be told")
    return side


def _sign(row: dict) -> int:
    """Which side of the even share it lies on, if that can be told."""
    if row["p_holm"] is None or not row["p_holm"] < ALPHA:
        return 0
    return 1 if row["over"] > 0 else -1


def held_curves(sparsity: pl.DataFrame, pictures: dict[str, int], confidence: float = 0.95) -> str:
    """How few tokens hold most of the attribution, against attention; the difference is paired over examples.

    Args:
        sparsity: the image sparsity table.
        pictures: the picture of each example.
    """
    wide = {what: part.sort("id") for (what,), part in sparsity.drop_nulls("tokens").group_by("what")}
    if "attribution" not in wide:
        return "How few tokens hold most cannot be told: no token gives anything."
    own = wide["attribution"]
    numbers = numbered([pictures[name] for name in own["id"]])
    found, share = (mean(own[column].cast(pl.Float64).to_numpy(), numbers, confidence) for column in ("tokens", "share"))
    text = (
        f"{_count(float(found.value))} of {_count(own['of'].mean())} image tokens ({percent(float(share.value))}, {_ends(share, percent)}) hold "
        f"{HELD:.0%} of the attribution"
    )
    if "attention" not in wide:
        return f"{text}."
    both = own.join(wide["attention"], on="id", suffix="_attention", maintain_order="left")
    gap = mean((both["share"] - both["share_attention"]).to_numpy(), numbered([pictures[name] for name in both["id"]]), confidence)
    there = percent(float(both["share_attention"].mean()))
    if np.isfinite(gap.low) and (gap.low > 0 or gap.high < 0):
        way = "on fewer tokens than" if gap.value < 0 else "on more tokens than"
        return f"{text}, which is concentrated {way} attention ({there}; difference {_ends(gap, percent)})."
    return f"{text}; whether that is sparser than attention ({there}) cannot be told (difference {_ends(gap, percent)})."


def background_tokens(background: pl.DataFrame, tokens: pl.DataFrame, unit: str = "logits") -> str:
    """Are there tokens outside all objects that matter? Corrected for all that were looked at.

    Args:
        background: the image background table.
        tokens: the image tokens table.
    """
    outside = tokens.filter((pl.col("in_object") < 1e-6) & (pl.col("in_others") < 1e-6))
    tested = outside.height
    if not tested:
        return "Whether tokens of the background matter cannot be told: the objects of these pictures, or the places of image tokens, are not known."
    whole = tokens.filter(pl.col("id").is_in(outside["id"].unique().to_list()))["attribution"].abs().sum()
    held = f" Tokens that touch no object hold {percent(outside['attribution'].abs().sum() / whole)} of the attribution." if whole else ""
    if background.is_empty():
        return f"No single token of the background can be told to matter: none of {tested:,} outside all objects has an interval without zero.{held}"
    clear = background.filter(pl.col("q") < ALPHA)
    expected = f"{counted(background.height, 'token')} of {tested:,} outside all objects {'has' if background.height == 1 else 'have'} an interval without zero"
    if clear.is_empty():
        return f"No single token of the background can be told to matter: {expected}, which so many would show by chance; none is left after correction.{held}"
    first = clear.row(0, named=True)
    helping = clear.filter(pl.col("attribution") > 0).height
    return (
        f"Some tokens of the background matter: {expected}, and {clear.height:,} of them after correction ({helping:,} raise the answer, "
        f"{clear.height - helping:,} lower it); the strongest is worth {number(first['attribution'], signed=True)} {unit} "
        f"({interval(first['low'], first['high'], signed=True)}).{held}"
    )


def _count(mean_number: float) -> str:
    """A mean of counts, as a count where it is one."""
    return f"{mean_number:,.0f}" if abs(mean_number - round(mean_number)) < 1e-9 else number(float(mean_number))


def _span(row: dict) -> str:
    return f"{percent(row['low'])} to {percent(row['high'])}"


def _ends(found, write) -> str:
    if not np.isfinite(found.low):
        return "no interval"
    return f"{write(float(found.low))} to {write(float(found.high))}"
