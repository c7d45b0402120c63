import pytest

from headflow.reporting import words


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (1.234, False, "1.23"), (1.234, True, "+1.23"), (-0.5, False, "−0.50"), (-0.5, True, "−0.50"), (0.0, True, "+0.00"), (-0.0, True, "+0.00"),
        (0.00567, False, "0.006"), (1234.6, False, "1,235"), (12.34, False, "12.3"), (4.4e-7, False, "4.4e−7"), (-4.4e-7, False, "−4.4e−7"),
        (None, False, "unknown"), (float("nan"), False, "unknown"), (float("inf"), True, "unknown"),
    ],
)  # fmt: skip
def test_numbers(value, signed, text):
    assert words.number(value, signed=signed) == text


def test_a_correlation_near_one_is_never_rounded_to_one():
    assert words.correlation(0.9972) == "0.997"
    assert words.correlation(0.99968) == "0.9997"
    assert words.correlation(-0.5) == "−0.50"
    assert words.correlation(None) == "unknown"


def test_an_interval_without_ends_says_so():
    assert words.interval(-0.1, 0.25, signed=True) == "−0.10 to +0.25"
    assert words.interval(None, 0.2) == words.interval(0.1, float("nan")) == "no interval"


def test_shares_and_p_values():
    assert words.percent(0.925) == "92%" and words.percent(0.0251) == "2.5%" and words.percent(-0.3) == "−30%" and words.percent(0) == "0%"
    assert words.chance(0.0004) == "p\u00a0<\u00a00.001" and words.chance(0.001) == "p\u00a0=\u00a00.001" and words.chance(0.412) == "p\u00a0=\u00a00.41"


def test_counts_agree_with_their_nouns():
    assert words.counted(1, "head") == "1 head" and words.counted(1200, "head") == "1,200 heads"
    assert words.spelled(0) == "No" and words.spelled(12) == "Twelve" and words.spelled(13) == "13"
    assert words.listed(["a"]) == "a" and words.listed(["a", "b", "c"]) == "a, b and c" and words.listed([]) == ""
