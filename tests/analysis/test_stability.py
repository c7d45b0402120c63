"""Stability and contents of clusters: planted groups stand firm, groups of noise do not, and each group is described by what it serves."""

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from headflow.analysis.clusters import cluster_heads
from headflow.analysis.contents import cluster_examples, cluster_names, clusters_table
from headflow.analysis.distances import cosine_distances
from headflow.analysis.permutations import Exchange
from headflow.analysis.stability import _halves, _shared, adjusted_rand, group, stability, weighted_profile
from headflow.tables.clusters import CLUSTER_EXAMPLES, CLUSTER_NAMES, CLUSTERS
from tests.analysis.test_clusters import NAMES, planted

ONE_EACH = Exchange(range(20))


def test_planted_clusters_are_stable_and_no_noise():
    attributions = planted(noise=0.3)
    found = cluster_heads(attributions, NAMES, coverage=0.93)
    trust = stability(attributions, NAMES, found, ONE_EACH, draws=99, permutations=199)
    assert trust.rand_ > 0.9 and trust.rand_low_ <= trust.rand_high_ <= 1
    assert (trust.jaccard_ > 0.9).all() and len(trust.jaccard_) == found.cluster_.max() + 1
    assert trust.halves_p_ < 0.02 and trust.halves_ > 0.5 > trust.halves_chance_
    assert all(isinstance(value, float) for value in trust.metrics().values())


def test_groups_of_noise_are_unstable():
    noise = np.random.default_rng(3).normal(size=(20, 4, 6))
    found = cluster_heads(noise, NAMES, coverage=1.0)
    assert found.clear_  # a grouping is always found: the silhouette alone does not say whether it means anything
    trust = stability(noise, NAMES, found, ONE_EACH, draws=99, permutations=199)
    assert trust.rand_ < 0.6 and trust.halves_p_ > 0.05
    merged = found.merged()
    assert not merged.clear_ and set(merged.cluster_.ravel()) == {0} and np.isnan(merged.silhouette_).all()


def test_p_values_across_halves_are_uniform_for_noise():
    codes = np.unique(NAMES, return_inverse=True)[1]
    values = [_halves(np.random.default_rng(seed).normal(size=(20, 12)), codes, 3, ONE_EACH, 99, seed)[2] for seed in range(200)]
    grid = np.linspace(0.1, 0.9, 9)
    assert np.abs((np.array(values)[:, None] <= grid).mean(0) - grid).max() < 0.115  # Kolmogorov's 1 % bound for 200 draws


@pytest.mark.parametrize("seed", range(5))
def test_groups_and_their_agreement_equal_sklearns(seed):
    random = np.random.default_rng(seed)
    one, two = (cosine_distances(random.normal(size=(15, 4))) for _ in range(2))
    labels = [group(distances, 4) for distances in (one, two)]
    expected = AgglomerativeClustering(4, metric="precomputed", linkage="average").fit_predict(one)
    assert adjusted_rand_score(labels[0], expected) == 1
    assert adjusted_rand(_shared(*labels, 4)) == pytest.approx(adjusted_rand_score(*labels))


def test_weighted_profiles_are_means_over_a_resample():
    random = np.random.default_rng(0)
    flat, codes, times = random.normal(size=(12, 5)), np.repeat([0, 1, 2], 4), np.array([0, 2, 1, 0, 0, 0, 0, 0, 1, 1, 3, 0])
    drawn = np.repeat(np.arange(12), times)
    expected = np.stack([flat[[index for index in drawn if codes[index] == code]].mean(0) for code in (0, 2)], axis=1)
    np.testing.assert_allclose(weighted_profile(flat, codes, times), expected)


def test_nothing_is_said_of_unclear_clusters_or_single_names():
    same = np.ones((20, 2, 6)) + 0.01 * np.random.default_rng(1).normal(size=(20, 1, 1))
    trust = stability(same, NAMES, cluster_heads(same, NAMES, coverage=1.0), ONE_EACH)
    assert set(trust.metrics().values()) == {None}
    each = [f"e{index}" for index in range(20)]
    found = cluster_heads(planted(), each)
    assert found.clear_ and np.isnan(stability(planted(), each, found, ONE_EACH, draws=50).halves_p_)


def test_few_heads_have_no_p_value_as_none_could_be_small():
    attributions = planted()[:, :, :3]  # five of six heads matter: ten ways to part them in two and three
    found = cluster_heads(attributions, NAMES, coverage=0.97)
    trust = stability(attributions, NAMES, found, ONE_EACH, draws=50, permutations=99)
    assert found.clear_ and trust.halves_ > 0.8 and np.isnan(trust.halves_p_) and trust.metrics()["split_half_silhouette_p"] is None


def test_clusters_are_described_by_their_layers_and_heads():
    found = cluster_heads(planted(), NAMES, coverage=0.97)
    frame = CLUSTERS.check(clusters_table(found, np.array([0.9, np.nan])), "test")
    assert frame.select("cluster", "heads", "first_layer", "last_layer").rows() == [(0, 4, 0, 0), (1, 5, 0, 1)]
    assert frame["stability"].to_list() == [0.9, None]
    assert frame["share"].to_list() == pytest.approx([found.share_[found.cluster_ == cluster].sum() for cluster in (0, 1)])
    largest = frame.row(1, named=True)
    assert found.share_[largest["layer"], largest["head"]] == found.share_[found.cluster_ == 1].max()


def test_clusters_are_described_by_the_objects_they_serve():
    attributions = planted(noise=0.1) * np.linspace(0.5, 2, 20)[:, None, None]  # some examples are larger in everything
    found = cluster_heads(attributions, NAMES, coverage=0.93)
    frame = CLUSTER_NAMES.check(cluster_names(attributions, NAMES, found, ONE_EACH), "test")
    of_cats = int(found.cluster_.ravel()[0])
    first = frame.filter(cluster=of_cats).row(0, named=True)
    assert first["name"] == "cat" and first["q"] < 0.01 and first["examples"] == 5
    members = found.cluster_ == of_cats
    sums, sizes = attributions[:, members].sum(1), np.abs(attributions).sum((1, 2))
    is_cat = np.array(NAMES) == "cat"
    assert first["attribution"] == pytest.approx(sums[is_cat].mean())
    assert first["excess"] == pytest.approx((sums / sizes)[is_cat].mean() - (sums / sizes)[~is_cat].mean())
    assert set(frame.filter(cluster=int(found.cluster_.ravel()[4]))["name"].head(2)) == {"cup", "dog"}


def test_typical_examples_are_of_different_pictures():
    attributions = planted(noise=0.3)
    found = cluster_heads(attributions, NAMES, coverage=0.93)
    ids = [f"e{index:02d}" for index in range(20)]
    exchange = Exchange([index // 2 for index in range(20)])
    frame = CLUSTER_EXAMPLES.check(cluster_examples(ids, attributions, found, exchange, most=3), "test")
    of_cats = int(found.cluster_.ravel()[0])
    best = frame.filter(cluster=of_cats)
    assert best["rank"].to_list() == [1, 2, 3] and best["share"].is_sorted(descending=True)
    numbers = [int(name[1:]) for name in best["id"]]
    assert len({number // 2 for number in numbers}) == 3
    assert {NAMES[number] for number in numbers[:2]} == {"cat"}


def test_the_order_of_examples_does_not_change_the_contents():
    attributions, order = planted(noise=0.3), np.random.default_rng(1).permutation(20)
    ids = np.array([f"e{index:02d}" for index in range(20)])
    results = []
    for some in (np.arange(20), order):
        names = [NAMES[index] for index in some]
        found, exchange = cluster_heads(attributions[some], names, coverage=0.93), Exchange(some.tolist())
        results.append((cluster_names(attributions[some], names, found, exchange), cluster_examples(ids[some].tolist(), attributions[some], found, exchange)))
    assert results[0][1].select("cluster", "rank", "id").equals(results[1][1].select("cluster", "rank", "id"))
    assert results[0][0].select("cluster", "name").equals(results[1][0].select("cluster", "name"))
    np.testing.assert_allclose(results[0][0]["excess"], results[1][0]["excess"])
