"""Figures of text tokens and of the order of flow: valid, drawn whole, and showing what they claim to show."""

import io
import itertools

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.charts import flow as flow_charts
from headflow.charts import text_tokens as charts
from headflow.reporting.figure import png
from headflow.tables.flow import FLOW_BANDS, FLOW_DEPTHS
from headflow.tables.text_tokens import TEXT_ROLES, TEXT_SLOTS, TEXT_TOKENS
from headflow.tracing.bands import sweep
from headflow.tracing.flow import Flow
from headflow.tracing.intervals import numbered
from headflow.tracing.templates import templates
from headflow.tracing.text_tokens import Prompts, TracedExample, contrasts_table, fits_table, roles_table, slots_table, tokens_table
from tests.tracing.test_flow import DIRECT, FINAL, TEXT, VIA, at, linear, measured

WORDS = ["<b>", '"quote"', "\n", "a\\b", "{{x}}", "What", "▁is", "datum['x']"]
"""Tokens that could break out of a page, a label or an expression."""


def traced(windows: int = 1, examples: int = 8, effect: float = 5.0, tokens: int = 10, kinds: int = 1, spread: float = 0.2) -> dict[str, pl.DataFrame]:
    """Tables of made-up examples: the final token receives the picture, and each example's role token a fifth of it."""
    random = np.random.default_rng(0)
    texts = [[WORDS[place % len(WORDS)] for place in range(tokens - 2)] + ["ASSISTANT", ":"]] * examples
    roles = [["question"] * (tokens - 2) + ["role", "final"]] * examples
    questions = [f"Which {number % kinds} ?" for number in range(examples)]
    pictures = numbered(range(examples))
    bands = [(window, window + 1) for window in range(windows)]
    prompts = Prompts([f"e{number}" for number in range(examples)], texts, roles,
                      templates(questions, ["asked"] * examples, pictures.tolist(), texts, roles), pictures, bands, range(windows))  # fmt: skip
    found = {}
    for heads, scale in (("all", 1.0), ("top", 0.7)):
        found[heads] = []
        for name in prompts.ids:
            values = random.normal(0, spread * effect / 10, (windows, tokens))
            values[-1, -2:] += np.array([0.2, 1.0]) * effect * scale
            found[heads].append(
                TracedExample(name, "prior", 99, 8, 0.97, 0.9, float(values.sum()) + 1.0, 1.0, values, values * 0 + 0.1, values - 0.2, values + 0.2, values)
            )
    return {
        "tokens": tokens_table(prompts, found), "slots": slots_table(prompts, found, 0.95), "roles": roles_table(prompts, found, 0.95),
        "fits": fits_table(found), "contrasts": contrasts_table(prompts, found, 0.95),
    }  # fmt: skip


def flowed(layers: int = 6, examples: int = 12, **routes: np.ndarray) -> dict[str, pl.DataFrame]:
    names = {"text": TEXT, "final": FINAL, "via": VIA, "direct": DIRECT}
    parts = {names[name]: linear(part) for name, part in routes.items()} or {
        TEXT: linear(at(1, layers, 6.0)), FINAL: linear(at(2, layers, 0.0)), VIA: linear(at(0, layers, 0.5)), DIRECT: linear(at(4, layers)),
    }  # fmt: skip
    steps = sweep(layers)
    found = Flow(measured(parts, steps, examples), np.arange(examples), steps, range(layers), draws=199)
    return {"bands": found.bands_table(), "depths": found.depths_table(), "contrasts": found.contrasts_table()}


FIGURES = {
    "template_tokens": lambda t, f: charts.template_tokens(t["slots"], totals={"all": 6.0, "top": 4.2}, top=3),
    "example_prompt": lambda t, f: charts.example_prompt(t["tokens"].filter(id="e3")),
    "role_shares": lambda t, f: charts.role_shares(t["roles"]),
    "order_of_flow": lambda t, f: flow_charts.order_of_flow(f["bands"], f["depths"]),
}


@pytest.fixture(scope="module")
def tables() -> tuple[dict, dict]:
    return traced(), flowed()


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_valid_draw_and_fit_the_page(name: str, tables: tuple[dict, dict]) -> None:
    spec = FIGURES[name](*tables).to_dict()
    with Image.open(io.BytesIO(png(spec))) as picture:
        assert 1200 <= picture.width <= 1480  # drawn at twice the size
        assert picture.convert("L").getextrema()[0] < 100


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_empty_tables_are_valid(name: str, tables: tuple[dict, dict]) -> None:
    FIGURES[name](*({key: table.clear() for key, table in part.items()} for part in tables)).to_dict()


def values(spec: dict, *columns: str) -> list[dict]:
    """The rows of all data sets of a chart that have these columns."""
    return [row for rows in spec["datasets"].values() for row in rows if set(columns) <= set(row)]


def test_tokens_stand_in_the_order_of_the_prompt(tables: tuple[dict, dict]) -> None:
    spec = charts.template_tokens(tables[0]["slots"]).to_dict()
    assert [panel["title"] for panel in spec["hconcat"]] == ["The prompt, read downward", "With all heads", "With the top heads alone"]
    cells = spec["hconcat"][0]["layer"][0]["encoding"]["y"]
    assert cells["scale"]["domain"] == [str(slot) for slot in range(10)]
    shown = {row["slot"] if "slot" in row else row["place"]: row["token"] for row in values(spec, "token", "place")}
    tokens = list(shown.values())
    assert (tokens[0], tokens[2], tokens[6]) == ("<b>", "↵", "is")
    # Both sets of heads are drawn on one scale.
    scales = [panel["layer"][1]["encoding"]["x"]["scale"]["domain"] for panel in spec["hconcat"][1:]]
    assert scales[0] == scales[1]
    named = charts.template_tokens(tables[0]["slots"], top=12).to_dict()
    assert named["hconcat"][2]["title"] == "With the top 12 heads alone"


def test_of_long_prompts_the_tokens_that_matter_are_drawn() -> None:
    long = traced(tokens=90)
    spec = charts.template_tokens(long["slots"]).to_dict()
    order = spec["hconcat"][0]["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert len(order) == charts.MOST_TOKENS and order[-2:] == ["88", "89"] and [int(slot) for slot in order] == sorted(map(int, order))
    charts.example_prompt(long["tokens"].filter(id="e0")).to_dict()


def test_the_prompt_of_one_example_is_set_in_lines_and_names_its_numbers(tables: tuple[dict, dict]) -> None:
    spec = charts.example_prompt(tables[0]["tokens"].filter(id="e3")).to_dict()
    cells = values(spec, "word", "x2")
    assert len(cells) == 10 and cells[-1]["word"] == ":" and cells[-1]["number"].endswith(" ± 0.20") and cells[-1]["number"][0] == "+"
    for one, other in itertools.pairwise(cells):
        assert one["x2"] < other["x"] if one["y"] == other["y"] else other["x"] == 0
    assert max(row["x2"] for row in cells) <= 700


def test_bands_of_layers_run_upward() -> None:
    spec = charts.token_depths(traced(windows=3)["slots"], ["0–1", "2–3", "4–5"]).to_dict()
    assert spec["layer"][0]["encoding"]["y"]["scale"]["domain"] == ["4–5", "2–3", "0–1"]
    rows = values(spec, "place", "layers")
    assert len(rows) == 30 and max(rows, key=lambda row: row["mean"])["layers"] == "4–5"
    png(spec)
    charts.template_tokens(traced(windows=3)["slots"]).to_dict()


def test_the_largest_template_is_drawn_unless_another_is_named() -> None:
    slots = traced(examples=9, kinds=2)["slots"]
    assert charts.largest_template(slots) == "Which 0 ?" and charts.largest_template(slots.clear()) is None
    sizes = {row["examples"] for row in values(charts.template_tokens(slots, "Which 1 ?").to_dict(), "token")}
    assert sizes == {4}


def test_one_picture_has_no_intervals_and_is_drawn() -> None:
    alone = traced(examples=1)
    for figure in (charts.template_tokens(alone["slots"]), charts.role_shares(alone["roles"])):
        png(figure.to_dict())
    one = flowed(examples=1, direct=at(4, examples=1), via=at(0, examples=1))
    assert one["bands"]["low"].null_count() == len(one["bands"])
    png(flow_charts.order_of_flow(one["bands"], one["depths"]).to_dict())


def test_the_flow_has_a_line_a_route_the_picture_as_rule_and_depths(tables: tuple[dict, dict]) -> None:
    flow = tables[1]
    spec = flow_charts.order_of_flow(flow["bands"], flow["depths"]).to_dict()
    assert spec["vconcat"][0]["title"] == "Closed in a window of 2 layers"
    names = {row["name"] for row in values(spec, "name", "at", "mean")}
    assert names == set(flow_charts.ROUTES.values())
    rules = [row for row in values(spec, "value", "label") if row["label"] == "picture cut off everywhere"]
    assert rules[0]["value"] == pytest.approx(flow["bands"].filter(route="picture")["mean"][0])
    assert [row["said"] for row in values(spec, "said")] == ["role → final: no depth can be told"]
    known = {row["name"]: row["depth"] for row in values(spec, "depth", "size") if row["depth"] is not None}
    assert known["question → role, final"] < known["picture → role, final"]


def test_routes_that_cannot_be_closed_are_not_drawn() -> None:
    """A model of cross-attention has the two routes from the picture alone."""
    flow = flowed(via=at(0), direct=at(4))
    spec = flow_charts.order_of_flow(flow["bands"], flow["depths"]).to_dict()
    assert {row["name"] for row in values(spec, "name", "at", "mean")} == {"picture → question", "picture → role, final"}
    single = flowed(layers=2, direct=at(1, layers=2), via=at(0, layers=2))
    assert flow_charts.order_of_flow(single["bands"], single["depths"]).to_dict()["vconcat"][0]["title"] == "Closed in a single layer"


def test_the_tables_are_what_they_say() -> None:
    tables, flow = traced(windows=2, kinds=2), flowed()
    for frame, kind in ((tables["tokens"], TEXT_TOKENS), (tables["slots"], TEXT_SLOTS), (tables["roles"], TEXT_ROLES), (flow["bands"], FLOW_BANDS),
                        (flow["depths"], FLOW_DEPTHS)):  # fmt: skip
        kind.check(frame, "here")
    whole = tables["roles"].filter(pl.col("template").is_null(), pl.col("window").is_null(), heads="all")
    assert dict(whole.select("role", "share").rows())["all"] == pytest.approx(1)
    assert set(tables["roles"]["template"]) == {None, "Which 0 ?", "Which 1 ?"}
    parts = tables["roles"].filter(pl.col("template").is_null(), pl.col("window").is_not_null(), heads="all", role="final")["mean"]
    assert parts.sum() == pytest.approx(whole.filter(role="final")["mean"][0])
