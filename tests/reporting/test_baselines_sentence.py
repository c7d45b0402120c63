"""The sentence about the choice of baseline says which way it came out, and no more."""

import numpy as np
import polars as pl
import pytest

from headflow.analysis.baselines import Under, agreement, differences, summarise
from headflow.reporting.sentences.baselines import baselines
from headflow.tables.baselines import BASELINE_GAPS
from tests.analysis.test_baselines import KINDS, made

NO_GAPS = pl.DataFrame(schema={name: column.dtype for name, column in BASELINE_GAPS.columns.items()})


def say(under: Under, gaps: pl.DataFrame = NO_GAPS, **options: object) -> str:
    return baselines(agreement(under), differences(under), summarise(under), gaps, **options)


@pytest.mark.parametrize(
    ("noise", "odd", "start"),
    [
        (0.1, 0.0, "The baselines agree on which heads matter: even the least alike, "),
        (0.45, 0.0, "The baselines agree on which heads matter, but only roughly: the least alike, "),
        (0.3, 2.0, "Which heads matter depends on the baseline: the least alike, "),
    ],
)
def test_it_says_whether_they_agree(noise: float, odd: float, start: str) -> None:
    assert say(made(60, noise=noise, odd=odd)).startswith(start)


def test_a_ceiling_below_what_was_found_is_no_ceiling() -> None:
    under = made(20, noise=0.3)
    table, rest = agreement(under), (differences(under), summarise(under), NO_GAPS)
    assert "noise of the estimates alone would leave 0.98" in baselines(table.with_columns(ceiling=pl.lit(0.98)), *rest)
    assert "too noisy to say" in baselines(table.with_columns(ceiling=pl.lit(0.1)), *rest)


def test_what_cannot_be_told_is_said() -> None:
    assert say(made(4, noise=0.6, seed=3)).startswith("Whether the baselines agree on which heads matter cannot be told: ")
    between = say(made(20, noise=0.32))
    assert between.startswith("All baselines agree at least roughly on which heads matter, whether well cannot be told: ")
    one = made(1, noise=0.1)
    assert "cannot be told" in say(one) and "with one picture there is no interval" in say(one) and "No baseline can be told to stand apart" in say(one)
    nothing = Under({kind: np.full((2, 3, 4), np.nan) for kind in KINDS}, {}, {}, np.arange(2))
    assert say(nothing) == "Whether the choice of baseline matters cannot be told: no example was run under two baselines under which its heads differ."


def test_a_baseline_that_stands_apart_is_named_and_none_where_none_does() -> None:
    said = say(made(30, noise=0.2, odd=0.6), own="mean")
    assert "Swap stands apart: it agrees with the others by 0." in said and "so, by less" not in said
    assert "This report uses mean, which agrees with the others at r = " in said and "(swap) to " in said
    assert "No baseline can be told to stand apart from the others." in say(made(30, noise=0.2))
    two = made(30, noise=0.2)
    two = Under({kind: two.attributions[kind] for kind in KINDS[:2]}, two.errors, {}, two.pictures)
    assert "apart" not in say(two) and "the two, mean and blank, give" in say(two)


def test_falls_and_fits_are_told_apart_only_beyond_chance() -> None:
    under = made(30, noise=0.2)
    assert say(under).count("a difference that cannot be told from chance") == 2
    for measure, shift in (("total_effect", 5.0), ("held_out_r", -0.5)):
        under.measures[measure]["closed"][:] += shift
    said = say(under, unit="nats")
    assert "nats (closed), more than chance explains." in said and "and worst under closed (0.4" in said and "cannot be told from chance" not in said


def test_what_the_model_still_says() -> None:
    under = made(30, noise=0.2)
    for kind, share in zip(KINDS, (1.0, 1.0, 0.9, 0.1), strict=True):
        under.measures["candidate"][kind][:] = np.arange(30) < 30 * share
    said = say(under)
    assert "in a share of the examples of 100% (mean), 100% (blank), 90% (swap) and 10% (closed): " in said
    assert "closed throws it off more than mean, blank and swap." in said
    under.measures["candidate"]["closed"][:] = np.arange(30) < 26
    assert "that one throws it off more cannot be told" in say(under)
    for values, text in ((1.0, "none throws it off altogether"), (0.0, "all of them throw it off")):
        for kind in KINDS:
            under.measures["candidate"][kind][:] = values
        assert text in say(under)


def test_gaps_are_counted_with_their_reason() -> None:
    rows = [("mean", None, "references of several sizes"), ("swap", "a", "no partner"), ("swap", "b", "no partner")]
    said = say(made(30, noise=0.2), pl.DataFrame(rows, schema=NO_GAPS.schema, orient="row"))
    assert said.endswith("Left out is mean (references of several sizes). Left out of swap are 2 examples (no partner).")
