"""Pictures for the planted models: each patch of the object spells its name in cells, so that a linear map reads it off exactly.

A patch of 8 × 8 pixels is a grid of 4 × 4 cells. Eight of them, one a name, are the *code cells*: on the object the cell of its name is
bright and the seven others are dark; elsewhere all eight have one colour. So the brightness of a code cell less the mean of all eight
is 0 wherever the picture is uniform, a blank one included. Two styles draw bright and dark in warm or in cool colours of the same
brightness: what the object means and how it looks vary independently.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, UInt8
from PIL import Image

from headflow.datasets.pictures import object_entry, png
from headflow.errors import HeadflowError
from headflow.seeds import generator
from headflow.tables.examples import EXAMPLES

CATEGORIES: dict[str, tuple[str, ...]] = {"stone": ("amber", "coral", "jade", "onyx"), "tree": ("birch", "cedar", "maple", "oak")}
NAMES: dict[str, str] = {name: category for category, names in CATEGORIES.items() for name in names}
"""Name of each object → its category; the place of a name is the place of its code cell."""

STYLES = ("warm", "cool")
QUESTION = "What is the main object in the image? Answer with one word."

PATCH = 8
CELL = 2
IMAGE_SIZE = 48
GRID = IMAGE_SIZE // PATCH
OBJECT_PATCHES = 3
"""Patches along each side of the object."""

# Warm colours; the cool ones are these with red and blue exchanged. Sums over red, green and blue are the same for both.
_BRIGHT, _DARK = (225, 150, 75), (135, 75, 45)
CONTRAST = (sum(_BRIGHT) - sum(_DARK)) / 3
"""Brightness of a bright code cell less that of a dark one, 0 to 255, mean over the three colours."""

_SHIFT = 20  # every picture is brighter or darker by up to this much, as a whole
_TEXTURE = (50, 200)  # grey levels of what says nothing
_POSITIONS = ("top left", "top right", "bottom left", "bottom right")

_LABELS = ("meaning_name", "meaning_category", "looks_style", "looks_position")
EXAMPLE_SCHEMA: dict[str, Any] = {name: column.dtype for name, column in EXAMPLES.columns.items()} | dict.fromkeys(_LABELS, pl.String)


@dataclass(frozen=True)
class Pattern:
    """One picture: its pixels, and what it is a picture of."""

    image: UInt8[np.ndarray, "size size 3"]
    name: str
    style: str
    position: str
    mask: Bool[np.ndarray, "size size"]


def code_cells() -> list[tuple[int, int]]:
    """Row and column of each name's cell in the patch's grid of cells: the two middle rows."""
    return list(itertools.product((1, 2), range(PATCH // CELL)))[: len(NAMES)]


def pattern(name: str, style: str, random: np.random.Generator) -> Pattern:
    """A picture of the object ``name``; where it stands, the ground and the brightness are drawn from ``random``.

    Raises:
        HeadflowError: there is no such name or style.
    """
    for what, value, known in (("name", name, tuple(NAMES)), ("style", style, STYLES)):
        if value not in known:
            raise HeadflowError(f"{what} {value!r} of a planted picture is not one of {', '.join(known)}")
    cells = PATCH // CELL
    shape = (GRID, GRID, cells, cells, 3)  # patch row, patch column, cell row, cell column, colour
    colours = np.broadcast_to(random.integers(*_TEXTURE, (*shape[:4], 1)), shape).copy()
    ground = random.integers(*_TEXTURE, (GRID, GRID, 3))
    top, left = random.integers(0, GRID - OBJECT_PATCHES + 1, 2)
    inside = (slice(top, top + OBJECT_PATCHES), slice(left, left + OBJECT_PATCHES))
    ink = {"bright": np.array(_BRIGHT), "dark": np.array(_DARK)}
    for other, (row, column) in zip(NAMES, code_cells(), strict=True):
        colours[:, :, row, column] = ground
        colour = ink["bright" if other == name else "dark"]
        colours[(*inside, row, column)] = colour if style == "warm" else colour[::-1]
    colours += random.integers(-_SHIFT, _SHIFT + 1)
    image = colours.transpose(0, 2, 1, 3, 4).reshape(GRID * cells, GRID * cells, 3).repeat(CELL, 0).repeat(CELL, 1).astype(np.uint8)
    mask = np.zeros((GRID, GRID), bool)
    mask[inside] = True
    position = _POSITIONS[2 * (2 * top > GRID - OBJECT_PATCHES) + (2 * left > GRID - OBJECT_PATCHES)]
    return Pattern(image, name, style, position, mask.repeat(PATCH, 0).repeat(PATCH, 1))


def make_examples(*, count: int = 48, references: int = 64, seed: int = 0) -> pl.DataFrame:
    """Render pictures and ask what is on them.

    Every eight pictures in a row hold each name once, and every sixteen each name in both styles.

    Args:
        count: pictures of the split "explain".
        references: pictures of the split "reference"; a multiple of the number of names, so that their mean says nothing of any name.
        seed: of the pictures; a picture does not depend on how many are asked for.

    Returns:
        One row a picture, with the columns of ``EXAMPLE_SCHEMA``: explained ones first, in order.

    Raises:
        HeadflowError: the references do not balance.
    """
    if references % len(NAMES):
        raise HeadflowError(
            f"examples.references = {references}: planted pictures need a multiple of {len(NAMES)}, so that each name is there equally often and the mean "
            "over the references, the baseline, says nothing of any name"
        )
    rows = [_row(_drawn(seed, split, index), split, index) for split, pictures in (("explain", count), ("reference", references)) for index in range(pictures)]
    return pl.DataFrame(rows, schema=EXAMPLE_SCHEMA)


def _drawn(seed: int, split: str, index: int) -> Pattern:
    block, place = divmod(index, len(NAMES))
    number = int(generator(seed, f"planted/{split}/order", block).permutation(len(NAMES))[place])
    first = generator(seed, f"planted/{split}/styles", block // 2).random(len(NAMES)) < 0.5  # the second block of two takes the other style
    return pattern(list(NAMES)[number], STYLES[int(first[number]) ^ (block % 2)], generator(seed, f"planted/{split}/picture", index))


def _row(drawn: Pattern, split: str, index: int) -> dict[str, Any]:
    category = NAMES[drawn.name]
    return {
        "id": f"{split}-{index:05d}-object", "split": split, "row": None, "scene": index, "image": png(Image.fromarray(drawn.image)),
        "question_kind": "object", "question": QUESTION, "answer": drawn.name, "object_count": 1, "description": None,
        "objects": [object_entry(drawn.mask, name=drawn.name, main=True, category=category, style=drawn.style)],
        "meaning_name": drawn.name, "meaning_category": category, "looks_style": drawn.style, "looks_position": drawn.position,
    }  # fmt: skip
