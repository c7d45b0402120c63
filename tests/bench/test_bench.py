"""Every part of the benchmark runs at a tiny budget, and headflow agrees with what it is compared to."""

from pathlib import Path

import numpy as np
import pytest
import torch

import headflow
from bench import masks, memory, speed, subjects
from bench.rivals import expanded_cache, full_sequence
from headflow.models.embedded.network import build_network, build_processor
from headflow.models.embedded.recipe import Recipe


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained model of the embedded one's architecture."""
    folder: Path = tmp_path_factory.mktemp("untrained")
    recipe = Recipe()
    torch.manual_seed(0)
    processor = build_processor(recipe)
    build_network(recipe, len(processor.tokenizer)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def test_the_three_implementations_agree_on_both_models(source: str) -> None:
    for subject in (subjects.embedded(source), subjects.large(source, layers=2, width=128, patches=14)):
        drawn = headflow.sample_masks(subject.lvlm.layers, subject.lvlm.heads, 6, design="bernoulli")
        assert speed.check_agreement(subject, drawn) < 1e-4
        values = full_sequence(subject.capture, drawn, subject.baseline, subject.token, 4)
        assert np.ptp(values) > 1e-3, "masks must make a difference, or agreement says nothing"


def test_batch_size_changes_no_rival_target(source: str) -> None:
    subject = subjects.embedded(source)
    drawn = headflow.sample_masks(subject.lvlm.layers, subject.lvlm.heads, 5, design="bernoulli")
    for rival in (full_sequence, expanded_cache):
        whole, parts = (rival(subject.capture, drawn, subject.baseline, subject.token, size) for size in (5, 2))
        np.testing.assert_allclose(whole, parts, atol=1e-5)


def test_rivals_leave_the_model_as_it_was(source: str) -> None:
    subject = subjects.embedded(source)
    drawn = headflow.sample_masks(subject.lvlm.layers, subject.lvlm.heads, 4, design="bernoulli")
    full_sequence(subject.capture, drawn, subject.baseline, subject.token, 4)
    expanded_cache(subject.capture, drawn, subject.baseline, subject.token, 4)
    again = subject.lvlm.capture(subject.picture, subjects.QUESTION)
    torch.testing.assert_close(again.logits, subject.capture.logits)


def test_speed_reports_ratios_and_the_matrix_share(source: str) -> None:
    figures = speed.run(source, tiny=True)
    for part in ("embedded", "large"):
        assert set(figures[part]["ratios"]) == {"full sequence", "expanded cache", "expanded cache, prefix before"}
        assert all(least <= median <= most for median, least, most in figures[part]["ratios"].values())
    assert figures["matrix_rate"]["share"][0] > 0


def test_suffix_flops_are_those_of_a_hand_count(source: str) -> None:
    subject = subjects.embedded(source)
    suffix, prefix = subject.capture.suffix, subject.capture.prefix
    vocabulary = subject.lvlm.decoder.config.vocab_size
    projections, mlp = 4 * 128 * 128, 3 * 128 * 256
    inside = sum(2 * 128 * (prefix + row + 1) for row in range(suffix))
    full = suffix * (projections + mlp) + inside
    last = suffix * 2 * 128 * 128 + 2 * 128 * 128 + mlp + 2 * 128 * (prefix + suffix)
    total, same = speed.suffix_flops(subject)
    assert total == 2 * (5 * full + last + 128 * vocabulary)
    assert same == 2 * (suffix * 3 * 128 * 128 + inside)


def test_masks_part_gives_a_curve_for_every_arm(source: str) -> None:
    figures = masks.run(source, tiny=True)
    assert set(figures["correlation"]) == set(masks.ARMS)
    assert all(-1 <= value <= 1 for curve in figures["correlation"].values() for value in curve.values())


@pytest.mark.parametrize(
    ("curve", "needed"),
    [({100: 0.98, 400: 1.0}, 200.0), ({100: 0.99, 200: 0.995}, 100.0), ({100: 0.995, 200: 0.98, 400: 0.98}, None), ({100: 0.995, 200: 0.98, 800: 1.0}, 400.0)],
)
def test_masks_needed_reads_the_curve_between_counts(curve: dict[int, float], needed: float | None) -> None:
    assert masks.masks_needed(curve) == (needed if needed is None else pytest.approx(needed))


def test_memory_peak_comes_from_a_fresh_process(source: str) -> None:
    assert 50 < memory.peak(source, 4, 1) < 4000
