"""The sentence on effort says what was run, what it cost, and which examples are not known as well as was asked for."""

import polars as pl

from headflow.reporting.sentences.effort import effort
from headflow.tables.ablations import EFFORT


def table(*rows: tuple) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in EFFORT.columns.items()}, orient="row")


def test_equal_runs_are_told_once():
    said = effort(table(("a", 384, 16, 427.2, 0.02), ("b", 384, 16, 427.2, 0.04)))
    assert said == (
        "Each example took 384 masked runs and gradients at 16 corners, as much as 427 masked runs in all. "
        "The draw of masks leaves an error of about 3.0% in its attributions (worst example: 4.0%)."
    )
    assert effort(table(("a", 384, 0, 384.0, 0.02))).startswith("The one example took 384 masked runs. The draw of masks leaves an error of")


def test_early_stops_and_examples_that_fell_short_are_told():
    rows = [("a", 32, 8, 53.6, 0.03), ("b", 320, 8, 341.6, 0.12), ("c", 320, 8, 341.6, None)]
    said = effort(table(*rows), 0.1)
    assert "32 to 320 masked runs and gradients at 8 corners, on average as much as 246 masked runs in all" in said
    assert said.endswith("2 examples of 3 did not get down to the 10% asked for with all fit masks.")
    assert effort(table(rows[0]), 0.1).endswith("All stayed within the 10% asked for.")


def test_what_is_not_known_is_not_invented():
    assert effort(table()) == "No example was attributed."
    assert effort(table(("a", 48, 0, 48.0, None))).endswith("is not known.")
