"""compare_baselines behind the real stages that come before it, on the embedded model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from headflow.execution.store import ResultStore
from headflow.files import read_json
from headflow.params import Params
from headflow.tables.baselines import (
    BASELINE_AGREEMENT,
    BASELINE_ATTRIBUTIONS,
    BASELINE_DIFFERENCES,
    BASELINE_FITS,
    BASELINE_GAPS,
    BASELINE_HEADS,
    BASELINE_SUMMARY,
)
from headflow.tables.examples import EXAMPLES, FEATURES
from stages import compare_baselines, extract_features, prepare_examples, prepare_model

KINDS = ("mean", "blank", "swap", "closed")
LAYERS, HEADS = 6, 8
DATA, STORE = Path("data/baselines/tiny"), Path(".headflow/results.sqlite")


def params(**groups: dict) -> Params:
    content = {
        "examples": {"count": 4, "references": 5}, "models": {"tiny": {"id": "embedded", "device_map": "cpu"}}, "features": {"only_correct": False},
        "baselines": {"examples": 3, "masks": 16, "corners": 4, "held_out": 20},
    }  # fmt: skip
    return Params.model_validate({**content, **{name: {**content.get(name, {}), **group} for name, group in groups.items()}})


def run(folder: Path, settings: Params, *stages: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in stages:
            stage.main(settings, *(() if stage is prepare_examples else ("tiny",)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which all stages have run. Read only: copy it to change it."""
    folder = tmp_path_factory.mktemp("baselines") / "project"
    folder.mkdir()
    run(folder, params(), prepare_examples, prepare_model, extract_features, compare_baselines)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "project"))


@pytest.fixture(scope="module")
def by_hand(finished: Path) -> Callable:
    """Capture of an example, its four baselines and its target, made without the stages."""
    from headflow.models.baselines import blank_baseline, closed_baseline, mean_baseline, swap_baseline
    from headflow.models.lvlm import load_prepared
    from headflow.targets import Target

    examples, features = EXAMPLES.read(finished / "data/examples.parquet"), FEATURES.read(finished / "data/features/tiny/features.parquet")
    model = load_prepared(finished / "data/models/tiny", "cpu")
    references = examples.filter(split="reference").unique("scene", maintain_order=True)
    mean = mean_baseline(model.capture(picture, references["question"][0]) for picture in references["image"])
    pictures = dict(zip(examples["id"], examples["image"], strict=True))

    def make(name: str) -> tuple:
        row = features.filter(id=name).row(0, named=True)
        question = examples.filter(id=name)["question"][0]
        capture = model.capture(pictures[name], question)
        swap = swap_baseline(model.capture(pictures[row["swap_partner"]], question))
        made = {"mean": mean, "blank": blank_baseline(capture), "swap": swap, "closed": closed_baseline()}
        return capture, made, Target("logit", row["answer_tokens"][0])

    return make


def attributions(folder: Path, kind: str, name: str) -> np.ndarray:
    table = BASELINE_ATTRIBUTIONS.read(folder / DATA / "attributions.parquet").filter(baseline=kind, id=name).sort("layer", "head")
    return table["attribution"].to_numpy().reshape(LAYERS, HEADS)


@pytest.mark.parametrize("kind", KINDS)
def test_attributions_are_those_of_the_engine_run_by_hand(kind: str, finished: Path, by_hand: Callable) -> None:
    import torch

    from headflow.ablation import gate_gradients, run_gates, run_masks
    from headflow.attribution.masks import sample_corners, sample_masks
    from headflow.attribution.regression import fit
    from headflow.gates import ablate_heads

    fits = BASELINE_FITS.read(finished / DATA / "fits.parquet").filter(baseline=kind)
    row = fits.row(1, named=True)
    capture, made, target = by_hand(row["id"])
    masks = sample_masks(LAYERS, HEADS, 16, design="foldover_hadamard", seed=0)
    held_out = sample_masks(LAYERS, HEADS, 20, design="bernoulli", seed=0, stream="held_out")
    ends = np.stack([np.ones((LAYERS, HEADS), bool), np.zeros((LAYERS, HEADS), bool)])
    options = {"baseline": made[kind], "target": target}
    _, gradients = gate_gradients(capture, sample_corners(LAYERS, HEADS, 4, seed=0), **options)
    others = run_masks(capture, held_out, **options)
    expected = fit(masks, run_masks(capture, masks, **options), gradients=gradients, held_out=(held_out, others))
    found = attributions(finished, kind, row["id"])
    np.testing.assert_allclose(found, expected.attribution_, atol=1e-4)
    assert np.abs(found).max() > 0.1 and row["held_out_r"] == pytest.approx(expected.held_out_r_, abs=1e-4)
    intact, ablated = run_masks(capture, ends, **options)
    assert (row["intact"], row["ablated"]) == pytest.approx((intact, ablated), abs=1e-4)
    assert row["total_effect"] == pytest.approx(intact - ablated, abs=1e-3)

    shares = run_gates(capture, [ablate_heads(torch.from_numpy(ends), made[kind].reads)], baseline=made[kind], target=lambda logits: logits[:, -1].softmax(-1))
    assert (row["probability_intact"], row["probability"]) == pytest.approx(shares[:, target.token].tolist(), abs=1e-5)
    assert row["rank"] == int((shares[1] > shares[1, target.token]).sum()) + 1 and row["says"] == capture.lvlm.text([int(shares[1].argmax())])


def test_baselines_differ_and_the_tables_follow_from_one_another(finished: Path) -> None:
    fits = BASELINE_FITS.read(finished / DATA / "fits.parquet")
    chosen = fits["id"].unique().to_list()
    assert len(chosen) == 3 and len(fits) == 12 and BASELINE_GAPS.read(finished / DATA / "gaps.parquet").is_empty()
    grids = {kind: np.stack([attributions(finished, kind, name) for name in sorted(chosen)]) for kind in KINDS}
    agreement = BASELINE_AGREEMENT.read(finished / DATA / "agreement.parquet")
    assert len(agreement) == 6 and (agreement["top"] == 8).all() and (agreement["ceiling"] > 0.5).all()
    for row in agreement.iter_rows(named=True):
        r = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(grids[row["baseline"]], grids[row["other"]], strict=True)]
        assert row["r"] == pytest.approx(np.mean(r)) and row["r"] < 0.9999 and row["low"] < row["r"] < row["high"] <= 1
    heads = BASELINE_HEADS.read(finished / DATA / "heads.parquet")
    for kind in KINDS:
        np.testing.assert_allclose(heads.filter(baseline=kind).sort("layer", "head")["mean"].to_numpy().reshape(LAYERS, HEADS), grids[kind].mean(0))
    metrics = read_json(finished / "reports/metrics/compare_baselines_tiny.json")
    summary = BASELINE_SUMMARY.read(finished / DATA / "summary.parquet")
    for kind in KINDS:
        effects = fits.filter(baseline=kind)["total_effect"].mean()
        assert metrics["baselines"][kind]["total_effect"]["mean"] == pytest.approx(effects)
        assert summary.filter(baseline=kind, measure="total_effect")["mean"][0] == pytest.approx(effects)
    assert metrics["examples"] == 3 and metrics["gradients"] == 48 and metrics["masked_forwards"] == 12 * 40
    assert metrics["agreement"]["mean and swap"]["r"] == agreement.filter(baseline="mean", other="swap")["r"][0]
    assert set(metrics["apart"]) == set(KINDS) and len(BASELINE_DIFFERENCES.read(finished / DATA / "differences.parquet")) == 4 + 3 * 6


@pytest.mark.parametrize("kind", KINDS)
def test_the_baseline_of_the_run_changes_no_number_and_finished_work_is_found(kind: str, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in (folder / DATA).iterdir()}
    with ResultStore(folder / STORE) as store:
        records = len(store)
    shutil.rmtree(folder / DATA)
    run(folder, params(features={"baseline": kind}), extract_features, compare_baselines)
    assert {path.name: path.read_bytes() for path in (folder / DATA).iterdir()} == before
    with ResultStore(folder / STORE) as store:
        assert len(store) == records


def test_more_examples_and_masks_extend_the_run(folder: Path) -> None:
    before = BASELINE_FITS.read(folder / DATA / "fits.parquet")
    run(folder, params(baselines={"examples": None, "kinds": ["closed", "blank"], "top": 1}), compare_baselines)
    after = BASELINE_FITS.read(folder / DATA / "fits.parquet")
    assert len(after) == 8 and after["baseline"].unique(maintain_order=True).to_list() == ["closed", "blank"]
    both = after.join(before, on=["id", "baseline"])
    assert len(both) == 6 and both["held_out_r"].to_list() == pytest.approx(both["held_out_r_right"].to_list())
    agreement = BASELINE_AGREEMENT.read(folder / DATA / "agreement.parquet")
    assert agreement["baseline"].to_list() == ["closed"] and agreement["top"].to_list() == [1] and agreement["chance"][0] == 1 / 48


def test_shapley_values_add_up_under_every_baseline(folder: Path) -> None:
    run(folder, params(masks={"estimand": "shapley"}, baselines={"examples": 2}), compare_baselines)
    for row in BASELINE_FITS.read(folder / DATA / "fits.parquet").iter_rows(named=True):
        assert attributions(folder, row["baseline"], row["id"]).sum() == pytest.approx(row["total_effect"], abs=1e-4)


def test_examples_without_a_partner_are_left_out_of_swap_alone(folder: Path) -> None:
    path = folder / "data/features/tiny/features.parquet"
    features, before = FEATURES.read(path), BASELINE_FITS.read(folder / DATA / "fits.parquet")
    alone = before["id"][0]
    partner = pl.when(pl.col("id") != alone).then("swap_partner").alias("swap_partner")
    FEATURES.write(features.with_columns(partner), path)
    run(folder, params(), compare_baselines)
    after, gaps = BASELINE_FITS.read(folder / DATA / "fits.parquet"), BASELINE_GAPS.read(folder / DATA / "gaps.parquet")
    assert_frame_equal(after, before.filter((pl.col("id") != alone) | (pl.col("baseline") != "swap")))
    assert gaps.rows() == [("swap", alone, "no reference picture of the same size shows another object")]
    counts = dict(BASELINE_AGREEMENT.read(folder / DATA / "agreement.parquet").select(pl.concat_str("baseline", "other"), "examples").iter_rows())
    assert counts["meanblank"] == 3 and counts["meanswap"] == 2
    assert read_json(folder / "reports/metrics/compare_baselines_tiny.json")["baselines"]["swap"]["examples"] == 2


def test_params_that_cannot_be_are_named() -> None:
    for group, message in (({"kinds": ["mean", "mean"]}, "kinds: mean is listed twice"), ({"masks": 15}, "masks = 15: they come in pairs")):
        with pytest.raises(ValueError, match=message):
            params(baselines=group)


def test_masks_are_of_the_kind_that_the_run_attributes_by():
    """Another ablation probability, or Shapley values, is another question: baselines are compared on that one."""
    settings = params(baselines={"masks": 400, "corners": 400, "held_out": 400}).baselines
    for share in (0.5, 0.2):
        masks = compare_baselines.draw_masks(settings, LAYERS, HEADS, "banzhaf", share)
        for some in (masks.run[masks.fit], masks.run[masks.held_out], masks.corners):
            assert (~some).mean() == pytest.approx(share, abs=0.01)
    kernel = compare_baselines.draw_masks(settings, LAYERS, HEADS, "shapley")
    for some in (kernel.run[kernel.fit], kernel.run[kernel.held_out], kernel.corners):
        assert np.std(some.mean((1, 2))) > 0.2  # sizes differ far more than those of independent draws, 0.07
