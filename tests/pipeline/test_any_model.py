"""Real photographs through every stage: with the embedded model, and with a random checkpoint of each family."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from headflow.params import Params
from stages import (
    cluster_heads,
    compare_baselines,
    evaluate_faithfulness,
    extract_features,
    find_interactions,
    fit_attributions,
    keep_image_tokens,
    prepare_examples,
    prepare_model,
    read_heads,
    render_report,
    run_ablations,
    sample_masks,
    score_planted,
    trace_flow,
    trace_image,
    trace_text,
)
from tests.families import FAMILIES
from tests.pipeline.photographs import CROPS, photographs

MODEL_STAGES = (
    prepare_model, extract_features, sample_masks, run_ablations, fit_attributions, evaluate_faithfulness, score_planted, cluster_heads, find_interactions,
    compare_baselines, trace_text, trace_flow, trace_image, keep_image_tokens, read_heads, render_report,
)  # fmt: skip
COUNT, REFERENCES = 5, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with the photographs."""
    root = tmp_path_factory.mktemp("any_model")
    photographs(root / "photographs")
    return root


def params(target: str, **models: str) -> Params:
    return Params.model_validate(
        {
            "examples": {"source": "folder", "path": "photographs", "count": COUNT, "references": REFERENCES, "picture_size": [96, 64]},
            "models": {key: {"id": id} for key, id in models.items()},
            "features": {"target": target, "answer": "greedy", "only_correct": False},
            "masks": {"count": 32, "held_out": 20, "corners": 4},
            "faithfulness": {"points": 4, "path_points": 2},
            "clusters": {"permutations": 19},
            "text_tokens": {"count": 16, "corners": 2, "held_out": 20},
            "flow": {"draws": 99},
            "image_tokens": {"count": 16, "corners": 8, "held_out": 20, "top": False, "alone": 40},
            "keeping": {"percents": [20.0, 100.0], "draws": 50, "examples": 2},
            "reading": {"heads": 2, "examples": 1, "typical": 0, "token_corners": 2, "head_corners": 2, "draws": 50},
            "baselines": {"examples": 2, "masks": 8, "corners": 2, "held_out": 20},
            "report": {"scenes": 3},
        }
    )


def run(folder: Path, settings: Params, key: str) -> dict:
    """Every stage of one model; returns its metrics by stage."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        prepare_examples.main(settings)
        for stage in MODEL_STAGES:
            stage.main(settings, key)
    finally:
        os.chdir(before)
    return {path.stem.removesuffix(f"_{key}"): json.loads(path.read_text()) for path in (folder / "reports/metrics").glob(f"*_{key}.json")}


@pytest.mark.parametrize("name", ["tiny", *FAMILIES])
def test_photographs_through_every_stage(name: str, folder: Path, tmp_path: Path) -> None:
    checkpoint = "embedded" if name == "tiny" else str(FAMILIES[name].build(tmp_path / "model"))
    # Half of the families explain the whole answer, half its first token.
    target = "margin" if name == "tiny" else ("logit", "answer_logprob")[list(FAMILIES).index(name) % 2]
    metrics = run(folder, params(target, **{name: checkpoint}), name)

    features = pl.read_parquet(folder / f"data/features/{name}/features.parquet")
    assert len(features) == metrics["extract_features"]["examples"] == COUNT and metrics["extract_features"]["skipped"] == 0
    assert (features["answer_tokens"].list.len() > 0).all() and features["target_answer"].equals(features["stock_answer"].rename("target_answer"))
    checks = metrics["run_ablations"]["checks"]
    assert max(checks["identity"], checks["swap"]) < 1e-5 and checks["effect"] > 1e-3
    assert metrics["run_ablations"]["prefix_mode"] == ("shared" if name == "tiny" else FAMILIES[name].prefix)
    assert metrics["fit_attributions"]["largest_gap_intact_to_stock"] < 1e-4
    baselines = metrics["compare_baselines"]["baselines"]
    assert [baselines[kind]["examples"] for kind in ("mean", "blank", "swap", "closed")] == [2, 2, 2, 2]
    attributions = pl.read_parquet(folder / f"data/attributions/{name}/attributions.parquet")
    assert attributions["attribution"].is_finite().all() and attributions["attribution"].abs().max() > 0
    page = (folder / f"reports/{name}/index.html").read_text()
    assert "<svg" in page or "vegaEmbed" in page or "vega" in page


def test_pictures_of_several_sizes_need_a_baseline_that_fits(folder: Path, tmp_path: Path) -> None:
    """The mean over pictures of one grid says nothing about another: told before any masked run; a blank picture does it."""
    from headflow.errors import HeadflowError

    checkpoint = str(FAMILIES["qwen2_vl"].build(tmp_path / "model"))
    settings = params("logit", sizes=checkpoint).model_dump()
    settings["examples"] |= {"picture_size": None, "count": len(CROPS) - REFERENCES}
    with pytest.raises(HeadflowError, match=r"one image size: set examples.picture_size, or use `baseline: blank`"):
        run(folder, Params.model_validate(settings), "sizes")
    settings["features"]["baseline"] = "blank"
    metrics = run(folder, Params.model_validate(settings), "sizes")
    assert metrics["fit_attributions"]["largest_gap_intact_to_stock"] < 1e-4
    assert pl.read_parquet(folder / "data/features/sizes/features.parquet")["image_stop"].n_unique() > 1
    gaps = pl.read_parquet(folder / "data/baselines/sizes/gaps.parquet")
    assert gaps.filter(baseline="mean")["id"].to_list() == [None] and "one image size" in gaps.filter(baseline="mean")["reason"][0]
    assert metrics["compare_baselines"]["baselines"]["blank"]["examples"] == metrics["compare_baselines"]["baselines"]["closed"]["examples"] == 2
