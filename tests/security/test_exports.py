"""Files that a spreadsheet or a terminal opens: text in them runs nothing, and numbers stay numbers."""

import csv

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headflow.errors import HeadflowError
from headflow.files import write_csv
from tests.security.profile import fuzz

STARTS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def written(frame: pl.DataFrame, folder) -> tuple[list[str], list[list[str]]]:
    write_csv(frame, folder / "table.csv")
    with open(folder / "table.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return header, rows


def test_formulas_become_text_and_numbers_stay_numbers(tmp_path):
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "＝1", "plain", "a=b", "", None]
    frame = pl.DataFrame({"text": texts, "number": [-1.5] * 13, "whole": [-2] * 13, "kind": pl.Series(["-x"] * 13, dtype=pl.Categorical)})
    header, rows = written(frame, tmp_path)
    assert header == ["text", "number", "whole", "kind"]
    assert [row[0] for row in rows] == ["'" + text for text in texts[:9]] + ["plain", "a=b", "", ""]
    assert all(row[1:] == ["-1.500000", "-2", "'-x"] for row in rows)
    again = pl.read_csv(tmp_path / "table.csv")
    assert again["number"].dtype == pl.Float64 and again["whole"].dtype == pl.Int64 and again["number"].sum() == -1.5 * 13


def test_a_heading_may_come_from_data_too(tmp_path):
    header, _ = written(pl.DataFrame({"=HYPERLINK(1)": [1], "-x": [2], "y": [3]}), tmp_path)
    assert header == ["'=HYPERLINK(1)", "'-x", "y"]


@fuzz(60)
@given(texts=st.lists(st.one_of(st.text(max_size=12), st.tuples(st.sampled_from(STARTS), st.text(max_size=8)).map("".join)), min_size=1, max_size=6))
def test_no_cell_of_text_begins_a_formula(texts, tmp_path):
    frame = pl.DataFrame({"text": texts, "number": list(range(len(texts)))})
    _, rows = written(frame, tmp_path)
    assert [int(row[1]) for row in rows] == frame["number"].to_list()
    for row, text in zip(rows, texts, strict=True):
        assert row[0].lstrip(" \n\x00")[:1] not in STARTS
        assert row[0] in (text, "'" + text)


def test_messages_steer_no_terminal():
    error = HeadflowError("the answer \x1b]0;owned\x07\x1b[2J\u202e is\x00 wrong\n  row 3:\ttoo long")
    assert str(error) == "the answer \ufffd]0;owned\ufffd\ufffd[2J\ufffd is\ufffd wrong\n  row 3:\ttoo long"
    assert str(HeadflowError("48 × 48, “–” é 語")) == "48 × 48, “–” é 語"
    with pytest.raises(HeadflowError, match="plain"):
        raise HeadflowError("plain")
