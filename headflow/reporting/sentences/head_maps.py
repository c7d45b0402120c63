"""What the figures about single heads show: where they look, what they pass on, what they write."""

import polars as pl

from headflow.charts import numbers
from headflow.reporting.words import correlation, counted, interval, listed, number, percent, spelled
from headflow.tracing.agreement import map_agreement, over_examples
from headflow.tracing.words import with_verdict

ALPHA = 0.05
MOST_NAMED = 5
WEAK, STRONG = 0.3, 0.7
"""Rank correlations below and above which maps agree weakly and closely."""
CLOSE = 0.05
"""Shares whose interval lies so close to 1 are 1."""


def head_grid(head_maps: pl.DataFrame, confidence: float = 0.95) -> str:
    """Whether the heads look where what they pass on comes from."""
    agreement = map_agreement(head_maps)
    mean, low, high = numbers.interval(over_examples(agreement), confidence)
    if head_maps.is_empty() or mean != mean:
        return "Whether heads look where what they pass on comes from cannot be told: there are no maps, or none that varies over the picture."
    told = f"(rank correlation over image tokens {correlation(mean)}, {interval(low, high)}, mean over {_extent(agreement)}; chance gives 0)"
    if not (low > 0 or high < 0):
        return f"That the heads look where what they pass on comes from cannot be told {told}.{_unplaced(head_maps)}"
    if high < 0:
        return f"The heads look away from where what they pass on comes from {told}.{_unplaced(head_maps)}"
    how = "closely" if mean >= STRONG else "weakly" if mean < WEAK else "in part"
    verdict = {"closely": "attention shows it well", "in part": "attention shows a part of it", "weakly": "attention is a poor guide to it"}[how]
    return f"Where a head looks agrees {how} with where what it passes on comes from: {verdict} {told}.{_ends(agreement)}{_unplaced(head_maps)}"


def _extent(agreement: pl.DataFrame) -> str:
    heads = agreement.select("layer", "head").n_unique()
    return f"{counted(heads, 'head')} in each of {counted(agreement['id'].n_unique(), 'example')}"


def _ends(agreement: pl.DataFrame) -> str:
    """The heads of best and of worst agreement."""
    heads = agreement.group_by("layer", "head").agg(pl.col("agreement").mean()).drop_nulls().sort("agreement", descending=True)
    if heads.height < 2:
        return ""
    best, worst = heads.row(0, named=True), heads.row(-1, named=True)
    return f" It agrees best for {_name(best)} ({correlation(best['agreement'])}) and least for {_name(worst)} ({correlation(worst['agreement'])})."


def _unplaced(maps: pl.DataFrame) -> str:
    known = maps.group_by("id").agg(pl.col("left").is_not_null().any())["left"]
    if known.is_empty() or known.all():
        return ""
    return " Where the image tokens lie on the picture is not known for this model, so no map is drawn." if not known.any() else ""


def cluster_grid(cluster_maps: pl.DataFrame, unit: str = "logits") -> str:
    """How much each cluster looks at the picture of its typical examples, and what it gets from there."""
    if cluster_maps.is_empty():
        return "There are no clusters of heads to be shown."
    sums = cluster_maps.group_by("cluster", "id").agg(pl.col("attention").sum(), pl.col("attribution").sum())
    means = sums.group_by("cluster").agg(pl.col("attention", "attribution").mean(), pl.len()).sort("cluster")
    parts = [
        f"a head of cluster {row['cluster']} gives the picture {percent(row['attention'])} of the final token's attention and takes "
        f"{number(row['attribution'], signed=True)} {unit} from it"
        for row in means.iter_rows(named=True)
    ]
    text = listed(parts[:MOST_NAMED])
    more = f"; {len(parts) - MOST_NAMED} further clusters are in the tables" if len(parts) > MOST_NAMED else ""
    return f"In the examples that are most typical of it, {text}, on average{more}.{_unplaced(cluster_maps)}"


def head_words(writing: pl.DataFrame) -> str:
    """Whether the top heads write the answer's own word (Holm-corrected over the heads)."""
    heads = with_verdict(writing, ALPHA).to_dicts()
    if not heads:
        return "Whether the heads write the answer's word cannot be told: what they write cannot be read, or there are too few examples or no other answers."
    writes, against, open_ = ([row for row in heads if row["verdict"] == verdict] for verdict in ("writes", "against", "open"))
    parts = []
    if writes:
        leads = [row["lead"] for row in writes]
        size = number(leads[0], signed=True) if len(leads) == 1 else f"{number(min(leads), signed=True)} to {number(max(leads), signed=True)}"
        parts.append(
            f"{_how_many(writes, heads)} the answer's own word: the picture makes {'them' if len(writes) > 1 else 'it'} raise it by {size} logits beyond the "
            f"words of other answers, and most of all answers' words in {percent(_mean(writes, 'first'))} of examples, where chance gives "
            f"{percent(_mean(writes, 'first_chance'))}"
        )
    if against:
        parts.append(f"{_names(against)} {'lower' if len(against) > 1 else 'lowers'} it beside the words of other answers")
    if open_:
        verb = "write" if len(open_) > 1 else "writes"
        start = "that" if parts else "That"
        parts.append(f"{start} {_names(open_)} {verb} the answer's word cannot be told")
    return f"{'; '.join(parts)}."


def direct_against_attribution(writing: pl.DataFrame) -> str:
    """How much of the top heads' attribution is what they write themselves."""
    heads = writing.drop_nulls(["share", "share_low", "share_high", "lead"]).sort("attribution", descending=True).to_dicts()
    heads = heads or writing.drop_nulls(["share", "share_low", "share_high"]).sort("attribution", descending=True).head(8).to_dicts()
    if not heads:
        return "How much of a head's attribution is what it writes itself cannot be told: it cannot be read in this model, or no attribution is clear of 0."
    kinds: dict[str, list[dict]] = {}
    for row in heads:
        kinds.setdefault(_kind(row), []).append(row)
    told = {
        "whole": "what is written without any help is the whole attribution",
        "more": "more than the attribution is written without any help, and later parts take some of it back",
        "most": "most of the attribution is written without any help, the rest comes by way of later parts",
        "less": "less than half of the attribution is written without any help: most comes by way of later parts",
        "open": "what is written without any help cannot be told from the whole attribution",
    }
    parts = [f"in {_who(kinds[kind], heads)} {text} ({_span(kinds[kind])} of it)" for kind, text in told.items() if kind in kinds]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _kind(row: dict) -> str:
    if row["share_low"] >= 1 - CLOSE and row["share_high"] <= 1 + CLOSE:
        return "whole"
    if row["share_low"] > 1:
        return "more"
    return "open" if row["share_high"] >= 1 else "most" if row["share"] >= 0.5 else "less"


def _who(rows: list[dict], heads: list[dict]) -> str:
    return f"all {len(rows)} top heads" if len(rows) == len(heads) > 1 else _names(rows)


def _span(rows: list[dict]) -> str:
    """The share of one, or from the smallest to the largest."""
    shares = [row["share"] for row in rows]
    if len(rows) == 1:
        return f"{percent(shares[0])}, interval {percent(rows[0]['share_low'])} to {percent(rows[0]['share_high'])},"
    return f"{percent(min(shares))} to {percent(max(shares))}"


def _how_many(writes: list[dict], heads: list[dict]) -> str:
    if len(writes) == len(heads) > 1:
        return f"All {len(heads)} heads write"
    return f"{spelled(len(writes))} of {counted(len(heads), 'head')} {'write' if len(writes) > 1 else 'writes'}"


def _mean(rows: list[dict], name: str) -> float | None:
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) / len(known) if known else None


def _name(row: dict) -> str:
    return f"L{row['layer']} H{row['head']}"


def _names(rows: list[dict]) -> str:
    named = [_name(row) for row in rows[:MOST_NAMED]]
    return listed(named) if len(rows) <= MOST_NAMED else listed([*named, f"{len(rows) - MOST_NAMED} more"])
