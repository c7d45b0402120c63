import json

import altair as alt
import polars as pl
from markupsafe import Markup

from headflow.reporting.html import script_json, table, tag

HOSTILE = "</script><script>alert(1)</script> \" ' & <b> \u2028 <!--"


def test_text_and_attributes_are_escaped():
    assert str(tag("p", "<b>&\"'", class_='"x">')) == '<p class="&#34;x&#34;&gt;">&lt;b&gt;&amp;&#34;&#39;</p>'
    assert str(tag("p", 3, None)) == "<p>3None</p>"


def test_markup_is_kept_and_braces_are_no_format():
    assert str(tag("p", tag("b", "x"), "{0} {{1}}")) == "<p><b>x</b>{0} {{1}}</p>"


def test_table_cells_are_escaped():
    made = str(table(["<a>"], [["<i>", Markup("<b>ok</b>")]]))
    assert "<i>" not in made and "<a>" not in made and "<b>ok</b>" in made


def test_json_in_a_script_holds_no_character_that_could_end_it():
    text = str(script_json({HOSTILE: [HOSTILE, 1.5, None]}))
    assert not any(character in text for character in "<>&\u2028\u2029")
    assert json.loads(text) == {HOSTILE: [HOSTILE, 1.5, None]}


def test_tokens_that_no_svg_can_hold_are_drawn_all_the_same():
    """A byte token of a real tokenizer may be any control character; the drawing library would end the process at it."""
    from headflow.reporting.figure import drawable_text, png

    tokens = ["\x00", "\x1b[1m", "a\x0bb", "\ud800", "\ufffe", "two\nlines", "é", "😀"]
    chart = alt.Chart(pl.DataFrame({"token": [token for token in tokens if token != "\ud800"]})).mark_text().encode(text="token:N", y="token:N")
    spec = drawable_text(chart.to_dict())
    assert png(spec)[:4] == b"\x89PNG"
    shown = [row["token"] for row in next(iter(spec["datasets"].values()))]
    assert shown == ["\ufffd", "\ufffd[1m", "a\ufffdb", "\ufffd", "two\nlines", "é", "😀"] and drawable_text("\ud800") == "\ufffd"
