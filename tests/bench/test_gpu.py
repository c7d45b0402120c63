"""The benchmark of exact shapes: the shapes are those of the 7B models, and every part of it runs small on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

import headflow
from bench import gpu, shapes, subjects
from bench.rivals import expanded_cache, full_sequence
from bench.speed import suffix_flops
from headflow.errors import HeadflowError
from headflow.models.baselines import mean_baseline

REPOSITORY = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=list(shapes.SHAPES))
def subject(request: pytest.FixtureRequest) -> subjects.Subject:
    """A tiny model of each structure on its first picture."""
    shape = shapes.SHAPES[request.param]
    lvlm = shapes.build(shape, tiny=True, device=CPU, dtype=torch.float32)
    first, *others = (lvlm.capture(picture, subjects.QUESTION) for picture in shapes.pictures(shape, 3, tiny=True))
    return subjects.Subject(request.param, lvlm, first.picture, first, mean_baseline(others), first.greedy_token())


@pytest.mark.parametrize("name", list(shapes.SHAPES))
def test_exact_shapes_have_as_many_parameters_as_the_7b_models(name: str) -> None:
    shape = shapes.SHAPES[name]
    ids = {token: place for place, token in enumerate(shapes.SPECIAL)}
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(shape.config(ids))
    assert sum(weight.numel() for weight in network.parameters()) == pytest.approx(shape.parameters * 1e9, rel=0.002)
    side = shape.side // (14 if name == "llava" else 28)
    assert side**2 == 576


def test_rivals_agree_with_headflow_head_by_head(subject: subjects.Subject) -> None:
    """Full sequences can cut heads of one key head apart; a cache can not, and says so."""
    lvlm = subject.lvlm
    masks = headflow.sample_masks(lvlm.layers, lvlm.heads, 6, design="bernoulli")
    ours = headflow.run_masks(subject.capture, masks, baseline=subject.baseline)
    np.testing.assert_allclose(full_sequence(subject.capture, masks, subject.baseline, subject.token, 4), ours, atol=1e-4)
    together = shapes.whole_groups(masks, lvlm.kv_heads)
    ours = headflow.run_masks(subject.capture, together, baseline=subject.baseline)
    np.testing.assert_allclose(expanded_cache(subject.capture, together, subject.baseline, subject.token, 4), ours, atol=1e-4)
    assert np.ptp(ours) > 1e-3, "masks must make a difference, or agreement says nothing"
    if lvlm.kv_heads == lvlm.heads:
        np.testing.assert_array_equal(together, masks)
        return
    with pytest.raises(AssertionError, match="cut together"):
        expanded_cache(subject.capture, masks, subject.baseline, subject.token, 4)


def test_suffix_flops_follow_the_number_of_key_heads(subject: subjects.Subject) -> None:
    config, lvlm, capture = subject.lvlm.decoder.config, subject.lvlm, subject.capture
    width, inner, keys, suffix, prefix = 64, 64, lvlm.kv_heads * 16, capture.suffix, capture.prefix
    inside = sum(2 * inner * (prefix + row + 1) for row in range(suffix))
    layer = suffix * (2 * width * inner + 2 * width * keys + 3 * width * 160) + inside
    last = suffix * 2 * width * keys + 2 * width * inner + 3 * width * 160 + 2 * inner * (prefix + suffix)
    assert suffix_flops(subject)[0] == 2 * (layer + last + width * config.vocab_size)


def test_figures_of_a_tiny_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = gpu.run("embedded", tiny=True, model="qwen", device="cpu", profile=True)
    assert set(found) == {"card", "qwen"}
    figures = found["qwen"]
    assert [row["verdict"] for row in figures["checks"]] == ["passed", "passed"]
    assert figures["checks"][0]["agreement"] < 1e-4 < figures["checks"][0]["effect"]
    automatic = next(name for name in figures["ratios"] if name.startswith("headflow, automatic ("))
    assert figures["ratios"][automatic] == [1.0, 1.0, 1.0]
    assert {"full sequence", "expanded cache"} <= set(figures["ms_per_mask"]) == set(figures["peak_gib"])
    share, milliseconds = figures["share"][automatic][0], figures["ms_per_mask"][automatic]
    assert share == pytest.approx(figures["gflop_per_mask"] / milliseconds / figures["best_product_tflops"])
    said = capsys.readouterr().out
    assert "TINY shapes" in said and "heads that share a key head are cut together" in said and "aten::" in said


def test_a_check_that_fails_is_told_and_the_rest_is_measured(subject: subjects.Subject) -> None:
    other = subject.picture.transpose(1)
    assert gpu._checked(subject, other, "float32")["verdict"] == "passed"
    failed = gpu._checked(subject, subject.picture, "float32")  # the same picture twice: nothing can move
    assert failed["verdict"].startswith("FAILED: effect check failed") and failed["agreement"] < 1e-4


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_exact_shapes_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(HeadflowError, match="torch sees no GPU"):
        gpu.run("embedded", tiny=True, device="cuda")
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "gpu", "--results", str(results)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1 and not results.exists()
    last = [line for line in done.stderr.splitlines() if line.strip()][-1]
    assert last.startswith("bench gpu: ") and "--tiny" in last and "Traceback" not in done.stderr


def test_the_command_writes_its_figures(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "gpu", "--tiny", "--model", "llava", "--device", "cpu", "--results", str(results)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    written = json.loads(results.read_text())["gpu"]
    assert written["tiny"] is True and written["card"] == "CPU" and "llava" in written and "qwen" not in written
