"""One figure of the article: a question, the figure that answers it, what to see, and how it was computed."""

import io
import re
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert
from IPython.display import display
from markupsafe import Markup
from PIL import Image

from headflow.reporting.definitions import TERMS
from headflow.reporting.html import tag

CHART = "application/vnd.vegalite.v6+json"
VERSION = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
"""Vega-Lite version of the specs, as vl-convert names it."""
LARGEST_PNG = 300_000
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (section 2.2) allows no document to hold."""


def show(figure: str, *, asks: str, says: str, body: alt.TopLevelMixin | Markup | None, how: str, terms: Sequence[str] = ()) -> None:
    """Display a figure in a notebook; the page is made from what is displayed here.

    Args:
        figure: id of the figure, its anchor on the page and the name of its picture file.
        asks: the heading, a question.
        says: the sentence that this run's numbers give.
        body: a chart, or HTML for what is no chart; None where this run has nothing to draw, which the sentence then says.
        how: how it was computed.
        terms: keys of the definitions that ``how`` leans on.
    """
    links = [tag("a", TERMS[term].name, href=f"#term-{term}") for term in terms]
    defined = Markup(" Defined below: {}.").format(Markup(", ").join(links)) if links else ""
    display(_html(tag("h3", asks, id=figure) + tag("p", says, class_="says")))
    if body is None:
        return
    if isinstance(body, Markup):
        display(_html(tag("div", body, class_="block")))
    else:
        spec = drawable_text(body.properties(description=f"{asks} {says}").to_dict())
        display({CHART: spec, "image/png": png(spec), "text/plain": f"{asks} {says}"}, raw=True, metadata={"headflow": {"figure": figure}})
    display(_html(tag("p", tag("b", "How: "), how, defined, class_="how")))


def drawable_text(part: Any) -> Any:
    """A chart's specification in which every text can stand in an SVG: tokens of a model may hold characters that XML forbids, at which the drawing
    library would end the whole process. They are shown as U+FFFD."""
    if isinstance(part, str):
        return _FORBIDDEN.sub("\ufffd", part)
    if isinstance(part, dict):
        return {drawable_text(name): drawable_text(value) for name, value in part.items()}
    return [drawable_text(item) for item in part] if isinstance(part, list) else part


class _html:
    """HTML that a notebook shows as such."""

    def __init__(self, text: Markup) -> None:
        self.text = str(text)

    def _repr_html_(self) -> str:
        return self.text


def plain(text: Markup) -> None:
    """Display HTML that is no figure."""
    display(_html(text))


def png(spec: dict[str, Any]) -> bytes:
    """``spec`` drawn without a browser, at the largest of three scales that stays under LARGEST_PNG bytes."""
    for scale in (2.0, 1.5, 1.0):
        drawn = vl_convert.vegalite_to_png(spec, vl_version=VERSION, scale=scale, allowed_base_urls=[])
        buffer = io.BytesIO()
        # A chart has few colours: a palette of 256 looks the same in a third of the bytes.
        with Image.open(io.BytesIO(drawn)) as image:
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() < LARGEST_PNG:
            break
    return buffer.getvalue()
