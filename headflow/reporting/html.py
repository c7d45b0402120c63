"""Text into HTML, safely; nothing from data reaches a page by any other way."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup, escape


def tag(name: str, *children: Any, **attributes: str) -> Markup:
    """An element; children and attribute values are escaped unless they are :class:`Markup` already."""
    written = Markup("").join(Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    if name in ("img", "br", "hr"):
        return Markup("<{}{}>").format(Markup(name), written)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, Markup("").join(escape(child) for child in children))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], **attributes: str) -> Markup:
    """A table; cells are escaped."""
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    return tag("table", tag("thead", tag("tr", *(tag("th", cell) for cell in head))), tag("tbody", *body), **attributes)


def script_json(content: Any) -> Markup:
    """``content`` as JSON that can stand inside a ``<script>`` element, whatever strings it holds."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # safe: every character that could end the element is an escape now
