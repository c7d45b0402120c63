"""Real photographs through every stage of one model: the run that the tests of many models share."""

import json
from pathlib import Path

import nbformat
import polars as pl
import pytest

import headflow.reporting.figure
from headflow.params import Params
from headflow.reporting.figure import CHART
from stages import (
    cluster_heads,
    compare_baselines,
    compress_context,
    describe_images,
    evaluate_faithfulness,
    extract_features,
    find_interactions,
    fit_attributions,
    judge_descriptions,
    keep_image_tokens,
    knock_out_attention,
    localise_objects,
    prepare_examples,
    prepare_model,
    read_heads,
    render_report,
    run_ablations,
    sample_masks,
    score_knockouts,
    score_planted,
    share_attention,
    trace_flow,
    trace_image,
    trace_text,
)
from tests.families import FAMILIES
from tests.pipeline.photographs import photographs

MODEL_STAGES = (
    prepare_model, extract_features, sample_masks, run_ablations, fit_attributions, evaluate_faithfulness, score_planted, cluster_heads, find_interactions,
    compare_baselines, trace_text, trace_flow, trace_image, keep_image_tokens, read_heads,
    describe_images, share_attention, localise_objects, knock_out_attention, judge_descriptions, score_knockouts, compress_context,
)  # fmt: skip
COUNT, REFERENCES = 4, 3
FIRST_STAGES = (prepare_model, extract_features, sample_masks, run_ablations, fit_attributions, compare_baselines, trace_image, describe_images)
"""What every family goes through: its processor, its prompt, its greedy answer, its gates, where its tokens stand, and what it says."""
WHOLE = ("tiny", "llava", "mistral3", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma2", "smolvlm", "mllama", "sizes")
"""Models that go through all of :data:`MODEL_STAGES`, one of each mechanism: plain, rows with breaks, M-RoPE, features that enter at several
layers, sliding windows, a prompt that is read both ways, tiles, cross-attention, pictures of several sizes. The others differ from one of these
in what ``FIRST_STAGES`` meet; that gates are exact on every family is what ``tests/test_families.py`` proves."""
RENDERED = ("mllama",)
"""Models whose report is drawn and set as pages (that of the embedded model is, by the tests of the whole pipeline)."""
DISPLAYED = ("tiny", "paligemma2", "smolvlm", "sizes")
"""Models of whose report all charts and sentences are made, but not drawn: every way of prefix and target, tiles, and grids of several sizes."""


def project_folder(root: Path) -> Path:
    """A project folder with the photographs."""
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
            "describing": {"pictures": 2, "max_new_tokens": 5},
            "knockout": {"draws": 99},
            "judging": {"draws": 50},
            "sharing": {"shown": 1},
            "localising": {"corners": 2, "shown": 1},
            "compressing": {"pictures": 2, "percents": [20.0], "choose_by": ["attention"], "max_new_tokens": 2},
            "report": {"scenes": 3},
        }
    )


def run(folder: Path, settings: Params, key: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, list]:
    """The stages of one model; its metrics by stage, and what its report displays where it is in DISPLAYED."""
    with monkeypatch.context() as patched:
        patched.chdir(folder)
        prepare_examples.main(settings)
        for stage in MODEL_STAGES if key in WHOLE else FIRST_STAGES:
            stage.main(settings, key)
        if key in RENDERED:
            render_report.main(settings, key)
        shown = displayed(settings, key, patched) if key in DISPLAYED else []
    return {path.stem.removesuffix(f"_{key}"): json.loads(path.read_text()) for path in (folder / "reports/metrics").glob(f"*_{key}.json")}, shown


def displayed(settings: Params, key: str, patched: pytest.MonkeyPatch) -> list:
    """What the report's cells display, run here rather than in a kernel of their own and with no figure drawn, which takes most of a rendering's time."""
    shown = []
    patched.setattr(headflow.reporting.figure, "display", lambda output, **_: shown.append(output))
    patched.setattr(headflow.reporting.figure, "png", lambda spec: b"")
    given = settings.model_dump(mode="json", exclude={"ablation"})
    known = {"key": key, "inputs": render_report.inputs(key), "params": given | {"models": {key: given["models"][key]}}}
    for cell in nbformat.read(render_report.TEMPLATES / "report.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            exec(compile(cell.source, "report.ipynb", "exec"), known)
    return shown


def check(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages run on the photographs and find what they must on any model."""
    checkpoint = "embedded" if name == "tiny" else str(FAMILIES[name].build(tmp_path / "model"))
    # Half of the families explain the whole answer, half its first token.
    target = "margin" if name == "tiny" else ("logit", "answer_logprob")[list(FAMILIES).index(name) % 2]
    metrics, shown = run(folder, params(target, **{name: checkpoint}), name, monkeypatch)

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
    if name in RENDERED:
        page = (folder / f"reports/{name}/index.html").read_text()
        assert page.count('class="chart"') > 10 and (folder / f"reports/{name}/trust.html").is_file()
        assert (folder / f"reports/{name}/tokens.html").read_text().count('class="chart"') > 5
        assert (folder / f"reports/{name}/descriptions.html").read_text().count('class="chart"') > 5
    if name in DISPLAYED:
        assert sum(CHART in output for output in shown if isinstance(output, dict)) > 15
