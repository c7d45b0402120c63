"""Maps against masks: numbers by hand, by scikit-learn pair by pair, and by chance."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from headflow.analysis.localisation import STATISTICS, auroc, ceilings, chances, inside_of, namings, placed

# Four tokens on a picture of 4 × 4 pixels, and a newline that shows none of it.
BOXES = np.array([[0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4], [np.nan] * 4], float)


def mask(*rows: str) -> np.ndarray:
    return np.array([[cell == "x" for cell in row] for row in rows])


OWN = mask("xxx.", "xxx.", "....", "....")


@dataclass
class Named:
    name: str
    start: int
    stop: int


def test_statistics_by_hand():
    inside = inside_of(BOXES, OWN)
    np.testing.assert_array_equal(inside, [1, 0.5, 0, 0, np.nan])
    found = placed(np.array([[4.0, 2, 1, 1, 90], [-1, 3, -5, 1, 0], [0, 0, 0, 0, 7], [2, 2, 1, 0, 0]]), inside)
    np.testing.assert_allclose(found.share, [5 / 8, 1.5 / 4, np.nan, 3 / 5])
    np.testing.assert_allclose(found.pointing, [1, 0.5, 1.5 / 4, 1.5 / 2])
    # Pairs of a token inside (weights 1, 0.5) with one outside (0.5, 1, 1); a token of both kinds ties with itself.
    np.testing.assert_allclose(found.auroc[[0, 2]], [(1 * 2.5 + 0.5 * (0.5 / 2 + 2)) / (1.5 * 2.5), 0.5])


def by_pairs(values, inside):
    total = sum(
        weight * (1 - outside) * ((one > other) + 0.5 * (one == other))
        for (one, weight), (other, outside) in itertools.product(zip(values, inside, strict=True), repeat=2)
    )
    return total / (inside.sum() * (1 - inside).sum())


@pytest.mark.parametrize("levels", [3, 1000])
def test_auroc_is_that_of_every_pair_and_of_scikit_learn(levels):
    """With many ties and with none."""
    random = np.random.default_rng(levels)
    maps, inside = random.integers(0, levels, (2, 3, 25)) - 5.0, random.choice([0, 0.2, 0.7, 1], 25)
    found = auroc(maps, inside)
    for at in np.ndindex(2, 3):
        both = roc_auc_score([1] * 25 + [0] * 25, np.tile(maps[at], 2), sample_weight=[*inside, *(1 - inside)])
        assert found[at] == pytest.approx(both, abs=1e-12) == pytest.approx(by_pairs(maps[at], inside), abs=1e-12)


def test_maps_of_chance_reach_the_chance_levels_and_no_map_more_than_the_ceiling():
    random = np.random.default_rng(0)
    inside = np.append(random.choice([0, 0, 0.4, 1], 30), np.nan)
    found, level = placed(random.exponential(size=(20_000, 31)), inside), chances(inside)
    for statistic in STATISTICS:
        values = found[statistic]
        assert abs(values.mean() - level[statistic]) < 4 * values.std() / np.sqrt(len(values))
    best, most = placed(np.nan_to_num(inside)[None], inside), ceilings(inside)
    assert best.auroc[0] == most["auroc"] and found.auroc.max() <= most["auroc"] < 1
    assert found.share.max() <= most["share"] == 1 == best.pointing[0]
    assert ceilings(inside * 0.5)["pointing"] == 0.5


@pytest.mark.parametrize("inside", [[0, 0, 0, np.nan], [1, 1, 1, np.nan], [np.nan] * 4])
def test_nothing_is_defined_where_nothing_or_everything_is_inside(inside):
    """A cropped object, one that fills the picture, a model whose tokens have no place."""
    found = placed(np.ones((2, 3, 4)), np.array(inside, float))
    for statistic in STATISTICS:
        assert found[statistic].shape == (2, 3) and np.isnan(found[statistic]).all()
    assert np.isnan([*chances(np.array(inside, float)).values(), *ceilings(np.array(inside, float)).values()]).all()


def test_each_known_object_is_named_once_by_the_first_token_of_its_word():
    text = "a traffic light and two cats, a cat, a dog"
    #       0123456789012345678901234567890
    starts, stops = [0, 1, 5, 9, 15, 19, 23, 23, 28, 29, 31, 35, 36, 38], [1, 5, 9, 15, 19, 23, 23, 28, 29, 31, 35, 36, 38, 42]
    mentions = [Named("traffic light", 2, 15), Named("cat", 24, 28), Named("cat", 32, 35), Named("dog", 39, 42)]
    light, cat, second = mask("x..", "..."), mask(".xx", "..."), mask(".x.", ".x.")
    found, unknown = namings(text, mentions, starts, stops, {"cat": [cat, second], "traffic light": [light], "bird": [mask("..x", "..x")]})
    assert unknown == ["dog"] and [(one.name, one.token, one.objects) for one in found] == [("traffic light", 1, 1), ("cat", 7, 2)]
    assert [one.word for one in found] == ["traffic light", "cats"]
    np.testing.assert_array_equal(found[1].mask, mask(".xx", ".x."))
    assert [other.tolist() for other in found[1].others] == [light.tolist(), mask("...", "..x").tolist()]  # less the cat's own pixels
    assert len(found[0].others) == 3


def test_an_object_behind_another_is_no_other_object():
    found, _ = namings("dog", [Named("dog", 0, 3)], [0], [3], {"dog": [mask("xx")], "cat": [mask("x.")]})
    assert found[0].others == []


def test_a_word_beyond_the_tokens_is_unknown():
    """A description that was cut off may end within a word that decoding completes otherwise."""
    assert namings("a dog", [Named("dog", 2, 5)], [0], [1], {"dog": [OWN]}) == ([], ["dog"])
