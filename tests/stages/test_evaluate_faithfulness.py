"""evaluate_faithfulness behind the real stages that come before it, on a small random model."""

import contextlib
import importlib
import io
import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from headflow.files import read_json
from headflow.tables.ablations import ATTRIBUTIONS, FITS
from headflow.tables.examples import ATTENTION, EXAMPLES
from headflow.tables.faithfulness import AREA_DIFFERENCES, AREA_SUMMARY, AREAS, CURVE_BANDS, CURVES, RANKINGS
from stages.door import enter
from tests.checkpoints import QUESTION
from tests.conftest import random_picture

LAYERS, HEADS, EXPLAINED = 3, 4, 6
ANSWERS = ("cat tree", "dog", "house", "red", "blue", "green")
DATA = Path("data/faithfulness/tiny")
STAGES = ("prepare_model", "extract_features", "sample_masks", "run_ablations", "fit_attributions", "evaluate_faithfulness")


def run(folder: Path, *stages: str) -> subprocess.CompletedProcess[str]:
    """Run stages through their door in this process, which spares the imports."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        for stage in stages:
            patch.setattr(sys, "argv", [stage, "tiny"])
            try:
                enter(importlib.import_module(f"stages.{stage}").main)
            except SystemExit as stop:
                status = stop.code
                break
    return subprocess.CompletedProcess(stages, status, out.getvalue(), err.getvalue())


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random_picture(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def write_examples(folder: Path, answers: Sequence[str], references: int = 3) -> None:
    """Examples of random pictures, one for each answer, and as many references as asked for."""
    rows = [
        {
            "id": f"{split}-{number}", "split": split, "scene": number, "image": png(number + start), "question_kind": "asked", "question": QUESTION,
            "answer": answers[number],
        }
        for split, start, count in (("explain", 0, len(answers)), ("reference", 100, references))
        for number in range(count)
    ]  # fmt: skip
    frame = pl.DataFrame(rows)
    typed = [(pl.col(name) if name in frame.columns else pl.lit(None)).cast(column.dtype).alias(name) for name, column in EXAMPLES.columns.items()]
    EXAMPLES.write(frame.with_columns(typed).select(list(EXAMPLES.columns)), folder / "data/examples.parquet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, checkpoints: Callable[..., Path]) -> Path:
    """A project folder in which all stages have run. Read only: copy it to change it."""
    folder = tmp_path_factory.mktemp("faithful") / "project"
    folder.mkdir()
    params = {
        "models": {"tiny": {"id": str(checkpoints("mha")), "device_map": "cpu"}},
        "features": {"only_correct": False},
        "masks": {"count": 48, "held_out": 20},
        "faithfulness": {"points": None, "path_points": 3},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    write_examples(folder, ANSWERS)
    done = run(folder, *STAGES)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "project"))


def set_params(folder: Path, **faithfulness: object) -> None:
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["faithfulness"] |= faithfulness
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def test_tables_agree_with_the_model_run_by_hand(finished: Path) -> None:
    from headflow.ablation import run_masks
    from headflow.models.baselines import Baseline
    from headflow.models.loading import load_prepared
    from headflow.targets import Target

    curves, rankings = CURVES.read(finished / DATA / "curves.parquet"), RANKINGS.read(finished / DATA / "rankings.parquet")
    attributions = ATTRIBUTIONS.read(finished / "data/attributions/tiny/attributions.parquet")
    attention = ATTENTION.read(finished / "data/features/tiny/attention.parquet")
    own = rankings.filter(scope="own", id="explain-2")
    for name, column, table in (
        ("attribution", "attribution", attributions), ("ablation", "single_head_effect", attributions), ("attention", "final_to_image", attention)
    ):  # fmt: skip
        expected = table.filter(id="explain-2").sort("layer", "head")[column]
        assert own.filter(ranking=name).sort("layer", "head")["score"].to_list() == expected.to_list()
    assert own["ranking"].unique(maintain_order=True).to_list() == ["attribution", "ablation", "restoration", "attention", "gradient", "integrated", "random"]

    model = load_prepared(finished / "data/models/tiny", "cpu")
    baseline = Baseline.load(finished / "data/features/tiny/baseline.safetensors", model.device, model.dtype)
    features = pl.read_parquet(finished / "data/features/tiny/features.parquet").filter(id="explain-2").row(0, named=True)
    picture = EXAMPLES.read(finished / "data/examples.parquet").filter(id="explain-2")["image"][0]
    capture, target = model.capture(picture, QUESTION), Target("logit", features["answer_tokens"][0])

    def f(mask: np.ndarray) -> float:
        return float(run_masks(capture, mask[None], baseline=baseline, target=target)[0])

    whole, none = np.ones((LAYERS, HEADS), bool), np.zeros((LAYERS, HEADS), bool)
    effect = f(whole) - f(none)
    for ranking, scope in (("restoration", "own"), ("integrated", "shared")):
        order = rankings.filter(pl.col("ranking") == ranking, scope=scope)
        order = (order.filter(id="explain-2") if scope == "own" else order).sort("place").select("layer", "head").rows()
        for k in (1, 4, 11):
            mask = none.copy()
            for head in order[:k]:
                mask[head] = True
            row = curves.filter(id="explain-2", ranking=ranking, scope=scope, heads=k).row(0, named=True)
            assert row["top"] == pytest.approx(f(mask), abs=1e-4) and row["rest"] == pytest.approx(f(~mask), abs=1e-4)
            if row["faithfulness"] is not None:
                assert row["faithfulness"] == pytest.approx((f(mask) - f(none)) / effect, abs=1e-3)
                assert row["completeness"] == pytest.approx((f(whole) - f(~mask)) / effect, abs=1e-3)


def test_shared_orders_are_those_of_the_mean_score(finished: Path) -> None:
    rankings = RANKINGS.read(finished / DATA / "rankings.parquet")
    means = rankings.filter(scope="own").group_by("ranking", "layer", "head").agg(pl.col("score").mean().alias("mean"))
    shared = rankings.filter(scope="shared").join(means, on=["ranking", "layer", "head"])
    assert "random" not in shared["ranking"] and shared["id"].null_count() == len(shared) == 6 * LAYERS * HEADS
    np.testing.assert_allclose(shared["score"], shared["mean"], atol=1e-12)
    curves = CURVES.read(finished / DATA / "curves.parquet").filter(ranking="random").select("id", "heads", "top", "rest")
    half = len(curves) // 2
    assert curves.sort("id", "heads", maintain_order=True)[::2].equals(curves.sort("id", "heads", maintain_order=True)[1::2]) and half > 0


def test_summaries_and_metrics_follow_from_the_curves(finished: Path) -> None:
    areas, summary = AREAS.read(finished / DATA / "areas.parquet"), AREA_SUMMARY.read(finished / DATA / "area_summary.parquet")
    curves, mean_curves = CURVES.read(finished / DATA / "curves.parquet"), CURVE_BANDS.read(finished / DATA / "curve_bands.parquet")
    fits = FITS.read(finished / "data/attributions/tiny/fits.parquet").with_columns(effect=pl.col("intact") - pl.col("ablated"))
    effects = areas.unique("id").join(fits, on="id")
    np.testing.assert_allclose(effects["total_effect"], effects["effect"], atol=1e-4)  # the main run's own ends
    least = 0.05 * float(np.median(np.abs(fits["effect"])))
    assert effects["used"].to_list() == (effects["total_effect"] > least).to_list()
    used = effects.filter("used")["id"].to_list()
    assert 2 <= len(used) < EXPLAINED  # this random model has examples of both kinds
    for row in summary.iter_rows(named=True):
        part = curves.filter(pl.col("id").is_in(used), ranking=row["ranking"], scope=row["scope"])
        by_example = [group.sort("heads")[row["measure"]].to_numpy() for _, group in part.group_by("id")]
        assert row["area"] == pytest.approx(np.mean([np.trapezoid(curve, dx=1 / 12) for curve in by_example]))
        assert row["heads"] == pytest.approx(np.mean([np.argmax(curve >= 0.8 - 1e-6) for curve in by_example]))
        assert row["low"] < row["area"] < row["high"] and row["of"] == 12 and row["examples"] == len(used)
        middle = mean_curves.filter(ranking=row["ranking"], scope=row["scope"], measure=row["measure"], heads=6)["mean"][0]
        assert middle == pytest.approx(np.mean([curve[6] for curve in by_example]))
    pairs = AREA_DIFFERENCES.read(finished / DATA / "area_differences.parquet")
    assert len(pairs) == 2 * 2 * len(list(itertools.combinations(range(7), 2)))
    metrics = read_json(finished / "reports/metrics/evaluate_faithfulness_tiny.json")
    assert metrics["examples"] == EXPLAINED and metrics["examples_used"] == len(used)
    assert metrics["left_out_no_effect"] + metrics["left_out_negative_effect"] == EXPLAINED - len(used)
    assert metrics["left_out_negative_effect"] == (effects["total_effect"] <= 0).sum()
    assert metrics["points"] == 13 and metrics["gradients"] == EXPLAINED * 4
    first = summary.filter(scope="own", measure="faithfulness").sort("area", descending=True)["ranking"][0]
    assert metrics["most"]["own"]["faithfulness"]["ranking"] == first
    plot = pl.read_csv(finished / "reports/plots/faithfulness/tiny.csv")
    assert plot.columns == ["heads", "attribution", "ablation", "restoration", "attention", "gradient", "integrated", "random"]
    assert plot["attribution"][0] == 0 and plot["attribution"][-1] == 1 and len(plot) == 13


def test_a_second_run_finds_everything_in_the_store_and_gives_the_same(folder: Path) -> None:
    from headflow.execution.store import ResultStore

    before = CURVES.read(folder / DATA / "curves.parquet"), RANKINGS.read(folder / DATA / "rankings.parquet")
    shutil.rmtree(folder / DATA)
    with ResultStore(folder / ".headflow/results.sqlite") as store:
        records = len(store)
    # Nothing may be captured: pictures that cannot be read would fail.
    with pytest.MonkeyPatch.context() as patch:
        import headflow.models.lvlm

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("captured again")

        patch.setattr(headflow.models.lvlm.LVLM, "capture", refuse)
        done = run(folder, "evaluate_faithfulness")
    assert done.returncode == 0, done.stderr
    assert CURVES.read(folder / DATA / "curves.parquet").equals(before[0]) and RANKINGS.read(folder / DATA / "rankings.parquet").equals(before[1])
    with ResultStore(folder / ".headflow/results.sqlite") as store:
        assert len(store) == records


def test_fewer_rankings_points_and_another_batch_size_change_no_number(folder: Path) -> None:
    before = CURVES.read(folder / DATA / "curves.parquet")
    set_params(folder, rankings=["integrated", "random"], points=6)
    content = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(content | {"ablation": {"batch_size": 3, "store": "fresh.sqlite"}}))
    assert run(folder, "evaluate_faithfulness").returncode == 0
    after = CURVES.read(folder / DATA / "curves.parquet")
    assert after["ranking"].unique(maintain_order=True).to_list() == ["integrated", "random"]
    assert after["heads"].unique().sort().to_list() == [0, 1, 3, 5, 8, 12]
    both = after.join(before, on=["id", "ranking", "scope", "heads"])
    assert len(both) == len(after)
    np.testing.assert_allclose(both["top"], both["top_right"], atol=1e-4)
    np.testing.assert_allclose(both["rest"], both["rest_right"], atol=1e-4)
    metrics = read_json(folder / "reports/metrics/evaluate_faithfulness_tiny.json")
    assert set(metrics["rankings"]["own"]) == {"integrated", "random"}
    assert pl.read_csv(folder / "reports/plots/faithfulness/tiny.csv")["attribution"].null_count() == 6


def test_whole_answers_and_another_baseline(folder: Path) -> None:
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["features"] |= {"target": "answer_logprob", "baseline": "blank"}
    content["faithfulness"] |= {"rankings": ["ablation", "gradient"], "points": 3}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    done = run(folder, *STAGES[1:])
    assert done.returncode == 0, done.stderr
    fits = FITS.read(folder / "data/attributions/tiny/fits.parquet")
    areas = AREAS.read(folder / DATA / "areas.parquet").unique("id").join(fits, on="id")
    np.testing.assert_allclose(areas["total_effect"], areas["intact"] - areas["ablated"], atol=1e-4)


def test_no_usable_example_is_said_in_numbers_not_by_a_crash(folder: Path) -> None:
    set_params(folder, rankings=["random"], points=2, least_effect=0.99)
    features = folder / "data/features/tiny/features.parquet"
    negative = AREAS.read(folder / DATA / "areas.parquet").filter(pl.col("total_effect") < 0)["id"].unique().to_list()
    assert negative
    from headflow.tables.examples import FEATURES

    FEATURES.write(FEATURES.read(features).with_columns(explained=pl.col("id").is_in(negative)), features)
    done = run(folder, "evaluate_faithfulness")
    assert done.returncode == 0, done.stderr
    metrics = read_json(folder / "reports/metrics/evaluate_faithfulness_tiny.json")
    assert metrics["examples_used"] == 0 and metrics["left_out_negative_effect"] == len(negative)
    assert metrics["most"]["own"]["faithfulness"] is None
    assert AREA_SUMMARY.read(folder / DATA / "area_summary.parquet")["area"].null_count() == 4


def test_tables_of_other_examples_or_damaged_ones_give_one_clear_line(folder: Path) -> None:
    path = folder / "data/attributions/tiny/attributions.parquet"
    whole = ATTRIBUTIONS.read(path)
    ATTRIBUTIONS.write(whole.filter(pl.col("id") != "explain-3"), path)
    done = run(folder, "evaluate_faithfulness")
    assert done.returncode == 1 and "the attribution scores of 'tiny' are of other examples than its features; run `dvc repro`" in done.stderr
    path.write_bytes(path.read_bytes()[:100])
    done = run(folder, "evaluate_faithfulness")
    assert done.returncode == 1 and "attributions.parquet: not a readable Parquet file" in done.stderr
    set_params(folder, rankings=["random", "random"])
    done = run(folder, "evaluate_faithfulness")
    assert done.returncode == 1 and "rankings: random is listed twice" in done.stderr and done.stderr.count("\n") == 1
