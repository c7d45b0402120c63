"""What each name looks like before it is coloured: greyscale silhouettes, drawn once."""

import functools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from headflow.datasets.scenes.vocabulary import CATEGORY_OF, NAMES, NAMES_BY_CATEGORY

GLYPH_SIZE = 64
"""Width and height of a silhouette, pixels."""

VARIANTS = 6
"""Drawn silhouettes of each name: they differ in tilt and, for characters, in stroke width."""

_TILT_DEGREES = 6.0
_RIM_PIXELS = {"shape": 9, "arrow": 9, "digit": 7, "letter": 7}
_HELD_OUT_SHARE = 1 / 6
_ARROW_TURN_DEGREES = {"up": 0, "left": 90, "down": 180, "right": 270}


@dataclass(frozen=True)
class Glyph:
    """One way to draw a name."""

    name: str
    silhouette: Image.Image

    @functools.cached_property
    def rim(self) -> Image.Image:
        """What an erosion takes away from the silhouette."""
        eroded = self.silhouette.filter(ImageFilter.MinFilter(_RIM_PIXELS[CATEGORY_OF[self.name]]))
        rim = np.asarray(self.silhouette).astype(np.int16) - np.asarray(eroded)
        return Image.fromarray(np.clip(rim, 0, 255).astype(np.uint8))


class GlyphBank:
    """Silhouettes of every name, 0 outside and 255 inside; handwritten digits are split so that training never sees the held-out ones."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._drawn = {name: [Glyph(name, _draw(name, rng)) for _ in range(VARIANTS)] for name in NAMES}
        self._handwritten = _handwritten_digits()

    def pick(self, rng: np.random.Generator, name: str, *, handwritten: bool, held_out: bool) -> Glyph:
        """One glyph of ``name``; ``handwritten`` is for digits only, ``held_out`` chooses their split."""
        choices = self._handwritten[name, held_out] if handwritten else self._drawn[name]
        return choices[rng.integers(len(choices))]


@functools.cache
def glyph_bank() -> GlyphBank:
    """The bank, built on first use (about half a second) and then shared."""
    return GlyphBank()


def _draw(name: str, rng: np.random.Generator) -> Image.Image:
    """A silhouette of ``name`` with a random small tilt, trimmed and centred in a square."""
    size = 2 * GLYPH_SIZE
    canvas = Image.new("L", (size, size), 0)
    pen = ImageDraw.Draw(canvas)
    centre, radius = size / 2, size * 0.44
    match CATEGORY_OF[name]:
        case "shape":
            _draw_shape(pen, name, centre, radius)
        case "arrow":
            _draw_up_arrow(pen, centre, radius)
            canvas = canvas.rotate(_ARROW_TURN_DEGREES[name])
        case _:
            character = str(NAMES_BY_CATEGORY["digit"].index(name)) if CATEGORY_OF[name] == "digit" else name
            stroke = int(rng.integers(3, 7))
            pen.text((centre, centre), character, font=ImageFont.load_default(size=110), fill=255, anchor="mm", stroke_width=stroke, stroke_fill=255)
    canvas = canvas.rotate(float(rng.uniform(-_TILT_DEGREES, _TILT_DEGREES)), resample=Image.Resampling.BILINEAR)
    trimmed = canvas.crop(canvas.getbbox())
    side = max(trimmed.size)
    square = Image.new("L", (side, side), 0)
    square.paste(trimmed, ((side - trimmed.size[0]) // 2, (side - trimmed.size[1]) // 2))
    return square.resize((GLYPH_SIZE, GLYPH_SIZE), Image.Resampling.BILINEAR)


def _draw_shape(pen: ImageDraw.ImageDraw, name: str, centre: float, radius: float) -> None:
    def corners(count: int, *radii: float) -> list[tuple[float, float]]:
        """Points around the centre from the top; the radii take turns."""
        angles = -np.pi / 2 + 2 * np.pi * np.arange(count) / count
        return [(centre + radii[i % len(radii)] * np.cos(a), centre + radii[i % len(radii)] * np.sin(a)) for i, a in enumerate(angles)]

    def box(half_width: float, half_height: float) -> tuple[float, float, float, float]:
        return centre - half_width, centre - half_height, centre + half_width, centre + half_height

    match name:
        case "circle":
            pen.ellipse(box(radius, radius), fill=255)
        case "square":
            pen.rectangle(box(0.85 * radius, 0.85 * radius), fill=255)
        case "triangle":
            pen.polygon(corners(3, 1.1 * radius), fill=255)
        case "star":
            pen.polygon(corners(10, 1.1 * radius, 0.45 * radius), fill=255)
        case "cross":
            pen.rectangle(box(0.32 * radius, radius), fill=255)
            pen.rectangle(box(radius, 0.32 * radius), fill=255)


def _draw_up_arrow(pen: ImageDraw.ImageDraw, centre: float, radius: float) -> None:
    half = [(0.0, -1.0), (0.9, 0.0), (0.35, 0.0), (0.35, 1.0)]
    whole = half + [(-x, y) for x, y in reversed(half[1:])]
    pen.polygon([(centre + radius * x, centre + radius * y) for x, y in whole], fill=255)


def _handwritten_digits() -> dict[tuple[str, bool], list[Glyph]]:
    """scikit-learn's 8 × 8 handwritten digits, enlarged and trimmed, by (name, held out)."""
    from sklearn.datasets import load_digits  # slow to import, and only the bank needs it

    digits = load_digits()
    order = np.random.default_rng(1).permutation(len(digits.images))
    held_out = set(order[: int(len(order) * _HELD_OUT_SHARE)].tolist())
    glyphs: dict[tuple[str, bool], list[Glyph]] = defaultdict(list)
    for index, (levels, value) in enumerate(zip(digits.images, digits.target, strict=True)):
        enlarged = Image.fromarray((levels / 16 * 255).astype(np.uint8)).resize((GLYPH_SIZE, GLYPH_SIZE), Image.Resampling.BICUBIC)
        sharp = Image.fromarray(_sharpen(np.asarray(enlarged)))
        trimmed = sharp.crop(sharp.getbbox()).resize((GLYPH_SIZE - 8, GLYPH_SIZE), Image.Resampling.BILINEAR)
        name = NAMES_BY_CATEGORY["digit"][value]
        glyphs[name, index in held_out].append(Glyph(name, trimmed))
    return dict(glyphs)


def _sharpen(levels: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """Steepen the blurred edges that enlarging leaves."""
    return np.clip((levels.astype(np.float32) - 60) * 2.2, 0, 255).astype(np.uint8)
