"""Text from data sets and models on a page: shown letter by letter, and never an element, an attribute, or a script."""

import io
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import altair as alt
import nbformat
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headflow.analysis.knockout_examples import KnockedOutText, KnockoutExample
from headflow.charts import compressing
from headflow.charts.examples import _bare
from headflow.reporting import blocks, page
from headflow.reporting.figure import CHART, drawable_text
from headflow.reporting.html import script_json, table, tag
from headflow.reporting.knocked_out import description_table
from headflow.reporting.sentences.compressing import categories
from headflow.tables.compressing import COMPRESSED_SUMMARY
from tests.security.profile import fuzz

TEMPLATE = Path(__file__).resolve().parents[2] / "reports" / "templates" / "report.html.j2"
HOSTILE = (
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "</title></style></textarea></noscript><img src=x onerror=alert(1)>", "${alert(1)}",
    "{{ 7 * 7 }}{% raw %}", "\"><svg onload=alert(1)>", "' onmouseover='alert(1)", "<!--", "-->", "]]>", "<![CDATA[", "&lt;b&gt;&amp;", "\u202egnp.exe\u2066",
    "\u2028\u2029", "\x00\x07\x1b[2J\x7f\x85", "javascript:alert(1)", "\\u003cscript\\u003e", "\\", "\n\r\t", "\ufeff", "\U0001f600", "datum['x']", "`${1}`",
)  # fmt: skip
LETTERS = st.text(st.sampled_from("<>&\"'`${}/\\=!-[]scriptonload \u202e\u2028\x00\x1b\n"), max_size=30)


class Page(HTMLParser):
    """Elements, text outside of scripts, and scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self._script = "", [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self._script = name == "script"
        if self._script:
            self.scripts.append("")

    def handle_endtag(self, name):
        self._script = False

    def handle_data(self, data):
        if self._script:
            self.scripts[-1] += data
        else:
            self.text += data


def made(text: str, folder: Path) -> str:
    """A page with ``text`` wherever data can put text: title, sentence, table, attribute, chart, code."""
    rows = pl.DataFrame({"x": [1.0, 2.0], "name": [text, "b"], "image": ["data:image/png;base64,AA==", text]})
    tooltip = [alt.Tooltip("name:N", title=_bare(f"looks_{text}")), "image:N"]
    chart = alt.Chart(rows).mark_point().encode(x="x:Q", y=alt.Y("name:N", title=text), tooltip=tooltip).properties(description=text)
    html = tag("h3", text, id="a") + tag("p", text, title=text) + table([text], [[text]]) + tag("span", text, class_="token")
    outputs = [
        nbformat.v4.new_output("display_data", {"text/html": str(html)}),
        nbformat.v4.new_output("display_data", {CHART: drawable_text(chart.to_dict()), "text/plain": text}),
        nbformat.v4.new_output("stream", text=text),
    ]
    code = nbformat.v4.new_code_cell(f"x = {text!r}", outputs=outputs, execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[code], metadata={"language_info": {"name": "python"}})
    page.render(notebook, TEMPLATE, folder / "index.html", title=text)
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory) -> Page:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_bundle", lambda: "/* the library */")
        return Page(made("plain text", tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_makes_no_element(text, harmless, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "_bundle", lambda: "/* the library */")  # tests/reporting/test_page.py has the true one
    found = Page(made(text, tmp_path))

    def shape(one: Page) -> list[tuple[str, list[str]]]:
        # Spans of the highlighted code hang on what it says.
        return [(name, sorted(attributes)) for name, attributes in one.elements if name != "span" or attributes.get("class") == "token"]

    assert shape(found) == shape(harmless)
    assert len(found.scripts) == len(harmless.scripts) == 3
    # As an HTML parser reads it: line ends become \n, and a NUL becomes U+FFFD or is left out.
    shown = found.text.replace("\r\n", "\n").replace("\r", "\n")
    assert text.replace("\r\n", "\n").replace("\r", "\n") in shown
    spec = json.loads(found.scripts[0])
    assert spec["description"] == drawable_text(text)


def described(texts: Sequence[str], folder: Path) -> str:
    """The cells of the page about descriptions with each of ``texts`` as what is said, true, named, lost or asked, and as the name of an example."""
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    pictures = pl.DataFrame({"id": texts, "image": [picture.getvalue()] * len(texts), "said": texts, "description": texts})
    examples = [
        KnockoutExample(text, 0, ((text, ""), (text, "named")), (KnockedOutText("img→gen", "query", ((text, "invented"), (text, "")), (text,), ended=False),))
        for text in texts
    ]
    ways = [("full", None, None), ("both", "attention", 2.0)]
    rows = [
        ("fresh", *way, category, accuracy, accuracy - 0.1, accuracy, 0.0, 0.0, 1.0, 9.0, 9.0, 4, 8)
        for way in ways for category, accuracy in [("all", 0.5), *((text, 0.9 - 0.01 * place) for place, text in enumerate(texts))]
    ]  # fmt: skip
    summary = pl.DataFrame(rows, schema={name: column.dtype for name, column in COMPRESSED_SUMMARY.columns.items()}, orient="row")
    html = blocks.descriptions(pictures, len(texts)) + description_table(examples) + tag("p", categories(summary))
    outputs = [
        nbformat.v4.new_output("display_data", {"text/html": str(html)}),
        nbformat.v4.new_output("display_data", {CHART: drawable_text(compressing.by_category(summary, "fresh").to_dict()), "text/plain": ""}),
    ]
    cells = [nbformat.v4.new_code_cell("", outputs=outputs, execution_count=1)]
    page.render(nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}}), TEMPLATE, folder / "descriptions.html", title="")
    return (folder / "descriptions.html").read_text(encoding="utf-8")


def test_what_models_say_makes_no_element_on_the_page_about_descriptions(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "_bundle", lambda: "/* the library */")
    shown, plain = (Page(described(texts, tmp_path)) for texts in (HOSTILE, [f"plain text {number}" for number in range(len(HOSTILE))]))
    assert [(name, sorted(attributes)) for name, attributes in shown.elements] == [(name, sorted(attributes)) for name, attributes in plain.elements]
    assert sum(name in ("mark", "del", "img") for name, _ in shown.elements) == 3 * len(HOSTILE)
    assert len(shown.scripts) == len(plain.scripts)
    kinds = {row["category"] for rows in json.loads(shown.scripts[0])["datasets"].values() for row in rows}
    assert kinds == {drawable_text(text) for text in HOSTILE}
    text = shown.text.replace("\r\n", "\n").replace("\r", "\n")
    for one in HOSTILE:
        # As an id; true and said on a card; as untouched text, named, invented, other text and lost.
        assert text.count(one.replace("\r\n", "\n").replace("\r", "\n")) >= 8, repr(one)


NUMBERS = st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@fuzz(60)
@given(content=st.recursive(LETTERS | NUMBERS, lambda part: st.lists(part, max_size=3) | st.dictionaries(LETTERS, part, max_size=3), max_leaves=8))
def test_any_json_in_a_script_stays_in_it_and_stays_the_same(content):
    text = str(script_json(content))
    found = Page(f"<script type='application/json'>{text}</script><p>after</p>")
    assert [name for name, _ in found.elements] == ["script", "p"] and found.scripts == [text]
    assert json.loads(text) == content


@fuzz(80)
@given(name=LETTERS, value=LETTERS)
def test_any_text_in_an_element_or_an_attribute_stays_there(name, value):
    found = Page(str(tag("p", name, tag("b", value), title=value, class_=name)))
    assert [element for element, _ in found.elements] == ["p", "b"]
    assert found.elements[0][1] == {"title": value, "class": name}
    assert found.text.replace("\r", "\n") == (name + value).replace("\r", "\n")


@fuzz(80)
@given(label=st.text(max_size=30))
def test_names_of_tooltip_rows_hold_nothing_that_ends_a_string(label):
    assert not set(_bare(label)) & set("\"'`\\${}[]<>&;=\n\r\u2028\u2029")
