"""A table of descriptions without the picture, words that were lost or invented marked."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from headflow.analysis.knockout_examples import KnockoutExample
from headflow.reporting.html import table, tag
from headflow.reporting.sentences.knockouts import route_name


def description_table(examples: Sequence[KnockoutExample], pictures: Mapping[str, Markup] | None = None) -> Markup:
    """Pictures with what is said of each: untouched, and with every route closed in all layers.

    Objects that the stock description does not name are marked (``mark``); those of it that are no longer named stand behind the text, struck
    out (``del``). A text that was cut off ends with an ellipsis.

    Args:
        pictures: the element that shows each picture, by example; None = its id.
    """
    rows = []
    for example in examples:
        shown = (pictures or {}).get(example.id, example.id)
        rows.append([shown, "nothing", _text(example.stock)])
        for said in example.texts:
            cut_off = "" if said.ended else " …"
            lost = Markup(" ").join(tag("del", name) for name in said.lost)
            rows.append(["", route_name(said.route, said.last_position), tag("span", _text(said.parts), cut_off, " " if said.lost else "", lost)])
    return table(["picture", "closed", "description"], rows, class_="knocked-out")


def _text(parts: Sequence[tuple[str, str]]) -> Markup:
    return Markup("").join(tag("mark", text) if mark == "invented" else tag("b", text) if mark == "named" else tag("span", text) for text, mark in parts)
