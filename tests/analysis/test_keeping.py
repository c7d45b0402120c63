"""How few tokens keep the answer: the arithmetic by hand, the statistics by simulation."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy.stats import binomtest, ttest_rel

from headflow.analysis import keeping
from headflow.errors import HeadflowError
from headflow.models.keeping import best
from headflow.tables.keeping import KEPT, KEPT_BANDS, KEPT_DIFFERENCES, KEPT_SUMMARY

PERCENTS = [0.0, 1.0, 10.0, 100.0]
EVERY = np.ones(100, bool)


def kept(values: dict[str, np.ndarray], *, right: dict[str, np.ndarray] | None = None, pictures: list[int] | None = None, way: str = "removed") -> pl.DataFrame:
    """A KEPT table of targets (and answers) [examples, percents] by selection, of pictures with 100 image tokens."""
    targets, count, examples = np.stack(list(values.values())), len(values), len(next(iter(values.values())))
    answers = targets > 0 if right is None else np.stack(list(right.values()))
    columns = {
        "id": [f"e{number}" for number in range(examples) for _ in PERCENTS] * count,
        "picture": np.tile(np.repeat(range(examples) if pictures is None else pictures, 4), count), "way": [way] * targets.size,
        "selection": [name for name in values for _ in range(4 * examples)], "percent": PERCENTS * (count * examples),
        "kept": [0, 1, 10, 100] * (count * examples), "of": [100] * targets.size, "target": targets.ravel().astype(float),
        "first_right": answers.ravel(), "right": answers.ravel(),
    }  # fmt: skip
    return pl.DataFrame(columns, schema={name: column.dtype for name, column in KEPT.columns.items()})


def test_attributions_become_scores_of_places():
    table = pl.DataFrame({"id": ["b", "a", "a", "b"], "token": [0, 2, 0, 2], "attribution": [1.0, 2.0, 3.0, 4.0], "standard_error": [0.0] * 4})
    selectable = [np.array([True, False, True])] * 2
    np.testing.assert_array_equal(keeping.attribution_scores(table, ["a", "b"], selectable), [[3, np.nan, 2], [1, np.nan, 4]])
    for broken, message in (
        (table.filter(pl.col("id") == "a"), "example b lack the image token at place 0"),
        (table.filter((pl.col("id") == "a") | (pl.col("token") == 0)), "example b lack the image token at place 2"),
        (pl.concat([table, table.head(1)]), "example b: tokens are listed twice"),
        (table.with_columns(token=pl.col("token") + 1), "beyond its 3 image places"),
        (table.with_columns(attribution=pl.lit(float("nan"))), "example a lack"),
    ):
        with pytest.raises(HeadflowError, match=message):
            keeping.attribution_scores(broken, ["a", "b"], selectable)


def listed(scores: dict[str, list[float | None]]) -> pl.DataFrame:
    """A table of image-token attributions; None = not listed."""
    rows = [(name, place, float(value)) for name, values in scores.items() for place, value in enumerate(values) if value is not None]
    return pl.DataFrame(rows, schema={"id": pl.String, "token": pl.Int64, "attribution": pl.Float64}, orient="row")


def test_the_position_prior_never_sees_the_picture_itself():
    scores = {"a": [1, 2], "b": [3, 4], "c": [5, 6], "d": [7, 8]}
    sizes, pictures = ["32x32"] * 4, [0, 0, 1, 2]
    found = keeping.position_priors(listed(scores), list(scores), sizes, pictures)
    np.testing.assert_allclose(found, [[6, 7], [6, 7], [11 / 3, 14 / 3], [3, 4]])  # a and b ask about one picture
    changed = keeping.position_priors(listed({**scores, "a": [50, -50]}), list(scores), sizes, pictures)
    assert np.array_equal(changed[0], found[0]) and not np.array_equal(changed[2], found[2])


def test_the_position_prior_keeps_to_pictures_whose_tokens_stand_alike():
    scores = {"a": [1, None, 2], "b": [3, None, 4], "c": [5, 6, None], "d": [7, None, 8], "e": [9, None, 10]}
    found = keeping.position_priors(listed(scores), list(scores), ["2x1", "2x1", "2x1", "1x2", "2x1"], range(5))
    np.testing.assert_allclose(found[0], [6, np.nan, 7])
    assert found[2] is None and found[3] is None  # other places; another shape


def test_random_orders_depend_on_seed_and_example_alone():
    first, second = (keeping.random_scores(ids, [EVERY] * 2, seed=1) for ids in (["a", "b"], ["b", "a"]))
    assert np.array_equal(first[0], second[1]) and np.array_equal(first[1], second[0]) and not np.array_equal(*first)
    assert sorted(first[0]) == list(range(100))
    assert not np.array_equal(first[0], keeping.random_scores(["a"], [EVERY], seed=2)[0])


def test_a_plan_runs_every_set_once():
    selectable = np.array([True, True, False, True])
    orders = {"attribution": np.array([3.0, 2.0, 9.0, 1.0]), "attention": np.array([3.0, 1.0, 9.0, 2.0])}
    sets = {name: [np.zeros(4, bool), *(best(order, selectable, k) for k in (1, 33, 67, 100))] for name, order in orders.items()}
    found = keeping.plan(sets, [0.0, 1.0, 33.0, 67.0, 100.0])
    # None, all, the first of both, and a second one each.
    assert found.kept.tolist() == [0, 3, 1, 2, 2]
    assert {name: places.tolist() for name, places in found.place.items()} == {"attribution": [0, 2, 2, 3, 1], "attention": [0, 2, 2, 4, 1]}
    for name, rows in sets.items():
        assert np.array_equal(found.sets[found.place[name]], rows)
    results = np.array([[0, 0, 0], [9, 1, 1], [1, 1, 0], [2, 1, 1], [3, 0, 0]], float)
    table = keeping.kept_rows("e", 7, "closed", found, results)
    KEPT.check(table, "here")
    row = table.filter(selection="attention", percent=67.0).row(0, named=True)
    assert (row["kept"], row["of"], row["target"], row["first_right"], row["right"], row["picture"]) == (2, 3, 3.0, False, False, 7)


def test_bands_are_wilsons_and_students():
    random = np.random.default_rng(0)
    targets, right = random.normal(size=(12, 4)), random.random((12, 4)) < 0.7
    found = keeping.bands(kept({"random": targets}, right={"random": right}))
    KEPT_BANDS.check(found, "here")
    for place, percent in enumerate(PERCENTS):
        row = found.filter(measure="accuracy", percent=percent).row(0, named=True)
        ends = binomtest(int(right[:, place].sum()), 12).proportion_ci(method="wilson")
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((right[:, place].mean(), ends.low, ends.high))
        assert (row["share"], row["tokens"]) == pytest.approx((percent / 100, percent))
        row = found.filter(measure="target", percent=percent).row(0, named=True)
        assert row["mean"] == pytest.approx(targets[:, place].mean()) and row["low"] < row["mean"] < row["high"]


def test_questions_about_one_picture_count_once():
    random = np.random.default_rng(1)
    targets = random.normal(size=(6, 4))
    doubled = keeping.bands(kept({"random": np.repeat(targets, 2, 0)}, pictures=np.repeat(np.arange(6), 2).tolist()))
    single = keeping.bands(kept({"random": targets}))
    assert_frame_equal(doubled, single)
    assert single["pictures"].unique().to_list() == [6]
    both = {"random": targets, "attention": targets + random.normal(size=(6, 4))}
    found = keeping.differences(kept(both))
    again = keeping.differences(kept({name: np.repeat(x, 2, 0) for name, x in both.items()}, pictures=np.repeat(np.arange(6), 2).tolist()))
    assert_frame_equal(found, again)


def test_areas_are_mean_heights_over_the_logarithm():
    shares = np.array([[0, 0.01, 0.1, 1.0]] * 2)
    assert keeping.areas(shares, np.array([[9, 2, 2, 2], [9, 0, 1, 1]])) == pytest.approx([2.0, 0.75])
    # Two k that come to the same number of tokens: the step has no width.
    assert keeping.areas(np.array([[0, 0.1, 0.1, 1.0]]), np.array([[9.0, 1, 1, 3]])) == pytest.approx([2.0])
    assert keeping.areas(np.array([[0, 1.0, 1.0]]), np.array([[9.0, 1, 1]])) == pytest.approx([1.0])


def test_the_smallest_share_is_the_one_from_which_on_the_level_holds():
    curves = np.array([[0.96, 0.9, 0.97, 1.0], [0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert keeping.smallest(curves, 0.95).tolist() == [2, 3, 0, -1]
    assert keeping.smallest(np.array([5.0, 6.0, 6.9, 7.0]), 0.9, 5.0) == 2  # of the rise from 5 to 7
    assert keeping.smallest(np.array([-5.0, -3.0, -3.0]), 0.95, -9.0) == 1  # logarithms of probabilities are negative


def test_summary_by_hand():
    targets = np.array([[0.0, 2, 4, 4], [0, 0, 4, 4], [0, 1, 4, 4]])
    right = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]], bool)
    found = keeping.summary(kept({"attention": targets}, right={"attention": right}), level=0.95, draws=99)
    KEPT_SUMMARY.check(found, "here")
    accuracy, target = (found.filter(measure=measure).row(0, named=True) for measure in keeping.MEASURES)
    assert (accuracy["stock"], accuracy["none"], accuracy["share"], accuracy["tokens"]) == pytest.approx((1.0, 0.0, 0.1, 10.0))
    assert accuracy["area"] == pytest.approx((1 + 0.75 + 1) / 3)
    assert target["area"] == pytest.approx((3.5 + 3 + 3.25) / 3) and target["share"] == pytest.approx(0.1)
    # Where both draws of one token that is right outnumber the other, one token does.
    assert (accuracy["share_low"], accuracy["share_high"]) == pytest.approx((0.01, 0.1))
    nothing = keeping.summary(kept({"attention": np.zeros((3, 4))}), draws=99)
    assert nothing["share"].to_list() == [None, None] and nothing["share_low"].to_list() == [None, None]


def test_differences_are_paired_and_leave_out_examples_that_one_side_lacks():
    random = np.random.default_rng(3)
    values = {name: random.normal(size=(9, 4)) for name in ("attribution", "attention", "random")}
    table = kept(values)
    found = keeping.differences(table)
    KEPT_DIFFERENCES.check(found, "here")
    heights = {name: keeping.areas(np.array([[0, 0.01, 0.1, 1.0]] * 9), x) for name, x in values.items()}
    row = found.filter(measure="target", selection="attribution", other="random").row(0, named=True)
    assert row["difference"] == pytest.approx((heights["attribution"] - heights["random"]).mean())
    assert row["p"] == pytest.approx(ttest_rel(heights["attribution"], heights["random"]).pvalue) and row["p"] <= row["p_holm"]
    fewer = keeping.differences(table.filter((pl.col("selection") != "attention") | (pl.col("id") != "e0")))
    row = fewer.filter(measure="target", selection="attribution", other="attention").row(0, named=True)
    assert row["pictures"] == 8 and row["difference"] == pytest.approx((heights["attribution"] - heights["attention"])[1:].mean())
    same = keeping.differences(kept({"attribution": values["random"], "random": values["random"]}))
    assert same["p"].to_list() == [1.0, 1.0]


def test_the_leader_is_told_by_paired_differences():
    random = np.random.default_rng(4)
    common = 3 * random.normal(size=(30, 1))  # pictures differ far more than selections do
    values = {name: common + lift + 0.2 * random.normal(size=(30, 4)) for name, lift in (("attribution", 0.5), ("attention", 0.48), ("random", 0.0))}
    table = kept(values)
    first = keeping.leader(keeping.summary(table, draws=50), keeping.differences(table), way="removed", measure="target")
    assert first is not None and first.ranking in ("attribution", "attention")
    assert "random" in first.ahead_of and len(first.level_with) == 1


def test_intervals_and_tests_keep_their_word():
    """Over many draws of pictures: intervals of differences hold the truth at their level, and without a difference few pairs are called different."""
    rounds, covered, called = 80, 0, 0
    for seed in range(rounds):
        random = np.random.default_rng([5, seed])
        common = random.normal(size=(20, 1))
        values = {name: common + 0.5 * random.normal(size=(20, 4)) for name in ("attention", "position", "random")}
        found = keeping.differences(kept(values)).filter(measure="target")
        covered += int(((found["low"] <= 0) & (found["high"] >= 0)).sum())
        called += bool((found["p_holm"] < 0.05).any())
    assert 0.9 < covered / (3 * rounds) < 0.98
    assert called / rounds < 0.1


def test_the_interval_of_the_smallest_share_holds_the_true_one():
    hits, rounds = 0, 60
    for seed in range(rounds):
        random = np.random.default_rng([6, seed])
        chances = np.array([0.05, 0.93, 0.995, 1.0])  # 95 % are held from 10 percent on
        right = random.random((40, 1)) < chances
        row = keeping.summary(kept({"attention": right.astype(float)}, right={"attention": right}), draws=199, seed=seed).row(0, named=True)
        hits += row["share_low"] < 0.11 and row["share_high"] > 0.09
    assert hits / rounds > 0.85
