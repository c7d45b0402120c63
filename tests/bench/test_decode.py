"""The benchmark of generation under gates runs, and its arms generate what they should."""

from bench import decode
from tests.bench.test_bench import source  # noqa: F401


def test_every_arm_generates(source):  # noqa: F811
    """It stops by itself where the tokens without gates are not those of ``generate``."""
    figures = decode.run(source, tiny=True)
    for subject, layers in (("embedded", 6), ("large", 2)):
        assert figures[subject]["knockouts"] == 3 * layers
        assert figures[subject]["ratios"]["sweep, one batch"] == [1, 1, 1]
        assert all(0 < least <= median <= most for median, least, most in figures[subject]["ratios"].values())
        assert set(figures[subject]["tokens_per_second"]) == set(figures[subject]["ratios"])
