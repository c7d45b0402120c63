"""Sentences about tokens and routes say which way it came out, and no more."""

import numpy as np
import polars as pl
import pytest

from headflow.reporting.sentences import flow, text_tokens
from tests.charts.test_tracing import flowed, traced
from tests.tracing.test_flow import at


def test_the_tokens_that_receive_the_picture_are_named() -> None:
    tables = traced(spread=0.02)
    said = text_tokens.template_tokens(tables["slots"])
    assert said.startswith("The picture is received by “:” (final) (") and "“ASSISTANT” (role) (" in said
    assert said.endswith("that any of the 8 others receives more than 1% of the effect cannot be told.")
    said = text_tokens.role_shares(tables["roles"], tables["contrasts"])
    assert said.startswith("The picture goes to the tokens after the question: tokens after the question hold 100% (")


def test_tokens_that_receive_nothing() -> None:
    tables = traced(effect=0.0, spread=1.0)
    nothing = {name: table.with_columns(pl.col("^(share|share_low|share_high)$").map_batches(lambda s: s * 0 + 1)) for name, table in tables.items()}
    random = np.random.default_rng(3)
    slots = nothing["slots"].with_columns(p_holm=pl.Series(random.uniform(0.2, 1, len(nothing["slots"]))), share=pl.lit(0.1))
    assert text_tokens.template_tokens(slots).startswith("Which tokens receive the picture cannot be told: for none of 10 tokens")
    unknown = tables["slots"].with_columns(share=pl.lit(None, pl.Float64), p_holm=pl.lit(0.5))
    assert "up in some examples and down in others" in text_tokens.template_tokens(unknown)
    assert text_tokens.template_tokens(tables["slots"].clear()).endswith("no example was traced.")


def contrast(name: str, value: float | None, low: float | None, high: float | None, p: float | None = 0.01) -> pl.DataFrame:
    schema = {"template": pl.String, "contrast": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "p": pl.Float64}
    return pl.DataFrame([(None, name, value, low, high, p)], schema=schema, orient="row")


@pytest.mark.parametrize(
    ("low", "high", "start"),
    [
        (0.2, 0.5, "The picture goes to the tokens after the question"),
        (-0.5, -0.2, "The picture goes to the tokens of the question"),
        (-0.1, 0.5, "Whether the question or what comes after it receives more of the picture cannot be told"),
        (None, None, "With one picture it cannot be told"),
    ],
)
def test_question_or_what_comes_after(low: float | None, high: float | None, start: str) -> None:
    assert text_tokens.role_shares(traced()["roles"], contrast("after - before", 0.2, low, high)).startswith(start)


def test_what_is_missing_is_said() -> None:
    tables = traced()
    assert "not tokens of both kinds" in text_tokens.role_shares(tables["roles"].filter(role="after"), tables["contrasts"])
    unknown = tables["roles"].with_columns(share=pl.lit(None, pl.Float64))
    assert "changes the target too little" in text_tokens.role_shares(unknown, tables["contrasts"])
    alone = traced(examples=1)
    assert "cannot be told from one picture" in text_tokens.template_tokens(alone["slots"])
    assert "With one picture" in text_tokens.role_shares(alone["roles"], alone["contrasts"])
    assert "With one picture" in text_tokens.top_heads(alone["contrasts"], 3, 12)


@pytest.mark.parametrize(
    ("gap", "alike", "said"),
    [
        ((0.0, -0.02, 0.02), (0.99, 0.98, 1.0), "The first 3 heads of 12 write to the same tokens as all heads"),
        ((0.3, 0.2, 0.4), (0.7, 0.6, 0.8), "The first 3 heads of 12 write more to the tokens after the question than all heads do, by +30% (+20% to +40%)"),
        ((-0.3, -0.4, -0.2), (0.7, 0.6, 0.8), "write less to the tokens after the question"),
        ((0.1, -0.2, 0.4), (0.7, 0.2, 0.9), "That the first 3 heads of 12 write to other tokens than all heads do cannot be told"),
        ((None, None, None), (0.7, 0.2, 0.9), "cannot be told: one of the two changes the target too little"),
    ],
)
def test_top_heads_against_all(gap: tuple, alike: tuple, said: str) -> None:
    assert said in text_tokens.top_heads(pl.concat([contrast("top - all", *gap), contrast("similarity", *alike, None)]), 3, 12)


def test_the_fit() -> None:
    fits = traced()["fits"]
    assert text_tokens.fits(fits) == "On masks that it has not seen, a sum over tokens predicts the target with a median r of 0.97 (worst example 0.97)."
    assert text_tokens.fits(fits.with_columns(estimator=pl.lit("exhaustive"))).endswith("; all combinations of tokens were run.")
    assert "does not change" in text_tokens.fits(fits.with_columns(held_out_r=pl.lit(None, pl.Float64)))


def ordered(**routes: np.ndarray) -> str:
    tables = flowed(**routes)
    return flow.order(tables["depths"], tables["contrasts"])


def test_text_before_after_or_with_the_picture() -> None:
    said = ordered(text=at(1), direct=at(4))
    assert said.startswith("The question's text reaches the role and final tokens before the picture does: the text arrives at layer 1.0")
    assert ordered(text=at(4), direct=at(1)).startswith("The question's text reaches the role and final tokens after the picture does")
    said = ordered(text=at(3, noise=0.8), direct=at(3, seed=1, noise=0.8))
    assert said.startswith("Whether the question's text reaches the role and final tokens before the picture does cannot be told: the text arrives at layer")
    assert flow.arrival(flowed(text=at(1), direct=at(4))["contrasts"]) == "before" and flow.arrival(flowed(direct=at(4))["contrasts"]) == "cannot tell"


def test_why_the_order_cannot_be_told() -> None:
    assert "which is no more than chance" in ordered(text=at(1, size=0.0, noise=0.3), direct=at(4))
    assert "less than a hundredth of what the picture is worth" in ordered(text=at(1, size=0.02, noise=0.002), direct=at(4))
    assert "does the opposite" in ordered(text=at(1) - 0.6 * at(5, seed=2), direct=at(4))
    assert "not asked of this model" in ordered(via=at(1), direct=at(4))
    assert "in general from one picture" in ordered(examples=1, text=at(1, examples=1), direct=at(4, examples=1))
    empty = {name: table.clear() for name, table in flowed().items()}
    assert flow.order(empty["depths"], empty["contrasts"]).endswith("no example was traced.")


def test_two_hops() -> None:
    said = ordered(text=at(4), via=at(1, seed=1), direct=at(3, size=0.0, noise=0.1, seed=2))
    assert said.startswith("The picture does not reach the role and final tokens by itself") and "at layer 4.0" in said and ", later (difference" in said
    assert ", earlier (" in ordered(text=at(1), via=at(4, seed=1), direct=at(3, size=0.0, noise=0.1, seed=2))


def went(**routes: np.ndarray) -> str:
    tables = flowed(**routes)
    return flow.way(tables["bands"], tables["contrasts"])


def test_the_way_of_the_picture() -> None:
    assert went(via=at(1, size=0.0), direct=at(4)).startswith("The picture reaches the answer directly, at the role and final tokens: without the edges")
    assert went(via=at(1), direct=at(4, size=0.0)).startswith("The picture reaches the answer through the tokens of the question")
    assert went(via=at(1, size=2.0), direct=at(4)).startswith("The picture reaches the answer more directly")
    assert went(via=at(1, noise=1.0), direct=at(4, seed=1, noise=1.0)).startswith("Whether the picture reaches the answer directly or through the tokens")
    assert "cannot be told: cutting it off" in went(via=at(1, size=0.0, noise=1.0), direct=at(4, seed=1, size=0.0, noise=1.0))
    assert "from one picture" in went(examples=1, via=at(1, examples=1), direct=at(4, examples=1))


def test_routes_that_are_left_out_are_named() -> None:
    assert flow.left_out(flowed()["depths"]) is None and flow.left_out(flowed()["depths"].clear()) is None
    assert flow.left_out(flowed(via=at(1), direct=at(4))["depths"]).startswith("Edges between tokens of the text are left as they are")


def test_a_template_apart() -> None:
    """Sentences about a template take its rows, those about all examples the others."""
    one, other = flowed(text=at(1), direct=at(4)), flowed(text=at(4), direct=at(1))
    both = {name: pl.concat([one[name], other[name].with_columns(template=pl.lit("Which ?"))]) for name in one}
    assert "before the picture does: the text" in flow.order(both["depths"], both["contrasts"])
    assert "after the picture does: the text" in flow.order(both["depths"], both["contrasts"], template="Which ?")
    assert flow.arrival(both["contrasts"], "Which ?") == "after"
