"""The examples table: its columns, and that asking for more changes nothing that was there."""

import io

import numpy as np
import polars as pl
from PIL import Image

from headflow.datasets.scenes.examples import EXAMPLE_SCHEMA, make_examples
from headflow.datasets.scenes.questions import QUESTION_KINDS
from headflow.datasets.scenes.render import scene


def decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_columns_types_and_rows() -> None:
    table = make_examples(kinds=QUESTION_KINDS, count=4, references=3, seed=1)
    assert dict(table.schema) == EXAMPLE_SCHEMA
    assert table.height == (4 + 3) * 6
    assert table["id"].n_unique() == table.height
    assert table["id"][0] == "explain-00000-object"
    assert table.filter(pl.col("split") == "reference")["scene"].unique().sort().to_list() == [0, 1, 2]
    assert table.drop("row").null_count().sum_horizontal().item() == 0
    assert table["row"].null_count() == len(table)


def test_pictures_and_masks_survive_as_png() -> None:
    row = make_examples(count=1, references=0, seed=2).row(0, named=True)
    rendered = scene(2, "explain", 0)
    assert np.array_equal(decode(row["image"]), rendered.image)
    assert row["looks_position"] == rendered.position
    assert row["object_count"] == len(row["objects"]) == len(rendered.objects)
    for found, item in zip(row["objects"], rendered.objects, strict=True):
        assert Image.open(io.BytesIO(found["mask"])).mode == "1"
        assert np.array_equal(decode(found["mask"]), item.mask)
        assert (found["x"], found["y"], found["width"], found["height"]) == item.box
        assert (found["name"], found["colour"], found["main"]) == (item.name, item.colour, item.main)


def test_more_scenes_or_more_kinds_change_no_row() -> None:
    few = make_examples(kinds=["colour_of", "exists"], count=3, references=2)
    more = make_examples(kinds=["exists", "object", "colour_of"], count=6, references=5)
    assert few.sort("id").equals(more.filter(pl.col("id").is_in(few["id"].implode())).sort("id"))


def test_the_data_set_needs_no_torch() -> None:
    import subprocess
    import sys

    modules = "headflow.datasets.scenes.examples, headflow.models.embedded.recipe, headflow.models.embedded.shipped, sys"
    subprocess.run([sys.executable, "-c", f"import {modules}; assert not {{'torch', 'transformers'}} & set(sys.modules)"], check=True)
