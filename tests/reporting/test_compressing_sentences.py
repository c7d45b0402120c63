"""What is said of compressed contexts follows from the numbers, whichever way they come out."""

import numpy as np
import polars as pl

from headflow.analysis.compression import differences, summary
from headflow.reporting.sentences.compressing import asked, categories, chosen, compressed, saved
from headflow.tables.compressing import COMPRESSED_TIMES
from tests.analysis.test_compression import answers


def share(value: float, pictures: int = 40) -> np.ndarray:
    """Right answers to two questions a picture, ``value`` of them, every picture's spread alike."""
    return (np.arange(2 * pictures).reshape(pictures, 2) * 37 % (2 * pictures)) < round(2 * pictures * value)


def tables(**shares: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Shares by name: ``turn_full``, ``fresh_both_attention_5`` …"""
    rights = {}
    for name, value in shares.items():
        asking, strategy, *rest = name.split("_")
        rights[asking, strategy, rest[0] if rest else None, float(rest[1]) if rest else None] = share(value)
    table = answers(rights)
    return summary(table), differences(table)


def test_a_loss_is_told_from_none() -> None:
    found = tables(turn_full=1.0, turn_none=0.3, turn_query=0.4, turn_description=0.5, turn_both_attention_2=0.6, turn_both_attention_10=0.98)
    text = compressed(*found)
    assert text.startswith("With the whole prompt the model answers 100%") and "30% with nothing in the picture's place" in text
    assert "With the prompt's text and 10% of the image tokens" in text and "a loss cannot be told; with 2% it is clearly fewer, 60%" in text
    assert "The prompt's text alone gives 40%" in text and "own description in the picture's place gives 50%" in text
    worse = compressed(*tables(turn_full=1.0, turn_both_attention_2=0.3, turn_both_attention_10=0.5))
    assert (
        "and 10% of the image tokens, those of most attention in each layer, it is 50%" in worse and "clearly fewer" in worse and "cannot be told" not in worse
    )
    same = compressed(*tables(turn_full=0.95, turn_both_attention_2=0.95))
    assert "it is 95%" in same and ": no less." in same


def test_in_the_place_of_the_first_question_nothing_of_it_stays() -> None:
    assert compressed(*tables(fresh_full=1.0)).startswith("With what stands before the picture and all image tokens the model answers 100%")


def test_a_model_that_answers_badly_says_little() -> None:
    found = tables(turn_full=0.6, turn_both_attention_2=0.6, new_full=1.0)
    assert "too few for what is lost" in compressed(*found)
    assert "stays below 90%: so little can be told" in asked(found[0]) and "100% when asked in a new conversation" in asked(found[0])
    other = asked(tables(turn_full=0.6, fresh_full=1.0)[0])
    assert "60% when asked as the user's next turn and 100% when asked in the place of the first question" in other
    assert other.endswith("what is said here goes by those asked in the place of the first question.")
    assert "below" not in asked(tables(turn_full=0.97)[0])


def test_choices_against_chance() -> None:
    base = {"turn_full": 1.0, "turn_both_random_2": 0.5, "turn_both_random_10": 0.8}
    text = chosen(*tables(**base, turn_both_attention_2=0.9, turn_both_attention_10=0.8, turn_both_attribution_2=0.2, turn_both_attribution_10=0.8))
    assert "attention is better than chance at 2% (there: by 40 points at 2%)" in text and "attribution is worse than chance at 2%" in text
    assert "that attention differs from chance cannot be told" in chosen(*tables(**base, turn_both_attention_2=0.5, turn_both_attention_10=0.8))
    assert "cannot be told: no other choice" in chosen(*tables(turn_full=1.0))


def test_kinds_of_questions() -> None:
    right = np.ones((40, 2), bool)
    part = right.copy()
    part[:30, 1] = False
    table = summary(answers({("turn", "full", None, None): right, ("turn", "both", "attention", 2.0): part}))
    assert "count loses most (25%" in categories(table) and "present least (100%" in categories(table)
    same = summary(answers({("turn", "full", None, None): right, ("turn", "both", "attention", 2.0): right}))
    assert "no kind of question is answered worse" in categories(same)
    few = {name: rights[28:32] for name, rights in (("full", right), ("both", part))}
    table = summary(answers({("turn", "full", None, None): few["full"], ("turn", "both", "attention", 2.0): few["both"]}))
    assert "which kind of question loses most cannot be told" in categories(table)  # 2 of 4 against 4 of 4
    # One kind is answered worse from the first, and loses no more than the other.
    whole, rest = right.copy(), right.copy()
    whole[:20, 1], rest[:21, 1] = False, False
    table = summary(answers({("turn", "full", None, None): whole, ("turn", "both", "attention", 2.0): rest}))
    assert "which kind of question loses most cannot be told" in categories(table)
    assert "cannot be told" in categories(tables(turn_full=1.0)[0])


def test_costs_and_blanks() -> None:
    schema = {name: column.dtype for name, column in COMPRESSED_TIMES.columns.items()}
    found, _ = tables(turn_full=1.0, turn_both_attention_2=0.9)
    rows = [("turn", "full", None, None, 600.0, 6000.0, 0.05, 0.045, 0.055, 2), ("turn", "both", "attention", 2.0, 30.0, 300.0, 0.02, 0.018, 0.022, 2)]
    text = saved(found, pl.DataFrame(rows, schema=schema, orient="row"))
    assert "of the memory" in text and "20.0 ms (18.0 to 22.0) for 50.0 ms (45.0 to 55.0) (2 pictures timed)." in text
    rows[1] = (*rows[1][:6], 0.04, 0.03, 0.06, 2)
    assert "a difference in time cannot be told" in saved(found, pl.DataFrame(rows, schema=schema, orient="row"))
    nothing, none = summary(answers({})), differences(answers({}))
    assert saved(found, pl.DataFrame(schema=schema)).endswith("keys and values of the whole prompt.") and "cannot be told" in saved(
        nothing, pl.DataFrame(schema=schema)
    )
    assert all("cannot be told" in text for text in (compressed(nothing, none), asked(nothing), chosen(nothing, none), categories(nothing)))
