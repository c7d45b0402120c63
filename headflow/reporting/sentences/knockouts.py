"""What a model says without seeing the picture, in sentences: of this model, whatever others do."""

import polars as pl

from headflow.analysis.knockout_scores import NAMES
from headflow.reporting.words import counted, interval, listed, number, percent

CAVEAT = (
    "Knockouts can set off fallback routes: they show what a model can do without an edge, not only what it does with it. A description that outlives a "
    "knockout shows that the picture can come by another way; it does not show that it comes by that way when nothing is closed."
)
"""To be printed with every one of these figures."""
HOW = (
    "Edges to the picture are closed (they read nothing, and attention renormalises) for the tokens that are generated (img→gen), for the prompt's text "
    "(img→query), or for both, in every layer above L; L = none closes all. The first generated token comes from the prompt's last position, so img→gen leaves "
    "it alone; “first token too” counts that position with the generated tokens. F1 compares the objects of each description with those of the stock model's, "
    "or with the true ones, picture by picture: mean with its interval over pictures (Student's t; without width where all pictures have the same F1, which "
    "does not make it certain). Chance is the stock description of another picture."
)
BANDS_HOW = (
    "As above, with the edges closed in every layer below L, in a single band of layers, or in all layers but a band. Bars are intervals of the mean over "
    "pictures."
)
ALPHA = 0.05
_CLOSED = {"img→gen": "closed to the generated tokens", "img→query": "closed to the prompt's text", "img→both": "closed to both"}
_COMPARED = {"stock": "of the stock description", "truth": "of the true objects"}


def route_name(route: str, last_position: str = "query") -> str:
    """A route as figures call it."""
    return NAMES[route, last_position]


def without_the_picture(
    summary: pl.DataFrame, levels: pl.DataFrame, differences: pl.DataFrame, *, against: str = "stock", judge: str | None = None
) -> str:  # fmt: skip
    """What closing each route in all layers leaves, whether that is more than chance, and what it says of the way that the picture takes.

    Args:
        summary, levels, differences: the knockout tables of these names.
        against: the comparison, ``stock`` or ``truth``.
        judge: whose judgements; None = the first judge's.
    """
    summary, levels, differences = _of(judge, against, summary, levels, differences)
    rows = {(row["route"], row["last_position"]): row for row in summary.iter_rows(named=True) if row["blind"] is not None}
    if not rows:
        known = "true objects of these pictures" if against == "truth" else "objects of these descriptions"
        return f"What is left of the descriptions without the picture cannot be told: no {known} are known."
    level = {row["level"]: row for row in levels.iter_rows(named=True)}
    parts = [f"{number(row['blind'])}{_span(row['blind_low'], row['blind_high'])} with the picture {_closed(*names)}" for names, row in rows.items()]
    ends = []
    if level.get("stock", {}).get("mean") is not None:
        ends.append(f"{number(level['stock']['mean'])} for the stock model itself" if against == "truth" else f"{number(level['stock']['mean'])} untouched")
    if level.get("chance", {}).get("mean") is not None:
        ends.append(f"{number(level['chance']['mean'])} by chance")
    beside = f" ({', '.join(ends)})" if ends else ""
    first = f"In all layers at once, the F1 {_COMPARED[against]} is {'; '.join(parts)}{beside}."
    return " ".join([first, *_conclusions(rows, differences)])


def _conclusions(rows: dict[tuple[str, str], dict], differences: pl.DataFrame) -> list[str]:
    """What follows, route by route; the variants of a route speak for themselves in the list."""
    plain = {}
    for (route, last), row in rows.items():
        if route not in plain or last == "query":
            plain[route] = row
    found = []
    if any(row["blind_low"] is None for row in plain.values()):
        return ["With a single picture nothing can be told in general."]
    query, generated = plain.get("img→query"), plain.get("img→gen")
    if query is not None:
        if _rises(query):
            found.append("Without the prompt's text as a reader the F1 is higher than with it.")
        elif not _falls(query):
            # What is not told from no loss may be one: that a way carries the picture is said only where more than chance came by it.
            anew = generated is not None and _falls(generated) and _informed(query)
            more = ": this model can read the picture anew while it speaks" if anew else ""
            found.append(f"That the prompt's text sees the picture makes no difference that can be told{more}.")
        elif not _informed(query):
            found.append("Without the prompt's text as a reader nothing of the picture that can be told from chance is left: this model needs it.")
        else:
            found.append(f"Without the prompt's text as a reader {percent(_lost(query))} of the F1 is lost, but more than chance is left.")
    if generated is not None:
        if _rises(generated):
            found.append("Where generated tokens cannot see the picture the F1 is higher than where they can.")
        elif not _falls(generated):
            more = ": the prompt's text can pass on what they need" if _informed(generated) else ""
            found.append(f"That generated tokens see the picture makes no difference that can be told{more}.")
        elif _informed(generated):
            found.append("Generated tokens that cannot see the picture still say more of it than chance: the prompt's text passes a part of it on.")
        else:
            found.append("Whether generated tokens that cannot see the picture say anything of it cannot be told: they do no better than chance.")
    if query is not None and generated is not None:
        gap = _difference(differences, generated, query)
        if gap is None or gap["p_holm"] is None or gap["p_holm"] >= ALPHA:
            found.append("Which of the two closings costs more cannot be told.")
        else:
            more, less = ("img→gen", "img→query") if gap["difference"] < 0 else ("img→query", "img→gen")
            ends = interval(*sorted((abs(gap["low"]), abs(gap["high"])))) if gap["low"] is not None else "no interval"
            found.append(f"Closing {more} costs more than closing {less}, by {number(abs(gap['difference']))} ({ends}).")
    return found


def steepest_rise(summary: pl.DataFrame, *, against: str = "stock", judge: str | None = None, layers: int | None = None) -> str:
    """At which layer the F1 rises most steeply as the route is opened from below, and how sure that is; the half-rise depth.

    Args:
        layers: layers of the decoder; where they are given, the depth is told as a share of them too.
    """
    (summary,) = _of(judge, against, summary)
    rows = [row for row in summary.iter_rows(named=True) if row["blind"] is not None]
    if not rows:
        return "At which layers the picture matters cannot be told: no description was compared."
    told, flat = [row for row in rows if row["rise"] is not None], [row for row in rows if row["rise"] is None]
    text = [_rise(row, layers) for row in told]
    if flat:
        text.append(f"For {_names(flat)} no depth can be told: that closing all layers costs anything cannot be told.")
    return " ".join(text)


def bands(summary: pl.DataFrame, *, against: str = "stock", judge: str | None = None) -> str:
    """Which single band costs most when it is closed, and which says most when it alone is open."""
    (summary,) = _of(judge, against, summary)
    rows = [row for row in summary.iter_rows(named=True) if row["worst"] is not None and row["best"] is not None]
    if not rows:
        return "Which layers are needed, and which are enough, cannot be told: no description was compared."
    told, flat = [row for row in rows if _falls(row)], [row for row in rows if not _falls(row)]
    text = [_bands(row) for row in told]
    if flat:
        text.append(f"For {_names(flat)} no band can be told from another: that closing all layers costs anything cannot be told.")
    return " ".join(text)


def _rise(row: dict, layers: int | None) -> str:
    name, opened = _name(row), _layers(row["rise_first"], row["rise_last"])
    text = f"For {name} the F1 rises most steeply as {opened} {'opens' if row['rise_first'] == row['rise_last'] else 'open'}"
    text += f", by {number(row['rise'])} ({interval(row['rise_low'], row['rise_high'])})"
    if row["rise_share"] >= 1 - ALPHA:
        text += f", the largest step in {percent(row['rise_share'])} of bootstrap draws"
    else:
        ends = f"it ends between layers {row['rise_at_low']} and {row['rise_at_high']}"
        text += f"; that this is the largest step cannot be told ({percent(row['rise_share'])} of bootstrap draws; {ends})"
    if row["half"] is None:
        return f"{text}."
    share = "" if layers is None else f", {percent((row['half'] + 1) / layers)} of the way up"
    span = "" if row["half_low"] is None else f" ({number(row['half_low'])} to {number(row['half_high'])})"
    return f"{text}. Half of what closing it costs is back at L = {number(row['half'])}{span}{share}."


def _bands(row: dict) -> str:
    lowest, highest = (_layers(row[f"{name}_first"], row[f"{name}_last"]) for name in ("worst", "best"))
    text = f"For {_name(row)} the F1 is lowest, {number(row['worst'])}{_span(row['worst_low'], row['worst_high'])}, with {lowest} alone closed"
    text += f"{_unsure(row['worst_share'])}, and highest, {number(row['best'])}{_span(row['best_low'], row['best_high'])}, with {highest} alone open"
    return f"{text}{_unsure(row['best_share'])}; it is {number(row['blind'])} with all layers closed and {number(row['whole'])} with none."


def pictures_used(summary: pl.DataFrame, *, against: str = "stock", judge: str | None = None) -> str:
    """How many pictures the numbers are of."""
    (summary,) = _of(judge, against, summary)
    return f"{counted(int(summary['pictures'].max() or 0) if len(summary) else 0, 'picture')}"


def _of(judge: str | None, against: str, *frames: pl.DataFrame) -> list[pl.DataFrame]:
    """The rows of one judge and one comparison; the first judge's where none is named."""
    name = judge if judge is not None else frames[0]["judge"][0] if len(frames[0]) else None
    return [frame.filter(pl.col("judge").eq_missing(pl.lit(name)), pl.col("against") == against) for frame in frames]


def _name(row: dict) -> str:
    return NAMES[row["route"], row["last_position"]]


def _names(rows: list[dict]) -> str:
    """Several routes in a row; a name with a comma stands in quotes."""
    return listed([f"“{name}”" if "," in name else name for name in map(_name, rows)])


def _closed(route: str, last: str) -> str:
    plain = NAMES[route, last] == route
    return _CLOSED[route] if plain else f"{_CLOSED[route]}{', the first of them included' if route == 'img→gen' else ' but for its last token'}"


def _falls(row: dict) -> bool:
    """Whether the analysis could tell its fall from none, and so looked for its depth."""
    return row["rise"] is not None


def _rises(row: dict) -> bool:
    """Whether closing it makes the F1 higher, and that can be told."""
    return row["fall"] is not None and row["fall"] < 0 and row["fall_p_holm"] is not None and row["fall_p_holm"] < ALPHA


def _informed(row: dict) -> bool:
    return row["others_p_holm"] is not None and row["others_p_holm"] < ALPHA


def _lost(row: dict) -> float | None:
    return row["fall"] / row["whole"] if row["whole"] else None


def _difference(differences: pl.DataFrame, one: dict, other: dict) -> dict | None:
    """``one − other``, whichever way round it stands in the table."""
    names = [(row["route"], row["last_position"]) for row in (one, other)]
    for (first, second), sign in ((names, 1), (names[::-1], -1)):
        found = differences.filter(route=first[0], last_position=first[1], other_route=second[0], other_last_position=second[1])
        if len(found):
            row = found.row(0, named=True)
            return row | {"difference": None if row["difference"] is None else sign * row["difference"]}
    return None


def _layers(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first}–{last}"


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({interval(low, high)})"


def _unsure(share: float) -> str:
    return "" if share >= 1 - ALPHA else f" (that it is this band cannot be told: {percent(share)} of bootstrap draws)"
