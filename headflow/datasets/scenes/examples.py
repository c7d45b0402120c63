"""The examples table of rendered scenes: one row for each question about each scene."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, UInt8
from PIL import Image

from headflow.datasets.scenes.questions import QuestionKind, ask, describe
from headflow.datasets.scenes.render import Scene, SceneObject, scene
from headflow.datasets.scenes.settings import SceneSettings
from headflow.seeds import generator
from headflow.tables.examples import EXAMPLES

_LABELS = ("meaning_name", "meaning_category", "looks_style", "looks_colour", "looks_background", "looks_position")
EXAMPLE_SCHEMA: dict[str, Any] = {name: column.dtype for name, column in EXAMPLES.columns.items()} | dict.fromkeys(_LABELS, pl.String)
"""Columns of the table: those of every examples table, and the labels of scenes, all of the main object."""


def make_examples(
    settings: SceneSettings | None = None, *, kinds: Sequence[QuestionKind] = ("object",), count: int = 48, references: int = 64, seed: int = 0
) -> pl.DataFrame:
    """Render scenes and ask about them.

    Args:
        settings: how scenes are rendered; default as the embedded model was trained.
        kinds: questions asked about each scene.
        count: scenes of the split "explain".
        references: scenes of the split "reference".
        seed: of the scenes; a scene does not depend on how many are asked for, nor a question on which others are.

    Returns:
        One row for each scene and kind, with the columns of ``EXAMPLE_SCHEMA``: explained scenes first, in order.
    """
    settings = settings or SceneSettings()
    rows = [
        row
        for split, scenes in (("explain", count), ("reference", references))
        for index in range(scenes)
        for row in _rows(scene(seed, split, index, settings), split, index, kinds, seed)
    ]
    return pl.DataFrame(rows, schema=EXAMPLE_SCHEMA)


def _rows(rendered: Scene, split: str, index: int, kinds: Sequence[QuestionKind], seed: int) -> list[dict[str, Any]]:
    """The rows of one scene."""
    shared = {
        "split": split,
        "row": None,
        "scene": index,
        "image": _png(rendered.image),
        "meaning_name": rendered.main.name,
        "meaning_category": rendered.main.category,
        "looks_style": rendered.main.style,
        "looks_colour": rendered.main.colour,
        "looks_background": rendered.background,
        "looks_position": rendered.position,
        "object_count": len(rendered.objects),
        "description": describe(rendered),
        "objects": [_object(item) for item in rendered.objects],
    }
    questions = [ask(rendered, kind, generator(seed, f"scenes/{split}/{kind}", index)) for kind in kinds]
    return [{"id": f"{split}-{index:05d}-{q.kind}", "question_kind": q.kind, "question": q.text, "answer": q.answer, **shared} for q in questions]


def _object(item: SceneObject) -> dict[str, Any]:
    x, y, width, height = item.box
    return {
        "name": item.name, "category": item.category, "colour": item.colour, "style": item.style, "main": item.main,
        "x": x, "y": y, "width": width, "height": height, "mask": _png(item.mask),
    }  # fmt: skip


def _png(pixels: UInt8[np.ndarray, "height width 3"] | Bool[np.ndarray, "height width"]) -> bytes:
    """A PNG; booleans take one bit each."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
