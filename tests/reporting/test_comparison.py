"""Reading several runs, and the sentences that say which way they came out."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from headflow.analysis import comparison as numbers
from headflow.errors import HeadflowError
from headflow.params import Params
from headflow.reporting import comparison
from headflow.reporting.sentences import comparison as sentences
from stages import compare_models
from tests.reporting.compared_runs import Planted, write

TINY = Planted("tiny")
LARGE = Planted("large", layers=32, heads=32, centre=0.4, strong=40, scale=1.0, noise=0.01, r=0.8, alone=0.1)
CROSS = Planted("cross", layers=3, heads=4, centre=0.3, strong=3, image_layers=(3, 8, 13), decoder_layers=20, architecture="MllamaForConditionalGeneration")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for planted in (TINY, LARGE, CROSS):
        write(planted, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(*keys: str) -> list[comparison.Model]:
    return comparison.load(compare_models.inputs(Params(models={key: {} for key in keys})))


def refused(*keys: str) -> str:
    with pytest.raises(HeadflowError) as caught:
        load(*keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_runs_are_read_in_the_order_of_the_params(folder):
    models = load("large", "tiny", "cross")
    assert [model.key for model in models] == ["large", "tiny", "cross"]
    for model, planted in zip(models, (LARGE, TINY, CROSS), strict=True):
        made, read = planted.subject(), model.subject
        assert (read.attribution == made.attribution).all() and (read.depth == made.depth).all() and (read.held_out_r == made.held_out_r).all()
        assert read.total == pytest.approx(made.total) and read.single == pytest.approx(made.single)


def test_fits_in_another_order_belong_to_their_examples_all_the_same(folder):
    path = folder / "data/attributions/tiny/fits.parquet"
    before = load("tiny")[0].subject
    pl.read_parquet(path).reverse().write_parquet(path)
    assert (load("tiny")[0].subject.total == before.total).all()


@pytest.mark.parametrize("name", ["model", "features", "fits", "attributions"])
def test_a_missing_input_is_named(name, folder):
    path = compare_models.inputs(Params(models={"tiny": {}}))["tiny"][name]
    Path(path).unlink()
    assert refused("large", "tiny").startswith(path) and "dvc repro" in refused("large", "tiny")


def test_a_model_that_explains_nothing_is_named(folder):
    path = folder / "data/attributions/tiny/attributions.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    assert "no example was explained, so tiny cannot be compared" in refused("tiny")


def test_tables_of_different_runs_are_refused(folder):
    for name in ("attributions/tiny/fits", "features/tiny/features"):
        path = folder / f"data/{name}.parquet"
        whole = path.read_bytes()
        pl.read_parquet(path).with_columns(pl.col("id") + "-old").write_parquet(path)
        assert refused("tiny").startswith(f"data/{name}.parquet") and "different runs" in refused("tiny")
        path.write_bytes(whole)
    path = folder / "data/attributions/tiny/attributions.parquet"
    pl.read_parquet(path).head(-1).write_parquet(path)
    assert refused("tiny").startswith("data/attributions/tiny/attributions.parquet: the attributions table has 0 rows")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layers": 5, "decoder_layers": 5}, "has 6 layers of 8 heads, but data/models/tiny/model.json says 5 of 8"),
        ({"heads": 16}, "says 6 of 16"),
        ({"image_layers": [0, 1], "decoder_layers": 6}, "image_layers does not name 6 of 6 layers"),
        ({"image_layers": [0, 1, 2, 3, 4, 9]}, "image_layers does not name 6 of 6 layers"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(change, told, folder):
    path = folder / "data/models/tiny/model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert told in refused("tiny")


def test_overview_names_cross_attention_layers_and_families(folder):
    models = load("tiny", "cross")
    needed = numbers.heads_needed(numbers.concentration([model.subject for model in models], 0.95))
    text = comparison.overview(models, needed, 0.95)
    assert models[0].image_tokens == "36" and models[1].image_tokens == "none in the prompt"
    assert "3 of 20 × 4" in text and "Mllama" in text and "6 × 8" in text and "24 of 26" in text and "92% (76% to 98%)" in text


def test_image_tokens_that_differ_are_a_range(folder):
    path = folder / "data/features/tiny/features.parquet"
    pl.read_parquet(path).with_columns(image_stop=pl.col("image_start") + pl.int_range(pl.len()) * 100 + 36).write_parquet(path)
    assert load("tiny")[0].image_tokens == "36 to 2,336"


def test_sentence_of_the_answers():
    def model(key: str, right: int, asked: int) -> comparison.Model:
        features = pl.DataFrame({"id": [str(place) for place in range(asked)], "correct": [place < right for place in range(asked)]})
        described = type("Described", (), {"key": key})()
        return comparison.Model(prepared=described, features=features, fits=pl.DataFrame(), attributions=pl.DataFrame())

    assert comparison.examples_said([model("a", 9, 10)], 0.95) == "a answers 9 of 10 questions rightly: 90% (60% to 98%)."
    assert comparison.examples_said([model("a", 90, 100), model("b", 10, 100)], 0.95).endswith("; a is ahead of b.")
    three = comparison.examples_said([model("a", 20, 24), model("b", 0, 24), model("c", 0, 24)], 0.95, "the true answer")
    assert three.endswith(
        "; a is ahead of b and c; b and c answer none rightly, so nothing there tells how a right answer comes about; explained is the true answer."
    )
    assert comparison.examples_said([model("a", 20, 24), model("b", 19, 24), model("c", 1, 24)], 0.95).endswith("; a is ahead of c.")
    assert comparison.examples_said([model("a", 0, 24)], 0.95).startswith("a answers none of 24 questions rightly: 0% (0% to 14%), so nothing here tells")
    assert comparison.examples_said([model("a", 0, 24), model("b", 0, 24)], 0.95).startswith("No model answers any question rightly (a 0% (")
    assert "cannot be told" in comparison.examples_said([model("a", 9, 10), model("b", 8, 10)], 0.95)
    many = comparison.examples_said([model(f"m{i}", 10 * i, 100) for i in range(10)], 0.95)
    assert many.startswith("Answered rightly: between m0 0% (") and "m5" not in many


def depths(*subjects):
    return sentences.depths(numbers.mean_depths(subjects, 0.95), numbers.contrasts(subjects, 0.95))


class TestDepths:
    def test_one_model(self):
        assert "later than an even spread" in depths(replace(TINY, centre=0.8).subject())
        assert "earlier than an even spread" in depths(replace(TINY, centre=0.1).subject())
        assert "cannot be told" in depths(replace(TINY, strong=0, noise=1.0).subject())

    def test_models_that_differ(self):
        said = depths(replace(TINY, key="deep", centre=0.8).subject(), replace(LARGE, key="early", centre=0.2).subject())
        assert said.startswith("Against an even spread over the layers, attribution lies later in deep and earlier in early; deepest in deep (0.")
        assert "of the depth later than an even spread), least deep in early (0." in said and "of the depth earlier than an even spread)" in said
        assert "of the depth apart" in said and "paired over 24 common examples" in said
        strangers = replace(replace(LARGE, key="early", centre=0.2).subject(), ids=())
        assert "unpaired, as too few examples are common" in depths(replace(TINY, key="deep", centre=0.8).subject(), strangers)

    def test_models_alike_cannot_be_told_apart(self):
        flat = [replace(TINY, key=key, strong=0, noise=1.0).subject(seed) for seed, key in enumerate("ab")]
        assert depths(*flat).count("can") >= 1 and "that these two differ cannot be told" in depths(*flat)

    def test_many_models_are_counted(self):
        said = depths(*(replace(TINY, key=f"m{place}", centre=0.8).subject(place) for place in range(5)))
        assert "later in all 5 models" in said

    def test_nothing_and_one_example(self):
        empty = replace(TINY, scale=0.0).subject()
        assert depths(empty).startswith("It cannot be told")
        assert "no interval" in depths(replace(TINY, examples=1).subject())


def concentration(*subjects):
    return sentences.concentration(numbers.heads_needed(numbers.concentration(subjects, 0.95)), numbers.contrasts(subjects, 0.95))


class TestConcentration:
    def test_one_model(self):
        assert concentration(TINY.subject()).startswith("In tiny, 3 of 48 heads (interval 3 to 3) hold 50% of the summed size of all attributions, and 5")

    def test_models_that_differ(self):
        said = concentration(replace(LARGE, key="few", strong=5).subject(), replace(LARGE, key="many", strong=300).subject())
        assert said.startswith("Attribution is most concentrated in few") and "; the two differ (difference " in said

    def test_models_alike(self):
        assert "that these two differ cannot be told (difference " in concentration(TINY.subject(), replace(TINY, key="b").subject(1))

    def test_nothing_and_one_example(self):
        assert concentration(replace(TINY, scale=0.0).subject()).startswith("It cannot be told")
        once = replace(TINY, examples=1)
        assert "no interval" in concentration(once.subject(), replace(once, key="b").subject())
        assert "interval" not in concentration(once.subject())


def held_out(*subjects):
    medians = numbers.median_fits(numbers.held_out(subjects), [subject.key for subject in subjects], 0.95)
    return sentences.held_out(medians, numbers.contrasts(subjects, 0.95))


class TestHeldOut:
    def test_one_model_by_how_good_it_is(self):
        assert "describes these runs well" in held_out(replace(TINY, r=0.97).subject())
        assert "attributions of tiny describe the model only roughly" in held_out(replace(TINY, r=0.8).subject())
        assert "attributions of tiny deserve little trust" in held_out(replace(TINY, r=0.4).subject())

    def test_the_poor_ones_are_named(self):
        said = held_out(TINY.subject(), replace(LARGE, r=0.5).subject(), CROSS.subject())
        assert "and large worst" in said and said.endswith("; attributions of large deserve little trust (median below 0.7).")
        assert "between their means" in said and "common examples" in said

    def test_all_well_and_alike(self):
        said = held_out(TINY.subject(), replace(TINY, key="b").subject(1))
        assert "that these two differ cannot be told (difference of means" in said
        assert said.endswith("each median is at least 0.9, so a plain sum over heads describes them all well.")

    def test_undefined(self):
        hollow = replace(TINY.subject(), key="hollow", held_out_r=TINY.subject().held_out_r * float("nan"))
        assert held_out(hollow).startswith("It cannot be told")
        assert held_out(TINY.subject(), hollow).endswith("; for hollow it cannot be told, as the target does not vary.")


def effects(*subjects):
    return sentences.effects(numbers.effect_shares(subjects, 0.95))


class TestEffects:
    def test_one_model_both_ways(self):
        assert "; a head cut alone shows less than among many (difference " in effects(TINY.subject())
        assert "; a head cut alone shows more than among many (difference " in effects(replace(TINY, alone=1.5).subject())
        assert "whether the two differ cannot be told (difference " in effects(replace(TINY, alone=1 / 1.1).subject())
        assert "(with one example there is no interval)" in effects(replace(TINY, examples=1).subject())

    def test_several(self):
        said = effects(TINY.subject(), LARGE.subject())
        assert "between 10% (large, interval" in said and said.endswith("a head cut alone shows less than among many in large and tiny.")
        none = effects(replace(TINY, alone=1.5).subject(), replace(LARGE, alone=1.5).subject())
        assert none.endswith("cannot be told for any of them.")

    def test_what_was_not_run_or_does_not_fall_is_said(self):
        uncut = replace(TINY, key="uncut", alone=None).subject()
        rising = replace(TINY.subject(), key="rising", total=-TINY.subject().total)
        said = effects(TINY.subject(), uncut, rising)
        assert "in rising cutting all heads does not lower the target" in said and "single heads were not cut in uncut" in said
        assert effects(uncut) == "It cannot be told: single heads were not cut in uncut."


def test_the_fall_of_each_model_is_told_with_what_cannot_be():
    def falls(*subjects):
        return sentences.falls(numbers.falls(subjects, 0.95), "nats")

    flat = replace(TINY.subject(), key="flat", total=TINY.subject().total * 0 + np.linspace(-1, 1, 24))
    assert re.match(r"With every head cut the target falls on average by, in nats: tiny [\d.]+ \([\d.]+ to [\d.]+\)\.$", falls(TINY.subject()))
    said = falls(TINY.subject(), flat)
    assert "that the picture matters for it cannot be told in flat; scales differ" in said
    many = falls(*(replace(TINY, key=f"m{place}").subject(place) for place in range(9)))
    assert many == "With every head cut the target falls clearly in 9 of 9 models."


def test_every_sentence_is_one_sentence():
    few, many = [TINY.subject()], [TINY.subject(), LARGE.subject(), CROSS.subject(), replace(TINY, key="b", alone=None).subject()]
    for subjects in (few, many):
        for said in (depths(*subjects), concentration(*subjects), held_out(*subjects), effects(*subjects)):
            assert said.endswith(".") and ". " not in said and "nan" not in said and "None" not in said and "unknown" not in said, said
