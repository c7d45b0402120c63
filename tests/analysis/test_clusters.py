"""Clusters of heads and the map of examples: planted groups found, no structure admitted, equal input equal output."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headflow.analysis.clusters import cluster_heads, example_map, profiles
from headflow.tables.clusters import EXAMPLE_MAP, HEAD_CLUSTERS, PROFILES

NAMES = [name for name in ("cat", "dog", "cup", "car") for _ in range(5)]


def planted(noise=0.05, seed=0):
    """Heads of a 2 × 6 model that serve cats (0 to 3), dogs and cups (4 to 8) or nothing (9 to 11)."""
    random = np.random.default_rng(seed)
    serves = np.zeros((12, 4))
    serves[:4, 0], serves[4:9, 1:3] = 3.0, 1.0
    examples = np.array([serves[:, ("cat", "dog", "cup", "car").index(name)] for name in NAMES])
    return (examples + noise * random.normal(size=examples.shape)).reshape(20, 2, 6)


def test_planted_groups_of_heads_are_found():
    found = cluster_heads(planted(), NAMES, coverage=0.97)
    assert found.clear_ and found.score_ > 0.9
    np.testing.assert_array_equal(found.cluster_.ravel(), [0] * 4 + [1] * 5 + [-1] * 3)  # cats hold 12 of 22 parts
    np.testing.assert_allclose(found.share_.sum(), 1)
    frame = HEAD_CLUSTERS.check(found.table(), "test")
    assert frame["silhouette"].null_count() == 3
    assert frame["silhouette"].mean() == pytest.approx(found.score_)
    assert frame.row(7) == (1, 1, 1, found.share_[1, 1], found.silhouette_[1, 1])


@pytest.mark.parametrize("coverage", [0.3, 0.5, 0.8, 1.0])
def test_the_largest_heads_that_reach_the_coverage_are_taken_and_no_more(coverage):
    found = cluster_heads(planted(), NAMES, coverage=coverage)
    taken = np.sort(found.share_[found.cluster_ >= 0])
    assert taken.sum() >= coverage - 1e-9
    assert taken[1:].sum() < coverage
    assert taken.min() >= found.share_[found.cluster_ < 0].max(initial=0)


def test_the_number_of_clusters_is_limited():
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(4), 3, axis=0)  # four groups of three heads
    attributions = np.array([centres[:, ("cat", "dog", "cup", "car").index(name)] for name in NAMES]) + 0.01 * random.normal(size=(20, 12))
    attributions = attributions.reshape(20, 2, 6)
    assert cluster_heads(attributions, NAMES, coverage=1.0).cluster_.max() == 3
    assert cluster_heads(attributions, NAMES, coverage=1.0, max_clusters=3).cluster_.max() == 2


def test_heads_without_structure_are_one_group():
    same = np.ones((20, 2, 6)) + 0.01 * np.random.default_rng(1).normal(size=(20, 1, 1))
    found = cluster_heads(same, NAMES, coverage=1.0)
    assert not found.clear_
    assert (found.cluster_ == 0).all()
    assert np.isnan(found.silhouette_).all()
    assert found.table()["silhouette"].null_count() == 12


@pytest.mark.parametrize("attributions", [np.zeros((20, 2, 6)), np.eye(12)[0].reshape(1, 2, 6).repeat(20, 0)])
def test_too_few_heads_are_not_clustered(attributions):
    found = cluster_heads(attributions, NAMES)
    assert not found.clear_ and np.isnan(found.score_)
    assert (found.cluster_ == np.where(attributions.any(0), 0, -1)).all()
    assert np.isfinite(found.share_).all()


def test_clusters_do_not_depend_on_the_order_of_examples_or_on_chance():
    attributions = planted(noise=1.0)
    order = np.random.default_rng(5).permutation(20)
    one, two = cluster_heads(attributions, NAMES), cluster_heads(attributions[order], [NAMES[index] for index in order])
    np.testing.assert_array_equal(one.cluster_, two.cluster_)


def test_profiles_are_means_over_names():
    attributions = planted(noise=1.0)
    names = [*NAMES[:-1], "only"]
    frame = PROFILES.check(profiles(attributions, names), "test")
    assert frame["name"].unique(maintain_order=True).to_list() == ["car", "cat", "cup", "dog", "only"]
    assert len(frame) == 5 * 12
    row = frame.filter(layer=1, head=2, name="cat").row(0, named=True)
    assert row["attribution"] == pytest.approx(attributions[:5, 1, 2].mean())
    assert row["examples"] == 5
    assert frame.filter(name="only")["examples"].unique().to_list() == [1]


def test_the_map_keeps_planted_groups_apart_and_repeats():
    vectors = planted().reshape(20, -1)
    ids = [f"e{index}" for index in range(20)]
    frame = EXAMPLE_MAP.check(example_map(ids, vectors), "test")
    assert frame.equals(example_map(ids, vectors))
    places = frame.select("x", "y").to_numpy()
    apart = lambda a, b: np.linalg.norm(places[a].mean(0) - places[b].mean(0))  # noqa: E731
    spread = np.linalg.norm(places[:5] - places[:5].mean(0), axis=1).max()
    assert apart(slice(0, 5), slice(5, 10)) > 5 * spread
    np.testing.assert_allclose(places.mean(0), 0, atol=1e-9)


def test_the_map_shows_distances_that_fit_into_a_plane():
    angles = np.linspace(0, 0.5, 7)
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    places = example_map(list("abcdefg"), vectors).select("x", "y").to_numpy()
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    expected = 1 - np.cos(angles[:, None] - angles[None])
    assert np.corrcoef(distances.ravel(), expected.ravel())[0, 1] > 0.95


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 100))
@example(3, 60)  # distances 0.18, 1.32 and 1.77 fit no triangle
def test_the_map_is_finite_for_any_number_of_examples(count, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, 3)).round()  # some equal, some zero
    frame = example_map([str(index) for index in range(count)], vectors)
    assert np.isfinite(frame.select("x", "y").to_numpy()).all()
    # the sign rule: the point farthest out is on the positive side
    for axis in ("x", "y"):
        assert frame[axis].max() >= -frame[axis].min() - 1e-9
