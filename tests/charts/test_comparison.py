"""The figures of the comparison draw for any number of models, keep a model's colour, and show what they claim to show."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import altair as alt
import numpy as np
import pytest
from PIL import Image

from headflow.analysis import comparison
from headflow.analysis.comparison import Subject
from headflow.charts import comparison as charts
from headflow.charts import theme
from headflow.reporting.figure import LARGEST_PNG, png
from tests.reporting.compared_runs import Planted

LEVEL = 0.95
PLANTED = (
    Planted("tiny"),
    Planted("llava-1.5-7b", layers=32, heads=32, centre=0.5, strong=30, scale=1.0, r=0.8, alone=0.1),
    Planted("qwen2.5-vl-7b", layers=28, heads=28, centre=0.75, strong=12, r=0.65, alone=0.5),
    Planted("llama-3.2", layers=4, heads=8, centre=0.3, alone=None, image_layers=(3, 8, 13, 18), decoder_layers=20),
)


def keys(subjects: Sequence[Subject]) -> list[str]:
    return [subject.key for subject in subjects]


def needed(subjects: Sequence[Subject]) -> alt.HConcatChart:
    curves = comparison.concentration(subjects, LEVEL)
    return charts.concentration(curves, comparison.heads_needed(curves), keys(subjects))


def held_out(subjects: Sequence[Subject]) -> alt.LayerChart:
    fits = comparison.held_out(subjects)
    return charts.held_out(fits, comparison.median_fits(fits, keys(subjects), LEVEL), keys(subjects))


FIGURES: dict[str, Callable[[Sequence[Subject]], alt.TopLevelMixin]] = {
    "layer_shares": lambda s: charts.layer_shares(comparison.layer_shares(s, LEVEL), comparison.mean_depths(s, LEVEL), keys(s)),
    "concentration": needed,
    "held_out": held_out,
    "effect_shares": lambda s: charts.effect_shares(comparison.effect_shares(s, LEVEL), keys(s)),
}


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    return [planted.subject() for planted in PLANTED]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", FIGURES)
def test_figure_draws_as_one_picture_below_the_size_limit(name, count, subjects):
    spec = FIGURES[name](subjects[:count]).to_dict(validate=True)
    json.dumps(spec, allow_nan=False)
    drawn = png(spec)
    assert len(drawn) < LARGEST_PNG
    with Image.open(io.BytesIO(drawn)) as image:
        assert image.width > 1.6 * theme.WIDTH, "narrower than the other figures at double scale"
        assert len(image.convert("RGB").getcolors(1 << 24)) > 8, "the picture is blank"


def nothing(subject: Subject) -> Subject:
    count = len(subject.total)
    hollow = np.full(count, np.nan)
    return replace(subject, attribution=np.zeros_like(subject.attribution), total=np.zeros(count), single=hollow, held_out_r=hollow)


def alone(subject: Subject) -> Subject:
    return Subject(subject.key, subject.depth, subject.attribution[:1], subject.single[:1], subject.total[:1], subject.held_out_r[:1])


@pytest.mark.parametrize("change", [nothing, alone])
@pytest.mark.parametrize("name", FIGURES)
def test_figure_of_poor_runs_is_still_drawn(name, change, subjects):
    for chosen in ([change(subjects[0])], [subjects[1], change(subjects[0])]):
        spec = FIGURES[name](chosen).to_dict(validate=True)
        json.dumps(spec, allow_nan=False)
        png(spec)


@pytest.mark.parametrize("name", FIGURES)
def test_keys_may_be_called_anything(name, subjects):
    odd = "</script>a.b[0]'\"\u2028`\\" + "very-long-" * 12
    chosen = [replace(subjects[0], key=odd), subjects[1]]
    with Image.open(io.BytesIO(png(FIGURES[name](chosen).to_dict()))) as image:
        assert image.width < 3 * theme.WIDTH, "a long name must not blow the figure up"


def scales(spec: object) -> list[dict]:
    """Every colour scale of models anywhere in a spec."""
    if isinstance(spec, dict):
        own = [spec["scale"]] if spec.get("field") == "model" and "range" in spec.get("scale", {}) else []
        return own + [found for part in spec.values() for found in scales(part)]
    return [found for part in spec for found in scales(part)] if isinstance(spec, list) else []


def test_a_model_has_one_colour_in_every_figure(subjects):
    found = [dict(zip(scale["domain"], scale["range"], strict=True)) for figure in FIGURES.values() for scale in scales(figure(subjects).to_dict())]
    assert len(found) > 5 and all(colours == found[0] for colours in found)
    assert len(set(found[0].values())) == len(subjects)


def test_layers_lie_at_their_relative_depth(subjects):
    spec = FIGURES["layer_shares"](subjects).to_dict()
    drawn = {(row["model"], row["layer"]): row["depth"] for rows in spec["datasets"].values() for row in rows if "layer" in row}
    assert drawn["tiny", 3] == pytest.approx(3 / 6) and drawn["llava-1.5-7b", 16] == pytest.approx(16 / 32)
    assert drawn["llama-3.2", 13] == pytest.approx(13 / 20)


def test_curves_of_many_heads_stay_small_and_keep_their_ends(subjects):
    spec = needed(subjects).to_dict()
    curve = [row for rows in spec["datasets"].values() for row in rows if row.get("model") == "llava-1.5-7b" and "of_heads" in row]
    assert len(curve) <= charts.MOST_POINTS + 1
    assert (curve[0]["heads"], curve[0]["held"]) == (0, 0) and curve[-1]["heads"] == 1024 and curve[-1]["held"] == pytest.approx(1)


def test_many_examples_are_thinned_by_rank_so_that_the_worst_is_drawn(subjects):
    many = replace(subjects[0], held_out_r=np.linspace(0.2, 0.9, 5000))
    spec = held_out([many]).to_dict()
    (dots,) = (rows for rows in spec["datasets"].values() if "aside" in rows[0])
    assert len(dots) <= charts.MOST_DOTS and min(row["r"] for row in dots) == pytest.approx(0.2) and max(row["r"] for row in dots) == pytest.approx(0.9)
