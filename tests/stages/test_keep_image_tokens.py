"""keep_image_tokens behind the real stages that come before it, on a model whose picture is known token by token."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from headflow.ablation import run_gates
from headflow.datasets.planted import GRID, PATCH, QUESTION
from headflow.errors import HeadflowError
from headflow.files import read_json
from headflow.gates import Gate
from headflow.models import keeping
from headflow.models.keeping import best, keep_tokens
from headflow.models.loading import load_prepared
from headflow.models.lvlm import LVLM
from headflow.params import Params
from headflow.tables.examples import EXAMPLES, FEATURES
from headflow.tables.image_tokens import IMAGE_TOKENS
from headflow.tables.keeping import KEPT, KEPT_BANDS, KEPT_DIFFERENCES, KEPT_SUMMARY
from headflow.targets import Target
from stages import extract_features, keep_image_tokens, prepare_examples, prepare_model

COUNT, OBJECT = 8, 9
PERCENTS = [1.0, 11.0, 25.0, 50.0, 100.0]


def settings(**keeping: object) -> Params:
    content = {
        "examples": {"source": "planted", "count": COUNT, "references": 8},
        "models": {"tiny": {"id": "planted", "circuit": "additive", "device_map": "cpu"}},
        "features": {"baseline": "blank"},
        "keeping": {"percents": PERCENTS, "draws": 199, **keeping},
    }
    return Params.model_validate(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which the stage has run."""
    root = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        prepare_examples.main(settings())
        prepare_model.main(settings(), "tiny")
        extract_features.main(settings(), "tiny")
        write_attributions()
        keep_image_tokens.main(settings(), "tiny")
    return root


def explained() -> pl.DataFrame:
    return FEATURES.read(Path("data/features/tiny/features.parquet")).join(EXAMPLES.read(Path("data/examples.parquet")), on="id", maintain_order="left")


def stock() -> LVLM:
    return load_prepared(Path("data/models/tiny"), "cpu")


def write_attributions() -> None:
    """Attribution of each image token: the fall of the target when it alone reads a grey picture's keys."""
    lvlm, frames = stock(), []
    for row in explained().iter_rows(named=True):
        capture = lvlm.capture(row["image"], row["question"])
        cut = torch.zeros(GRID**2 + 1, len(capture.input_ids))
        cut[1:, capture.image] = torch.eye(GRID**2)
        targets = run_gates(capture, [Gate(keys=cut)], target=Target("logit", row["answer_tokens"][0]))
        falls = (targets[:1] - targets[1:]).double().numpy()
        frames.append(pl.DataFrame({"id": [row["id"]] * GRID**2, "token": range(GRID**2), "attribution": falls}))
    table = pl.concat(frames)
    others = [pl.lit(None, column.dtype).alias(name) for name, column in IMAGE_TOKENS.columns.items() if name not in table.columns]
    IMAGE_TOKENS.write(table.with_columns(others).select(list(IMAGE_TOKENS.columns)), Path("data/image_tokens/tiny/image_tokens.parquet"))


def inside(row: dict) -> np.ndarray:
    """Which image tokens lie on the object."""
    with Image.open(io.BytesIO(row["objects"][0]["mask"])) as mask:
        return np.asarray(mask.convert("L"))[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH].ravel() > 0


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder / "data/keeping/tiny"


def test_the_objects_tokens_alone_keep_the_answer(here: Path) -> None:
    kept = KEPT.read(here / "kept.parquet")
    assert kept.height == COUNT * 3 * 4 * (1 + len(PERCENTS))
    assert kept.filter(percent=25.0)["kept"].unique().to_list() == [OBJECT]
    wide = kept.pivot("percent", index=["id", "way", "selection"], values="target")
    best_own = wide.filter(selection="attribution", way="baseline")
    # In this circuit every token of the object adds the same to the target, and no other adds anything.
    whole = best_own["100.0"] - best_own["0.0"]
    np.testing.assert_allclose((best_own["25.0"] - best_own["0.0"]) / whole, 1, atol=1e-3)
    np.testing.assert_allclose((best_own["11.0"] - best_own["0.0"]) / whole, 4 / OBJECT, atol=1e-3)
    np.testing.assert_allclose((best_own["1.0"] - best_own["0.0"]) / whole, 1 / OBJECT, atol=1e-3)
    right = kept.filter(selection="attribution", percent=25.0)
    assert right["right"].all() and right["first_right"].all()
    summary = KEPT_SUMMARY.read(here / "summary.parquet")
    row = summary.filter(way="baseline", selection="attribution", measure="target").row(0, named=True)
    assert (row["share"], row["share_low"], row["share_high"]) == pytest.approx((0.25,) * 3) and row["tokens"] == OBJECT
    metrics = read_json(Path("reports/metrics/keep_image_tokens_tiny.json"))
    assert metrics["most"]["baseline"]["target"]["selection"] == "attribution"
    assert "random" in metrics["most"]["baseline"]["target"]["ahead_of"]
    assert metrics["ways"]["baseline"]["attribution"]["target"]["share"] == pytest.approx(0.25) and metrics["examples"] == COUNT


def test_every_number_is_that_of_the_model_run_by_hand(here: Path) -> None:
    kept, lvlm = KEPT.read(here / "kept.parquet"), stock()
    table = pl.read_parquet("data/image_tokens/tiny/image_tokens.parquet")
    attributions = table["attribution"].to_numpy().reshape(COUNT, -1)
    number, row = 2, explained().row(2, named=True)
    capture, target = lvlm.capture(row["image"], row["question"]), Target("logit", row["answer_tokens"][0])
    assert (best(attributions[number], np.ones(GRID**2, bool), 25) == inside(row)).all()
    orders = {
        "attribution": attributions[number], "attention": keeping.image_token_attention(capture).numpy(),
        "position": np.delete(attributions, number, 0).mean(0),
    }  # fmt: skip
    for selection, scores in orders.items():
        for percent in (11.0, 50.0):
            stays = best(scores, np.ones(GRID**2, bool), percent)
            gone = torch.zeros(len(capture.input_ids))
            gone[capture.image] = torch.from_numpy(~stays).float()
            expected = {
                "baseline": run_gates(capture, [Gate(keys=gone)], target=target),
                "closed": run_gates(capture, [Gate("nothing", keys=gone)], target=target),
                "removed": target(keeping.removed_logits(lvlm, keeping.merge(lvlm, row["image"], QUESTION), stays[None])),
            }
            for way, value in expected.items():
                found = kept.filter(id=row["id"], way=way, selection=selection, percent=percent).row(0, named=True)
                assert found["target"] == pytest.approx(float(value[0]), abs=1e-4), (way, selection, percent)
                if way == "baseline":
                    continue
                with lvlm._plainly_greedy([lvlm.processor.tokenizer.eos_token_id]):
                    inputs = keep_tokens(lvlm, row["image"], percent, question=QUESTION, by=scores, how=way)
                    said = lvlm.model.generate(**inputs, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :].tolist()
                assert found["right"] == (lvlm.text(said) == row["answer"]), (way, selection, percent)


def test_ends_are_the_same_for_all_selections(here: Path) -> None:
    kept = KEPT.read(here / "kept.parquet")
    for percent, expected in ((0.0, [0]), (100.0, [GRID**2])):
        ends = kept.filter(percent=percent)
        assert ends["kept"].unique().to_list() == expected
        assert ends.group_by("id", "way").agg(pl.col("target").n_unique())["target"].to_list() == [1] * 3 * COUNT
    whole = kept.filter(percent=100.0).join(explained().select("id", "stock_target", "correct"), on="id")
    np.testing.assert_allclose(whole["target"], whole["stock_target"], atol=1e-4)
    assert (whole["right"] == whole["correct"]).all() and whole["right"].all()
    none = kept.filter(percent=0.0, selection="random").pivot("way", index="id", values="target")
    np.testing.assert_allclose(none["closed"], none["removed"], atol=1e-4)  # without any image token the two are one


def test_summaries_follow_from_the_rows(here: Path) -> None:
    from headflow.analysis import keeping as analysis

    kept = KEPT.read(here / "kept.parquet")
    assert KEPT_BANDS.read(here / "bands.parquet").equals(analysis.bands(kept))
    assert KEPT_DIFFERENCES.read(here / "differences.parquet").equals(analysis.differences(kept))
    plot = pl.read_csv("reports/plots/keeping/tiny.csv")
    assert plot.columns == ["percent", *analysis.SELECTIONS] and plot["percent"].to_list() == PERCENTS


def test_what_is_stored_is_not_run_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = (here / "kept.parquet").read_bytes(), []
    forward = LVLM.capture

    def counted(self: LVLM, *arguments: object, **options: object) -> object:
        calls.append(1)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(LVLM, "capture", counted)
    keep_image_tokens.main(settings(), "tiny")
    assert not calls and (here / "kept.parquet").read_bytes() == before
    keep_image_tokens.main(settings(ways=["closed"], selections=["random"], seed=1, examples=5), "tiny")
    assert calls
    kept = KEPT.read(here / "kept.parquet")
    assert kept["id"].n_unique() == 5 and kept["way"].unique().to_list() == ["closed"]
    keep_image_tokens.main(settings(), "tiny")
    assert (here / "kept.parquet").read_bytes() == before


def test_attributions_of_other_examples_are_refused(here: Path) -> None:
    path = Path("data/image_tokens/tiny/image_tokens.parquet")
    table = pl.read_parquet(path)
    name = table["id"][-1]
    try:
        table.filter(pl.col("id") != name).write_parquet(path)
        with pytest.raises(HeadflowError, match=f"example {name}: .*lack the image token at place 0"):
            keep_image_tokens.main(settings(), "tiny")
    finally:
        table.write_parquet(path)


@pytest.mark.parametrize(
    ("keeping", "message"),
    [({"percents": [10.0, 5.0, 100.0]}, "must rise"), ({"percents": [5.0, 50.0]}, "end with 100"), ({"ways": ["closed", "closed"]}, "listed twice")],
)
def test_settings_are_checked(keeping: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**keeping)
