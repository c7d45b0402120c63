"""Words of heads, and how much of an attribution a head writes itself."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from headflow.analysis.permutations import Exchange
from headflow.tables.heads import HEAD_WORDS, HEAD_WRITING
from headflow.tracing.agreement import map_agreement, over_examples
from headflow.tracing.words import Words, with_verdict, writing_table

HEADS = [(0, 1), (2, 0)]


def gathered():
    """Two examples of a cat (token 3), one of a dog (token 5); head (0, 1) raises the answer's word, head (2, 0) always word 7."""
    words = Words(HEADS, 2, lambda token: f"w{token}")
    for name, answer, token, rivals in (("a", "cat", 3, [5, 6]), ("b", "cat", 3, [5, 6]), ("c", "dog", 5, [3, 6, 5])):
        written = np.zeros((2, 10), np.float32)
        written[0, token], written[1, 7] = (2.0 if name == "a" else 1.0), 4.0
        written[0, 6] = 0.5
        words.add(name, answer, token, rivals, written + 11)  # a constant says nothing
    return words


def test_words_of_each_example_and_of_each_answer():
    table = HEAD_WORDS.check(gathered().table(), "here")
    own = table.filter(id="a", layer=0, head=1)
    assert own["word"].to_list() == ["w3", "w6"] and own["answers"].to_list() == [True, False] and own["rank"].to_list() == [1, 2]
    np.testing.assert_allclose(own["contribution"], [2 - 0.25, 0.5 - 0.25])
    means = table.filter(pl.col("id").is_null())
    assert means["answer"].unique(maintain_order=True).to_list() == ["cat", "dog"]
    cat = means.filter(answer="cat", layer=0, rank=1).row(0, named=True)
    assert cat["examples"] == 2 and cat["contribution"] == pytest.approx(1.5 - 0.2)
    assert means.filter(layer=2, rank=1)["word"].to_list() == ["w7", "w7"] and not means.filter(layer=2, rank=1)["answers"].any()
    assert table["id"].is_null().to_list() == sorted(table["id"].is_null())


def test_lead_over_other_answers():
    words = gathered()
    np.testing.assert_allclose(words.lead, [[2 - 0.25, 0], [1 - 0.25, 0], [1 - 0.25, 0]], atol=1e-6)
    np.testing.assert_allclose(words.first, [[1, 0], [1, 0], [1, 0]])
    np.testing.assert_allclose(words.first_of_all, [[1, 0], [1, 0], [1, 0]])
    assert words.chance == pytest.approx([1 / 3] * 3)


def test_an_example_without_rivals_has_no_lead():
    words = Words(HEADS, 1, str)
    words.add("a", "cat", 3, [3], np.eye(2, 10))
    assert np.isnan(words.lead[0]).all() and np.isnan(words.chance[0])
    table = HEAD_WRITING.check(writing_table(np.ones((1, 3, 2)), np.ones((1, 3, 2)), words, Exchange(["a"])), "here")
    assert table["lead"].is_null().all() and table["share"].is_null().all() and table["first_of_all"].drop_nulls().len() == 2


def test_what_heads_write_beside_their_attribution():
    draws = np.random.default_rng(0)
    attributions = draws.normal([[1.0, 0.0]], 0.1, (40, 1, 2))
    direct = attributions * [[0.6, 1.0]] + draws.normal(0, 0.02, (40, 1, 2))
    words = Words([(0, 0)], 1, str)
    for number in range(40):
        words.add(str(number), "cat", 3, [5, 6], np.eye(1, 10, 3) * (1 + draws.normal(0, 0.1)))
    table = HEAD_WRITING.check(writing_table(attributions, direct, words, Exchange(range(40))), "here")
    first, second = table.iter_rows(named=True)
    assert first["share"] == pytest.approx(direct[:, 0, 0].mean() / attributions[:, 0, 0].mean())
    assert first["share_low"] < 0.6 < first["share_high"] and first["share_high"] - first["share_low"] < 0.05
    assert second["share"] is None and second["attribution_low"] < 0 < second["attribution_high"]
    assert first["direct_low"] < first["direct"] < first["direct_high"]
    assert first["lead"] == pytest.approx(1, abs=0.05) and first["lead_p"] < 1e-10 and first["first"] == 1 and first["first_chance"] == pytest.approx(1 / 3)
    assert second["lead"] is None and second["first"] is None
    unreadable = HEAD_WRITING.check(writing_table(attributions, None, None, Exchange(range(40))), "here")
    assert unreadable["direct"].is_null().all() and unreadable["lead"].is_null().all() and unreadable["attribution"].to_list() == table["attribution"].to_list()


def test_verdicts_hold_for_all_heads_together():
    rows = [(1.0, 0.5, 0.001), (0.9, 0.4, 0.04), (0.8, -0.3, 0.002), (0.7, 0.005, 1e-9), (0.6, None, None), (0.5, 0.2, 0.3)]
    table = pl.DataFrame(rows, schema=["attribution", "lead", "lead_p"], orient="row")
    assert with_verdict(table)["verdict"].to_list() == ["writes", "open", "against", "open", "open"]  # 0.04 would do alone
    assert with_verdict(table.clear()).is_empty()


def test_leads_that_never_vary():
    words = Words([(0, 0), (0, 1)], 1, str)
    written = np.zeros((2, 10))
    written[1, 3] = 1
    for number in range(3):
        words.add(str(number), "cat", 3, [5, 6], written)
    table = writing_table(np.ones((3, 1, 2)), np.ones((3, 1, 2)), words, Exchange(range(3)))
    assert table["lead_p"].to_list() == [1.0, pytest.approx(0, abs=1e-9)]


def test_the_interval_of_a_share_covers_it():
    """40 pictures of two questions each, 200 times: the true share lies inside in 90 to 99 % of draws of 95 %."""
    inside = 0
    for seed in range(200):
        draws = np.random.default_rng(seed)
        picture = np.repeat(np.arange(40), 2)
        size = draws.gamma(4, 0.5, 40)[picture] + draws.normal(0, 0.3, 80)
        direct = 0.7 * size + draws.normal(0, 0.4, 40)[picture]
        row = writing_table(size[:, None, None], direct[:, None, None], None, Exchange(picture.tolist()), draws=199, seed=seed).row(0, named=True)
        inside += row["share_low"] <= 0.7 <= row["share_high"]
    assert 180 <= inside <= 198


def maps(attention, attribution, name="a", head=0):
    return pl.DataFrame({"id": name, "layer": 0, "head": head, "attention": attention, "attribution": attribution})


def test_agreement_is_spearmans():
    draws = np.random.default_rng(0)
    attention, attribution = draws.random(30), draws.normal(size=30)
    attribution[3] = attribution[4]
    tables = maps(attention, attribution), maps(attention, attention**3, head=1), maps(attention, -attention, "b"), maps(attention, attention * 0, "c")
    both = pl.concat(tables)
    found = map_agreement(both)
    assert found["agreement"][0] == pytest.approx(stats.spearmanr(attention, attribution).statistic)
    assert found["agreement_size"][0] == pytest.approx(stats.spearmanr(attention, np.abs(attribution)).statistic)
    assert found["agreement"].to_list()[1:3] == pytest.approx([1, -1]) and found["agreement_size"][2] == pytest.approx(1)
    assert found["agreement"][3] is None
    np.testing.assert_allclose(over_examples(found), [(found["agreement"][0] + 1) / 2, -1])
    assert len(over_examples(found.clear())) == 0
