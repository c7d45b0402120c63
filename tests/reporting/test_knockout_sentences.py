"""The sentences about knockouts say what the numbers say, and that it cannot be told where it cannot."""

import polars as pl
import pytest

from headflow.analysis.knockout_examples import KnockedOutText, KnockoutExample, marked
from headflow.analysis.knockout_scores import knockout_differences, knockout_levels, knockout_summary
from headflow.judging.vocabulary import load_vocabulary
from headflow.reporting.knocked_out import description_table
from headflow.reporting.sentences import knockouts as sentences
from tests.analysis.test_knockout_scores import LAYERS, Drawn


def tables(pictures: int, keep: dict[str, float], *, truth: bool = False, **options: object) -> tuple:
    """Objects are kept with these chances where a route is closed in layer 2."""
    drawn = Drawn(pictures, 0, lambda closing: keep[closing.knockout.route] if closing.knockout.cut(LAYERS)[2] else 1.0, truth=truth, **options)
    summary = knockout_summary(*drawn.tables, draws=99, permutations=999)
    return summary, knockout_levels(*drawn.tables), knockout_differences(*drawn.tables, permutations=999)


REREADS = {"img→gen": 0.0, "img→query": 1.0, "img→both": 0.0}
SUMMARISES = {"img→gen": 0.6, "img→query": 0.0, "img→both": 0.0}


def test_a_model_that_reads_the_picture_anew():
    made = tables(30, REREADS, truth=True)
    text = sentences.without_the_picture(*made)
    assert "1.00 (1.00 to 1.00) with the picture closed to the prompt's text" in text and "1.00 untouched" in text and "by chance" in text
    assert "That the prompt's text sees the picture makes no difference that can be told: this model can read the picture anew while it speaks." in text
    assert "cannot be told: they do no better than chance" in text and "Closing img→gen costs more than closing img→query" in text
    rise = sentences.steepest_rise(made[0], layers=LAYERS)
    assert "For img→gen the F1 rises most steeply as layer 2 opens" in rise and "100% of bootstrap draws" in rise and "of the way up" in rise
    assert rise.endswith("For img→query no depth can be told: that closing all layers costs anything cannot be told.")
    assert "For img→query no band can be told from another" in sentences.bands(made[0])
    assert "stock model itself" in sentences.without_the_picture(*made, against="truth") and sentences.pictures_used(made[0]) == "30 pictures"


def test_a_model_whose_text_holds_a_summary():
    text = sentences.without_the_picture(*tables(40, SUMMARISES))
    assert "Generated tokens that cannot see the picture still say more of it than chance: the prompt's text passes a part of it on." in text
    assert "nothing of the picture that can be told from chance is left: this model needs it" in text and "Closing img→query costs more" in text
    partly = sentences.without_the_picture(*tables(40, {**SUMMARISES, "img→query": 0.5}))
    assert "% of the F1 is lost, but more than chance is left" in partly and "Which of the two closings costs more cannot be told." in partly


def test_what_cannot_be_told():
    one = tables(1, REREADS)
    assert sentences.without_the_picture(*one).endswith("With a single picture nothing can be told in general.")
    assert "no depth can be told" in sentences.steepest_rise(one[0]) and "no band can be told" in sentences.bands(one[0])
    none = tables(3, REREADS, empty=3)
    assert "cannot be told: no objects of these descriptions are known" in sentences.without_the_picture(*none)
    assert "no true objects of these pictures are known" in sentences.without_the_picture(*none, against="truth")
    assert "cannot be told" in sentences.steepest_rise(none[0]) and "cannot be told" in sentences.bands(none[0])
    unsure = tables(12, {"img→gen": 0.0, "img→query": 0.0, "img→both": 0.0}, routes=("img→gen",))
    assert "cannot be told" in sentences.bands(unsure[0]) and "As far" not in sentences.bands(unsure[0])


def test_what_a_way_carries_is_said_only_where_more_than_chance_comes_by_it():
    """Three pictures of which nothing is left are too few to tell a loss; what comes to nothing has carried nothing."""
    nothing = dict.fromkeys(REREADS, 0.0)
    text = sentences.without_the_picture(*tables(3, nothing))
    assert "That generated tokens see the picture makes no difference that can be told." in text and "pass on" not in text and "anew" not in text
    assert "costs too little" not in sentences.steepest_rise(tables(3, nothing)[0])
    assert "the prompt's text can pass on what they need" in sentences.without_the_picture(*tables(20, {**nothing, "img→gen": 1.0}))


def test_a_closing_that_helps_is_not_called_without_effect():
    summary, levels, differences = tables(20, REREADS)
    columns = [pl.lit(value).alias(name) for name, value in (("fall", -0.2), ("fall_p_holm", 0.001))]
    text = sentences.without_the_picture(summary.with_columns(*columns, rise=pl.lit(None, pl.Float64)), levels, differences)
    assert "no difference" not in text and "as a reader the F1 is higher than with it." in text and "the F1 is higher than where they can" in text


def test_the_variant_is_named():
    text = sentences.without_the_picture(*tables(20, REREADS, last=("query", "generated")))
    assert "closed to the generated tokens, the first of them included" in text and "closed to the prompt's text but for its last token" in text
    few = tables(2, REREADS, last=("query", "generated"))[0]
    assert "For img→gen, “img→gen, first token too”, img→query, “img→query, first token spared” and img→both no depth" in sentences.steepest_rise(few)
    assert sentences.route_name("img→gen", "generated") == "img→gen, first token too" and "can do without an edge" in sentences.CAVEAT


def test_texts_are_marked_and_escaped(tmp_path):
    vocabulary = load_vocabulary("coco")
    parts, named = marked("A <b>dog</b> and two cats & a car", ["dog", "person"], vocabulary)
    assert "".join(text for text, _ in parts) == "A <b>dog</b> and two cats & a car"
    assert [(text, mark) for text, mark in parts if mark] == [("dog", "named"), ("cats", "invented"), ("car", "invented")] and named == {"dog", "cat", "car"}
    assert marked("", [], vocabulary) == ((), set())
    said = KnockedOutText("img→gen", "generated", parts, ("<i>person</i>",), ended=False)
    page = str(description_table([KnockoutExample("<script>", 0, marked("a dog", ["dog"], vocabulary)[0], (said,))]))
    assert "&lt;script&gt;" in page and "<script>" not in page and "<del>&lt;i&gt;person&lt;/i&gt;</del>" in page
    assert "<b>dog</b>" in page and "<mark>cats</mark>" in page and "&amp; a" in page and "img→gen, first token too" in page and " …" in page


@pytest.mark.parametrize("against", ["stock", "truth"])
def test_an_unknown_judge_has_nothing_to_say(against):
    made = tables(2, REREADS)
    assert "cannot be told" in sentences.without_the_picture(*made, against=against, judge="nobody")
