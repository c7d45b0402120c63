"""From a random generator to a scene: the picture and the truth about it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from headflow.datasets.scenes.backgrounds import paint_background
from headflow.datasets.scenes.glyphs import glyph_bank
from headflow.datasets.scenes.settings import SceneSettings
from headflow.datasets.scenes.vocabulary import BACKGROUNDS, CATEGORY_OF, COLOURS, NAMES, POSITIONS, STYLES
from headflow.errors import HeadflowError
from headflow.seeds import generator

Box = tuple[int, int, int, int]
"""x and y of the top left corner, width and height, pixels."""

TRAINING_STREAM = "train"
"""The one stream of scenes with the training half of the handwritten digits; every other stream has the held-out ones."""

_COVERED = 0.4  # a pixel belongs to an object that covers at least this share of it
_GAP = 1  # pixels kept free around every object
_LAYOUT_ATTEMPTS = 2000


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is, what it looks like and which pixels it takes (its silhouette, an outline's inside included)."""

    name: str
    category: str
    colour: str
    style: str
    handwritten: bool
    main: bool
    box: Box
    mask: Bool[np.ndarray, "size size"]


@dataclass(frozen=True)
class Scene:
    """A picture and its objects: the main one first, then the small ones from left to right."""

    image: UInt8[np.ndarray, "size size 3"]
    background: str
    objects: tuple[SceneObject, ...]

    @property
    def main(self) -> SceneObject:
        """The large object."""
        return self.objects[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the objects, each once."""
        return tuple(item.name for item in self.objects)

    @property
    def position(self) -> str:
        """Which of nine equal parts of the places it could be in the main object is in, such as "top left"."""
        x, y, width, height = self.main.box
        size = len(self.image)
        column, row = 3 * x // (size - width + 1), 3 * y // (size - height + 1)
        return POSITIONS[3 * row + column]


def scene(seed: int, stream: str, index: int, settings: SceneSettings | None = None) -> Scene:
    """Scene ``index`` of a stream: the same whatever other scenes are asked for."""
    return render_scene(generator(seed, f"scenes/{stream}", index), settings or SceneSettings(), held_out=stream != TRAINING_STREAM)


def render_scene(rng: np.random.Generator, settings: SceneSettings, *, held_out: bool = False) -> Scene:
    """Draw every factor independently and paint the scene.

    Args:
        rng: all randomness comes from here.
        settings: ranges to draw from.
        held_out: take handwritten digits from the half that training never sees.

    Raises:
        HeadflowError: the settings leave no room for the objects.
    """
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    canvas = paint_background(rng, background, settings)
    boxes = _lay_out(rng, 1 + rng.choice(3, p=np.array(settings.object_count_shares) / sum(settings.object_count_shares)), settings)
    names = [NAMES[i] for i in rng.permutation(len(NAMES))[: len(boxes)]]
    objects = [_paint_object(rng, canvas, name, box, settings, main=i == 0, held_out=held_out) for i, (name, box) in enumerate(zip(names, boxes, strict=True))]
    canvas += settings.pixel_noise * rng.standard_normal(canvas.shape, np.float32)
    ordered = (objects[0], *sorted(objects[1:], key=lambda item: item.box[0]))
    return Scene(np.clip(canvas, 0, 255).astype(np.uint8), background, ordered)


def _lay_out(rng: np.random.Generator, count: int, settings: SceneSettings) -> list[Box]:
    """Boxes that do not touch, the main one first. All are drawn anew after a clash, so the number of objects stays as drawn."""
    for _ in range(_LAYOUT_ATTEMPTS):
        boxes = [_random_box(rng, settings.main_size if i == 0 else settings.small_size, settings.image_size) for i in range(count)]
        if not any(_touch(a, b) for i, a in enumerate(boxes) for b in boxes[:i]):
            return boxes
    raise HeadflowError(f"no room for {count} objects in {_LAYOUT_ATTEMPTS} attempts; lower main_size {settings.main_size} or small_size {settings.small_size}")


def _random_box(rng: np.random.Generator, sides: tuple[float, float], image_size: int) -> Box:
    """A nearly square box anywhere in the picture."""
    low, high = sides
    size, narrowing, shortening, right, down = rng.random(5).tolist()
    side = (low + (high - low) * size) * image_size
    width, height = round(side * (0.85 + 0.15 * narrowing)), round(side * (0.85 + 0.15 * shortening))
    return int(right * (image_size - width + 1)), int(down * (image_size - height + 1)), width, height


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[0] + b[2] + _GAP and b[0] < a[0] + a[2] + _GAP and a[1] < b[1] + b[3] + _GAP and b[1] < a[1] + a[3] + _GAP


def _paint_object(
    rng: np.random.Generator, canvas: Float32[np.ndarray, "size size 3"], name: str, box: Box, settings: SceneSettings, *, main: bool, held_out: bool
) -> SceneObject:
    """Paint one object on the canvas, in place. Small objects are always filled: other styles would not be visible."""
    colour = list(COLOURS)[rng.integers(len(COLOURS))]
    style = STYLES[rng.integers(len(STYLES))] if main else "filled"
    # The rim of a thin handwritten stroke cannot be read, so outlined digits are always drawn with the font.
    handwritten = CATEGORY_OF[name] == "digit" and style != "outline" and rng.random() < settings.handwritten_share
    glyph = glyph_bank().pick(rng, name, handwritten=handwritten, held_out=held_out)
    x, y, width, height = box
    paint = _coverage(glyph.rim if style == "outline" else glyph.silhouette, width, height)
    rgb = np.clip(np.array(COLOURS[colour]) + rng.uniform(-settings.colour_jitter, settings.colour_jitter, 3), 0, 255)
    area = canvas[y : y + height, x : x + width]
    area += paint[..., None] * (rgb * _texture(style, width, height)[..., None] - area)
    mask = np.zeros(canvas.shape[:2], bool)
    mask[y : y + height, x : x + width] = _coverage(glyph.silhouette, width, height) >= _COVERED
    return SceneObject(name, CATEGORY_OF[name], colour, style, handwritten, main, box, mask)


def _coverage(glyph: Image.Image, width: int, height: int) -> Float32[np.ndarray, "height width"]:
    """The share of each pixel that a glyph covers when scaled to a box."""
    resample = Image.Resampling.BOX if min(width, height) < 20 else Image.Resampling.BILINEAR
    return np.asarray(glyph.resize((width, height), resample)).astype(np.float32) / 255


def _texture(style: str, width: int, height: int) -> Float32[np.ndarray, "height width"]:
    """Brightness of the paint, 0 to 1."""
    y, x = np.mgrid[0:height, 0:width]
    match style:
        case "striped":
            return np.where((x + y) // 2 % 2 == 0, 1.0, 0.55).astype(np.float32)
        case "dotted":
            return np.where((x % 4 < 2) & (y % 4 < 2), 0.45, 1.0).astype(np.float32)
    return np.ones((height, width), np.float32)
