"""What a model still answers behind a part of its context, in words."""

import polars as pl

from headflow.analysis.compression import ENOUGH, NEW, one, told
from headflow.reporting.words import counted, listed, percent

CHOICES = {"attention": "attention", "attribution": "attribution", "random": "chance"}
_TEXT = {"turn": "the prompt's text", "fresh": "what stands before the picture"}
"""The query tokens, in each way of asking."""
_WHOLE = {"turn": "the whole prompt", "fresh": "what stands before the picture and all image tokens"}
"""What is full, in each way of asking."""
_ASKED = {"turn": "as the user's next turn", "fresh": "in the place of the first question"}
_BLANK = "What a model answers behind a part of its context cannot be told: no follow-up question was asked."


def compressed(summary: pl.DataFrame, differences: pl.DataFrame, *, confidence: float = 0.95) -> str:
    """How few context tokens answer as well as all, what query tokens alone and the model's own description are worth.

    Args:
        summary, differences: the compressed summary and differences tables.
    """
    asking = told(summary)
    full = None if asking is None else one(summary, asking, "full")
    if full is None:
        return _BLANK
    start = f"With {_WHOLE[asking]} the model answers {_share(full)} of the follow-up questions rightly ({_count(full)} context tokens)"
    if full["accuracy"] < ENOUGH:
        return f"{start}: too few for what is lost with a part of it to mean much. {_others(summary, asking)}".strip()
    chance = one(summary, asking, "none")
    if chance is not None:
        start += f", and {percent(chance['accuracy'])} with nothing in the picture's place"
    return f"{start}. {_least(summary, differences, asking, 1 - confidence)}{_others(summary, asking)}".strip()


def _least(summary: pl.DataFrame, differences: pl.DataFrame, asking: str, alpha: float) -> str:
    """The smallest K at which a loss cannot be told."""
    rows = differences.filter(
        pl.col("asking") == asking, pl.col("strategy") == "both", pl.col("chosen_by") == "attention", pl.col("against") == "full"
    ).sort("percent")  # fmt: skip
    if rows.is_empty():
        return ""
    worse = rows.filter((pl.col("difference") < 0) & (pl.col("p_holm") <= alpha))
    level = rows.filter(pl.col("percent") > (worse["percent"].max() if len(worse) else 0.0))
    chosen_so = "those of most attention in each layer"
    if level.is_empty():
        most = rows["percent"][-1]
        row = one(summary, asking, "both", "attention", most)
        return f"With {_TEXT[asking]} and {_k(most)} of the image tokens, {chosen_so}, it is {_share(row)}: clearly fewer. "
    first = level.row(0, named=True)
    row = one(summary, asking, "both", "attention", first["percent"])
    text = f"With {_TEXT[asking]} and {_k(first['percent'])} of the image tokens, {chosen_so}, it is {_share(row)} ({_count(row)} context tokens)"
    text += ": a loss cannot be told" if first["difference"] < 0 else ": no less"
    if len(worse):
        last = one(summary, asking, "both", "attention", worse["percent"].max())
        return f"{text}; with {_k(worse['percent'].max())} it is clearly fewer, {percent(last['accuracy'])}. "
    return f"{text}, nor with more of them. " if first["difference"] < 0 and len(level) > 1 else f"{text}. "


def _others(summary: pl.DataFrame, asking: str) -> str:
    """Query tokens alone, and the description."""
    names = {"query": f"{_TEXT[asking]} alone", "description": "the model's own description in the picture's place"}
    found = {name: one(summary, asking, name) for name in names}
    parts = [f"{names[name]} gives {percent(row['accuracy'])} ({_count(row)} tokens)" for name, row in found.items() if row is not None]
    text = listed(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def asked(summary: pl.DataFrame) -> str:
    """How well the whole context answers in each way of asking, and the stock model in a new conversation: whether the comparison can mean anything."""
    rows = [row for way in (*_ASKED, NEW) if (row := one(summary, way, "full")) is not None]
    if not rows:
        return _BLANK
    names = {**_ASKED, NEW: "in a new conversation"}
    parts = listed([f"{percent(row['accuracy'])} when asked {names[row['asking']]}" for row in rows])
    low = [row["asking"] for row in rows if row["asking"] != NEW and row["accuracy"] < ENOUGH]
    number = f"{counted(rows[0]['questions'], 'question')} about {counted(rows[0]['pictures'], 'picture')}"
    text = f"With every image token kept the model answers {parts} ({number})."
    if not low:
        return text
    way = told(summary)
    spared = f" what is said here goes by those asked {_ASKED[way]}." if way not in low else " so little can be told of what a part of the context is worth."
    return f"{text} Asked {' or '.join(_ASKED[name] for name in low)} it stays below {percent(ENOUGH)}:{spared}"


def chosen(summary: pl.DataFrame, differences: pl.DataFrame, *, confidence: float = 0.95) -> str:
    """Whether attention, or attribution, chooses image tokens better than chance; each K by itself."""
    asking = told(summary)
    rows = pl.DataFrame() if asking is None else differences.filter(pl.col("asking") == asking, pl.col("strategy") == "both", pl.col("against") == "random")
    if rows.is_empty():
        return "Whether it matters which image tokens stay cannot be told: no other choice was set against chance."
    parts = []
    for name in ("attention", "attribution"):
        some = rows.filter(pl.col("chosen_by") == name).sort("percent")
        if some.is_empty():
            continue
        for better, word in ((True, "better than"), (False, "worse than")):
            clear = some.filter((pl.col("p_holm") <= 1 - confidence) & ((pl.col("difference") > 0) == better))
            if len(clear):
                most = clear.sort(pl.col("difference").abs(), descending=True).row(0, named=True)
                gap = f"by {abs(100 * most['difference']):.0f} points at {_k(most['percent'])}"
                parts.append(
                    f"{CHOICES[name]} is {word} chance at {listed([_k(k) for k in clear['percent']])} ({'most' if len(clear) > 1 else 'there'}: {gap})"
                )
        if not len(some.filter(pl.col("p_holm") <= 1 - confidence)):
            parts.append(f"that {CHOICES[name]} differs from chance cannot be told")
    text = "; ".join(parts)
    return f"Of as many image tokens, beside {_TEXT[asking]}, {text}."


def categories(summary: pl.DataFrame) -> str:
    """Which kind of question suffers most where the fewest image tokens stay."""
    asking = told(summary)
    some = summary.clear() if asking is None else summary.filter(
        pl.col("asking") == asking, pl.col("strategy") == "both", pl.col("chosen_by") == "attention", pl.col("category") != "all"
    )  # fmt: skip
    if some.is_empty():
        return "What kind of question suffers cannot be told: no image tokens were chosen by attention."
    fewest = some.filter(pl.col("percent") == some["percent"].min())
    losses = [(one(summary, asking, "full", category=row["category"])["accuracy"] - row["accuracy"], row) for row in fewest.iter_rows(named=True)]
    if len(losses) < 2:
        return f"All questions are of one kind: {losses[0][1]['category']}."
    (most, worst), (least, best) = max(losses, key=lambda pair: pair[0]), min(losses, key=lambda pair: pair[0])
    kept = f"With {_TEXT[asking]} and {_k(fewest['percent'][0])} of the image tokens"
    if most <= 0:
        return f"{kept} no kind of question is answered worse than with all."
    # Losses whose intervals overlap, those of what is left of what the whole context gives, cannot be told apart.
    if most + worst["accuracy"] - worst["high"] > least + best["accuracy"] - best["low"]:
        parts = f"{worst['category']} loses most ({_share(worst)} stay right) and {best['category']} least ({_share(best)})"
        return f"{kept}, of the kinds of questions {parts}."
    return f"{kept} which kind of question loses most cannot be told."


def saved(summary: pl.DataFrame, times: pl.DataFrame) -> str:
    """How much smaller, and where it was measured how much faster: the fewest image tokens beside the text against the whole prompt."""
    asking = told(summary)
    rows = summary.clear() if asking is None else summary.filter(pl.col("asking") == asking, pl.col("category") == "all")
    full, some = (rows.filter(pl.col("strategy") == name).sort("percent") for name in ("full", "both"))
    if full.is_empty() or some.is_empty():
        return "What a part of the context saves cannot be told: it was not tried beside the whole."
    whole, part = full.row(0, named=True), some.row(0, named=True)
    start = f"{_TEXT[asking][0].upper()}{_TEXT[asking][1:]} and {_k(part['percent'])} of the image tokens"
    text = f"{start} take {percent(part['bytes'] / whole['bytes'])} of the memory of the keys and values of {_WHOLE[asking]}"
    timed = times.filter(pl.col("asking") == asking)
    pair = [timed.filter(pl.col("strategy") == name, pl.col("percent").eq_missing(k)) for name, k in (("full", None), ("both", part["percent"]))]
    if any(found.is_empty() for found in pair):
        return f"{text}."
    slow, fast = (found.row(0, named=True) for found in pair)
    text = f"{text}; one follow-up takes {_ms(fast)} for {_ms(slow)} ({counted(slow['pictures'], 'picture')} timed)"
    same = fast["low"] <= slow["high"] and slow["low"] <= fast["high"]
    return f"{text}{': a difference in time cannot be told, as so short a context costs little beside the weights' if same else ''}."


def _ms(row: dict) -> str:
    return f"{1000 * row['seconds']:.1f} ms ({1000 * row['low']:.1f} to {1000 * row['high']:.1f})"


def _share(row: dict) -> str:
    return f"{percent(row['accuracy'])} ({percent(row['low'])} to {percent(row['high'])})"


def _count(row: dict) -> str:
    value = row["tokens"]
    return "unknown" if value is None else f"{value:,.0f}"


def _k(value: float) -> str:
    return f"{value:g}%"
