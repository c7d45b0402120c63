"""Targets against plain formulas."""

import math

import pytest
import torch

from headflow.errors import HeadflowError
from headflow.targets import Target

LOGITS = torch.tensor([[1.0, 5.0, -2.0, 4.0, 0.5], [3.0, -1.0, 2.5, 2.0, 9.0]])


def test_logit():
    assert Target("logit", 1)(LOGITS).tolist() == [5.0, -1.0]


def test_logprob():
    expected = [row[1] - math.log(sum(math.exp(x) for x in row)) for row in LOGITS.tolist()]
    assert Target("logprob", 1)(LOGITS).tolist() == pytest.approx(expected, abs=1e-6)


def test_margin_over_all_other_tokens():
    assert Target("margin", 1)(LOGITS).tolist() == [1.0, -10.0]
    assert Target("margin", 4)(LOGITS).tolist() == [-4.5, 6.0]


def test_margin_over_candidates():
    assert Target("margin", 1, (0, 2))(LOGITS).tolist() == [4.0, -4.0]
    assert Target("margin", 1, (2,))(LOGITS).tolist() == [7.0, -3.5]


def test_candidates_play_no_part_in_the_others():
    for kind in ("logit", "logprob"):
        assert torch.equal(Target(kind, 1, (0, 2))(LOGITS), Target(kind, 1)(LOGITS))


@pytest.mark.parametrize("kind", ["logit", "logprob", "margin"])
def test_float32_whatever_comes_in_and_differentiable(kind):
    assert Target(kind, 1, (0, 3))(LOGITS.bfloat16()).dtype == torch.float32
    leaf = LOGITS.clone().requires_grad_(True)
    Target(kind, 1)(leaf).sum().backward()
    assert leaf.grad[:, 1].tolist() == pytest.approx([1.0, 1.0] if kind != "logprob" else (1 - LOGITS.softmax(-1)[:, 1]).tolist())


def test_large_logits_do_not_overflow():
    assert Target("logprob", 0)(torch.tensor([[1000.0, 999.0]])).item() == pytest.approx(-math.log(1 + math.exp(-1)), abs=1e-4)


def test_the_answer_is_not_its_own_rival():
    with pytest.raises(HeadflowError, match="token 1 is the answer"):
        Target("margin", 1, (0, 1))
