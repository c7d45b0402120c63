"""Similarities and look pairs: against slow references, covered by their intervals, and the verdict that follows."""

import itertools

import numpy as np
import polars as pl
import pytest
from scipy.spatial.distance import cosine

from headflow.analysis.pairs import look_pairs, make_pairs, similarities
from headflow.analysis.permutations import Exchange
from headflow.analysis.verdict import BOTH, CANNOT_TELL, LOOKS, MEANING, MORE_LOOKS, MORE_MEANING, verdict
from headflow.tables.clusters import LOOK_CONTRASTS, LOOK_PAIRS, SIMILARITIES


def world(random, count=40, meaning=0.0, looks=0.0, meanings=4, styles=3):
    """Vectors that depend on a name and a style as far as told, labels, and features of a tower that sees the style."""
    name, style = random.integers(0, meanings, count), random.integers(0, styles, count)
    vectors = 1 + random.normal(size=(count, 12)) + 3 * meaning * np.eye(12)[name] + 3 * looks * np.eye(12)[6 + style]
    labels = pl.DataFrame({"meaning_name": [f"n{value}" for value in name], "looks_style": [f"s{value}" for value in style]})
    return vectors, labels, np.eye(styles)[style] + 0.3 * random.normal(size=(count, styles))


def partial(a, b, *others):
    """Partial correlation by regressing both on the others."""
    design = np.column_stack([np.ones(len(a)), *others])
    left = [x - design @ np.linalg.lstsq(design, x, rcond=None)[0] for x in (a, b)]
    return np.corrcoef(*left)[0, 1]


def test_correlations_equal_those_over_a_list_of_pairs():
    random = np.random.default_rng(0)
    vectors, labels, vision = world(random, meaning=1.0, looks=0.5)
    pictures = [index // 2 for index in range(40)]
    exchange = Exchange(pictures)
    found = SIMILARITIES.check(similarities(make_pairs(vectors, labels, exchange, vision), exchange, permutations=19, draws=50), "test")
    centred = vision - vision.mean(0)
    rows = [
        (1 - cosine(vectors[i], vectors[j]), *(float(labels[c][i] == labels[c][j]) for c in labels.columns), 1 - cosine(centred[i], centred[j]))
        for i, j in itertools.combinations(range(40), 2)
        if pictures[i] != pictures[j]
    ]
    a, name, style, seen = np.array(rows).T
    for what, mine, others in (("meaning_name", name, (style, seen)), ("looks_style", style, (name, seen)), ("vision", seen, (name, style))):
        row = found.filter(what=what).row(0, named=True)
        assert row["pairs"] == len(rows)
        assert row["r"] == pytest.approx(np.corrcoef(a, mine)[0, 1])
        assert row["partial"] == pytest.approx(partial(a, mine, *others))
        assert row["low"] < row["high"] and row["partial_low"] < row["partial_high"]


def test_a_tower_that_sees_only_looks_explains_nothing_beyond_them():
    vectors, labels, vision = world(np.random.default_rng(1), count=80, looks=1.0)
    exchange = Exchange(range(80))
    found = similarities(make_pairs(vectors, labels, exchange, vision), exchange, permutations=99, draws=199)
    tower, meaning, looks = (found.filter(what=what).row(0, named=True) for what in ("vision", "meaning", "looks"))
    assert tower["p"] == 0.01 and tower["low"] > 0
    assert tower["partial_low"] < 0.03 and tower["partial"] < tower["r"] / 3
    assert looks["partial_low"] > 0 and meaning["partial_low"] < 0 < meaning["partial_high"]


def test_p_values_of_correlations_are_uniform_without_structure():
    values = []
    for seed in range(200):
        vectors, labels, vision = world(np.random.default_rng(seed), count=16)
        exchange = Exchange(range(16))
        values.append(similarities(make_pairs(vectors, labels, exchange, vision), exchange, permutations=99, draws=2, seed=seed)["p"].to_list()[:3])
    values, grid = np.array(values), np.linspace(0.1, 0.9, 9)
    assert np.abs((values[:, None, :] <= grid[None, :, None]).mean(0) - grid[:, None]).max() < 0.115


def test_pair_groups_equal_means_over_a_list_of_pairs():
    random = np.random.default_rng(2)
    vectors, labels, vision = world(random, meaning=1.0)
    labels = labels.with_columns(looks_colour=pl.Series(random.choice(["red", "blue", None], 40), dtype=pl.String))
    exchange, ids = Exchange([index // 2 for index in range(40)]), [f"e{index}" for index in range(40)]
    groups, contrasts = look_pairs(ids, make_pairs(vectors, labels, exchange, vision), exchange, draws=99)
    LOOK_PAIRS.check(groups, "test"), LOOK_CONTRASTS.check(contrasts, "test")
    found: dict = {}
    for i, j in itertools.combinations(range(40), 2):
        if i // 2 != j // 2:
            shares = [labels[c][i] == labels[c][j] for c in ("looks_style", "looks_colour") if labels[c][i] is not None and labels[c][j] is not None]
            key = labels["meaning_name"][i] == labels["meaning_name"][j], np.mean(shares) >= 0.5
            found.setdefault(key, []).append(1 - cosine(vectors[i], vectors[j]))
    for row in groups.filter(look="looks").iter_rows(named=True):
        values = found[row["same_meaning"], row["same_look"]]
        assert row["pairs"] == len(values) and row["similarity"] == pytest.approx(np.mean(values)) and row["low"] < row["similarity"] < row["high"]
        pair = 1 - cosine(vectors[ids.index(row["id_a"])], vectors[ids.index(row["id_b"])])
        assert abs(pair - np.mean(values)) == pytest.approx(np.abs(np.array(values) - np.mean(values)).min())
    differences = dict(contrasts.filter(look="looks").select("contrast", "difference").rows())
    assert differences["meaning - looks"] == pytest.approx(np.mean(found[True, False]) - np.mean(found[False, True]))
    assert differences["looks"] == pytest.approx(np.mean(found[False, True]) - np.mean(found[False, False]))
    assert groups["look"].unique(maintain_order=True).to_list() == ["looks", "looks_style", "looks_colour"]


@pytest.mark.parametrize(
    ("meaning", "looks", "expected"),
    [(1.5, 0, {MEANING}), (0, 1.5, {LOOKS}), (1.5, 0.7, {MORE_MEANING}), (0.7, 1.5, {MORE_LOOKS}), (1.2, 1.2, {BOTH}), (0, 0, {CANNOT_TELL})],
)
def test_the_verdict_is_what_was_planted(meaning, looks, expected):
    right = 0
    for seed in range(20):
        vectors, labels, _ = world(np.random.default_rng(seed), count=80, meaning=meaning, looks=looks, meanings=3)
        exchange = Exchange(range(80))
        contrasts = look_pairs([str(i) for i in range(80)], make_pairs(vectors, labels, exchange), exchange, draws=199)[1]
        right += verdict(contrasts).outcome in expected
    assert right >= 16


def test_without_effects_a_verdict_is_rare():
    """Meaning or looks is said to matter under no more seeds than the intervals allow: half of 5 % for each of the two."""
    told, covered = 0, []
    for seed in range(200):
        vectors, labels, _ = world(np.random.default_rng(seed), count=40)
        exchange = Exchange(range(40))
        contrasts = look_pairs([str(i) for i in range(40)], make_pairs(vectors, labels, exchange), exchange, draws=199, seed=seed)[1]
        told += verdict(contrasts).outcome != CANNOT_TELL
        covered += [row["low"] <= 0 <= row["high"] for row in contrasts.filter(look="looks").iter_rows(named=True)]
    assert told / 200 <= 0.10
    assert np.mean(covered) >= 0.95  # too wide where nothing matters at all, see `_ends`


def test_intervals_cover_a_true_effect():
    truth = np.array([_contrast(*world(np.random.default_rng(10_000 + seed), count=200, meaning=0.7)[:2]) for seed in range(40)]).mean()
    covered = []
    for seed in range(200):
        vectors, labels, _ = world(np.random.default_rng(seed), count=40, meaning=0.7)
        exchange = Exchange(range(40))
        row = look_pairs([str(i) for i in range(40)], make_pairs(vectors, labels, exchange), exchange, draws=199, seed=seed)[1].row(0, named=True)
        covered.append(row["low"] <= truth <= row["high"])
    assert 0.90 <= np.mean(covered) <= 0.99


def _contrast(vectors, labels):
    exchange = Exchange(range(len(vectors)))
    return look_pairs([str(i) for i in range(len(vectors))], make_pairs(vectors, labels, exchange), exchange, draws=2)[1]["difference"][0]


def test_no_pairs_and_no_labels_say_so():
    vectors = np.random.default_rng(0).normal(size=(6, 3))
    exchange, ids = Exchange(range(6)), list("abcdef")
    nothing = look_pairs(ids, make_pairs(vectors, pl.DataFrame({"meaning_name": list("aabbcc")}), exchange), exchange, draws=50)
    assert [len(frame) for frame in nothing] == [0, 0] and verdict(nothing[1]).reason == "labels"
    same = pl.DataFrame({"meaning_name": list("aabbcc"), "looks_style": list("xxyyzz")})  # nothing looks like another thing
    groups, contrasts = look_pairs(ids, make_pairs(vectors, same, exchange), exchange, draws=50)
    assert groups.filter(look="looks", same_meaning=False, same_look=True)["pairs"].to_list() == [0]
    assert verdict(contrasts).outcome == CANNOT_TELL and verdict(contrasts).reason == "pairs"
    assert len(similarities(make_pairs(np.zeros((6, 3)), same.clear(), exchange), exchange, permutations=19, draws=50)) == 0


def test_the_order_of_examples_changes_no_estimate():
    vectors, labels, vision = world(np.random.default_rng(4), meaning=0.5)
    order = np.random.default_rng(5).permutation(40)
    ids = np.array([f"e{index:02d}" for index in range(40)])
    results = []
    for some in (np.arange(40), order):
        exchange = Exchange(some.tolist())
        pairs = make_pairs(vectors[some], labels[some.tolist()], exchange, vision[some])
        results.append((similarities(pairs, exchange, permutations=19, draws=50), *look_pairs(ids[some].tolist(), pairs, exchange, draws=50)))
    for one, two, columns in zip(*results, (["what", "r", "partial"], ["look", "pairs", "similarity", "vision"], ["look", "difference"]), strict=True):
        for column in columns:
            if one[column].dtype == pl.String:
                assert one[column].equals(two[column])
            else:
                np.testing.assert_allclose(one[column], two[column], atol=1e-12)
