"""Unique effects: against a model fitted plainly, calibrated under the null, blind to what is held constant."""

import numpy as np
import polars as pl
import pytest

from headflow.analysis.permutations import Exchange
from headflow.analysis.unique_effects import unique_effects
from headflow.tables.interactions import UNIQUE_EFFECTS


def draw(random, count=60, meanings=4, looks=3, pull=0.0):
    """Labels; with ``pull`` looks go along with meaning."""
    meaning = random.integers(0, meanings, count)
    look = np.where(random.random(count) < pull, meaning % looks, random.integers(0, looks, count))
    return meaning, look


def labelled(meaning, look):
    return pl.DataFrame({"meaning_name": [f"m{value}" for value in meaning], "looks_style": [f"s{value}" for value in look]})


def row(frame, label):
    return frame.filter(label=label).row(0, named=True)


def test_shares_equal_those_of_plain_regressions():
    random = np.random.default_rng(0)
    meaning, look = draw(random, pull=0.5)
    vectors = random.normal(size=(60, 7)) + np.eye(7)[meaning] + np.eye(7)[look]
    frame = UNIQUE_EFFECTS.check(unique_effects(vectors, labelled(meaning, look), Exchange(range(60)), permutations=19), "test")
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def squares(*factors):
        design = np.concatenate([np.ones((60, 1)), *(np.eye(factor.max() + 1)[factor] for factor in factors)], axis=1)
        return ((directions - design @ np.linalg.lstsq(design, directions, rcond=None)[0]) ** 2).sum()

    total = squares()
    for label, mine, other in (("meaning_name", meaning, look), ("looks_style", look, meaning), ("meaning", meaning, look)):
        found = row(frame, label)
        assert found["explained"] == pytest.approx(1 - squares(mine) / total)
        assert found["unique"] == pytest.approx((squares(other) - squares(other, mine)) / total)
    assert (row(frame, "meaning")["degrees"], row(frame, "meaning")["left"]) == (3, 60 - 1 - 3 - 2)
    assert frame["label"].to_list() == ["meaning", "looks", "meaning_name", "looks_style"]


def test_looks_that_only_go_along_with_meaning_are_seen_through():
    random = np.random.default_rng(1)
    meaning, look = draw(random, count=90, pull=0.7)
    vectors = 0.5 * random.normal(size=(90, 8)) + 2 * np.eye(8)[meaning]
    frame = unique_effects(vectors, labelled(meaning, look), Exchange(range(90)), permutations=199)
    assert row(frame, "looks")["explained_p"] == 1 / 200  # by itself the look seems to matter
    assert row(frame, "looks")["unique_p"] > 0.05
    assert row(frame, "meaning")["unique_p"] == 1 / 200
    assert row(frame, "meaning")["unique"] > 10 * row(frame, "looks")["unique"]


def test_p_values_are_uniform_without_effect_of_the_label():
    """Meaning matters and goes along with looks; looks themselves do nothing. Two questions a picture, whose answers have much in common."""
    values = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        meaning, look = (np.repeat(some, 2) for some in draw(random, count=24, meanings=3, pull=0.5))
        shared = np.repeat(random.normal(size=(24, 6)), 2, axis=0)
        question = np.tile([0, 1], 24)
        vectors = 2 * np.eye(6)[meaning] + shared + 0.5 * random.normal(size=(48, 6)) + 2 * np.eye(6)[3 + question]
        exchange = Exchange(np.repeat(np.arange(24), 2).tolist(), question.tolist())
        values.append(row(unique_effects(vectors, labelled(meaning, look), exchange, permutations=99, seed=seed), "looks_style")["unique_p"])
    grid = np.linspace(0.1, 0.9, 9)
    reached = (np.array(values)[:, None] <= grid).mean(0)
    assert np.abs(reached - grid).max() < 0.115  # Kolmogorov's 1 % bound for 200 draws


def test_examples_in_another_order_give_the_same_shares():
    random = np.random.default_rng(2)
    meaning, look = draw(random)
    vectors, order = random.normal(size=(60, 5)), random.permutation(60)
    one, two = (unique_effects(vectors[some], labelled(meaning[some], look[some]), Exchange(some.tolist()), permutations=99) for some in (np.arange(60), order))
    for column in ("explained", "unique", "degrees", "left"):
        np.testing.assert_allclose(one[column], two[column])
    np.testing.assert_allclose(one["unique_p"], two["unique_p"], atol=0.25)


def test_one_kind_of_label_is_held_against_nothing():
    frame = unique_effects(np.random.default_rng(0).normal(size=(9, 3)), pl.DataFrame({"looks_x": list("aaabbbccc")}), Exchange(range(9)), permutations=19)
    assert frame.select("label", "given").rows() == [("looks", None), ("looks_x", None)]
    assert frame["explained"].to_list() == pytest.approx(frame["unique"].to_list())


def test_labels_that_leave_no_freedom_have_no_unique_share():
    labels = pl.DataFrame({"meaning_name": list("aabbcc"), "looks_one": list("ababba"), "looks_many": list("abcabc")})
    found = row(unique_effects(np.random.default_rng(0).normal(size=(6, 5)), labels, Exchange(range(6)), permutations=19), "meaning_name")
    assert found["left"] == 0 and found["unique"] is None and found["explained"] is not None


def test_rare_values_unlabelled_examples_and_equal_vectors():
    labels = pl.DataFrame({"meaning_name": ["a", "a", "a", "b", "b", "b", "c", None], "looks_file": list("stuvwxyz"), "looks_x": list("ababababab"[:8])})
    frame = unique_effects(np.random.default_rng(0).normal(size=(8, 3)), labels, Exchange(range(8)), permutations=19)
    assert "looks_file" not in frame["label"]
    assert row(frame, "meaning_name")["examples"] == 6
    same = unique_effects(np.ones((8, 3)), labels, Exchange(range(8)), permutations=19)
    assert same["explained"].null_count() == len(same) > 0
