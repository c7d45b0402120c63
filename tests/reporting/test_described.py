"""What the untouched model says, in words; the paper's numbers beside a run's; tables that belong to the run."""

from types import SimpleNamespace

import polars as pl
import pytest

from headflow.analysis.published import PUBLISHED
from headflow.errors import HeadflowError
from headflow.reporting import beside_paper, described
from headflow.reporting.sentences.descriptions import described as said
from headflow.tables import catalogue as tables
from tests.reporting.further_tables import empty, of_table


def descriptions(*lengths: int, ended: tuple[bool, ...] = ()) -> pl.DataFrame:
    rows = [
        {"id": f"e{i}", "scene": i, "description": "a" * n, "tokens": [7] * n, "starts": [*range(n)], "stops": [*range(1, n + 1)], "ended": whole}
        for i, (n, whole) in enumerate(zip(lengths, [*ended, *[True] * (len(lengths) - len(ended))], strict=True))
    ]
    return of_table(tables.DESCRIPTIONS, rows)


def level(value: float | None, low: float | None = None, high: float | None = None) -> pl.DataFrame:
    row = {"judge": "match", "against": "truth", "level": "stock", "mean": value, "low": low, "high": high, "pictures": 3}
    return of_table(tables.KNOCKOUT_LEVELS, [row])


def test_what_is_said_of_the_descriptions() -> None:
    start, rest = said(descriptions(4, 6, 8), level(0.97, 0.9, 1.0)).split(". ")
    assert start == "Three pictures were described, in 6.0 tokens on average"
    assert rest == "Held against the true objects their F1 is 0.97 (0.90 to 1.00), mean over 3 pictures."
    assert "1 description (50%) did not come to an end and was cut off" in said(descriptions(5, 5, ended=(False,)), level(None))
    assert "of 2 pictures the model says nothing" in said(descriptions(0, 3, 0), level(None))
    assert said(descriptions(2), level(0.5)).startswith("One picture was described, in 2.0 tokens.") and "0.50, mean" in said(descriptions(2), level(0.5))
    assert said(descriptions(2), level(None)).endswith("cannot be told: the objects of these pictures are not known.")
    assert said(descriptions(), level(None)) == "No picture was described."


def run(**frames: pl.DataFrame) -> SimpleNamespace:
    whole = {name: empty(table) for name, table in described.TABLES.items()} | frames
    return SimpleNamespace(run=SimpleNamespace(key="mine"), **whole)


def test_the_papers_numbers_stand_as_printed_and_a_runs_where_it_has_them() -> None:
    bare = beside_paper.beside_the_paper(run())
    assert all(text in bare for text in ("84.83%", "28.45%", "1,695", "0.40", "0.00", "under 5%", "over 60%", "InternVL2-76B", "here, mine"))
    assert bare.count("<td>–</td>") == len(PUBLISHED)

    blind = {name: None for name in tables.KNOCKOUT_SUMMARY.columns}
    rows = [
        {**blind, "judge": judge, "against": against, "route": "img→gen", "last_position": last, "blind": f1, "blind_low": f1 - 0.1, "blind_high": f1 + 0.1}
        for judge, against, last, f1 in (
            ("match", "truth", "query", 0.9), ("match", "stock", "generated", 0.8), ("match", "stock", "query", 0.5), ("llm", "stock", "query", 0.7),
        )
    ]  # fmt: skip
    agreed = [
        {"first": "match", "second": "llm", "against": "stock", "measure": "decisions", "value": 0.9, "low": 0.8, "high": 0.96, "count": 40, "pictures": 8},
        {"first": "match", "second": "llm", "against": "truth", "measure": "decisions", "value": 0.1, "low": 0.0, "high": 0.2, "count": 40, "pictures": 8},
    ]
    own = beside_paper.own_numbers(run(knockout_summary=of_table(tables.KNOCKOUT_SUMMARY, rows), agreement=of_table(tables.AGREEMENT, agreed)))
    assert own == {("knockout", "img→gen"): "0.50 (0.40 to 0.60)", ("judge", "agreement"): "90% (80% to 96%), judges match and llm"}


def test_keys_of_the_published_numbers_are_those_of_a_run() -> None:
    """A key that no run gives would leave a dash for ever."""
    shares = {"layers": "all", "group": "query", "tokens": 9.0, "pictures": 4, "even": 0.1, "even_low": 0.1, "even_high": 0.2}
    shares |= {f"{name}{end}": 0.25 for name in ("token_share", "share") for end in ("", "_low", "_high")}
    summary = [
        {"asking": "turn", "strategy": strategy, "chosen_by": percent and "attention", "percent": percent, "category": "all", "accuracy": 0.95, "low": 0.9,
         "high": 1.0, "plus": 0.5, "plus_low": 0.4, "plus_high": 0.6, "tokens": 60.0, "bytes": 9.0, "pictures": 4, "questions": 8}
        for strategy, percent in (("full", None), ("both", 5.0), ("both", 2.0), ("query", None), ("description", None))
    ]  # fmt: skip
    found = run(share_fractions=of_table(tables.SHARE_FRACTIONS, [shares]), compressed_summary=of_table(tables.COMPRESSED_SUMMARY, summary))
    own = beside_paper.own_numbers(found)
    assert {(one.analysis, one.key) for one in PUBLISHED if one.analysis in ("tokens", "attention", "context")} == set(own)
    assert own["context", "both 2 plus"] == "50% (40% to 60%)" and own["context", "full tokens"] == "60" and own["attention", "query"] == "25% (25% to 25%)"
    assert "not as a next turn" not in beside_paper.sentence(found)


def test_tables_of_another_run_are_refused_and_none_at_all_is_no_page(tmp_path) -> None:
    places = {name: str(tmp_path / f"{name}.parquet") for name in described.TABLES}
    known = SimpleNamespace(asked=pl.DataFrame({"id": ["e0"]}))
    assert described.load(known, places) is None
    for name, table in described.TABLES.items():
        table.write(empty(table), tmp_path / f"{name}.parquet")
    assert described.load(known, places).descriptions.is_empty()
    tables.DESCRIPTIONS.write(descriptions(1, 1), tmp_path / "descriptions.parquet")
    with pytest.raises(HeadflowError, match=r"descriptions\.parquet: example 'e1' is not among those put to the model"):
        described.load(known, places)
