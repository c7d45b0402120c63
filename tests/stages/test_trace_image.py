"""The stage that traces image tokens: on planted circuits it finds the object's tokens and nothing else, and a stopped run goes on."""

import numpy as np
import polars as pl
import pytest

from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.params import Params
from headflow.tables.examples import EXAMPLES
from headflow.tables.image_tokens import IMAGE_BACKGROUND, IMAGE_CURVES, IMAGE_FITS, IMAGE_SHARE_MEANS, IMAGE_SHARES, IMAGE_SPARSITY, IMAGE_TOKENS
from stages import extract_features, prepare_examples, prepare_model, trace_image
from tests.stages.test_trace_text_and_flow import inside, known_attributions

TABLES = {
    "image_tokens": IMAGE_TOKENS, "fits": IMAGE_FITS, "shares": IMAGE_SHARES, "share_means": IMAGE_SHARE_MEANS, "sparsity": IMAGE_SPARSITY,
    "curves": IMAGE_CURVES, "background": IMAGE_BACKGROUND,
}  # fmt: skip
CIRCUIT = "additive"
EFFORT = {"count": 16, "corners": 8, "held_out": 20}


def params(**changed) -> Params:
    settings = {
        "examples": {"source": "planted", "count": 4, "references": 8}, "features": {"baseline": "blank"}, "image_tokens": {**EFFORT, **changed},
        "models": {CIRCUIT: {"id": "planted", "circuit": CIRCUIT, "device_map": "cpu"}},
    }  # fmt: skip
    return Params.model_validate(settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("image_tokens")
    with inside(place):
        prepare_examples.main(params())
        prepare_model.main(params(), CIRCUIT)
        extract_features.main(params(), CIRCUIT)
        known_attributions(CIRCUIT, place)
        trace_image.main(params(), CIRCUIT)
    return place


def read(folder):
    return {name: table.read(folder / f"data/image_tokens/{CIRCUIT}/{name}.parquet") for name, table in TABLES.items()}


def test_the_planted_tokens_and_nothing_else(folder):
    found = read(folder)
    rows = found["image_tokens"]
    assert rows.height == 4 * 36 and set(rows["in_object"]) == {0.0, 1.0}
    for (_,), part in rows.group_by("id"):
        inside_object = part["in_object"].to_numpy() == 1
        total = part["attribution"].sum()
        np.testing.assert_allclose(part["attribution"].to_numpy(), np.where(inside_object, total / 9, 0), atol=1e-3 * total)
    assert found["fits"].filter(heads="all")["held_out_r"].min() > 0.999
    assert found["fits"].filter(heads="all").select((pl.col("intact") - pl.col("ablated") - pl.col("sum")).abs().max()).item() < 1e-3
    assert found["background"].is_empty()
    shares = found["share_means"].filter(what="attribution", part="object").row(0, named=True)
    assert shares["mean"] == pytest.approx(1, abs=0.01) and shares["over"] == pytest.approx(0.75, abs=0.01)
    assert set(found["sparsity"].filter(what="attribution")["tokens"]) == {8}


def test_the_top_heads_alone_give_their_part(folder):
    """By default as many heads as hold 80 %: 3, 2 and 1.5 of 8."""
    fits = read(folder)["fits"].filter(heads="top")
    np.testing.assert_allclose(fits["sum"].to_numpy(), (3 + 2 + 1.5) * np.ones(4), rtol=1e-3)
    metrics = read_json(folder / f"reports/metrics/trace_image_{CIRCUIT}.json")
    assert metrics["top_heads"] == 3 and metrics["background_tokens"] == 4 * 27 and metrics["background_tokens_that_matter"] == 0
    assert metrics["shares"]["attribution"]["object"]["mean"] == pytest.approx(1, abs=0.01) and metrics["places_unknown"] is None
    assert (folder / f"reports/plots/image_tokens/{CIRCUIT}.csv").read_text().startswith("percent,attribution,top heads,attention\n")


def test_a_second_run_finds_everything_in_the_store(folder, monkeypatch):
    before = (folder / f"data/image_tokens/{CIRCUIT}/image_tokens.parquet").read_bytes()
    with inside(folder), monkeypatch.context() as patch:
        for name in ("token_effects", "stream_masks"):
            patch.setattr(f"headflow.execution.runs.{name}", lambda *args, **options: pytest.fail("something was computed again"))
        trace_image.main(params(), CIRCUIT)
    assert (folder / f"data/image_tokens/{CIRCUIT}/image_tokens.parquet").read_bytes() == before


def test_more_tokens_than_may_stand_alone(folder):
    """In twelve patches: what they hold together is still the object's, and objects without masks leave shares out."""
    kept = EXAMPLES.read(folder / "data/examples.parquet")
    try:
        with inside(folder):
            EXAMPLES.write(kept.with_columns(pl.lit([], kept.schema["objects"]).alias("objects")), folder / "data/examples.parquet")
            trace_image.main(params(alone=12, top=False, count=32), CIRCUIT)
        found = read(folder)
    finally:
        EXAMPLES.write(kept, folder / "data/examples.parquet")
    rows = found["image_tokens"]
    assert rows["group"].max() == 11 and rows["group_tokens"].max() > 1 and found["fits"]["components"].to_list() == [12] * 4
    assert rows["in_object"].null_count() == rows.height and found["shares"].is_empty() and found["share_means"].is_empty()
    assert found["fits"]["patches_checked"].sum() > 0
    assert rows["attribution_top_heads"].null_count() == rows.height


def test_settings_that_cannot_be(folder):
    with inside(folder), pytest.raises(HeadflowError, match=r"image_tokens\.top_heads = 99: the model has 40 heads"):
        trace_image.main(params(top_heads=99), CIRCUIT)
    with pytest.raises(ValueError, match="corners = 9: they come in pairs"):
        params(corners=9)
