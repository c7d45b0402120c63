"""Statistics of compressed contexts against plain counting."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest, ttest_rel

from headflow.analysis import compression
from headflow.analysis.compression import differences, is_right, one, summary, to_compare, told
from headflow.tables.compressing import COMPRESSED_ANSWERS, COMPRESSED_DIFFERENCES, COMPRESSED_SUMMARY


def answers(rights: dict[tuple, np.ndarray], categories: tuple[str, ...] = ("present", "count"), tokens: int = 40) -> pl.DataFrame:
    """A COMPRESSED_ANSWERS table: variant (asking, strategy, chosen_by, percent) → right answers [pictures, questions]."""
    rows = [
        (f"p{picture}", picture, *variant, number, categories[number], "q", "yes", "yes" if right else "no", bool(right), tokens + picture, 100 * tokens)
        for variant, values in rights.items()
        for picture, row in enumerate(values)
        for number, right in enumerate(row)
    ]
    return pl.DataFrame(rows, schema={name: column.dtype for name, column in COMPRESSED_ANSWERS.columns.items()}, orient="row")


@pytest.fixture(scope="module")
def rights() -> dict[tuple, np.ndarray]:
    random = np.random.default_rng(0)
    shares = {("full", None, None): 0.95, ("none", None, None): 0.2, ("query", None, None): 0.3, ("description", None, None): 0.5}
    shares |= {("both", chosen, k): share for chosen, base in (("attention", 0.9), ("random", 0.4)) for k, share in ((2.0, base - 0.2), (5.0, base))}
    found = {("turn", *variant): random.random((30, 2)) < share for variant, share in shares.items()}
    return {**found, ("new", "full", None, None): np.ones((30, 2), bool)}


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("Yes, there is a dog.", "yes", True), ("yes", "yes", True), ("No.", "yes", False), ("", "no", False), ("Nothing", "no", False),
        (" Two ", "two", True), ("two stars", "two", False), ("blue.", "Blue", True), ("", "two", False),
    ],
)  # fmt: skip
def test_what_counts_as_right(answer, expected, right) -> None:
    assert is_right(answer, expected) is right


def test_accuracy_and_acc_plus_are_counted_by_picture(rights) -> None:
    table = COMPRESSED_SUMMARY.check(summary(answers(rights)), "here")
    for variant, values in rights.items():
        row = one(table, *variant)
        assert row["accuracy"] == pytest.approx(values.mean()) and row["plus"] == pytest.approx(values.all(1).mean())
        assert (row["plus_low"], row["plus_high"]) == pytest.approx(tuple(binomtest(int(values.all(1).sum()), 30).proportion_ci(method="wilson")))
        assert row["low"] <= row["accuracy"] <= row["high"] + 1e-12
        assert row["tokens"] == pytest.approx(40 + 14.5) and row["pictures"] == 30 and row["questions"] == 60
        counts = one(table, *variant, category="count")
        assert counts["accuracy"] == counts["plus"] == pytest.approx(values[:, 1].mean()) and counts["questions"] == 30
        assert (counts["low"], counts["high"]) == pytest.approx(tuple(binomtest(int(values[:, 1].sum()), 30).proportion_ci(method="wilson")))


def test_differences_are_paired_within_pictures(rights) -> None:
    table = COMPRESSED_DIFFERENCES.check(differences(answers(rights)), "here")
    assert set(table["asking"]) == {"turn"}
    for row in table.iter_rows(named=True):
        mine = rights[row["asking"], row["strategy"], row["chosen_by"], row["percent"]].mean(1)
        other = ("both", "random", row["percent"]) if row["against"] == "random" else (row["against"], None, None)
        test = ttest_rel(mine, rights["turn", *other].mean(1))
        low, high = test.confidence_interval()
        assert row["p"] == pytest.approx(test.pvalue) and (row["low"], row["high"]) == pytest.approx((low, high)) and row["p_holm"] >= row["p"]
    against = table.group_by("against").len()
    assert dict(against.iter_rows()) == {"full": 7, "none": 7, "random": 2}


@pytest.mark.parametrize(("pictures", "p"), [(2, 0.5), (4, 0.125), (12, 2.0**-11)])
def test_a_few_equal_losses_prove_little(pictures, p) -> None:
    right, wrong = np.ones((pictures, 2), bool), np.zeros((pictures, 2), bool)
    wrong[:, 0] = True
    table = differences(answers({("turn", "full", None, None): right, ("turn", "query", None, None): wrong}))
    assert table["p"].to_list() == [pytest.approx(p)] and table["difference"].to_list() == [-0.5]


def test_which_way_of_asking_can_be_told_by() -> None:
    def full(share: float, asking: str) -> dict[tuple, np.ndarray]:
        return {(asking, "full", None, None): np.arange(20)[:, None] < [20 * share]}

    kinds = ("present",)
    assert told(summary(answers({**full(0.8, "turn"), **full(1.0, "fresh")}, kinds))) == "fresh"
    assert told(summary(answers({**full(0.9, "turn"), **full(1.0, "fresh")}, kinds))) == "turn"
    assert told(summary(answers({**full(0.5, "turn"), **full(0.6, "fresh"), **full(1.0, "new")}, kinds))) == "fresh"
    assert told(summary(answers({}))) is None and to_compare(summary(answers({}))) == [] and differences(answers({})).is_empty()


def test_rows_next_to_the_papers(rights) -> None:
    rows = to_compare(summary(answers(rights)))
    assert [(row["strategy"], row["percent"]) for row in rows] == [("full", None), ("both", 5.0), ("both", 2.0), ("query", None), ("description", None)]
    assert rows[1]["accuracy"] == pytest.approx(100 * rights["turn", "both", "attention", 5.0].mean()) and rows[1]["tokens"] == pytest.approx(54.5)


def test_differences_hold_their_level() -> None:
    """No strategy differs here: at 5 % about one in twenty is taken for different without correction, fewer with it."""
    random, found = np.random.default_rng(1), []
    for _ in range(40):
        drawn = {("turn", name, None, None): random.random((24, 4)) < 0.6 for name in ("full", "query", "description", "none")}
        found.append(compression.differences(answers(drawn, ("a", "b", "c", "d"))).filter(against="full"))
    table = pl.concat(found)
    assert 0.02 <= float((table["p"] < 0.05).mean()) <= 0.09
    assert np.mean([float(part["p_holm"].min()) < 0.05 for part in found]) <= 0.1
