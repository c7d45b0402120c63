"""sample_masks, fit_attributions and cluster_heads, one after another, on a small planted model."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from headflow.attribution.masks import unpack
from headflow.files import read_json, write_json
from headflow.models.prepared import PreparedModel
from headflow.tables.ablations import ATTRIBUTIONS, FITS, GRADIENTS, GROWTH, HEAD_SUMMARY, MASKS, PREDICTIONS, TARGETS
from headflow.tables.clusters import EXAMPLE_MAP, HEAD_CLUSTERS, PROFILES, SEPARATION
from headflow.tables.examples import EXAMPLES, FEATURES
from headflow.tables.schema import Table
from stages.door import enter

ROOT = Path(__file__).resolve().parents[2]
LAYERS, HEADS, SCENES = 3, 4, 18
MODEL = PreparedModel(
    key="tiny", id="embedded", source=None, revision=None, dtype="float32", architecture="LlavaForConditionalGeneration", layers=LAYERS, heads=HEADS,
    kv_heads=HEADS, trust_remote_code=False, attn="auto", quantization=None, decoder_layers=LAYERS, image_layers=None, fingerprint="0" * 64,
)  # fmt: skip
NAMES, COLOURS = ("cat", "dog", "cup"), ("red", "blue")


def run(folder: Path, stage: str) -> subprocess.CompletedProcess[str]:
    """Run a stage through its door in this process, which spares the imports; the first test below starts real ones."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [stage, "tiny"])
        try:
            enter(importlib.import_module(f"stages.{stage}").main)
        except SystemExit as stop:
            status = stop.code
    return subprocess.CompletedProcess([stage], status, out.getvalue(), err.getvalue())


def run_alone(folder: Path, stage: str) -> subprocess.CompletedProcess[str]:
    """Run a stage as DVC does."""
    command = [sys.executable, "-m", f"stages.{stage}", "tiny"]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300)


def complete(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with the table's types, and null in the columns that these stages do not look at."""
    return frame.with_columns(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(column.dtype, strict=False).alias(name) for name, column in table.columns.items()
    )


def examples() -> pl.DataFrame:
    rows = [
        {
            "id": f"explain-{scene:05d}-object", "split": "explain", "row": None, "scene": scene, "image": b"", "question_kind": "object",
            "answer": NAMES[scene % 3],
            "meaning_name": NAMES[scene % 3], "looks_colour": COLOURS[scene // 3 % 2],
        }
        for scene in range(SCENES)
    ]  # fmt: skip
    return complete(EXAMPLES, pl.DataFrame(rows))


def features(frame: pl.DataFrame, stock: np.ndarray) -> pl.DataFrame:
    """Every example is explained but the last."""
    count = len(frame)
    columns = {"id": frame["id"], "explained": [True] * (count - 1) + [False], "stock_target": stock}
    return complete(FEATURES, pl.DataFrame(columns))


def model(masks: np.ndarray) -> np.ndarray:
    """Targets [examples, masks]: heads 0 and 1 of layer 1 carry everything, heads 0 to 2 of layer 2 one name each, with pairs that compensate."""
    signs, name = np.where(masks, 1.0, -1.0), np.arange(SCENES) % 3
    targets = 1.0 * signs[:, 1, 0] + 0.8 * signs[:, 1, 1] - 0.5 * signs[:, 1, 0] * signs[:, 1, 1]
    # stands for noise, and yet a mask run twice gives the same target
    noise = 0.07 * np.sin(1000 * np.random.default_rng(7).normal(size=(SCENES, LAYERS * HEADS)) @ signs.reshape(len(masks), -1).T)
    return 4.0 + targets + 2.0 * signs[:, 2].T[name] + noise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project folder with everything that comes before sample_masks."""
    params = {"models": {"tiny": {}}, "masks": {"count": 64, "held_out": 32}, "clusters": {"permutations": 99}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    write_json(tmp_path / "data/models/tiny/model.json", MODEL.model_dump())
    EXAMPLES.write(examples(), tmp_path / "data/examples.parquet")
    return tmp_path


def ablate(folder: Path) -> None:
    """What the stages between sample_masks and fit_attributions leave behind."""
    table = MASKS.read(folder / "data/masks/tiny.parquet")
    masks = unpack(table["bits"].to_list(), LAYERS, HEADS)
    corner = (table["purpose"] == "corner").to_numpy()
    if corner.any():
        write_gradients(folder, table.filter(corner)["mask"], masks[corner])
    table, masks = table.filter(~corner), masks[~corner]
    frame, targets = examples(), model(masks)
    FEATURES.write(features(frame, targets[:, table["mask"].index_of(0)]), folder / "data/features/tiny/features.parquet")
    columns = {"id": np.repeat(frame["id"].to_numpy(), len(table)), "mask": np.tile(table["mask"].to_numpy(), SCENES), "target": targets.ravel()}
    rows = pl.DataFrame(columns).filter(pl.col("id") != frame["id"][-1]).sample(fraction=1, shuffle=True, seed=0)
    TARGETS.write(rows.cast({"id": pl.String}), folder / "data/targets/tiny.parquet")


def write_gradients(folder: Path, numbers: pl.Series, corners: np.ndarray, bias: float = 0.3) -> None:
    """Gradients at every corner: the difference that each head makes there, and in the same head of every example a bias that no corner shows."""
    slopes = np.empty((SCENES, len(corners), LAYERS, HEADS))
    for layer, head in np.ndindex(LAYERS, HEADS):
        on, off = corners.copy(), corners.copy()
        on[:, layer, head], off[:, layer, head] = True, False
        slopes[:, :, layer, head] = model(on) - model(off)
    slopes[:, :, 0, 0] += bias
    ids = examples()["id"][:-1]
    columns = {
        "id": np.repeat(ids.to_numpy(), len(corners)), "mask": np.tile(numbers.to_numpy(), len(ids)),
        "target": model(corners)[:-1].ravel(), "gradient": slopes[:-1].reshape(-1, LAYERS * HEADS),
    }  # fmt: skip
    frame = pl.DataFrame(columns).cast({name: column.dtype for name, column in GRADIENTS.columns.items()})
    GRADIENTS.write(frame.sample(fraction=1, shuffle=True, seed=1), folder / "data/gradients/tiny.parquet")


@pytest.fixture
def ablated(folder: Path) -> Path:
    assert run(folder, "sample_masks").returncode == 0
    ablate(folder)
    return folder


def test_the_three_stages_find_what_was_planted(folder: Path) -> None:
    done = run_alone(folder, "sample_masks")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    ablate(ablated := folder)
    done = run_alone(ablated, "fit_attributions")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    data = ablated / "data/attributions/tiny"
    attributions = ATTRIBUTIONS.read(data / "attributions.parquet")
    assert attributions["id"].n_unique() == SCENES - 1
    dog = attributions.filter(id="explain-00001-object")
    expected = np.zeros((LAYERS, HEADS))
    expected[1, :2], expected[2, 1] = (2.0, 1.6), 4.0
    np.testing.assert_allclose(dog["attribution"].to_numpy().reshape(LAYERS, HEADS), expected, atol=0.1)
    assert dog.filter(layer=1, head=0)["single_head_effect"][0] == pytest.approx(1.0, abs=0.3)  # its partner compensates for half
    assert dog["standard_error"].min() > 0 and dog["standard_error"].max() < 0.1
    assert FITS.read(data / "fits.parquet")["held_out_r"].min() > 0.95
    assert len(PREDICTIONS.read(data / "predictions.parquet")) == (SCENES - 1) * 32
    assert GROWTH.read(data / "growth.parquet")["masks"].unique().sort().to_list() == [16, 32, 64]
    summary = HEAD_SUMMARY.read(data / "head_summary.parquet")
    assert summary["group"].unique(maintain_order=True).to_list() == [
        "all", "meaning_name=cat", "meaning_name=cup", "meaning_name=dog", "looks_colour=blue", "looks_colour=red"
    ]  # fmt: skip
    for head, (name, count) in enumerate((("cat", 6), ("dog", 6), ("cup", 5))):
        row = summary.filter(group=f"meaning_name={name}", layer=2, head=head).row(0, named=True)
        assert row["low"] < row["mean"] < row["high"] and row["mean"] == pytest.approx(4.0, abs=0.1) and row["examples"] == count

    metrics = read_json(ablated / "reports/metrics/fit_attributions_tiny.json")
    assert metrics.keys() == {
        "examples", "fit_masks", "held_out_masks", "estimator", "mean_held_out_r", "min_held_out_r", "mean_held_out_r2", "min_held_out_r2",
        "examples_without_r", "mean_agreement_r", "relative_standard_error", "mean_total_effect", "mean_sum_of_attributions",
        "mean_sum_of_single_head_effects", "largest_gap_intact_to_stock", "corners", "estimand", "mean_fit_masks", "mean_forwards",
        "mean_relative_error", "largest_relative_error",
    }  # fmt: skip
    assert (metrics["examples"], metrics["fit_masks"], metrics["held_out_masks"], metrics["estimator"]) == (SCENES - 1, 64, 32, "prior")
    assert metrics["mean_total_effect"] == pytest.approx(7.6, abs=0.1)
    assert metrics["mean_sum_of_attributions"] == pytest.approx(7.6, abs=0.1)
    assert metrics["mean_sum_of_single_head_effects"] == pytest.approx(5.6, abs=0.4)
    assert metrics["largest_gap_intact_to_stock"] == 0
    assert 0 < metrics["relative_standard_error"] < 0.02
    assert metrics["mean_agreement_r"] > 0.99

    done = run_alone(ablated, "cluster_heads")
    assert done.returncode == 0, done.stderr
    data = ablated / "data/clusters/tiny"
    clusters = HEAD_CLUSTERS.read(data / "head_clusters.parquet")
    assert clusters.filter(pl.col("cluster") >= 0).select("layer", "head").rows() == [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    assert clusters.filter(layer=1).head(2)["cluster"].n_unique() == 1
    assert PROFILES.read(data / "profiles.parquet").filter(layer=2, head=0, name="cat")["attribution"][0] == pytest.approx(4.0, abs=0.1)
    assert EXAMPLE_MAP.read(data / "example_map.parquet")["id"].to_list() == attributions["id"].unique(maintain_order=True).to_list()
    separation = {row["label"]: row for row in SEPARATION.read(data / "separation.parquet").iter_rows(named=True)}
    assert separation["meaning_name"]["silhouette"] > 0.8 and separation["meaning_name"]["silhouette_p"] == 0.01
    assert separation["looks_colour"]["silhouette"] < 0.1 and separation["looks_colour"]["silhouette_p"] > 0.05
    metrics = read_json(ablated / "reports/metrics/cluster_heads_tiny.json")
    assert metrics["heads_clustered"] == 5
    assert metrics["finding"] == f"{metrics['clusters']} clusters"
    assert metrics["silhouette"] > 0.3
    assert metrics["separation"]["meaning_name"]["purity"] == separation["meaning_name"]["purity"]


@pytest.mark.parametrize(
    ("masks", "estimator"),
    [
        ({"design": "single", "count": LAYERS * HEADS}, "single"),
        ({"count": 20, "corners": 0}, "lasso"),
        ({"count": 24, "corners": 0}, "foldover"),
        ({"count": 20, "corners": 4}, "prior"),
        ({"design": "bernoulli", "count": 40, "ablation_probability": 0.3, "corners": 0}, "ridge"),
        ({"design": "bernoulli", "count": 40, "ablation_probability": 0.3}, "prior"),
        ({"estimand": "shapley", "count": 64}, "prior"),
        ({"estimand": "shapley", "count": 64, "corners": 0}, "foldover"),
        ({"design": "kernel", "count": 128}, "prior"),
    ],
)
def test_other_designs_run_through(folder: Path, masks: dict, estimator: str) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump(params | {"masks": {"held_out": 20} | masks}))
    assert run(folder, "sample_masks").returncode == 0
    ablate(folder)
    done = run(folder, "fit_attributions")
    assert done.returncode == 0, done.stderr
    metrics = read_json(folder / "reports/metrics/fit_attributions_tiny.json")
    assert metrics["estimator"] == estimator
    assert metrics["fit_masks"] == masks["count"]
    if estimator == "single":
        frame = ATTRIBUTIONS.read(folder / "data/attributions/tiny/attributions.parquet")
        np.testing.assert_allclose(frame["attribution"], frame["single_head_effect"])
        assert metrics["mean_agreement_r"] is None and metrics["relative_standard_error"] == 0


def test_a_target_that_never_varies_is_null_in_the_tables_and_counted(ablated: Path) -> None:
    path = ablated / "data/targets/tiny.parquet"
    first = pl.col("id") == "explain-00000-object"
    TARGETS.write(TARGETS.read(path).with_columns(target=pl.when(first).then(2.0).otherwise("target")), path)
    assert run(ablated, "fit_attributions").returncode == 0
    fits = FITS.read(ablated / "data/attributions/tiny/fits.parquet")
    assert fits.filter(first).select("held_out_r", "held_out_r2").row(0) == (None, None)
    assert not fits.select(pl.exclude("id").is_nan().any()).row(0).count(True)
    metrics = read_json(ablated / "reports/metrics/fit_attributions_tiny.json")
    assert metrics["examples_without_r"] == 1 and metrics["mean_held_out_r"] > 0.9
    assert run(ablated, "cluster_heads").returncode == 0  # a vector of zeros has a place on the map


def one_clear_line(folder: Path, stage: str, run=run) -> str:
    """The message of a stage that must fail for a reason that its user can mend."""
    done = run(folder, stage)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("fit_attributions", "data/targets/tiny.parquet"), ("fit_attributions", "data/masks/tiny.parquet"), ("fit_attributions", "data/examples.parquet"),
        ("fit_attributions", "data/features/tiny/features.parquet"), ("cluster_heads", "data/attributions/tiny/attributions.parquet"),
    ],
)  # fmt: skip
def test_a_truncated_or_missing_table_gives_one_clear_line(ablated: Path, stage: str, name: str) -> None:
    path = ablated / name
    if stage == "cluster_heads":
        assert run(ablated, "fit_attributions").returncode == 0
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"{name}: not a readable Parquet file" in one_clear_line(ablated, stage)
    path.unlink()
    assert f"{name}: missing; run `dvc repro`" in one_clear_line(ablated, stage)


@pytest.mark.parametrize("change", [{"heads": None}, {"heads": True}, {"heads": 0}, {"layers": "three"}])
def test_a_model_without_shape_is_named(folder: Path, change: dict) -> None:
    write_json(folder / "data/models/tiny/model.json", MODEL.model_dump() | change)
    line = one_clear_line(folder, "sample_masks")
    assert f"model.json: not a prepared model ({next(iter(change))}: " in line


def test_masks_that_cannot_be_drawn_are_named(folder: Path) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump({"models": {"tiny": {}}, "masks": {"design": "single", "count": 13}}))
    assert "masks.count = 13: design 'single' has one mask for each of the 12 heads" in one_clear_line(folder, "sample_masks", run_alone)


def test_targets_that_are_missing_or_not_finite_name_their_example(ablated: Path) -> None:
    path = ablated / "data/targets/tiny.parquet"
    whole = TARGETS.read(path)
    one = (pl.col("id") == "explain-00003-object") & (pl.col("mask") == 3_000_005)
    TARGETS.write(whole.filter(~one), path)
    assert "no entries for example explain-00003-object, mask 3000005" in one_clear_line(ablated, "fit_attributions")
    TARGETS.write(whole.with_columns(target=pl.when(one).then(float("nan")).otherwise("target")), path)
    assert "example explain-00003-object: its target under fit mask 5 is nan" in one_clear_line(ablated, "fit_attributions")


def test_nothing_to_explain_is_said(ablated: Path) -> None:
    path = ablated / "data/features/tiny/features.parquet"
    FEATURES.write(FEATURES.read(path).with_columns(explained=pl.lit(False)), path)
    assert "no example is to be explained" in one_clear_line(ablated, "fit_attributions")


def test_sampling_masks_loads_no_heavy_library() -> None:
    code = "import sys, stages.sample_masks; print(*sorted({'torch', 'transformers', 'sklearn', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
