"""The figures about rankings: valid, drawable, and showing what the tables say; so the sentences beside them."""

import io
import json

import numpy as np
import polars as pl
import pytest
from PIL import Image
from scipy import stats

from headflow.attribution.faithfulness import area_differences, area_summary, areas_table, bands, counts
from headflow.attribution.rankings import MEANINGS
from headflow.charts import theme
from headflow.charts.faithfulness import COLOURS, NAMES, PANELS, faithfulness_areas, faithfulness_curves
from headflow.reporting.figure import LARGEST_PNG, png
from headflow.reporting.sentences import faithfulness as words

KS = counts(48, 16)
SPEED = {"attribution": 16.0, "ablation": 6.0, "restoration": 10.0, "attention": 2.5, "gradient": 5.0, "integrated": 15.0, "random": 1.0}


def tables(examples: int = 12, rankings: tuple[str, ...] = tuple(SPEED), least: int = 0, noise: float = 0.02) -> dict[str, pl.DataFrame]:
    """Curves 1 - (1 - k/48)^speed with noise of the examples' own; the first ``least`` examples have no effect."""
    random = np.random.default_rng(0)
    orders = [(ranking, scope) for scope in ("own", "shared") for ranking in rankings]
    share = KS / 48
    tent = 4 * share * (1 - share)
    found = np.empty((2, examples, len(orders), len(KS)))
    for place, (ranking, scope) in enumerate(orders):
        speed = SPEED[ranking] * (1.0 if scope == "own" else 0.7)
        for measure in range(2):
            found[measure, :, place] = 1 - (1 - share) ** (speed / (1 + measure)) + noise * random.normal(size=(examples, 1)) * tent
    used = np.arange(examples) >= least
    values = {(*order, measure): found[m][used, place] for place, order in enumerate(orders) for m, measure in enumerate(PANELS)}
    effects = np.where(used, 8.0, -0.5)
    return {
        "bands": bands(values, KS), "summary": area_summary(values, KS), "differences": area_differences(values, KS),
        "areas": areas_table([str(i) for i in range(examples)], orders, KS, *found, effects, used),
    }  # fmt: skip


CASES = {
    "all rankings": tables(), "one ranking": tables(rankings=("attribution",)), "one example": tables(1), "no example": tables(3, least=3),
    "all alike": tables(rankings=("attribution", "integrated"), noise=0.0),
}  # fmt: skip


def drawn(spec: dict) -> None:
    picture = png(spec)
    assert len(picture) < LARGEST_PNG
    with Image.open(io.BytesIO(picture)) as image:
        assert image.width >= theme.WIDTH * 0.85 and len(image.convert("RGB").getcolors(1 << 24)) > 8


@pytest.mark.parametrize("case", CASES)
def test_figures_are_valid_and_hold_only_json(case: str) -> None:
    for chart in (faithfulness_curves(CASES[case]["bands"]), faithfulness_curves(CASES[case]["bands"], "shared"), faithfulness_areas(CASES[case]["summary"])):
        json.dumps(chart.to_dict(validate=True), allow_nan=False)


def test_figures_can_be_drawn() -> None:
    drawn(faithfulness_curves(CASES["all rankings"]["bands"]).to_dict())
    drawn(faithfulness_areas(CASES["all rankings"]["summary"]).to_dict())


def test_every_ranking_has_a_name_and_a_colour_of_its_own() -> None:
    assert set(NAMES) == set(COLOURS) == set(MEANINGS) == set(words.ORDERS)
    assert len(set(NAMES.values())) == len(set(COLOURS.values())) == len(NAMES)


def data_of(spec: dict, column: str) -> list[dict]:
    """Rows of all data sets of a chart that have ``column``."""
    return [row for rows in spec["datasets"].values() for row in rows if column in row]


def test_curves_show_the_table_and_name_only_lines_that_stand_apart() -> None:
    bands_table = CASES["all rankings"]["bands"]
    spec = faithfulness_curves(bands_table).to_dict()
    rows = data_of(spec, "ranking")
    assert {(row["ranking"], row["measure"]) for row in rows} == {(ranking, measure) for ranking in SPEED for measure in PANELS}
    assert len(rows) == bands_table.filter(scope="own").height
    one = bands_table.filter(scope="own", ranking="attention", measure="completeness", heads=12).row(0, named=True)
    shown = next(row for row in rows if (row["ranking"], row["measure"], row["heads"]) == ("attention", "completeness", 12))
    assert shown["mean"] == pytest.approx(one["mean"], rel=1e-4) and shown["low"] == pytest.approx(one["low"], rel=1e-4)
    labels = [row for row in data_of(spec, "name") if "ranking" not in row]
    names = [row["name"] for row in labels]
    assert "random order" in names and "attention" in names
    assert not {"head attribution", "integrated gradients"} <= set(names)  # those two run together
    own = bands_table.filter(scope="own")
    inverse = {name: key for key, name in NAMES.items()}
    for row in labels:  # each stands on its own curve
        curves = [own.filter(ranking=inverse[row["name"]], measure=measure).sort("share") for measure in PANELS]
        assert min(abs(np.interp(row["share"], c["share"], c["mean"]) - row["mean"]) for c in curves) < 1e-3
        assert row["share"] + 0.01 * len(row["name"]) < 1


def test_long_curves_are_thinned_but_keep_both_ends() -> None:
    ks = np.arange(1025)
    values = {("random", "own", measure): np.tile(ks / 1024, (3, 1)) for measure in PANELS}
    rows = data_of(faithfulness_curves(bands(values, ks)).to_dict(), "ranking")
    heads = {row["heads"] for row in rows}
    assert len(heads) <= 150 and {0, 1024} <= heads


def test_areas_are_ordered_by_faithfulness_and_show_both_orders() -> None:
    summary = CASES["all rankings"]["summary"]
    spec = faithfulness_areas(summary).to_dict()
    scales = [layer["encoding"]["y"].get("scale") for layer in spec["hconcat"][0]["layer"] if "y" in layer.get("encoding", {})]
    domain = next(scale["domain"] for scale in scales if scale)
    assert domain[0] == "head attribution" and domain[-1] == "random order"
    rows = data_of(spec, "area")
    assert len(rows) == summary.height and len({row["scope"] for row in rows}) == 2


def test_sentences_name_the_leader_and_what_cannot_be_told() -> None:
    case = CASES["all rankings"]
    text = words.faithfulness_curves(case["summary"], case["differences"], case["areas"])
    assert text.startswith("Most faithful is the order by head attribution: the area under its curve is 0.9")
    assert "in a random order it takes" in text and "of 48 heads alone reach 80% of the effect" in text and "Left out" not in text
    lead = case["summary"].filter(scope="own", measure="faithfulness", ranking="attribution").row(0, named=True)
    assert f"{lead['area']:.3f} ({lead['low']:.3f} to {lead['high']:.3f})" in text and f"the first {lead['heads']:.1f} of" in text
    text = words.faithfulness_areas(case["summary"], case["differences"], case["areas"])
    first = case["summary"].filter(scope="own", measure="completeness").sort("area", descending=True)["ranking"][0]
    assert f"Cutting the first heads hurts soonest in the order by {words.ORDERS[first]}, with an area of" in text
    assert "With one order for all examples the largest area of faithfulness is" in text
    wide = case["areas"].filter(measure="faithfulness", ranking="attribution").pivot("scope", index="id", values="area")
    ends = stats.ttest_rel(wide["own"], wide["shared"]).confidence_interval(0.95)
    assert f"each example's own order does better than the shared one by {ends.low:.3f} to {ends.high:.3f}" in text
    turned = case["areas"].with_columns(pl.col("scope").replace({"own": "shared", "shared": "own"}))
    text = words.faithfulness_areas(case["summary"], case["differences"], turned)
    assert f"the shared order does better than each example's own by {ends.low:.3f} to {ends.high:.3f}." in text


def test_a_lead_within_chance_is_called_so() -> None:
    case = tables(rankings=("integrated", "attribution", "random"), noise=2.0)
    first = case["summary"].filter(scope="own", measure="faithfulness").sort("area", descending=True)["ranking"][0]
    text = words.faithfulness_curves(case["summary"], case["differences"], case["areas"])
    assert f"Most faithful is the order by {words.ORDERS[first]}" in text and "but that it is ahead of" in text and "cannot be told" in text
    alike = CASES["all alike"]
    text = words.faithfulness_curves(alike["summary"].with_columns(area=0.9), alike["differences"].with_columns(p_holm=1.0), alike["areas"])
    assert "but that it is ahead of integrated gradients cannot be told." in text


def test_where_head_attribution_stands_when_another_leads() -> None:
    case = CASES["all rankings"]
    swap = pl.col("ranking").replace({"attribution": "ablation", "ablation": "attribution"})
    summary = case["summary"].with_columns(swap)
    differences = case["differences"].with_columns(swap, pl.col("other").replace({"attribution": "ablation", "ablation": "attribution"}))
    text = words.faithfulness_curves(summary, differences, case["areas"])
    assert "Most faithful is the order by the effect of cutting a head alone" in text
    row = summary.filter(scope="own", measure="faithfulness", ranking="attribution").row(0, named=True)
    assert f"Head attribution has {row['area']:.3f}, which is behind it (difference +" in text


def test_examples_left_out_and_missing_numbers_are_said() -> None:
    some = tables(6, least=2)
    text = words.faithfulness_curves(some["summary"], some["differences"], some["areas"])
    assert text.endswith("Left out are 2 of 6 examples, on which cutting all heads does not lower the target.")
    mixed = some["areas"].with_columns(total_effect=pl.when(pl.col("id") == "0").then(0.01).otherwise("total_effect"))
    assert "too little to be divided by, or (1 of them) does not lower it." in words.faithfulness_curves(some["summary"], some["differences"], mixed)
    none = CASES["no example"]
    assert words.faithfulness_curves(none["summary"], none["differences"], none["areas"]).startswith("It cannot be told: no example")
    assert words.faithfulness_areas(none["summary"], none["differences"], none["areas"]).startswith("It cannot be told: no example")
    for name in ("one example", "one ranking"):
        case = CASES[name]
        tables_of = case["summary"], case["differences"], case["areas"]
        text = words.faithfulness_curves(*tables_of) + words.faithfulness_areas(*tables_of)
        assert "nan" not in text and "None" not in text
        assert ("cannot be told" if name == "one example" else "no other was tried") in text
