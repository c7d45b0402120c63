"""The benchmark of image tokens runs, and its reference is the Shapley value by the book."""

import numpy as np
import torch

from bench import subjects, tokens
from headflow.ablation import run_masks
from tests.bench.test_bench import source  # noqa: F401


def test_every_arm_runs_on_a_small_budget(source):  # noqa: F811
    figures = tokens.run(source, tiny=True)
    arms = {row["arm"] for row in figures["curves"]}
    assert {"masks alone", "mean local difference", "the same, scaled to the whole effect", "scaled differences and masks"} <= arms
    assert all(row["error"] > 0 and row["forwards"] > 0 for row in figures["curves"])


def test_what_a_token_adds_is_measured_run_by_run(source):  # noqa: F811
    subject = subjects.embedded(source)
    options = {"baseline": subject.baseline, "components": tokens.single_tokens(subject.capture)}
    states = np.random.default_rng(0).random((2, 36)) < 0.5
    found = tokens._by_the_book(subject.capture, states, options)
    with_it, without = states[[1, 1]], states[[1, 1]]
    with_it[:, 5], without[:, 5] = True, False
    assert isinstance(options["components"].groups, torch.Tensor)
    difference = run_masks(subject.capture, with_it, **options) - run_masks(subject.capture, without, **options)
    np.testing.assert_allclose(found[1, 5], difference[0], atol=1e-4)
