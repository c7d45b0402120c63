"""Pictures for the planted models: exact codes, balanced factors."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.datasets.planted import CATEGORIES, CELL, CONTRAST, GRID, NAMES, PATCH, STYLES, code_cells, make_examples, pattern
from headflow.datasets.sources import make_examples as from_params
from headflow.errors import HeadflowError
from headflow.params import ExamplesParams
from headflow.tables.examples import EXAMPLES


def codes(image: np.ndarray) -> np.ndarray:
    """Brightness of each code cell less the mean of all, in units of the contrast, ``[patch rows, patch columns, names]``."""
    cells = image.astype(float).mean(2).reshape(GRID, PATCH // CELL, CELL, GRID, PATCH // CELL, CELL).mean((2, 5))
    found = np.stack([cells[:, row, :, column] for row, column in code_cells()], -1)
    return (found - found.mean(-1, keepdims=True)) / CONTRAST


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", NAMES)
def test_the_object_spells_its_name_and_the_rest_says_nothing(name: str, style: str) -> None:
    for seed in range(5):
        drawn = pattern(name, style, np.random.default_rng(seed))
        wanted = np.array([float(other == name) for other in NAMES]) - 1 / len(NAMES)
        patches = drawn.mask[::PATCH, ::PATCH]
        assert patches.sum() == 9 and drawn.mask.sum() == 9 * PATCH**2
        assert np.allclose(codes(drawn.image)[patches], wanted) and np.allclose(codes(drawn.image)[~patches], 0)


def test_style_changes_the_look_and_nothing_else() -> None:
    warm, cool = (pattern("jade", style, np.random.default_rng(7)).image.astype(int) for style in STYLES)
    assert np.array_equal(warm.sum(2), cool.sum(2)) and not np.array_equal(warm, cool)


def test_uniform_pictures_say_nothing() -> None:
    assert not codes(np.full((48, 48, 3), 128, np.uint8)).any()


def test_names_and_styles_are_balanced_and_cross() -> None:
    table = EXAMPLES.check(make_examples(count=48, references=16, seed=1), "test")
    for split, each in (("explain", 3), ("reference", 1)):
        crossed = table.filter(pl.col("split") == split).group_by("meaning_name", "looks_style").len()
        assert len(crossed) == 16 and set(crossed["len"]) == {each}
    assert dict(table.select("meaning_name", "meaning_category").unique().iter_rows()) == {n: c for c, names in CATEGORIES.items() for n in names}
    assert table["image"].n_unique() == len(table) and table["looks_position"].n_unique() == 4
    assert table["answer"].equals(table["meaning_name"].rename("answer"))


def test_a_picture_does_not_depend_on_how_many_are_asked_for() -> None:
    few, many = make_examples(count=5, references=8, seed=2), make_examples(count=20, references=16, seed=2)
    for split, pictures in (("explain", 5), ("reference", 8)):
        assert few.filter(pl.col("split") == split).equals(many.filter(pl.col("split") == split).head(pictures))
    assert not few.equals(make_examples(count=5, references=8, seed=3))


def test_the_mask_of_the_object_is_that_of_its_patches() -> None:
    row = make_examples(count=2, references=8).row(0, named=True)
    entry = row["objects"][0]
    mask = np.asarray(Image.open(io.BytesIO(entry["mask"])))
    image = np.asarray(Image.open(io.BytesIO(row["image"])))
    assert mask.shape == (48, 48) and mask.sum() == 24 * 24 and (entry["width"], entry["height"]) == (24, 24)
    assert np.array_equal(mask[::PATCH, ::PATCH], np.abs(codes(image)).max(-1) > 0.5)


def test_params_lead_here() -> None:
    params = ExamplesParams(source="planted", count=4, references=8, seed=9)
    assert from_params(params).table.equals(make_examples(count=4, references=8, seed=9))


def test_references_that_do_not_balance_are_refused() -> None:
    with pytest.raises(HeadflowError, match=r"examples.references = 20: planted pictures need a multiple of 8"):
        make_examples(references=20)
    with pytest.raises(HeadflowError, match=r"name 'ruby' of a planted picture is not one of amber"):
        pattern("ruby", "warm", np.random.default_rng(0))
