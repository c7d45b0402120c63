"""localise_objects behind the real stages: planted objects, the whole attention of a stock run, and what cannot be told."""

import io
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from headflow.analysis import localisation_effects
from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.params import Params
from headflow.tables.descriptions import DESCRIPTIONS
from headflow.tables.examples import EXAMPLES
from headflow.tables.localising import LOCALISED, LOCALISED_HEADS, LOCALISED_LAYERS, LOCALISED_MAPS, NAMINGS
from stages import describe_images, extract_features, localise_objects, prepare_examples, prepare_model
from stages.pictures import Pictures
from tests.stages.test_trace_text_and_flow import inside

TABLES = {"namings": NAMINGS, "localised": LOCALISED, "layers": LOCALISED_LAYERS, "heads": LOCALISED_HEADS, "maps": LOCALISED_MAPS}
MODELS = {"tiny": {"device_map": "cpu"}, "additive": {"id": "planted", "circuit": "additive", "device_map": "cpu"}}
COUNT = 4


def params(key: str, **localising: object) -> Params:
    examples = {"source": "planted", "count": 4, "references": 8} if key == "additive" else {"count": COUNT, "references": 2}
    settings = {"corners": 2, **localising}
    return Params.model_validate({"examples": examples, "features": {"baseline": "blank"}, "models": {key: MODELS[key]}, "localising": settings})


def project(key: str, root: Path) -> Path:
    """A project folder in which the stages before, and this one, have run."""
    with inside(root):
        prepare_examples.main(params(key))
        for stage in (prepare_model, extract_features, describe_images, localise_objects):
            stage.main(params(key), key)
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return project("tiny", tmp_path_factory.mktemp("localised"))


def read(key: str, root: Path = Path()) -> dict[str, pl.DataFrame]:
    return {name: table.read(root / f"data/localisation/{key}/{name}.parquet") for name, table in TABLES.items()}


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("1"))


def test_the_planted_object_and_nothing_else(tmp_path):
    """The one word that a planted model says is read off its object's patches alone, in the layers of the planted heads."""
    found = read("additive", project("additive", tmp_path))
    assert found["namings"].height == 4 and found["namings"]["token"].to_list() == [0] * 4 and set(found["namings"]["even"]) == {0.25}
    rows = found["layers"].filter(what="attribution", against="own", statistic="auroc").drop_nulls("layer")
    assert rows["mean"].to_list() == pytest.approx([0.5, 1, 1, 1, 1]) and rows["layer"].to_list() == [0, 1, 2, 3, 4]
    whole = found["layers"].filter(pl.col("layer").is_null(), what="attribution", against="own")
    assert dict(whole.select("statistic", "mean").iter_rows()) == pytest.approx({"share": 1, "auroc": 1, "pointing": 1}, abs=1e-3)
    assert found["localised"].filter(pl.col("layer").is_null(), what="attribution")["amount"].to_list() == pytest.approx([8.0] * 4, abs=1e-2)
    assert set(found["layers"]["against"]) == {"own"}  # one object a picture


def test_statistics_against_the_whole_attention_of_a_stock_run(tiny):
    """From pixels to AUROC by another way: all attention tensors, each token's pixels in the mask counted, scikit-learn."""
    found = read("tiny", tiny)
    with inside(tiny):
        model = Pictures(params("tiny"), "tiny").model
        row = DESCRIPTIONS.read(Path("data/descriptions/tiny/descriptions.parquet")).row(0, named=True)
        picture = EXAMPLES.read(Path("data/examples.parquet")).filter(id=row["id"]).row(0, named=True)
    inputs = model.inputs([picture["image"]], "Describe the image.")
    prompt = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([row["tokens"]])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    before = model.decoder.config._attn_implementation
    model.decoder.config._attn_implementation = "eager"
    try:
        weights = torch.stack(model.model(**inputs, output_attentions=True).attentions)[:, 0]
    finally:
        model.decoder.config._attn_implementation = before
    places = (inputs["input_ids"][0] == model.image_token).nonzero().flatten()
    side = round(len(places) ** 0.5)
    names = [entry["name"] for entry in picture["objects"]]
    mentions = found["namings"].filter(id=row["id"])
    assert mentions["name"].to_list() == [name for name in row["description"].split() if name in names] and mentions.height == 2
    for mention in mentions.iter_rows(named=True):
        assert row["description"][mention["start"] : mention["stop"]] == mention["word"]
        assert model.text(row["tokens"][mention["token"] : mention["token"] + 1]).strip() == mention["word"]
        masks = {entry["name"]: pixels(entry["mask"]) for entry in picture["objects"]}
        np.testing.assert_array_equal(masks[mention["name"]], pixels(mention["mask"]))
        patch = len(masks[mention["name"]]) // side
        inside_own, inside_other = (
            mask.reshape(side, patch, side, patch).mean((1, 3)).ravel()
            for mask in (masks[mention["name"]], next(mask for name, mask in masks.items() if name != mention["name"]))
        )
        for what, back in (("attention", 0), ("attention before", 1)):
            looked = weights[:, :, prompt + mention["token"] - back, places].double().detach().numpy()
            for against, share in (("own", inside_own), ("other", inside_other)):
                rows = found["localised"].filter(id=row["id"], name=mention["name"], what=what, against=against).drop_nulls("layer")
                for layer, values in enumerate(looked.mean(1)):
                    mine = rows.filter(layer=layer).row(0, named=True)
                    area = roc_auc_score([1] * len(share) + [0] * len(share), np.tile(values, 2), sample_weight=[*share, *(1 - share)])
                    expected = [values @ share / values.sum(), area, share[values.argmax()], share.mean(), values.sum()]
                    assert [mine[name] for name in ("share", "auroc", "pointing", "even", "amount")] == pytest.approx(expected, abs=2e-5)
    assert len(names) == 2


def test_tables_and_metrics_agree(tiny):
    found, metrics = read("tiny", tiny), read_json(tiny / "reports/metrics/localise_objects_tiny.json")
    assert metrics["pictures"] == COUNT and metrics["mentions"] == found["namings"].filter(pl.col("objects") > 0).height > COUNT
    assert metrics["places_unknown"] is None and metrics["mentions_without_mask"] == found["namings"].filter(objects=0).height
    best = metrics["best_layer"]["attention"]
    own = found["layers"].filter(what="attention", against="own", statistic="auroc")
    assert best["layer"] == own.drop_nulls("layer").sort("mean")["layer"][-1] and best["own"]["auroc"]["mean"] == own["mean"][best["layer"]]
    assert metrics["all_layers"]["attribution"]["own"]["share"]["mean"] > 3 * metrics["all_layers"]["attribution"]["own"]["share"]["chance"]
    assert set(found["maps"]["what"]) == {"attention", "attribution"} and found["maps"]["id"].n_unique() == COUNT
    assert set(found["maps"].filter(what="attention")["layer"]) == {best["layer"]}


def test_a_second_run_computes_no_effect_again(tiny, monkeypatch):
    before = {name: (tiny / f"data/localisation/tiny/{name}.parquet").read_bytes() for name in TABLES}
    with inside(tiny), monkeypatch.context() as patch:
        patch.setattr(localisation_effects, "naming_effects", lambda *args, **options: pytest.fail("something was computed again"))
        localise_objects.main(params("tiny"), "tiny")
    assert {name: (tiny / f"data/localisation/tiny/{name}.parquet").read_bytes() for name in TABLES} == before


@pytest.fixture
def copied(tiny, tmp_path):
    """The project, to be changed."""
    return shutil.copytree(tiny, tmp_path / "copied")


def test_other_settings(tiny, copied):
    """Heads by the position before; attention alone."""
    first = read("tiny", tiny)
    with inside(copied):
        localise_objects.main(params("tiny", position="before", corners=0, shown=2), "tiny")
        found = read("tiny")
    assert set(found["localised"]["what"]) == set(found["layers"]["what"]) == {"attention", "attention before"}
    assert set(found["maps"]["what"]) == {"attention before"} and found["maps"]["id"].n_unique() == 2
    assert not found["heads"]["mean"].equals(first["heads"]["mean"])
    mine = found["layers"].sort("what", "against", "statistic", "layer")
    theirs = first["layers"].filter(pl.col("what") != "attribution").sort("what", "against", "statistic", "layer")
    assert mine.equals(theirs)


@pytest.mark.parametrize("what", ["masks", "objects", "words"])
def test_nothing_to_localise(copied, what):
    """Objects without masks, pictures without known objects, descriptions that name none."""
    with inside(copied):
        examples, said = EXAMPLES.read(Path("data/examples.parquet")), DESCRIPTIONS.read(Path("data/descriptions/tiny/descriptions.parquet"))
        if what == "words":
            said = said.with_columns(description=pl.lit("a picture"), tokens=pl.col("tokens").list.head(1), starts=pl.lit([0]), stops=pl.lit([9]))
        element = pl.element().struct.with_fields(mask=pl.lit(None, pl.Binary))
        objects = {"masks": pl.col("objects").list.eval(element), "objects": pl.lit([], examples.schema["objects"]), "words": pl.col("objects")}[what]
        EXAMPLES.write(examples.with_columns(objects.alias("objects")), Path("data/examples.parquet"))
        DESCRIPTIONS.write(said, Path("data/descriptions/tiny/descriptions.parquet"))
        localise_objects.main(params("tiny"), "tiny")
        found, metrics = read("tiny"), read_json(Path("reports/metrics/localise_objects_tiny.json"))
    assert all(found[name].is_empty() for name in TABLES if name != "namings") and metrics["mentions"] == 0 and metrics["best_layer"] == {}
    assert found["namings"].filter(pl.col("objects") > 0).is_empty() and found["namings"].is_empty() == (what == "words")


def test_a_picture_without_a_description_is_named(copied):
    with inside(copied):
        said = DESCRIPTIONS.read(Path("data/descriptions/tiny/descriptions.parquet"))
        DESCRIPTIONS.write(said.head(2), Path("data/descriptions/tiny/descriptions.parquet"))
        with pytest.raises(HeadflowError, match=r"data/descriptions/tiny: has no description of explain-00002-object; run `dvc repro`"):
            localise_objects.main(params("tiny"), "tiny")


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match=r"corners = 3: they come in pairs; take an even number"):
        params("tiny", corners=3)
