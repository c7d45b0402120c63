"""What models are compared by, against planted truth and textbook values."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from headflow.analysis import comparison
from headflow.analysis.comparison import Subject, jackknife
from tests.reporting.compared_runs import Planted

LEVEL = 0.95


def subject(grid: np.ndarray, **other: np.ndarray) -> Subject:
    """A model with these attributions [examples, layers, heads]."""
    count, layers = grid.shape[:2]
    known = {"depth": np.arange(layers) / layers, "single": grid.sum((1, 2)) / 4, "total": grid.sum((1, 2)), "held_out_r": np.full(count, 0.9)}
    return Subject(key="m", attribution=grid, **(known | other))


class TestJackknife:
    def test_of_a_mean_is_students_interval(self):
        values = np.random.default_rng(0).normal(3, 2, 30)
        found = jackknife(lambda mean: mean, [values], LEVEL)
        low, high = stats.t.interval(LEVEL, 29, values.mean(), stats.sem(values))
        assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high))

    def test_of_a_ratio_covers_the_truth_as_often_as_it_says(self):
        rng = np.random.default_rng(1)
        hits = 0
        for _ in range(400):
            whole = rng.normal(10, 2, 25)
            part = 0.3 * whole + rng.normal(0, 1, 25)
            found = jackknife(lambda a, b: a / b, [part, whole], 0.9)
            hits += bool(found.low < 0.3 < found.high)
        assert stats.binom.cdf(hits, 400, 0.9) > 0.001 and stats.binom.sf(hits - 1, 400, 0.9) > 0.001

    def test_many_examples_are_left_out_in_groups_to_the_same_end(self):
        values = np.random.default_rng(2).normal(0, 1, 3000)
        found = jackknife(lambda mean: mean, [values], LEVEL)
        assert found.freedom == comparison.GROUPS - 1
        assert found.error == pytest.approx(stats.sem(values), rel=0.25)

    def test_one_example_has_no_interval(self):
        found = jackknife(lambda mean: mean, [np.array([2.0])], LEVEL)
        assert found.value == 2 and np.isnan([found.low, found.high, found.error]).all() and found.freedom == 0


class TestDepth:
    def test_planted_depth_is_found_in_models_of_any_size(self):
        deep, shallow = Planted("deep", layers=40, heads=16, centre=0.7, strong=20), Planted("shallow", layers=12, heads=4, centre=0.3, strong=6)
        first, second = comparison.mean_depths([deep.subject(), shallow.subject()], LEVEL).iter_rows(named=True)
        assert abs(first["depth"] - 0.7) < 0.06 and abs(second["depth"] - 0.3) < 0.06
        assert first["later_low"] > 0 and second["later_high"] < 0

    def test_an_even_spread_is_no_later_and_no_earlier(self):
        row = comparison.mean_depths([subject(np.ones((5, 6, 8)))], LEVEL).row(0, named=True)
        assert row["later"] == pytest.approx(0) and row["even"] == pytest.approx(5 / 12)
        shares = comparison.layer_shares([subject(np.ones((5, 6, 8)))], LEVEL)
        assert shares["share"].to_list() == pytest.approx([0.1] * 6), "an even spread is a tenth in each tenth of the depth"

    def test_layers_of_cross_attention_stand_at_their_places(self):
        planted = Planted("m", layers=3, heads=4, image_layers=(3, 8, 13), decoder_layers=20)
        shares = comparison.layer_shares([planted.subject()], LEVEL)
        assert shares["depth"].to_list() == pytest.approx([0.15, 0.4, 0.65]) and shares["layer"].to_list() == [3, 8, 13]

    def test_heads_that_work_against_each_other_cancel_in_a_layers_share(self):
        grid = np.zeros((4, 2, 2))
        grid[:, 0] = [1.0, -1.0]
        grid[:, 1] = [1.0, 1.0]
        assert comparison.layer_shares([subject(grid)], LEVEL)["share"].to_list() == pytest.approx([0, 0.5 * 2 / 10])

    @given(scale=st.floats(1e-3, 1e3), tile=st.integers(1, 4))
    @settings(max_examples=20, deadline=None)
    def test_neither_the_targets_scale_nor_the_number_of_layers_moves_a_model(self, scale, tile):
        """What is compared has no unit; a model whose every layer is split in ``tile`` like ones has the same density of attribution."""
        grid = Planted("m", strong=10).subject().attribution
        before, after = subject(grid), subject(scale * np.repeat(grid, tile, axis=1))
        shares = [comparison.layer_shares([one], LEVEL)["share"].to_numpy() for one in (before, after)]
        np.testing.assert_allclose(np.repeat(shares[0], tile), shares[1], atol=1e-9)
        later = [comparison.mean_depths([one], LEVEL)["later"][0] for one in (before, after)]
        assert later[0] == pytest.approx(later[1], abs=1e-9)
        (held, again) = (comparison.concentration([one], LEVEL) for one in (before, subject(scale * grid)))
        np.testing.assert_allclose(held["held"], again["held"], atol=1e-9)


def fitted(key: str, r: np.ndarray, ids: tuple[str, ...]) -> Subject:
    return replace(subject(np.ones((len(r), 2, 2))), key=key, held_out_r=r, ids=ids)


class TestContrasts:
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 0.1, 20)
    one, two = 0.8 + hard + rng.normal(0, 0.005, 20), 0.79 + hard + rng.normal(0, 0.005, 20)
    ids = tuple(f"e{place}" for place in range(20))

    @staticmethod
    def of_r(*subjects: Subject) -> tuple:
        table = comparison.contrasts(subjects, LEVEL).filter(measure="r")
        return table.select("gap", "low", "high", "common").row(0)

    def test_examples_in_common_are_paired_whatever_their_order(self):
        order = self.rng.permutation(20)
        gap, low, high, common = self.of_r(fitted("a", self.one, self.ids), fitted("b", self.two[order], tuple(self.ids[place] for place in order)))
        expected = stats.ttest_rel(self.one, self.two).confidence_interval(LEVEL)
        assert (low, high) == pytest.approx((expected.low, expected.high)) and gap == pytest.approx((self.one - self.two).mean()) and common == 20
        assert low > 0, "though the intervals of the two overlap by far"

    def test_others_are_not(self):
        other = tuple(f"f{place}" for place in range(20))
        gap, low, high, common = self.of_r(fitted("a", self.one, self.ids), fitted("b", self.two, other))
        reach = stats.t.ppf(0.975, 19) * math.hypot(stats.sem(self.one), stats.sem(self.two))
        assert (low, high) == pytest.approx((gap - reach, gap + reach)) and common == 0 and low < 0

    def test_half_the_smaller_in_common_is_enough(self):
        few, fewer = self.ids[:10] + tuple("ghijklmnop"), self.ids[:9] + tuple("ghijklmnopq")
        for ids, common in ((few, 10), (fewer, 0)):
            assert self.of_r(fitted("a", self.one, self.ids), fitted("b", self.two, ids))[3] == common

    def test_undefined_ones_are_left_out_of_the_pairs_and_nothing_gives_nothing(self):
        hollow = np.where(np.arange(20) < 4, np.nan, self.two)
        assert self.of_r(fitted("a", self.one, self.ids), fitted("b", hollow, self.ids))[3] == 16
        assert self.of_r(fitted("a", self.one, self.ids), fitted("b", hollow * np.nan, self.ids))[1:] == (pytest.approx(math.nan, nan_ok=True),) * 2 + (0,)

    def test_more_models_need_more(self):
        widths = []
        for count in (2, 10):
            models = [fitted(str(place), (self.one, self.two)[place % 2], self.ids) for place in range(count)]
            _, low, high, _ = self.of_r(*models)
            widths.append(high - low)
        assert widths[1] / widths[0] == pytest.approx(stats.t.ppf(1 - 0.025 / 45, 19) / stats.t.ppf(0.975, 19))

    def test_planted_differences_in_depth_and_concentration_are_found(self):
        deep, wide = Planted("deep", centre=0.8, strong=4), Planted("wide", centre=0.2, strong=30)
        found = {row["measure"]: row for row in comparison.contrasts([deep.subject(), wide.subject()], LEVEL).iter_rows(named=True)}
        depths = comparison.mean_depths([deep.subject(), wide.subject()], LEVEL)["later"]
        assert found["later"]["gap"] == pytest.approx(depths[0] - depths[1]) and found["later"]["low"] > 0
        assert found["half"]["high"] < 0

    def test_heads_for_a_half_lie_between_whole_ones(self):
        assert comparison._half(np.array([[2.0, -1.0], [1.0, 0.0]])) == pytest.approx(1 / 4)
        assert comparison._half(np.array([[3.0, 0.0], [0.0, 0.0]])) == pytest.approx(1 / 8)
        assert math.isnan(comparison._half(np.zeros((2, 2))))


class TestConcentration:
    def test_one_head_that_holds_all_and_heads_alike(self):
        alone = np.zeros((4, 2, 5))
        alone[:, 1, 3] = -2.0
        for grid, half, most in ((alone, 1, 1), (np.ones((4, 2, 5)), 5, 8)):
            needed = comparison.heads_needed(comparison.concentration([subject(grid)], LEVEL))
            assert needed["heads"].to_list() == [half, most] == needed["low"].to_list() == needed["high"].to_list()
            assert needed["of"].to_list() == [10, 10]

    def test_the_curve_rises_to_all(self):
        curve = comparison.concentration([Planted("m").subject()], LEVEL)
        held = curve["held"].to_numpy()
        assert (np.diff(held) >= 0).all() and held[-1] == pytest.approx(1) and (np.diff(held, 2) <= 1e-12).all()
        assert curve["heads"].to_list() == list(range(1, 49))
        assert (curve["low"].to_numpy() <= held + 1e-12).all() and (held <= curve["high"].to_numpy() + 1e-12).all()

    def test_planted_heads_are_counted(self):
        few, many = Planted("few", layers=16, heads=16, strong=4, noise=0.005), Planted("many", layers=16, heads=16, strong=100, noise=0.005)
        needed = comparison.heads_needed(comparison.concentration([few.subject(), many.subject()], LEVEL), [0.8])
        assert needed["heads"][0] <= 4 and 50 < needed["heads"][1] <= 100 and needed["high"][0] < needed["low"][1]


class TestFits:
    @pytest.mark.parametrize(("count", "low", "high"), [(5, None, None), (6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)])
    def test_limits_of_a_median_are_those_of_the_tables(self, count, low, high):
        """Conover, Practical Nonparametric Statistics: ranks of the 95 % limits of a median."""
        assert comparison.median_limits(np.arange(1.0, count + 1), LEVEL) == (low, high)

    def test_undefined_fits_are_left_out(self):
        planted = Planted("m").subject()
        hollow = replace(planted, held_out_r=np.where(np.arange(24) % 2, np.nan, planted.held_out_r))
        none = replace(planted, key="n", held_out_r=np.full(24, np.nan))
        medians = comparison.median_fits(comparison.held_out([hollow, none]), ["m", "n"], LEVEL)
        assert medians["examples"].to_list() == [12, 0] and medians["median"][1] is None


class TestEffects:
    def test_planted_shares_are_found(self):
        table = comparison.effect_shares([Planted("m", alone=0.25).subject()], LEVEL)
        shares = dict(table.select("account", "share").iter_rows())
        assert shares["attributions"] == pytest.approx(1 / 1.1) and shares["singles"] == pytest.approx(0.25, abs=0.02)
        assert (table["low"] <= table["share"]).all() and (table["share"] <= table["high"]).all()

    def test_no_fall_gives_no_share(self):
        planted = Planted("m").subject()
        for total in (-planted.total, np.zeros(24), np.tile([1.0, -1.0], 12)):
            assert comparison.effect_shares([replace(planted, total=total)], LEVEL)["share"].to_list() == [None, None]

    def test_examples_without_single_runs_are_left_out_of_both_sides(self):
        planted = Planted("m").subject()
        single, total = planted.single.copy(), planted.total.copy()
        single[:12] = np.nan
        total[:12] *= 5
        row = comparison.effect_shares([replace(planted, single=single, total=total)], LEVEL).row(1, named=True)
        gap = (planted.single - planted.attribution.sum((1, 2)))[12:].mean() / planted.total[12:].mean()
        assert row["gap"] == pytest.approx(gap) and row["gap_low"] < row["gap"] < row["gap_high"] < 0
        assert row["examples"] == 12 and row["share"] == pytest.approx(planted.single[12:].mean() / planted.total[12:].mean())


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one,
        lambda one: replace(one, attribution=np.zeros_like(one.attribution), total=np.zeros(24), single=np.full(24, np.nan), held_out_r=np.full(24, np.nan)),
        lambda one: Subject(one.key, one.depth, one.attribution[:1], one.single[:1], one.total[:1], one.held_out_r[:1]),
    ],
    ids=["whole", "nothing moves", "one example"],
)
def test_metrics_are_json_whatever_the_run(change):
    found = comparison.metrics([change(Planted("m").subject())], LEVEL)
    json.dumps(found, allow_nan=False)
    assert found["m"]["layers"] == 6 and set(found["m"]) >= {"mean_depth", "heads_for_half", "single_effects_over_total"}
