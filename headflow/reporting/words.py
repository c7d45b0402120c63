"""Numbers as a careful writer sets them."""

import math
from collections.abc import Sequence

MINUS = "−"
FIXED = "\u00a0"
"""A space at which no line breaks."""


def number(value: float | None, *, signed: bool = False) -> str:
    """``value`` with about three significant digits and a true minus sign; ``+`` in front where ``signed``."""
    if value is None or not math.isfinite(value):
        return "unknown"
    size = abs(value)
    if size != 0 and size < 0.001:
        mantissa, exponent = f"{size:.1e}".split("e")
        text = f"{mantissa}e{MINUS if int(exponent) < 0 else ''}{abs(int(exponent))}"
    else:
        places = 0 if size >= 1000 else 1 if size >= 10 else 3 if 0 < size < 0.01 else 2
        text = f"{size:,.{places}f}"
    sign = MINUS if value < 0 and any(digit in text for digit in "123456789") else "+" if signed else ""
    return sign + text


def interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """``low to high``, or that there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"{number(low, signed=signed)} to {number(high, signed=signed)}"


def correlation(value: float | None) -> str:
    """A correlation with two decimals, more where it is close to one."""
    if value is None or not math.isfinite(value):
        return "unknown"
    places = 2 if abs(value) < 0.995 else 3 if abs(value) < 0.9995 else 4
    return number(value) if abs(value) < 0.01 else f"{MINUS if value < 0 else ''}{abs(value):.{places}f}"


def percent(share: float | None) -> str:
    """A share as a percentage."""
    if share is None or not math.isfinite(share):
        return "unknown"
    return f"{MINUS if share < -0.0005 else ''}{abs(share) * 100:.{0 if abs(share) >= 0.095 or share == 0 else 1}f}%"


def chance(p: float | None) -> str:
    """A p-value."""
    if p is None or not math.isfinite(p):
        return "p unknown"
    return f"p{FIXED}<{FIXED}0.001" if p < 0.001 else f"p{FIXED}={FIXED}{p:.{3 if p < 0.1 else 2}f}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """``count`` with its noun, e.g. ``1 head``, ``3 heads``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(items: Sequence[str]) -> str:
    """``a, b and c``."""
    items = list(items)
    return " and ".join(items) if len(items) < 3 else ", ".join(items[:-1]) + " and " + items[-1]


def spelled(count: int) -> str:
    """``count`` as it may begin a sentence: a word up to twelve, digits beyond."""
    words = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve"]
    return words[count] if 0 <= count < len(words) else f"{count:,}"
