"""The benchmark of attention shares measures the same thing in all its arms."""

import pytest

from bench import sharing, subjects
from tests.bench.test_bench import source  # noqa: F401


def test_the_arms_agree_on_the_shares(source):  # noqa: F811
    lvlm = subjects.large(source, layers=2, width=64, patches=8, head_width=16).lvlm
    shares = [sharing._shares(lvlm, arm, sharing._capture(lvlm) if arm == "captured" else None).tolist() for arm in sharing.ARMS]
    assert all(found == pytest.approx(shares[0], abs=1e-5) for found in shares) and sum(shares[0]) == pytest.approx(1)
    assert min(shares[0]) > 0.01
