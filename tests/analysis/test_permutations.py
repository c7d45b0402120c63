"""Exchange: pictures move whole, and only to places where the same was asked."""

import numpy as np
import pytest

from headflow.analysis.permutations import Exchange

PICTURES = ["a", "b", "a", "c", "b", "c", "d", "d", "e"]
QUESTIONS = ["object", "colour", "colour", "object", "object", "colour", "object", "count", "object"]


def test_pictures_move_whole_and_questions_stay():
    exchange = Exchange(PICTURES, QUESTIONS)
    assert exchange.pictures == 5
    drawn = exchange.draw(np.random.default_rng(0), 500)
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile(np.arange(9), (500, 1)))
    for order in drawn[:50]:
        assert [QUESTIONS[moved] for moved in order] == QUESTIONS
        for picture in "abcd":
            places = [place for place, name in enumerate(PICTURES) if name == picture]
            assert len({PICTURES[order[place]] for place in places}) == 1
    assert (drawn[:, [6, 7, 8]] == [6, 7, 8]).all()  # nothing else was asked the same questions as d, or as e
    seen, counts = np.unique(drawn[:, [0, 1, 3]], axis=0, return_counts=True)
    assert len(seen) == 6 and counts.min() > 50  # all orders of a, b and c, about alike often


def test_single_questions_are_permuted_freely():
    drawn = Exchange(range(4)).draw(np.random.default_rng(0), 2400)
    seen, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(seen) == 24 and counts.min() > 60


def test_resamples_draw_whole_pictures():
    exchange = Exchange(PICTURES, QUESTIONS)
    times = exchange.resample(np.random.default_rng(0), 2000)
    assert (times[:, 0] == times[:, 2]).all() and (times[:, 6] == times[:, 7]).all()
    np.testing.assert_array_equal(times[:, [0, 1, 3, 6, 8]].sum(1), 5)
    np.testing.assert_allclose(times.mean(0), 1, atol=0.1)


def test_a_part_keeps_pictures_and_questions():
    part = Exchange(PICTURES, QUESTIONS).part(np.array([True, True, True, False, True, False, False, False, False]))
    assert part.pictures == 2
    assert {tuple(order) for order in part.draw(np.random.default_rng(0), 50)} == {(0, 1, 2, 3), (3, 2, 1, 0)}


@pytest.mark.parametrize("count", [0, 1])
def test_few_examples(count):
    exchange = Exchange(list(range(count)))
    assert exchange.draw(np.random.default_rng(0), 3).shape == (3, count)
    assert exchange.resample(np.random.default_rng(0), 3).shape == (3, count)
