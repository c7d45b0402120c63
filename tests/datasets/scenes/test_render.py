"""Scenes: reproducible, exactly masked, and with factors that vary independently."""

import itertools
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chi2_contingency, chisquare

from headflow.datasets.scenes.glyphs import GlyphBank, glyph_bank
from headflow.datasets.scenes.render import Scene, render_scene, scene
from headflow.datasets.scenes.settings import SceneSettings
from headflow.datasets.scenes.vocabulary import BACKGROUNDS, CATEGORY_OF, COLOURS, NAMES, NAMES_BY_CATEGORY, POSITIONS, STYLES

MANY = 3000


@pytest.fixture(scope="module")
def many() -> list[Scene]:
    return [scene(0, "train", i) for i in range(MANY)]


def test_a_scene_depends_on_seed_stream_and_index_alone() -> None:
    alone = scene(3, "explain", 5)
    for i in range(3):
        scene(3, "explain", i)
    again = scene(3, "explain", 5)
    assert np.array_equal(alone.image, again.image)
    assert alone.names == again.names
    others = [scene(4, "explain", 5), scene(3, "reference", 5), scene(3, "explain", 6)]
    assert all(not np.array_equal(alone.image, other.image) for other in others)


def test_the_glyph_bank_is_the_same_every_time() -> None:
    a, b = GlyphBank(), glyph_bank()
    for name in NAMES:
        left, right = (bank.pick(np.random.default_rng(0), name, handwritten=False, held_out=False) for bank in (a, b))
        assert np.array_equal(np.asarray(left.silhouette), np.asarray(right.silhouette))


def test_handwritten_digits_of_training_and_evaluation_do_not_meet() -> None:
    bank = glyph_bank()
    for name in NAMES_BY_CATEGORY["digit"]:
        training, held_out = ({glyph.silhouette.tobytes() for glyph in bank._handwritten[name, held_out]} for held_out in (False, True))
        assert len(training) > 100
        assert len(held_out) > 15
        assert not training & held_out


@pytest.mark.parametrize("image_size", [48, 96])
def test_masks_are_exact(image_size: int) -> None:
    """Painting without noise changes the pixels of the masks, and none outside the objects' boxes."""
    settings = SceneSettings(image_size=image_size, pixel_noise=0, background_contrast=(0, 0), handwritten_share=0)
    for seed in range(40):
        rendered = render_scene(np.random.default_rng(seed), settings)
        if rendered.background == "speckled":
            continue
        level = np.median(rendered.image.reshape(-1, 3), axis=0)
        changed = np.abs(rendered.image - level).max(-1) > 12
        inside_boxes = np.zeros_like(changed)
        for item in rendered.objects:
            x, y, width, height = item.box
            inside_boxes[y : y + height, x : x + width] = True
            box = np.zeros_like(changed)
            box[y : y + height, x : x + width] = True
            assert item.mask.any()
            assert not (item.mask & ~box).any()
            if item.style == "filled":
                assert changed[item.mask].all()
                assert (changed & box).sum() < 2.5 * item.mask.sum()  # soft edges only
        assert not (changed & ~inside_boxes).any()


def test_objects_do_not_overlap_and_names_are_unique(many: list[Scene]) -> None:
    for rendered in many[:500]:
        assert len(set(rendered.names)) == len(rendered.objects)
        assert sum(item.mask.astype(int) for item in rendered.objects).max() == 1
        assert [item.main for item in rendered.objects] == [True] + [False] * (len(rendered.objects) - 1)
        lefts = [item.box[0] for item in rendered.objects[1:]]
        assert lefts == sorted(lefts)
        assert all(item.category == CATEGORY_OF[item.name] for item in rendered.objects)


def test_every_value_of_every_factor_is_equally_likely(many: list[Scene]) -> None:
    for values, possible in (
        ([s.main.name for s in many], NAMES),
        ([s.main.colour for s in many], COLOURS),
        ([s.main.style for s in many], STYLES),
        ([s.background for s in many], BACKGROUNDS),
    ):
        counts = Counter(values)
        assert set(counts) == set(possible)
        assert chisquare([counts[value] for value in possible]).pvalue > 1e-4
    assert set(s.position for s in many) == set(POSITIONS)


def test_factors_are_independent_of_each_other(many: list[Scene]) -> None:
    factors = {
        "category": [s.main.category for s in many],
        "name": [s.main.name for s in many],
        "style": [s.main.style for s in many],
        "colour": [s.main.colour for s in many],
        "background": [s.background for s in many],
        "position": [s.position for s in many],
    }
    for (first, a), (second, b) in itertools.combinations(factors.items(), 2):
        if {first, second} == {"category", "name"}:
            continue
        rows, columns = sorted(set(a)), sorted(set(b))
        table = np.zeros((len(rows), len(columns)))
        for x, y in zip(a, b, strict=True):
            table[rows.index(x), columns.index(y)] += 1
        assert chi2_contingency(table).pvalue > 1e-4, f"{first} and {second} depend on each other"


def test_the_number_of_objects_has_the_shares_asked_for(many: list[Scene]) -> None:
    counts = Counter(len(s.objects) for s in many)
    expected = np.array(SceneSettings().object_count_shares) * MANY
    assert chisquare([counts[1], counts[2], counts[3]], expected).pvalue > 1e-4


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"main_size": (0.6, 0.5)}, "main_size"),
        ({"object_count_shares": (0.5, 0.5, 0.5)}, "add up to 1"),
        ({"small_size": (0.3, 0.5)}, "larger than the main"),
        ({"main_size": (0.6, 0.75)}, "no room"),
        ({"colour": 1}, "Extra inputs"),
        ({"image_size": 3}, "image_size"),
    ],
)
def test_impossible_settings_are_refused(fields: dict, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        SceneSettings(**fields)
