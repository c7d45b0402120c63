"""F1 against layers: every number against a slow one, intervals and p-values by simulation, depths where they are known."""

from itertools import product

import numpy as np
import polars as pl
import pytest
from scipy import stats

from headflow.analysis import knockout_scores
from headflow.analysis.knockout_plan import knockout_plan
from headflow.analysis.knockout_scores import f1_matrix, half_rise, knockout_bands, knockout_differences, knockout_levels, knockout_summary
from headflow.analysis.knockouts import ROUTES
from headflow.errors import HeadflowError
from headflow.execution.said import Saying
from tests.analysis.scored import judged, spoken_table

OBJECTS = [f"thing{number}" for number in range(12)]
LAYERS = 5


def f1(said: list[str], expected: list[str]) -> float | None:
    said, expected = set(said), set(expected)
    return None if not said | expected else 2 * len(said & expected) / (len(said) + len(expected))


class Drawn:
    """Descriptions whose objects are kept with a chance that depends on route and layers; some pictures show nothing."""

    def __init__(self, pictures: int, seed: int, keep=lambda closing: 0.5, *, empty: int = 0, routes=ROUTES, last=("query",), truth: bool = True) -> None:
        random = np.random.default_rng(seed)
        self.closings, self.plan = knockout_plan(LAYERS, routes, last)
        self.ids = [f"p{number}" for number in range(pictures)]
        self.stock = [[] if place < empty else random.choice(OBJECTS, 3, replace=False).tolist() for place in range(pictures)]
        self.truth = [[*objects[:2], str(random.choice(OBJECTS))] if objects else [] for objects in self.stock]
        self.truth = [list(dict.fromkeys(objects)) for objects in self.truth]

        def said(objects: list[str], share: float) -> list[str]:
            kept = [name if random.random() < share else str(random.choice(OBJECTS)) for name in objects]
            return list(dict.fromkeys(kept))

        self.objects = [[said(objects, keep(closing)) for closing in self.closings] for objects in self.stock]
        lengths = [[Saying(list(range(int(random.integers(1, 9)))), bool(random.random() < 0.7)) for _ in self.closings] for _ in self.ids]
        self.lengths, self.table = lengths, spoken_table(self.ids, self.closings, lengths)
        self.judgements = judged(self.ids, self.objects, self.stock, self.truth if truth else None)

    @property
    def tables(self) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        return self.judgements, self.table, self.plan


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return Drawn(24, 1, lambda closing: 1 - closing.knockout.cut(LAYERS).float().mean().item(), empty=2, last=("query", "generated"))


def expected_of(drawn: Drawn, against: str) -> list[list[str]]:
    return drawn.stock if against == "stock" else drawn.truth


def test_bands_are_means_over_pictures(drawn):
    bands = knockout_bands(*drawn.tables)
    assert len(bands) == 2 * len(drawn.plan) and bands["pictures"].unique().to_list() == [22]  # two name nothing, whatever is closed
    for row in bands.sample(40, seed=0).iter_rows(named=True):
        at, expected = row["knockout"], expected_of(drawn, row["against"])
        values = [f1(said[at], wanted) for said, wanted in zip(drawn.objects, expected, strict=True)]
        known = np.array([value for value in values if value is not None])
        interval = stats.t.interval(0.95, len(known) - 1, known.mean(), stats.sem(known)) if np.ptp(known) else (known[0], known[0])
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((known.mean(), max(0, interval[0]), min(1, interval[1])))
        counts = [(len(set(said[at]) & set(wanted)), len(set(wanted) - set(said[at])), len(set(said[at]) - set(wanted)))
                  for said, wanted in zip(drawn.objects, expected, strict=True)]  # fmt: skip
        assert (row["found"], row["lost"], row["invented"]) == pytest.approx(np.mean(counts, 0))
        spoken = [lengths[at] for lengths in drawn.lengths]
        assert row["ended"] == pytest.approx(np.mean([saying.ended for saying in spoken]))
        assert row["tokens"] == pytest.approx(np.mean([len(saying.tokens) for saying in spoken]))


def test_chance_is_another_pictures_description(drawn):
    levels = {(row["against"], row["level"]): row for row in knockout_levels(*drawn.tables).iter_rows(named=True)}
    for against in ("stock", "truth"):
        expected, count = expected_of(drawn, against), len(drawn.ids)

        def over_pairs(left_out: int | None = None, expected: list = expected) -> float:
            places = [place for place in range(len(expected)) if place != left_out]
            values = [f1(drawn.stock[i], expected[j]) for i, j in product(places, places) if i != j]
            return float(np.mean([value for value in values if value is not None]))

        row = levels[against, "chance"]
        assert row["mean"] == pytest.approx(over_pairs()) and row["pictures"] == count
        parts = np.array([over_pairs(place) for place in range(count)])
        reach = stats.t.ppf(0.975, count - 1) * np.sqrt((count - 1) / count * ((parts - parts.mean()) ** 2).sum())
        assert (row["low"], row["high"]) == pytest.approx((row["mean"] - reach, row["mean"] + reach))
    assert levels["stock", "stock"]["mean"] == 1.0
    own = [value for said, wanted in zip(drawn.stock, drawn.truth, strict=True) if (value := f1(said, wanted)) is not None]
    assert levels["truth", "stock"]["mean"] == pytest.approx(np.mean(own)) and levels["truth", "stock"]["pictures"] == 22


def test_the_interval_of_chance_holds_as_often_as_it_says():
    """Pictures drawn anew 300 times, around the expectation over all pictures."""
    random, inside = np.random.default_rng(3), 0
    population = [random.choice(OBJECTS[:6], int(random.integers(1, 4)), replace=False).tolist() for _ in range(400)]
    matrix = f1_matrix(population, population)
    truth = matrix.mean()  # with replacement, a picture may meet its like
    for _ in range(300):
        chosen = random.integers(0, len(population), 20)
        _, low, high = knockout_scores._over_pairs(matrix[np.ix_(chosen, chosen)], 0.95)
        inside += low <= truth <= high
    assert 0.91 <= inside / 300 <= 0.985


def test_f1_between_all_pairs():
    random = np.random.default_rng(0)
    lists = [[random.choice(OBJECTS, int(random.integers(0, 4)), replace=False).tolist() for _ in range(7)] for _ in range(2)]
    matrix = f1_matrix(*lists)
    for i, j in product(range(7), range(7)):
        wanted = f1(lists[0][i], lists[1][j])
        assert np.isnan(matrix[i, j]) if wanted is None else matrix[i, j] == pytest.approx(wanted)
    assert np.isnan(f1_matrix([[], []], [[], []])).all()


def test_sign_flips_are_all_patterns_of_few_and_a_sample_of_many():
    few = np.array([0.5, 0.2, -0.1, 0.4, 0.0, np.nan])
    means = np.array([np.mean(few[:5] * signs) for signs in product((1, -1), repeat=5)])
    assert knockout_scores.sign_flip(few, 9999, 0) == pytest.approx(np.mean(np.abs(means) >= few[:5].mean() - 1e-12))
    many = np.random.default_rng(0).normal(0.2, 1, 40)
    p = knockout_scores.sign_flip(many, 9999, 0)
    assert p == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02) and p == knockout_scores.sign_flip(many, 9999, 0)
    assert np.isnan(knockout_scores.sign_flip(np.array([1.0]), 999, 0)) and knockout_scores.sign_flip(np.zeros(5), 999, 0) == 1.0


def test_descriptions_that_say_nothing_of_their_picture_are_found_out_as_often_as_chance_has_it():
    random, p = np.random.default_rng(5), []
    for number in range(200):
        stock = [random.choice(OBJECTS, 2, replace=False).tolist() for _ in range(12)]
        said = [random.choice(OBJECTS[:5], 2, replace=False).tolist() for _ in range(12)]  # always the same few things
        others, value = knockout_scores.own_picture(f1_matrix(said, stock), 199, number)
        p.append(value)
        assert 0 < others < 0.6
    # Few different values of F1: ties make it err on the safe side, not far.
    for level in (0.05, 0.1, 0.2, 0.5):
        assert 0.2 * level < np.mean(np.array(p) <= level) <= level + 2.5 * np.sqrt(level * (1 - level) / len(p))
    own = [[objects[0]] for objects in stock]
    assert knockout_scores.own_picture(f1_matrix(own, stock), 999, 0)[1] == pytest.approx(0.001, abs=0.002)
    assert np.isnan(knockout_scores.own_picture(f1_matrix([["a"]], [["a"]]), 99, 0)).all()


def test_half_rise():
    assert half_rise(np.arange(-1, 4.0), np.array([0.0, 0.0, 1.0, 1.0, 1.0])) == 0.5
    assert half_rise(np.array([-1.0, 3.0, 7.0]), np.array([0.2, 0.4, 1.0])) == pytest.approx(3 + 4 / 3)
    # A dip is spread over its neighbours: 0, .5, .5, 1.
    assert half_rise(np.arange(4.0), np.array([0.0, 0.6, 0.4, 1.0])) == pytest.approx(1.0)
    assert np.isnan(half_rise(np.arange(3.0), np.ones(3))) and np.isnan(half_rise(np.arange(3.0), np.array([1.0, 0.5, 0.0])))


def rising_at(layer: int, low: float = 0.2, high: float = 0.95):
    """Objects are kept where the route is open in this layer; img→query never costs anything, and neither does the last of the layers."""
    return lambda closing: low if closing.knockout.cut(LAYERS)[layer] and closing.knockout.route != "img→query" else high


@pytest.mark.parametrize("layer", [0, 4])
def test_the_layer_that_matters_is_found(layer):
    summary = knockout_summary(*Drawn(40, 10 + layer, rising_at(layer)).tables, draws=99, permutations=999)
    for row in summary.iter_rows(named=True):
        if row["route"] == "img→query":
            assert row["rise"] is None and row["half"] is None and row["fall_p_holm"] > 0.05 and row["others_p_holm"] < 0.01
            continue
        assert (row["rise_first"], row["rise_last"]) == (layer, layer) and row["rise_share"] > 0.95 and row["rise_low"] > 0
        assert (row["rise_at_low"], row["rise_at_high"]) == (layer, layer) and row["half"] == pytest.approx(layer - 0.5, abs=0.5)
        assert row["half_low"] <= row["half"] <= row["half_high"] and row["fall"] == pytest.approx(row["whole"] - row["blind"])
        assert row["worst_first"] <= layer <= row["worst_last"] and row["best_first"] <= layer <= row["best_last"] and row["best"] > row["blind"]
        assert row["fall_p_holm"] < 0.01 and row["pictures"] == 40
    assert set(summary["against"]) == {"stock", "truth"} and len(summary) == 6


def test_the_place_of_a_gradual_rise_is_left_open():
    gradual = Drawn(40, 7, lambda closing: 1 - closing.knockout.cut(LAYERS).float().mean().item(), routes=("img→gen",))
    summary = knockout_summary(*gradual.tables, draws=99, permutations=999)
    (row,) = summary.filter(against="stock").to_dicts()
    assert row["rise_share"] < 0.9 and row["rise_at_high"] > row["rise_at_low"] and row["half_low"] < row["half"] < row["half_high"]


def test_routes_are_compared_within_pictures(drawn):
    differences = knockout_differences(*drawn.tables, permutations=999)
    assert len(differences) == 2 * 10
    blind = {(row["route"], row["last_position"]): row["knockout"] for row in drawn.plan.filter(kind="upward", closed=LAYERS).iter_rows(named=True)}
    for row in differences.iter_rows(named=True):
        expected = expected_of(drawn, row["against"])
        one, other = (
            np.array([f1(said[blind[names]], wanted) for said, wanted in zip(drawn.objects, expected, strict=True)], float)
            for names in ((row["route"], row["last_position"]), (row["other_route"], row["other_last_position"]))
        )
        gap = (one - other)[np.isfinite(one - other)]
        assert row["difference"] == pytest.approx(gap.mean()) and row["pictures"] == len(gap) == 22
        interval = stats.t.interval(0.95, len(gap) - 1, gap.mean(), stats.sem(gap))
        assert (row["low"], row["high"]) == pytest.approx(interval) and row["p"] <= row["p_holm"] <= 1
    apart = knockout_differences(*Drawn(30, 2, rising_at(3)).tables, permutations=999)
    told = {(row["route"], row["other_route"]): row["p_holm"] for row in apart.filter(against="stock").iter_rows(named=True)}
    assert told["img→gen", "img→query"] < 0.01 and told["img→query", "img→both"] < 0.01 and told["img→gen", "img→both"] > 0.05


def test_one_picture_has_numbers_and_no_interval():
    tables = Drawn(1, 0).tables
    bands, levels = knockout_bands(*tables), knockout_levels(*tables)
    summary, differences = knockout_summary(*tables, draws=99), knockout_differences(*tables)
    assert bands["mean"].null_count() == 0 and bands["low"].null_count() == len(bands)
    assert levels.filter(level="chance")["mean"].null_count() == 2 and summary["rise"].null_count() == summary["others_p"].null_count() == len(summary)
    assert differences["p_holm"].null_count() == len(differences)


def test_pictures_in_which_nothing_is_named_have_no_score():
    tables = Drawn(5, 0, empty=5, truth=False).tables
    bands, summary = knockout_bands(*tables), knockout_summary(*tables, draws=99)
    assert bands["mean"].null_count() == len(bands) and bands["pictures"].unique().to_list() == [0]
    assert summary["blind"].null_count() == summary["worst"].null_count() == len(summary) and knockout_levels(*tables)["mean"].null_count() == 2
    assert summary["pictures"].to_list() == [0, 0, 0]


def test_true_objects_may_be_known_of_some_pictures_alone(drawn):
    some = drawn.judgements.filter((pl.col("against") == "stock") | pl.col("id").is_in(drawn.ids[:12]))
    bands = knockout_bands(some, drawn.table, drawn.plan)
    assert bands.filter(against="truth")["pictures"].unique().to_list() == [10] and bands.filter(against="stock")["pictures"].unique().to_list() == [22]


def test_judgements_of_other_descriptions_are_refused(drawn):
    judgements, table, plan = drawn.tables
    for wrong in (
        (judgements.filter(~((pl.col("id") == "p3") & (pl.col("knockout") == 2))), table, plan), (judgements, table.filter(pl.col("id") != "p3"), plan),
        (judgements, table, plan.filter(pl.col("kind") == "upward")), (judgements.with_columns(pl.col("knockout") + 1), table, plan),
        (pl.concat([judgements, judgements.head(1)]), table, plan),
        (judgements.filter(~((pl.col("id") == "p3") & (pl.col("knockout") == -1))), table, plan),
    ):  # fmt: skip
        with pytest.raises(HeadflowError, match=r"other descriptions|not every stock description"):
            knockout_levels(*wrong)


def test_each_judge_has_numbers_of_its_own(drawn):
    other = judged(drawn.ids, [[[] for _ in drawn.closings] for _ in drawn.ids], drawn.stock, judge="llm")
    bands = knockout_bands(pl.concat([drawn.judgements, other]), drawn.table, drawn.plan)
    assert bands.filter(judge="llm")["mean"].unique().to_list() == [0.0] and bands.filter(judge="match").equals(knockout_bands(*drawn.tables))
