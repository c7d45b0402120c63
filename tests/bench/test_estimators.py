"""The benchmark of estimators: what a cost is read off, and that every part runs."""

import polars as pl
import pytest

from bench import estimators
from tests.bench.test_bench import source  # noqa: F401


@pytest.mark.parametrize(
    ("points", "cost"),
    [
        ([(10, 0.2), (100, 0.05)], 100.0), ([(10, 0.1), (40, 0.025)], 20.0), ([(10, 0.04), (20, 0.03)], 10.0), ([(10, 0.2), (100, 0.06)], None),
        ([(10, 0.1), (20, 0.3), (40, 0.025)], 20.0),
    ],
)  # fmt: skip
def test_the_cost_of_an_error_is_read_between_points_and_worse_ones_are_left_out(points, cost):
    frame = pl.DataFrame([("a", *point) for point in points], schema=["arm", "forwards", "error"], orient="row")
    assert estimators.needed(frame, "a") == (cost if cost is None else pytest.approx(cost))


def test_every_part_runs_on_a_small_budget(source, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(estimators, "FIGURE", tmp_path / "figure.png")
    figures = estimators.run(source, tiny=True)
    arms = {row["arm"] for row in figures["embedded"]["curves"]}
    assert {"bernoulli + ridge", "foldover", "mean gradient", "gradient prior"} <= arms
    assert all(row["error"] > 0 for row in figures["embedded"]["curves"])
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert figures["scale"]["prior"]["mib"] > 50
    assert figures["many_heads"]["0.06"]["r"]
