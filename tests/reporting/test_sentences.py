"""Each sentence, for each way it may come out: it must say what the numbers support and nothing beyond."""

import numpy as np
import polars as pl
import pytest

from headflow.charts import numbers
from headflow.reporting import sentences
from headflow.reporting.sentences.heads import holm
from headflow.tables import catalogue as tables
from tests.reporting import synthetic_run


@pytest.fixture(scope="module")
def run() -> synthetic_run.Run:
    return synthetic_run.make()


def answers(*rows: tuple[bool, bool]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"correct": pl.Boolean, "explained": pl.Boolean}, orient="row")


def summary(*rows: tuple[float, float | None, float | None]) -> pl.DataFrame:
    """One layer of heads with mean, low, high."""
    records = [
        {"group": "all", "layer": 0, "head": head, "mean": mean, "low": low, "high": high, "single_mean": 0.0, "examples": 9}
        for head, (mean, low, high) in enumerate(rows)
    ]
    return pl.DataFrame(records, schema_overrides={"low": pl.Float64, "high": pl.Float64})


EMPTY = pl.DataFrame(schema={name: column.dtype for name, column in tables.SEPARATION.columns.items()})


class TestScenes:
    def test_wrong_answers_are_counted_and_left_out(self):
        said = sentences.scenes(answers(*[(True, True)] * 8, (False, False), (False, False)))
        assert "8 of 10 questions" in said and "the 2 examples that it gets wrong are left out" in said

    def test_one_wrong_answer_is_singular(self):
        assert "the 1 example that it gets wrong is left out" in sentences.scenes(answers((True, True), (False, False)))

    def test_all_right(self):
        assert sentences.scenes(answers(*[(True, True)] * 3)).endswith("none is left out.")

    def test_wrong_answers_that_are_explained_are_owned_up_to(self):
        said = sentences.scenes(answers((True, True), (False, True)))
        assert "1 wrong answer is explained all the same" in said and "left out" not in said

    def test_right_answers_left_out_are_told_apart_from_wrong_ones(self):
        assert "1 correct example is left out for other reasons" in sentences.scenes(answers((True, True), (True, False)))

    def test_no_examples(self):
        assert sentences.scenes(answers()) == "No question was asked."


def test_prompt_counts_what_stands_after_the_picture():
    said = sentences.prompt(["a", "p", "p", "q"], ["system", "image", "image", "final"], 1, 3)
    assert "Of 4 tokens, 2 stand for the picture and 1 comes after it: the only one" in said


def test_prompt_tells_the_tokens_of_the_answer_and_a_picture_beside_the_prompt():
    tokens, roles = ["a", "p", "p", "q", "x", "y"], ["system", "image", "image", "final", "answer", "answer"]
    assert sentences.prompt(tokens, roles, 1, 3).endswith("to the answer; the last 2 tokens are of the answer, fed to the model.")
    said = sentences.prompt(["p", "q", "x"], ["image", "final", "answer"], 0, 1, picture_in_prompt=False)
    assert said.startswith("The picture stands beside the prompt: all of its 3 tokens") and said.endswith(
        "the last 1 token is of the answer, fed to the model."
    )


class TestSkipped:
    none, one = synthetic_run.skipped(), synthetic_run.skipped((3, "a", "truncated"))

    def test_nothing(self):
        assert sentences.skipped(self.none, self.none).startswith("Nothing was skipped")

    def test_one_row(self):
        assert sentences.skipped(self.one, self.none) == "1 row of the data was faulty: it is part of none of the numbers here."

    def test_both_kinds(self):
        said = sentences.skipped(pl.concat([self.one, self.one]), self.one)
        assert said == "2 rows of the data were faulty and 1 example could not be put to this model: they are part of none of the numbers here."


class TestWithoutLabels:
    def test_nothing_is_told_of_meaning_or_looks(self):
        assert "carry no labels of meaning or looks" in sentences.separation(EMPTY, labelled=False)
        assert "carry no labels" in sentences.example_map(EMPTY, labelled=False)

    def test_heads_differ_between_answers(self, run):
        names = run.examples.select("id", pl.col("meaning_category").alias("name"))
        assert "attribution differs between answers by more" in sentences.cluster_profiles(run.attributions, names, run.head_clusters, things="answers")
        alone = run.examples.select("id", pl.col("id").alias("name"))
        assert "too few answers occur twice" in sentences.cluster_profiles(run.attributions, alone, run.head_clusters, things="answers")
        assert "nothing names the 44 examples" in sentences.cluster_profiles(run.attributions, alone, run.head_clusters, things="examples")

    def test_no_head_is_grouped(self, run):
        names = run.examples.select("id", pl.col("meaning_name").alias("name"))
        none = run.head_clusters.with_columns(pl.lit(-1, pl.Int64).alias("cluster"))
        assert sentences.cluster_profiles(run.attributions, names, none).startswith("It cannot be told: no head")


class TestHeldOut:
    @staticmethod
    def fits(*r: float | None) -> pl.DataFrame:
        return pl.DataFrame(
            {"held_out_r": r, "held_out_r2": [None if value is None else value**2 for value in r]}, schema={"held_out_r": pl.Float64, "held_out_r2": pl.Float64}
        )

    @pytest.mark.parametrize(("r", "verdict"), [(0.97, "describes these runs well."), (0.8, "only roughly."), (0.3, "deserve little trust.")])
    def test_verdict_follows_the_median(self, r, verdict):
        assert sentences.held_out(self.fits(r, r, 0.1)).endswith(verdict)

    def test_the_worst_example_is_named(self):
        assert "worst of 3: 0.10" in sentences.held_out(self.fits(0.9, 0.95, 0.1))

    def test_undefined_correlations_cannot_tell(self):
        assert sentences.held_out(self.fits(None, float("nan"))).startswith("It cannot be told")


class TestGrowth:
    @staticmethod
    def table(*gains: float) -> pl.DataFrame:
        rows = [
            {"id": str(i), "masks": masks, "held_out_r": 0.9 + gain * (masks == 64), "agreement_r": 0.8} for i, gain in enumerate(gains) for masks in (32, 64)
        ]
        return pl.DataFrame(rows)

    def test_still_rising(self):
        assert "it is still rising" in sentences.growth(self.table(0.04, 0.05, 0.06))

    def test_levelled_off(self):
        assert "it has levelled off" in sentences.growth(self.table(0.001, 0.002, 0.0015))

    def test_cannot_tell_when_gains_scatter(self):
        assert "whether it has levelled off cannot be told" in sentences.growth(self.table(0.08, -0.07, 0.01))

    def test_one_example_cannot_tell(self):
        assert "with one example it cannot be told" in sentences.growth(self.table(0.05))

    def test_one_size_cannot_tell(self):
        assert sentences.growth(self.table(0.1, 0.2).filter(pl.col("masks") == 64)).startswith("It cannot be told")
        assert sentences.growth(self.table(0.1).clear()).startswith("It cannot be told")


FINE = {"identity": 2e-7, "swap": 4e-7, "prefix": 0.0, "effect": 0.7, "tolerance": 1e-5}


class TestChecks:
    def test_fine(self):
        said = sentences.checks(FINE)
        assert said.startswith("Three checks") and "4.0e−7 (swap), which rounding explains" in said and "70% of the largest logit" in said

    def test_a_check_beyond_its_tolerance_is_not_explained_away(self):
        said = sentences.checks(FINE | {"identity": 3e-4})
        assert "(identity), more than" in said and "find out why" in said and "which rounding explains" not in said

    def test_the_recorded_tolerance_counts(self):
        assert "which rounding explains" in sentences.checks(FINE | {"swap": 0.01, "tolerance": 0.06})

    def test_no_effect_and_no_record(self):
        assert "nothing was cut" in sentences.checks(FINE | {"effect": 0.0})
        assert sentences.checks({}) == "The run kept no record of its checks."

    def test_a_prefix_that_is_not_shared_may_change(self):
        changed = FINE | {"prefix": 0.86}
        assert sentences.checks(changed, "recomputed").startswith("Two checks that should find no difference find at most 4.0e−7 (swap), which rounding")
        assert "0.86 (prefix), more than" in sentences.checks(changed, "shared")


class TestAnswered:
    truth, own = {"target": "logit", "answer": "truth"}, {"target": "logit", "answer": "greedy"}

    def test_some_right(self):
        said = sentences.answered(answers(*[(True, True)] * 8, (False, False), (False, False)), self.truth)
        assert said.startswith("The model answers 8 of 10 questions") and said.endswith("the true answer, in 8 examples, all answered rightly.")
        assert sentences.answered(answers((True, True), (False, True)), self.truth).endswith("the true answer, in 2 examples, 1 of them answered wrongly.")
        assert sentences.answered(answers((True, True), (False, True)), self.own).endswith("the model's own answer, in 2 examples, 1 of them a wrong one.")

    def test_none_right(self):
        wrong = answers(*[(False, True)] * 24)
        assert sentences.answered(wrong, self.own) == (
            "The model answers none of 24 questions rightly (interval 0% to 14%): what is explained is the model's own answer, which is never a right one."
        )
        assert sentences.answered(wrong, self.truth).endswith("what is explained is the true answer, which is never the one that it gives.")
        assert sentences.answered(answers(), self.truth) == "No question was asked."


class TestFall:
    @staticmethod
    def fits(*falls: float) -> pl.DataFrame:
        return pl.DataFrame({"intact": [fall + 2.0 for fall in falls], "ablated": [2.0] * len(falls)})

    def test_each_way(self):
        assert "the target falls by 4.00 logits on average (1.52 to 6.48), from 6.00 to 2.00 logits" in sentences.fall(self.fits(3.0, 4.0, 5.0))
        assert "rises by 4.00 nats on average (1.52 to 6.48)" in sentences.fall(self.fits(-3.0, -4.0, -5.0), unit="nats")
        assert sentences.fall(self.fits(3.0, -4.0, 2.0)).endswith("that the picture matters for it cannot be told.")

    def test_one_example(self):
        assert sentences.fall(self.fits(3.0)).endswith("goes from 5.00 to 2.00 logits, a fall of 3.00; with one example there is no interval.")


class TestHeadGrid:
    def test_the_largest_of_the_clear_heads_is_named_and_a_larger_one_that_is_not_clear_is_owned_up_to(self):
        said = sentences.head_grid(summary((1.16, -0.5, 2.82), *[(1.0, 0.5, 1.5)] * 6, *[(0.0, -0.1, 0.1)] * 13))
        assert "the largest of them is layer 0, head 1 at +1.00 logits (+0.50 to +1.50)" in said
        assert said.endswith("larger is layer 0, head 0 at +1.16 logits (−0.50 to +2.82), but its own interval includes zero.")

    def test_no_clear_head(self):
        assert sentences.head_grid(summary(*[(0.1, -0.1, 0.3)] * 20)).startswith("None of 20 heads has an interval that excludes zero")

    def test_many_clear_heads(self):
        said = sentences.head_grid(summary(*[(1.0, 0.5, 1.5)] * 6, *[(0.0, -0.1, 0.1)] * 14))
        assert said.startswith("Six of 20 heads have intervals that exclude zero, where chance alone would give about 1.0")
        assert "cannot tell" not in said

    def test_no_more_than_chance_cannot_tell(self):
        assert "cannot tell which heads matter" in sentences.head_grid(summary((0.2, 0.1, 0.3), *[(0.0, -0.1, 0.1)] * 19))

    def test_no_intervals(self):
        assert "cannot be told" in sentences.head_grid(summary((1.0, None, None), (0.5, float("nan"), float("nan"))))

    def test_unit(self):
        assert "nats" in sentences.head_grid(summary((1.0, 0.9, 1.1)), unit="nats")


class TestTopHeads:
    def test_a_clear_leader(self):
        said = sentences.top_heads(summary((3.0, 2.9, 3.1), (1.0, 0.8, 1.2), (0.1, -0.1, 0.3)))
        assert said.startswith("One of 3 heads holds half") and said.endswith("clear of all others.")

    def test_an_overlapping_leader_cannot_be_told(self):
        said = sentences.top_heads(summary((3.0, 2.0, 4.0), (-2.8, -3.8, -1.8), (0.1, 0.0, 0.2)))
        assert "overlaps that of L0 H1, so which head is first cannot be told" in said

    def test_a_first_head_that_is_not_clear(self):
        assert "but its own interval includes zero" in sentences.top_heads(summary((3.0, -0.5, 6.5), (1.0, 0.8, 1.2)))

    def test_nothing_clear_of_zero(self):
        assert "their order means little" in sentences.top_heads(summary((0.3, -0.1, 0.7), (0.2, -0.2, 0.6)))

    def test_nothing_at_all(self):
        assert sentences.top_heads(summary((0.0, 0.0, 0.0))) == "No head has any attribution."


class TestLayerProfile:
    @staticmethod
    def table(first: float, second: float, noise: float) -> pl.DataFrame:
        rng = np.random.default_rng(1)
        return pl.DataFrame(
            [
                {"id": str(i), "layer": layer, "head": 0, "attribution": mean + noise * rng.normal()}
                for i in range(12)
                for layer, mean in enumerate((0.0, first, second))
            ]
        )

    def test_ahead(self):
        said = sentences.layer_profile(self.table(2.0, 1.0, 0.1))
        assert "layer 1 carries most" in said and "it is ahead of the next, layer 2" in said

    def test_not_ahead(self):
        assert "cannot be told" in sentences.layer_profile(self.table(1.02, 1.0, 0.5))

    def test_layers_are_named_by_their_own_numbers(self):
        apart = self.table(2.0, 1.0, 0.1).with_columns(pl.col("layer").replace_strict([0, 1, 2], [3, 8, 13]))
        assert sentences.layer_profile(apart).startswith("Of layers 3, 8 and 13, layer 8 carries most")
        assert sentences.layer_profile(self.table(2.0, 1.0, 0.1)).startswith("Of layers 0 to 2, layer 1")
        assert sentences.layer_profile(apart.filter(pl.col("layer") == 8)).startswith("There is one layer only, layer 8, with +2.0")

    def test_one_example_has_no_interval(self):
        said = sentences.layer_profile(self.table(2.0, 1.0, 0.1).filter(pl.col("id") == "0"))
        assert said.endswith("cannot be told (with one example there is no interval).")

    def test_layers_of_opposite_sign_are_compared_by_size(self):
        assert "it is ahead of the next, layer 2" in sentences.layer_profile(self.table(-2.0, 1.0, 0.1))


class TestEffectSums:
    @staticmethod
    def tables(single: float | None, noise: float = 0.05) -> tuple[pl.DataFrame, pl.DataFrame]:
        rng = np.random.default_rng(2)
        rows = [
            {"id": str(i), "layer": 0, "head": head, "attribution": 1.0 + noise * rng.normal(), "standard_error": 0.1, "single_head_effect": single}
            for i in range(10)
            for head in range(4)
        ]
        fits = pl.DataFrame({"id": [str(i) for i in range(10)], "intact": [5.0] * 10, "ablated": [0.5] * 10})
        return pl.DataFrame(rows, schema_overrides={"single_head_effect": pl.Float64}), fits

    def test_heads_make_up_for_a_missing_one(self):
        assert "shows less than it does among many, as if the others made up for it" in sentences.effect_sums(*self.tables(0.2))

    def test_heads_do_not(self):
        said = sentences.effect_sums(*self.tables(1.8))
        assert "shows more than it does among many" in said and "as if the others" not in said

    def test_no_difference_cannot_be_told(self):
        assert "whether the two sums differ cannot be told" in sentences.effect_sums(*self.tables(1.0, noise=0.5))

    def test_missing_single_runs(self):
        assert "single heads were not cut" in sentences.effect_sums(*self.tables(None))


class TestAttention:
    @staticmethod
    def heads(sign: float, noise: float) -> pl.DataFrame:
        rng = np.random.default_rng(3)
        x = rng.uniform(size=40)
        return pl.DataFrame({"attention": x, "mean": sign * x + noise * rng.normal(size=40), "name_of_head": [f"L0 H{i}" for i in range(40)]})

    def test_together_closely(self):
        assert sentences.attention_scatter(self.heads(1, 0.01)).startswith("Attention and attribution closely go together")

    def test_against_each_other(self):
        assert "run against each other" in sentences.attention_scatter(self.heads(-1, 0.01))

    def test_unrelated_cannot_be_told(self):
        assert "cannot be told" in sentences.attention_scatter(self.heads(0, 1.0))

    def test_chance_overlap_stands_beside_the_overlap(self):
        assert "10 are among the 10 of highest attribution (chance: 2.5)" in sentences.attention_scatter(self.heads(1, 0.0))

    def test_constant_attention(self):
        assert sentences.attention_scatter(self.heads(1, 0).with_columns(pl.lit(0.5).alias("attention"))).startswith("It cannot be told")


class TestClusters:
    @staticmethod
    def table(*clusters: int, silhouette: float | None = 0.6) -> pl.DataFrame:
        rows = [{"layer": 0, "head": head, "cluster": cluster, "share": 0.1, "silhouette": silhouette} for head, cluster in enumerate(clusters)]
        return pl.DataFrame(rows, schema_overrides={"silhouette": pl.Float64})

    def test_clear_groups(self):
        said = sentences.cluster_grid(self.table(0, 0, 1, -1))
        assert said.startswith("Three heads fall into 2 clusters") and "stand apart" in said

    def test_groups_that_differ_in_sign(self):
        summary = pl.DataFrame({"group": ["all"] * 4, "layer": [0] * 4, "head": [0, 1, 2, 3], "mean": [1.0, 0.5, -0.2, 0.1]})
        said = sentences.cluster_grid(self.table(0, 0, 1, -1), summary)
        assert "they differ mostly in sign: on average the target is raised by 2 of 2 heads in cluster 0 and 0 of 1 head in cluster 1" in said
        assert "sign" not in sentences.cluster_grid(self.table(0, 1, 1, -1), summary)
        assert "sign" not in sentences.cluster_grid(self.table(0, 0, 1, 2), summary)

    def test_weak_groups(self):
        assert "hardly apart" in sentences.cluster_grid(self.table(0, 0, 1, silhouette=0.12))

    def test_no_structure(self):
        assert sentences.cluster_grid(self.table(0, 0, 0, -1, silhouette=None)).startswith("No grouping was found: the 3 heads")

    def test_nothing_to_group(self):
        assert sentences.cluster_grid(self.table(-1, -1)) == "No head carried enough to be grouped."


class TestProfiles:
    def test_planted_heads_differ_between_objects(self, run):
        names = run.examples.select("id", pl.col("meaning_category").alias("name"))
        said = sentences.cluster_profiles(run.attributions, names, run.head_clusters)
        assert said.startswith("For 4 of 14 heads tested")

    def test_shuffled_names_cannot_be_told(self, run):
        names = run.examples.select("id", pl.col("looks_style").alias("name"))
        assert "cannot be told from this run" in sentences.cluster_profiles(run.attributions, names, run.head_clusters)

    def test_objects_that_occur_once(self, run):
        names = run.examples.select("id", pl.col("id").alias("name"))
        assert "too few objects occur twice" in sentences.cluster_profiles(run.attributions, names, run.head_clusters)

    def test_holm(self):
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def separation(**rows: tuple[float, float, float, float]) -> pl.DataFrame:
    """A separation table: label → share (of variance and of neighbours), its chance level, p, silhouette."""
    records = [
        {"label": label, "kind": label.split("_")[0], "values": 4, "examples": 40, "silhouette": silhouette, "silhouette_p": p,
         "purity": share, "purity_chance": chance, "purity_p": p, "explained": share, "explained_chance": chance, "explained_p": p}
        for label, (share, chance, p, silhouette) in rows.items()
    ]  # fmt: skip
    return pl.DataFrame(records)


class TestSeparation:
    strong, weak, none = (0.6, 0.1, 0.001, 0.4), (0.3, 0.1, 0.001, 0.1), (0.11, 0.1, 0.5, -0.05)

    def test_meaning_alone(self):
        said = sentences.separation(separation(meaning_name=self.strong, looks_colour=self.none))
        assert said.startswith("Attributions go with meaning: name explains 60%") and "no label of looks can be told from chance (closest: colour" in said

    def test_looks_alone(self):
        said = sentences.separation(separation(meaning_name=self.none, looks_colour=self.strong))
        assert said.startswith("Attributions go with looks: colour explains 60%") and "no label of meaning" in said

    def test_both_with_the_larger_first(self):
        assert sentences.separation(separation(meaning_name=self.strong, looks_colour=self.weak)).startswith(
            "Attributions go with both, it seems more with meaning (the two are not tested against each other): name"
        )
        assert sentences.separation(separation(meaning_name=self.weak, looks_colour=self.strong)).startswith(
            "Attributions go with both, it seems more with looks (the two are not tested against each other): colour"
        )

    def test_both_alike(self):
        assert "about alike" in sentences.separation(separation(meaning_name=self.strong, looks_colour=(0.61, 0.1, 0.001, 0.4)))

    def test_neither_cannot_be_told(self):
        said = sentences.separation(separation(meaning_name=self.none, looks_colour=self.none))
        assert said.startswith("It cannot be told") and "go with" not in said

    def test_many_labels_are_paid_for(self):
        lucky = (0.3, 0.1, 0.02, 0.1)
        rows = {"meaning_name": lucky, **{f"looks_{i}": self.none for i in range(4)}}
        assert sentences.separation(separation(**rows)).startswith("It cannot be told")

    def test_a_label_with_more_values_does_not_win_by_chance_alone(self):
        said = sentences.separation(separation(meaning_name=(0.7, 0.65, 0.001, 0.1), looks_colour=(0.5, 0.1, 0.001, 0.3)))
        assert "more with looks" in said

    def test_a_silhouette_that_disagrees_is_mentioned(self):
        said = sentences.separation(separation(meaning_name=(0.6, 0.1, 0.001, 0.0), looks_colour=(0.3, 0.1, 0.001, 0.3)))
        assert "the silhouette disagrees" in said
        assert "disagrees" not in sentences.separation(separation(meaning_name=self.strong, looks_colour=self.weak))

    def test_one_kind_only(self):
        assert "labels of meaning only, none of looks" in sentences.separation(separation(meaning_name=self.strong))

    def test_undefined_measures_and_no_labels(self):
        nothing = separation(meaning_name=self.strong, looks_colour=self.strong).with_columns(pl.lit(float("nan")).alias("explained"))
        assert sentences.separation(nothing).startswith("It cannot be told")
        assert sentences.separation(nothing.clear()).startswith("It cannot be told")


class TestExampleMap:
    def test_shared_label(self):
        said = sentences.example_map(separation(meaning_name=TestSeparation.strong, looks_colour=TestSeparation.none))
        assert "of the same name: 60%" in said and "for colour no more than chance is found" in said

    def test_no_shared_label(self):
        assert sentences.example_map(separation(looks_colour=TestSeparation.none)).startswith("No label is shared")

    def test_the_p_value_that_is_judged_by_is_the_one_that_is_told(self):
        near = (0.28, 0.16, 0.023, 0.1)
        said = sentences.example_map(separation(looks_colour=near, looks_style=TestSeparation.none, meaning_name=TestSeparation.none))
        assert "colour, 28% against 16%, p\u00a0=\u00a00.069 after correction for 3 labels" in said
        assert "p\u00a0=\u00a00.023)" in sentences.example_map(separation(looks_colour=near))

    def test_no_labels(self):
        assert "cannot be told" in sentences.example_map(separation(looks_colour=TestSeparation.none).clear())


def test_every_sentence_of_the_made_up_run_is_one_sentence(run):
    heads = numbers.attention_by_head(run.attention, run.head_summary, run.fits["id"].to_list())
    names = run.examples.select("id", pl.col("meaning_name").alias("name"))
    said = [
        sentences.scenes(run.features), sentences.held_out(run.fits), sentences.growth(run.growth), sentences.head_grid(run.head_summary),
        sentences.top_heads(run.head_summary), sentences.layer_profile(run.attributions), sentences.effect_sums(run.attributions, run.fits),
        sentences.attention_scatter(heads), sentences.cluster_grid(run.head_clusters), sentences.example_map(run.separation),
        sentences.cluster_profiles(run.attributions, names, run.head_clusters), sentences.separation(run.separation),
    ]  # fmt: skip
    for text in said:
        assert text.endswith(".") and ". " not in text and "nan" not in text and "None" not in text and "unknown" not in text, text


def test_a_sum_that_misses_the_ends_says_so_and_one_that_does_not_holds() -> None:
    fits = pl.DataFrame({"id": ["a"], "held_out_r": [0.97], "held_out_r2": [0.94], "intercept": [4.8], "intact": [15.0], "ablated": [1.1]})
    attributions = pl.DataFrame({"id": ["a", "a"], "attribution": [10.0, 3.4]})
    said = sentences.held_out(fits, attributions, "logits")
    assert "for the untouched model it says 18.2 logits where the model gives 15" in said and "with every head cut 4.80 for 1.10" in said
    fitting = fits.with_columns(intercept=pl.lit(1.2), intact=pl.lit(14.7))
    said = sentences.held_out(fitting, attributions, "logits")
    assert "astray" not in said
    assert "it holds too, to within a tenth of the fall: for the untouched model it says 14.6 logits where the model gives 14.7" in said
    slight = fits.with_columns(intercept=pl.lit(3.28), intact=pl.lit(3.43), ablated=pl.lit(3.29))
    sums = pl.DataFrame({"id": ["a"], "attribution": [0.14]})
    assert "it holds too" in sentences.held_out(slight, sums) and "worst of" not in sentences.held_out(slight, sums)
