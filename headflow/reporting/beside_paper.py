"""Numbers that the paper prints, and this run's next to them."""

from collections.abc import Mapping

import polars as pl
from markupsafe import Markup

from headflow.analysis.compression import to_compare, told
from headflow.analysis.published import MODELS, PICTURES, PUBLISHED, Published
from headflow.reporting.described import Described
from headflow.reporting.html import table
from headflow.reporting.words import listed, number, percent

_SIGNS = {"=": "", "<": "under ", ">": "over "}


def sentence(described: Described) -> str:
    """What may be compared, and what may not."""
    fresh = told(described.compressed_summary) == "fresh"
    asked = " Follow-up questions were asked here in the place of the first one, not as a next turn." if fresh else ""
    return (
        f"The paper's models ({listed(MODELS)}) described {PICTURES} photographs of COCO and answered MME's questions; this one, {described.run.key}, was "
        f"given the pictures and questions of this run. The numbers stand side by side so that kinds of models can be compared; none of "
        f"them has to be met.{asked}"
    )


def beside_the_paper(described: Described) -> Markup:
    """Every number that the paper prints with this run's, where the run has it; intervals are over pictures."""
    own = own_numbers(described)
    rows = [[one.what, printed(one), one.model, own.get((one.analysis, one.key), "–")] for one in PUBLISHED]
    return table(["what is measured", "in the paper", "of", f"here, {described.run.key}"], rows, class_="beside-paper")


def printed(one: Published) -> str:
    """A published number as it is written."""
    counts = one.key.endswith(" tokens")
    value = f"{one.value:,.0f}" if counts else f"{one.value:.2f}" if one.analysis == "knockout" else _percent_as_printed(one.value)
    return f"{_SIGNS[one.bound]}{value}"


def _percent_as_printed(value: float) -> str:
    return f"{100 * value:.2f}".rstrip("0").rstrip(".") + "%"


def own_numbers(described: Described) -> Mapping[tuple[str, str], str]:
    """This run's numbers, by analysis and key of the published ones."""
    found: dict[tuple[str, str], str] = {}
    for row in described.share_fractions.filter(pl.col("layers") == "all", pl.col("group") == "query").iter_rows(named=True):
        found["tokens", "query"] = _with(percent(row["token_share"]), row["token_share_low"], row["token_share_high"], percent)
        found["attention", "query"] = _with(percent(row["share"]), row["share_low"], row["share_high"], percent)
    blind = described.knockout_summary.filter(pl.col("against") == "stock", pl.col("last_position") == "query", pl.col("blind").is_not_null())
    for row in blind.unique("route", keep="first", maintain_order=True).iter_rows(named=True):  # the first judge's
        found["knockout", row["route"]] = _with(number(row["blind"]), row["blind_low"], row["blind_high"], number)
    agreed = described.agreement.filter(pl.col("measure") == "decisions", pl.col("against") == "stock")
    for row in agreed.head(1).iter_rows(named=True):
        if row["value"] is not None:
            found["judge", "agreement"] = f"{_with(percent(row['value']), row['low'], row['high'], percent)}, judges {row['first']} and {row['second']}"
    for row in to_compare(described.compressed_summary):
        key = row["strategy"] if row["percent"] is None else f"{row['strategy']} {row['percent']:g}"
        found["context", f"{key} accuracy"] = _with(*(_share(row[name]) for name in ("accuracy", "low", "high")))
        found["context", f"{key} plus"] = _with(*(_share(row[name]) for name in ("plus", "plus_low", "plus_high")))
        found["context", f"{key} tokens"] = f"{row['tokens']:,.0f}"
    return found


def _share(value: float | None) -> str | None:
    return None if value is None else percent(value / 100)


def _with(value: str | None, low: float | str | None, high: float | str | None, write=str) -> str:
    """A number with its interval."""
    return str(value) if low is None or high is None else f"{value} ({write(low)} to {write(high)})"
