"""The sentences about kept image tokens say what the numbers say, and that it cannot be told where it cannot."""

import numpy as np
import polars as pl
import pytest

from headflow.analysis import keeping
from headflow.reporting.sentences.keeping import kept_target, kept_tokens
from tests.analysis.test_keeping import kept


def tables(values: dict[str, np.ndarray], right: dict[str, np.ndarray] | None = None, ways: tuple[str, ...] = ("removed",)) -> tuple:
    table = pl.concat([kept(values, right=right, way=way) for way in ways])
    return keeping.summary(table, draws=99), keeping.differences(table)


def curves(at_one: float, at_ten: float, count: int = 30, noise: float = 0.1) -> np.ndarray:
    """Targets at 0, 1, 10 and 100 percent."""
    random = np.random.default_rng([1, int(100 * at_one), int(100 * at_ten)])
    return np.array([0.0, at_one, at_ten, 10.0]) + noise * random.normal(size=(count, 4)) * [1, 1, 1, 0]


def answers(rate_at_one: float, count: int = 30) -> np.ndarray:
    right = np.ones((count, 4), bool)
    right[:, 0] = False
    right[: round((1 - rate_at_one) * count), 1] = False
    return right


def test_the_fewest_and_the_clear_winner_are_named():
    found = tables(
        {"attribution": curves(9.8, 10), "random": curves(1, 5)}, {"attribution": answers(1), "random": answers(0.2)}, ways=("baseline", "closed", "removed")
    )
    text = kept_tokens(*found)
    assert text.startswith("Chosen by attribution, 1 token (1.0%; the same in every draw of pictures) is enough to keep 95% of the accuracy when the other")
    assert "image tokens are removed (100% with all of them, 0% with none); by chance 10 tokens (10%; the same in every draw of pictures) are needed" in text
    assert "attribution keeps the most right answers, ahead of chance by more than chance explains" in text and "beforehand" in text
    text = kept_target(*found, unit="nats")
    assert "10.0 nats is kept with 1 token (1.0%" in text and "and 100 tokens (100%" in text
    assert "whether the others are removed, closed to the text or made to read the baseline" in text


def test_choices_that_need_the_same_are_named_together():
    values = {"attribution": curves(9.8, 10), "attention": curves(9.7, 10), "random": curves(1, 5)}
    found = tables(values, {"attribution": answers(1), "attention": answers(1), "random": answers(0.2)})
    assert kept_tokens(*found).startswith("Chosen by attribution or attention, 1 token (1.0%; the same in every draw of pictures) is enough")
    assert "1 token (1.0%; the same in every draw of pictures) by attribution or attention and 100 tokens" in kept_target(*found)


def test_a_lead_that_may_be_chance_is_not_called_one():
    same = curves(5, 9, noise=2.0)
    other = same + np.random.default_rng(0).normal(size=same.shape)
    found = tables({"attention": same, "position": other}, {"attention": answers(0.8), "position": answers(0.8)})
    assert "cannot be told" in kept_tokens(*found) and "cannot be told" in kept_target(*found)
    assert "beforehand" not in kept_tokens(*found)  # nobody looked at the answer


def test_two_that_lead_together_are_told_from_the_third():
    lead = curves(9, 10, noise=0.5)
    found = tables({"attribution": lead, "attention": lead + np.random.default_rng(2).normal(size=lead.shape) * 0.5, "random": curves(1, 5)})
    text = kept_target(*found)
    assert "clearly more than chance; that it is ahead of att" in text and text.count("cannot be told") == 1


@pytest.mark.parametrize("make", [kept_tokens, kept_target])
def test_where_there_is_nothing_to_keep_it_says_so(make):
    nothing = np.zeros((5, 4))
    assert "cannot be told" in make(*tables({"random": nothing}, {"random": nothing > 0}))
    summary, differences = tables({"random": curves(1, 5)})
    assert "cannot be told" in make(summary.head(0), differences)
    assert "No choice but chance was tried." in make(summary, differences)


def test_ways_that_differ_are_told_apart():
    early, late = (kept({"attention": curves(at_one, 10)}, way=way) for at_one, way in ((9.9, "closed"), (3, "removed")))
    table = pl.concat([early, late])
    text = kept_target(keeping.summary(table, draws=99), keeping.differences(table))
    assert "By attention it takes 10% where the others are removed and 1.0% where the others are closed to the text." in text
