"""share_attention behind the real stages that come before it, on the embedded model."""

import sqlite3
from pathlib import Path

import polars as pl
import pytest

from headflow.errors import HeadflowError
from headflow.execution import looked
from headflow.files import read_json
from headflow.models import keeping, origins, places, spoken_attention, unmixed
from headflow.models.spoken_attention import all_fed, spoken_shares
from headflow.params import Params
from headflow.tables.descriptions import DESCRIPTIONS
from headflow.tables.sharing import (
    ATTENTION_MAPS,
    GROUPS,
    SHARE_FRACTIONS,
    SHARE_HEADS,
    SHARE_MEANS,
    SHARE_PICTURES,
    SHARES,
    SPREAD,
    SPREAD_CONTRAST,
    SPREAD_MEANS,
)
from stages import describe_images, extract_features, prepare_examples, prepare_model, share_attention
from stages.pictures import Pictures

OUT, SAID = Path("data/sharing/tiny"), Path("data/descriptions/tiny/descriptions.parquet")
METRICS = Path("reports/metrics/share_attention_tiny.json")
TABLES = {
    "shares": SHARES, "pictures": SHARE_PICTURES, "layers": SHARE_MEANS, "heads": SHARE_HEADS, "fractions": SHARE_FRACTIONS, "spread": SPREAD,
    "spread_layers": SPREAD_MEANS, "spread_contrast": SPREAD_CONTRAST, "maps": ATTENTION_MAPS,
}  # fmt: skip
PICTURES = 4


def settings(**sharing: object) -> Params:
    content = {
        "examples": {"count": PICTURES, "references": 2, "questions": ["object"]},
        "models": {"tiny": {"device_map": "cpu"}},
        "sharing": {"shown": 2, **sharing},
    }
    return Params.model_validate(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which the stages up to this one have run."""
    root = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepare_examples.main(settings())
        prepare_model.main(settings(), "tiny")
        extract_features.main(settings(), "tiny")
        describe_images.main(settings(), "tiny")
        share_attention.main(settings(), "tiny")
    return root


def read() -> dict[str, pl.DataFrame]:
    return {name: table.read(OUT / f"{name}.parquet") for name, table in TABLES.items()}


def test_tables_hold_what_the_engine_says(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found, said = read(), DESCRIPTIONS.read(SAID)
    assert found["shares"]["id"].unique(maintain_order=True).to_list() == said["id"].to_list()
    pictures = Pictures(settings(), "tiny")
    third = list(pictures)[2]
    tokens = said["tokens"].to_list()[2]
    expected = spoken_shares(third.capture(all_fed(tokens)))
    rows = found["shares"].filter(id=third.id).sort("layer", "head")
    for place, group in enumerate(GROUPS):
        assert rows.filter(group=group)["share"].to_list() == pytest.approx(expected.shares[..., place].flatten().tolist(), abs=1e-6)
    of = {row["group"]: row for row in found["pictures"].filter(id=third.id).iter_rows(named=True)}
    assert [of[group]["tokens"] for group in GROUPS] == list(expected.tokens) == [36, 10, len(tokens)]
    assert found["maps"]["id"].n_unique() == 2 and len(found["maps"]) == 2 * 6 * 36 and found["maps"]["left"].null_count() == 0
    metrics = read_json(METRICS)
    assert metrics["pictures"] == PICTURES and metrics["without_words"] == 0
    assert sum(metrics["fractions"]["all"][group]["share"] for group in GROUPS) == pytest.approx(1, abs=1e-5)
    assert metrics["spread"]["top"]["difference"] == found["spread_contrast"].filter(measure="top")["difference"][0]
    plotted = pl.read_csv("reports/plots/sharing/tiny.csv")
    assert plotted.columns == ["layer", *GROUPS] and plotted["layer"].to_list() == list(range(6))


def test_finished_pictures_are_not_run_again(folder, monkeypatch):
    """The model's weights are spoiled in between: numbers that came from it would differ."""
    monkeypatch.chdir(folder)
    before, metrics, load = read(), METRICS.read_bytes(), Pictures.__init__

    def spoiled(self: Pictures, params: Params, key: str) -> None:
        load(self, params, key)
        for weight in self.model.model.parameters():
            weight.data.zero_()

    monkeypatch.setattr(Pictures, "__init__", spoiled)
    share_attention.main(settings(), "tiny")
    assert all(frame.equals(before[name]) for name, frame in read().items()) and METRICS.read_bytes() == metrics
    with sqlite3.connect(settings().ablation.store) as store:
        store.execute("DELETE FROM results")
    share_attention.main(settings(), "tiny")
    assert not read()["shares"].equals(before["shares"])
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    with sqlite3.connect(settings().ablation.store) as store:
        store.execute("DELETE FROM results")
    share_attention.main(settings(), "tiny")


def test_the_version_covers_the_code_that_places_tokens(tmp_path, monkeypatch):
    """Boxes are kept in the store, so that other code may not find them there."""
    before = looked.code_version()
    for module in (places, origins, unmixed, keeping, spoken_attention):
        other = tmp_path / "other.py"
        other.write_text(Path(module.__file__).read_text() + "# changed\n")
        with monkeypatch.context() as patch:
            patch.setattr(module, "__file__", str(other))
            assert looked.code_version() != before
    assert looked.code_version() == before


def test_descriptions_without_a_word(folder, monkeypatch):
    monkeypatch.chdir(folder)
    said = DESCRIPTIONS.read(SAID)
    nothing = pl.lit([], pl.List(pl.Int64))
    silent = said.with_columns(tokens=nothing, starts=nothing, stops=nothing, description=pl.lit(""))
    try:
        DESCRIPTIONS.write(pl.concat([silent.head(1), said.tail(PICTURES - 1)]), SAID)
        share_attention.main(settings(), "tiny")
        assert read_json(METRICS)["without_words"] == 1 and read()["shares"]["id"].n_unique() == PICTURES - 1
        DESCRIPTIONS.write(silent, SAID)
        share_attention.main(settings(), "tiny")
        assert all(len(frame) == 0 for frame in read().values()) and read_json(METRICS)["mean_tokens"] is None
        DESCRIPTIONS.write(said.head(2), SAID)
        with pytest.raises(HeadflowError, match="made from other pictures than"):
            share_attention.main(settings(), "tiny")
    finally:
        DESCRIPTIONS.write(said, SAID)
