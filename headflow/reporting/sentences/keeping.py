"""How few image tokens keep the answer, in words: how many, chosen by what, and whether one choice can be told to be better."""

import polars as pl

from headflow.analysis.keeping import leader
from headflow.attribution.faithfulness import Leader
from headflow.reporting.words import counted, listed, number, percent

CHOICES = {"attribution": "attribution", "attention": "attention", "position": "place in the picture", "random": "chance"}
WAYS = {"removed": "removed", "closed": "closed to the text", "baseline": "made to read the baseline"}
"""The ways, that of use first: a removed token costs nothing."""


def kept_tokens(summary: pl.DataFrame, differences: pl.DataFrame, *, confidence: float = 0.95) -> str:
    """How few tokens keep the accuracy, by every choice, which choice keeps most, and by what right; for the first way that was tried."""
    way = _way(summary)
    rows = [] if way is None else _rows(summary, way, "accuracy")
    if not rows:
        return "How few image tokens keep the answer cannot be told: no example was run."
    stock, level = rows[0]["stock"], percent(rows[0]["level"])
    known = [row for row in rows if row["share"] is not None]
    if not known:
        return f"How few image tokens keep the answer cannot be told: with all of them the model answers {percent(stock)} of the questions rightly."
    (few, chosen), *others = _grouped(known).items()
    enough = "is" if few.startswith("1 token ") else "are"
    start = (
        f"Chosen by {_either(chosen)}, {few} {enough} enough to keep {level} of the accuracy when the other image tokens are {WAYS[way]} "
        f"({percent(stock)} with all of them, {percent(rows[0]['none'])} with none)"
    )
    takes = [f"by {_either(names)} {tokens}" for tokens, names in others]
    rest = f"; {listed(takes)} are needed" if others else ""
    first = leader(summary, differences, way=way, measure="accuracy", alpha=1 - confidence)
    return f"{start}{rest}. {_told(first, 'answers')}{_right(rows)}"


def kept_target(summary: pl.DataFrame, differences: pl.DataFrame, *, unit: str = "logits", confidence: float = 0.95) -> str:
    """The same of the target, which moves before the answer does; and whether it matters what becomes of the other tokens."""
    way = _way(summary)
    rows = [] if way is None else _rows(summary, way, "target")
    known = [row for row in rows if row["share"] is not None]
    if not known:
        return "How few image tokens keep the target cannot be told: all of them together do not raise it."
    parts = listed([f"{tokens} by {_either(names)}" for tokens, names in _grouped(known).items()])
    ends = f"from {number(known[0]['none'])} to {number(known[0]['stock'])} {unit}"
    first = leader(summary, differences, way=way, measure="target", alpha=1 - confidence)
    text = f"{percent(known[0]['level'])} of the target's rise {ends} is kept with {parts}. {_told(first, 'target')}"
    return f"{text}{_across(summary, first)}"


def _way(summary: pl.DataFrame) -> str | None:
    return next((way for way in WAYS if way in set(summary["way"])), None)


def _rows(summary: pl.DataFrame, way: str, measure: str) -> list[dict]:
    return summary.filter(pl.col("way") == way, pl.col("measure") == measure, pl.col("area").is_not_null()).to_dicts()


def _few(row: dict) -> str:
    """How many tokens, as a share with its interval."""
    tokens = counted(round(row["tokens"]), "token") if float(row["tokens"]).is_integer() else f"{row['tokens']:.1f} tokens"
    low, high = row["share_low"], row["share_high"]
    if low is None or high is None:
        return f"{tokens} ({percent(row['share'])})"
    ends = f"{percent(low)} to {percent(high)}" if low < high else "the same in every draw of pictures"
    return f"{tokens} ({percent(row['share'])}; {ends})"


def _grouped(rows: list[dict]) -> dict[str, list[str]]:
    """How many tokens → the choices that need so many; fewest first."""
    found: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row["share"]):
        found.setdefault(_few(row), []).append(CHOICES[row["selection"]])
    return found


def _told(first: Leader | None, what: str) -> str:
    """Which choice keeps most over all k, and whether that can be told."""
    if first is None:
        return ""
    name = CHOICES[first.ranking]
    kept = "right answers" if what == "answers" else "of the target"
    if not first.ahead_of and not first.level_with:
        return f"No choice but {name} was tried."
    if first.clear:
        return f"Over all numbers of tokens {name} keeps the most {kept}, ahead of {_names(first.ahead_of)} by more than chance explains."
    if not first.ahead_of:
        return f"Over all numbers of tokens {name} keeps the most {kept}, but that it is ahead of {_names(first.level_with)} cannot be told."
    return (
        f"Over all numbers of tokens {name} keeps the most {kept}, clearly more than {_names(first.ahead_of)}; that it is ahead of "
        f"{_names(first.level_with)} cannot be told."
    )


def _right(rows: list[dict]) -> str:
    """What each choice has to know."""
    names = {row["selection"] for row in rows}
    if "attribution" not in names:
        return ""
    costs = {"attention": "one run of the whole model", "position": "other pictures alone"}
    free = [f"{CHOICES[name]} needs {cost}" for name, cost in costs.items() if name in names]
    text = " Attribution is measured with the answer at hand, by many runs: it shows what could be kept, not what can be known beforehand"
    return f"{text}; {listed(free)}." if free else f"{text}."


def _across(summary: pl.DataFrame, first: Leader | None) -> str:
    """What the leading choice needs in each way."""
    if first is None:
        return ""
    rows = summary.filter(pl.col("measure") == "target", pl.col("selection") == first.ranking, pl.col("share").is_not_null()).to_dicts()
    if len(rows) < 2:
        return ""
    shares, name = {row["way"]: percent(row["share"]) for row in rows}, CHOICES[first.ranking]
    ways = [way for way in WAYS if way in shares]
    if len(set(shares.values())) == 1:
        return f" By {name} that is {shares[ways[0]]} whether the others are {_either([WAYS[way] for way in ways])}."
    return f" By {name} it takes {listed([f'{shares[way]} where the others are {WAYS[way]}' for way in ways])}."


def _either(items: list[str]) -> str:
    return " or ".join(items) if len(items) < 3 else ", ".join(items[:-1]) + " or " + items[-1]


def _names(selections: list[str]) -> str:
    return listed([CHOICES[name] for name in selections])
