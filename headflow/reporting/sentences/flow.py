"""Which arrives first, text or picture, and by which way the picture goes: in one sentence each."""

import polars as pl

from headflow.reporting.words import chance, interval, number, percent

ALPHA = 0.05
TEXT, VIA, DIRECT = "question→role", "image→question", "image→role"
BEFORE, AFTER, CANNOT_TELL = "before", "after", "cannot tell"
DIRECTLY, THROUGH_QUESTION = "directly", "through the question"


def order(depths: pl.DataFrame, contrasts: pl.DataFrame, unit: str = "logits", template: str | None = None) -> str:
    """Does the question's text reach the role and final tokens before the picture does? For all examples, or for those of ``template``."""
    depths, contrasts = _of(template, depths, contrasts)
    known = {row["route"]: row for row in depths.iter_rows(named=True)}
    question = "Whether the question's text reaches the role and final tokens before the picture does"
    if not known:
        return f"{question} cannot be told: no example was traced."
    if TEXT not in known:
        return (
            f"{question} is not asked of this model: it reads the picture in layers of cross-attention, gates act on those layers alone, and there no text "
            f"reads text."
        )
    if DIRECT not in known:
        return f"{question} cannot be told: there are no role or final tokens that could read the picture."
    text, picture, via = known[TEXT], known[DIRECT], known.get(VIA)
    if picture["depth"] is None and text["depth_low"] is not None and via is not None and via["depth_low"] is not None:
        return _two_hops(text, via, _contrast(contrasts, "depth", VIA, TEXT))
    for row, what in ((text, "the question's text"), (picture, "the picture")):
        if row["depth"] is None:
            return f"{question} cannot be told: {_no_depth(row, what, unit)}."
    depths_said = f"at layer {_depth(text)} on average, the picture at layer {_depth(picture)}"
    if text["depth_low"] is None:
        return f"{question} cannot be told in general from one picture; here the text arrives {depths_said}."
    gap = _contrast(contrasts, "depth", TEXT, DIRECT)
    outcome = _sign(gap, BEFORE, AFTER)
    if gap is None or outcome == CANNOT_TELL:
        span = f"; the difference is {_layers(gap)}" if gap is not None and gap["low"] is not None else ""
        return f"{question} cannot be told: the text arrives {depths_said}{span}."
    return (
        f"The question's text reaches the role and final tokens {outcome} the picture does: the text arrives {depths_said} (difference {_layers(gap)}; "
        f"{chance(gap['p'])})."
    )


def arrival(contrasts: pl.DataFrame, template: str | None = None) -> str:
    """``before``, ``after`` or ``cannot tell``: the text of the question, against the picture."""
    return _sign(_contrast(*_of(template, contrasts), "depth", TEXT, DIRECT), BEFORE, AFTER)


def way(bands: pl.DataFrame, contrasts: pl.DataFrame, template: str | None = None) -> str:
    """Does the picture reach the answer through the tokens of the question, or directly? For all examples, or for those of ``template``."""
    bands, contrasts = _of(template, bands, contrasts)
    whole = {row["route"]: row for row in bands.filter(pl.col("closed") == "everywhere").iter_rows(named=True)}
    if VIA not in whole or DIRECT not in whole or whole[DIRECT]["share"] is None or whole[VIA]["share"] is None:
        return "By which way the picture reaches the answer cannot be told: cutting it off altogether changes the target too little."
    via, direct = whole[VIA], whole[DIRECT]
    costs = (
        f"without the edges from the picture to the role and final tokens the target loses {_share(direct)} of what it loses without the picture, without "
        f"those to the question {_share(via)}"
    )
    if via["share_low"] is None:
        return f"By which way the picture reaches the answer in general cannot be told from one picture; here {costs}."
    outcome = _sign(_contrast(contrasts, "effect", VIA, DIRECT), DIRECTLY, THROUGH_QUESTION)
    if outcome == CANNOT_TELL:
        return f"Whether the picture reaches the answer directly or through the tokens of the question cannot be told: {costs}."
    start = {
        DIRECTLY: "The picture reaches the answer directly, at the role and final tokens",
        THROUGH_QUESTION: "The picture reaches the answer through the tokens of the question",
    }[outcome]
    lesser = via if outcome == DIRECTLY else direct
    both = via["share"] + direct["share"]
    if lesser["share_low"] > 0.1:
        start = start.replace("answer ", "answer more ", 1) if outcome == DIRECTLY else start.replace("answer through", "answer more through", 1)
        note = "; either loss alone is large, as it takes both ways together" if both > 1.2 else ""
    else:
        note = "; one way stands in for the other when it is closed" if both < 0.8 else ""
    return f"{start}: {costs}{note}."


def passage(contrasts: pl.DataFrame, template: str | None = None) -> str:
    """``directly``, ``through the question`` or ``cannot tell``."""
    return _sign(_contrast(*_of(template, contrasts), "effect", VIA, DIRECT), DIRECTLY, THROUGH_QUESTION)


def _of(template: str | None, *tables: pl.DataFrame) -> list[pl.DataFrame]:
    return [table.filter(pl.col("template").eq_missing(pl.lit(template))) for table in tables]


def _sign(gap: dict | None, below: str, above: str) -> str:
    """Which side of zero an interval lies on, if it does."""
    if gap is None or gap["low"] is None:
        return CANNOT_TELL
    return below if gap["high"] < 0 else above if gap["low"] > 0 else CANNOT_TELL


def left_out(depths: pl.DataFrame) -> str | None:
    """Which routes could not be closed in this model, and why; None if all could."""
    if depths.is_empty() or TEXT in depths["route"]:
        return None
    return "Edges between tokens of the text are left as they are: this model reads the picture in layers of cross-attention, and gates act on those alone."


def _contrast(contrasts: pl.DataFrame, measure: str, route: str, other: str) -> dict | None:
    """The difference ``route − other``, whichever way round it stands in the table."""
    for first, second, sign in ((route, other, 1), (other, route, -1)):
        rows = contrasts.filter(pl.col("measure") == measure, pl.col("route") == first, pl.col("other") == second)
        if len(rows):
            row = rows.row(0, named=True)
            if row["difference"] is None or sign == 1:
                return row
            turned = {name: None if row[name] is None else -row[name] for name in ("difference", "low", "high")}
            return row | turned | {"low": turned["high"], "high": turned["low"]}
    return None


def _two_hops(text: dict, via: dict, gap: dict | None) -> str:
    """Where the picture goes to the question alone: do the question's tokens pass on what they have read by then?"""
    start = "The picture does not reach the role and final tokens by itself as far as can be told"
    hops = f"the question reads the picture at layer {_depth(via)} on average, and is read by the role and final tokens at layer {_depth(text)}"
    outcome = _sign(gap, BEFORE, AFTER)
    if gap is None or outcome == CANNOT_TELL:
        return f"{start}: {hops}; which comes first cannot be told."
    return f"{start}: {hops}, {'later' if outcome == BEFORE else 'earlier'} (difference {_layers(gap)}; {chance(gap['p'])})."


def _no_depth(row: dict, what: str, unit: str) -> str:
    """Why a route has no depth."""
    closing = f"closing in all layers the edges by which {what} reaches them changes the target by {_effect(row, unit)}"
    if row["effect_p"] is None or row["effect_p"] >= ALPHA:
        return f"{closing}, which is no more than chance"
    if row["share"] is not None and abs(row["share"]) < 0.01:
        return f"{closing}, less than a hundredth of what the picture is worth"
    return f"in some layers closing the edges by which {what} reaches them does the opposite of what it does in others"


def _depth(row: dict) -> str:
    span = "" if row["depth_low"] is None else f" ({row['depth_low']:.1f} to {row['depth_high']:.1f})"
    return f"{row['depth']:.1f}{span}"


def _layers(gap: dict) -> str:
    return f"{number(gap['difference'], signed=True)} layers, {interval(gap['low'], gap['high'], signed=True)}"


def _effect(row: dict, unit: str) -> str:
    return f"{number(row['effect'], signed=True)} {unit} ({interval(row['effect_low'], row['effect_high'], signed=True)})"


def _share(row: dict) -> str:
    if row["share_low"] is None:
        return percent(row["share"])
    return f"{percent(row['share'])} ({percent(row['share_low'])} to {percent(row['share_high'])})"
