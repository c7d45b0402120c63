"""The words of the scenes: what objects are called and what they, and what lies behind them, can look like."""

NAMES_BY_CATEGORY: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "star", "cross"),
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    # No letter "A": a description's article would name it.
    "letter": ("H", "K", "L", "T"),
    "arrow": ("up", "down", "left", "right"),
}
"""Meaning: the names of objects, by category."""

NAMES: tuple[str, ...] = tuple(name for names in NAMES_BY_CATEGORY.values() for name in names)
CATEGORY_OF: dict[str, str] = {name: category for category, names in NAMES_BY_CATEGORY.items() for name in names}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 55, 55),
    "green": (50, 215, 60),
    "blue": (70, 105, 255),
    "yellow": (240, 220, 45),
    "purple": (205, 65, 230),
    "white": (240, 240, 240),
}
"""Looks: RGB of each colour, 0 to 255."""

STYLES: tuple[str, ...] = ("filled", "outline", "dotted", "striped")
"""Looks: how an object is painted."""

BACKGROUNDS: tuple[str, ...] = ("plain", "gradient", "speckled", "banded", "checkered")
"""Looks: what lies behind the objects."""

COUNT_WORDS: tuple[str, ...] = ("one", "two", "three")
"""Answers to "how many": ``COUNT_WORDS[n - 1]`` for n objects."""

_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")
POSITIONS: tuple[str, ...] = tuple(f"{row} {column}".strip() or "centre" for row in _ROWS for column in _COLUMNS)
"""Looks: nine cells, row by row from the top left."""


def article(name: str) -> str:
    """The indefinite article that goes before ``name`` ("a star", "an eight", "an H")."""
    return "an" if name in ("eight", "up", "H", "L") else "a"
