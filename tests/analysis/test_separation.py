"""Separation: measures against independent references, planted structure found, p-values honest where there is none."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from headflow.analysis.distances import cosine_distances
from headflow.analysis.permutations import Exchange
from headflow.analysis.separation import measure, separation
from headflow.tables.clusters import SEPARATION


def vectors_around(labels, spread, size=12, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(labels) + 1, size))
    return centres[labels] + spread * random.normal(size=(len(labels), size))


def test_distances_are_symmetric_and_kind_to_zero_vectors():
    distances = cosine_distances(np.array([[1.0, 0], [0, 2], [-3, 0], [0, 0], [5, 0]]))
    np.testing.assert_allclose(distances, [[0, 1, 2, 1, 0], [1, 0, 1, 1, 1], [2, 1, 0, 1, 2], [1, 1, 1, 0, 1], [0, 1, 2, 1, 0]], atol=1e-15)
    np.testing.assert_array_equal(distances, distances.T)


@pytest.mark.parametrize("seed", range(5))
def test_measures_equal_independent_references(seed):
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(5), [2, 3, 6, 4, 9]))
    vectors = vectors_around(labels, 1.0, seed=seed)
    found = measure(cosine_distances(vectors), labels[None], neighbours=3)
    np.testing.assert_allclose(found.silhouette, silhouette_score(vectors, labels, metric="cosine"))
    near = NearestNeighbors(n_neighbors=4, metric="cosine").fit(vectors).kneighbors(vectors)[1]
    np.testing.assert_allclose(found.purity, np.mean([labels[others[1:]] == labels[others[0]] for others in near]))
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    within = sum(((directions[labels == value] - directions[labels == value].mean(0)) ** 2).sum() for value in range(5))
    np.testing.assert_allclose(found.explained, 1 - within / ((directions - directions.mean(0)) ** 2).sum())


def test_many_labellings_at_once_equal_one_by_one(monkeypatch):
    labels = np.repeat(np.arange(3), 4)
    labellings = np.random.default_rng(0).permuted(np.tile(labels, (50, 1)), axis=1)
    distances = cosine_distances(vectors_around(labels, 1.0))
    whole = measure(distances, labellings)
    monkeypatch.setattr("headflow.analysis.separation._CELLS", 7 * 36)
    blocks = measure(distances, labellings)
    alone = [measure(distances, labelling[None]) for labelling in labellings]
    for name in ("silhouette", "purity", "explained"):
        np.testing.assert_allclose(getattr(blocks, name), getattr(whole, name), atol=1e-12)
        np.testing.assert_allclose([getattr(one, name)[0] for one in alone], getattr(whole, name), atol=1e-12)


def test_planted_meaning_is_found_and_looks_are_not():
    meaning = np.repeat(np.arange(6), 7)
    looks = np.random.default_rng(3).permutation(np.repeat(np.arange(3), 14))
    labels = pl.DataFrame({"meaning_name": meaning.astype(str), "looks_colour": looks.astype(str)})
    frame = SEPARATION.check(separation(vectors_around(meaning, 0.3), labels, permutations=199), "test")
    named, coloured = frame.rows(named=True)
    assert (named["label"], named["kind"], named["values"], named["examples"]) == ("meaning_name", "meaning", 6, 42)
    assert (coloured["label"], coloured["kind"], coloured["values"]) == ("looks_colour", "looks", 3)
    assert named["silhouette"] > 0.6 and named["purity"] > 0.95 and named["explained"] > 0.8
    assert named["silhouette_p"] == named["purity_p"] == named["explained_p"] == 1 / 200
    assert named["purity_chance"] == pytest.approx(6 / 41, abs=0.02)  # another example of the same seven
    assert named["explained_chance"] == pytest.approx(5 / 41, abs=0.02)  # k - 1 of n - 1 degrees of freedom
    for name in ("silhouette_p", "purity_p", "explained_p"):
        assert coloured[name] > 0.05


def test_p_values_are_uniform_without_structure():
    values = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        labels = pl.DataFrame({"looks_style": random.permutation(np.repeat(["a", "b", "c"], 8))})
        frame = separation(random.normal(size=(24, 10)), labels, permutations=99, seed=seed)
        values.append(frame.select("silhouette_p", "purity_p", "explained_p").row(0))
    values = np.array(values)
    grid = np.linspace(0.1, 0.9, 9)
    reached = (values[:, None, :] <= grid[None, :, None]).mean(0)
    assert np.abs(reached[:, [0, 2]] - grid[:, None]).max() < 0.11  # Kolmogorov's 1 % bound for 200 draws is 0.115
    assert (reached[:, 1] < grid + 0.11).all()  # purity takes few values: ties make its p-values larger, never smaller
    assert reached[-1, 1] > 0.7


def test_labels_without_two_repeated_values_are_left_out_and_rare_values_dropped():
    labels = pl.DataFrame(
        {
            "meaning_name": ["a", "a", "b", "b", "c", None],
            "meaning_once": list("abcdef"),
            "looks_same": ["x"] * 6,
            "looks_count": [1, 1, 1, 2, 2, None],
        }
    )
    frame = separation(np.random.default_rng(0).normal(size=(6, 4)), labels, permutations=19)
    assert frame.select("label", "values", "examples").rows() == [("meaning_name", 2, 4), ("looks_count", 2, 5)]
    empty = separation(np.ones((6, 4)), labels.select("meaning_once"), permutations=19)
    assert len(SEPARATION.check(empty, "test")) == 0


def test_equal_vectors_have_no_separation():
    same = np.random.default_rng(0).normal(size=(1, 7)).repeat(6, 0) * np.arange(1, 7)[:, None]  # lengths differ, directions do not
    frame = separation(same, pl.DataFrame({"looks_x": list("aabbcc")}), permutations=19)
    assert frame.select("silhouette", "explained", "silhouette_p", "explained_p").row(0) == (0, 0, 1, 1)


def test_the_seed_matters_and_repeats():
    labels = pl.DataFrame({"looks_x": list("aabbccdd")})
    vectors = np.random.default_rng(0).normal(size=(8, 4))
    one, same, other = (separation(vectors, labels, permutations=49, seed=seed) for seed in (1, 1, 2))
    assert one.equals(same) and not one.equals(other)


def test_questions_about_one_picture_are_no_independent_witnesses():
    """Vectors depend on the picture, labels do not matter: without pictures every p-value is far too small, with them it is uniform."""
    blind, aware = [], []
    for seed in range(200):
        random = np.random.default_rng(seed)
        labels = pl.DataFrame({"looks_style": np.repeat(random.permutation(np.repeat(["a", "b", "c"], 4)), 3)})
        vectors = np.repeat(random.normal(size=(12, 6)), 3, axis=0) + 0.3 * random.normal(size=(36, 6))
        exchange = Exchange(np.repeat(np.arange(12), 3).tolist(), ["object", "colour", "count"] * 12)
        for found, how in ((blind, None), (aware, exchange)):
            found.append(separation(vectors, labels, exchange=how, permutations=99, seed=seed).select("silhouette_p", "purity_p", "explained_p").row(0))
    grid = np.linspace(0.1, 0.9, 9)
    reached = (np.array(aware)[:, None, :] <= grid[None, :, None]).mean(0)
    assert (reached < grid[:, None] + 0.115).all()
    assert np.abs(reached[:, [0, 2]] - grid[:, None]).max() < 0.115
    assert (np.mean(np.array(blind) <= 0.05, axis=0) > 0.5).all()


def test_neighbours_and_companions_are_of_other_pictures():
    vectors = np.repeat(np.eye(4), 2, axis=0)  # pairs of equal vectors, each pair of one picture
    distances = cosine_distances(vectors)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    picture = np.repeat(np.arange(4), 2)
    alone, apart = measure(distances, labels[None], 1), measure(distances, labels[None], 1, picture)
    assert alone.purity[0] == 1 and alone.silhouette[0] > 0.2
    assert apart.purity[0] < 1 and apart.silhouette[0] == pytest.approx(0)
    assert alone.explained[0] == apart.explained[0]
