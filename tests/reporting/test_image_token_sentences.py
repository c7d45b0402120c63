"""Sentences on image tokens: both ways that it can come out, what cannot be told, and what is not known."""

import numpy as np
import polars as pl
import pytest

from headflow.reporting.sentences import image_tokens as say
from headflow.tracing import image_tables as tables
from headflow.tracing.image_tables import Objects, PicturedExample
from tests.tracing.test_image_tables import BOXES, mask, traced

OBJECTS = Objects(mask("xx..", "xx..", "....", "...."), [])


def examples(values, attention=(1, 1, 1, 1, 0), objects=OBJECTS, noise=0.0, count=8, errors=0.01):
    random = np.random.default_rng(0)
    return [
        PicturedExample(f"e{index}", index, traced(np.asarray(values, float) + noise * random.normal(size=5), errors), None, np.asarray(attention, float) / 8,
                        BOXES, objects)
        for index in range(count)
    ]  # fmt: skip


def shares(of):
    return say.shares(tables.share_means_table(tables.shares_table(of), {one.id: one.picture for one in of}, 0.95))


def held(of):
    return say.held_curves(tables.sparsity_table(of), {one.id: one.picture for one in of})


def test_the_object_gives_more():
    text = shares(examples((6, 1, 1, 0.5, 0), noise=0.1))
    assert text.startswith("The object gives more than its area: 7") and "where 25% of the tokens' area is" in text
    assert "attention says less of the object than attribution does" in text and "p\u00a0<\u00a00.001 over 8 pictures" in text


def test_the_object_gives_less():
    assert shares(examples((0.1, 1, 1, 2, 0), noise=0.05)).startswith("The object gives less than its area")


def test_it_cannot_be_told():
    assert shares(examples((1, 1, 1, 1, 0), noise=0.6)).startswith("Whether the object gives more than its area cannot be told")
    assert shares(examples((1, 1, 1, 1, 0), objects=None)) == say.NO_OBJECTS
    assert "cannot be told" in shares(examples((6, 1, 1, 1, 0), count=1))


def test_sparser_than_attention_or_not():
    assert "concentrated on fewer tokens than attention" in held(examples((9, 0.5, 0.3, 0.1, 0.1), noise=0.02))
    assert "concentrated on more tokens than attention" in held(examples((1, 1, 1, 1, 1), attention=(7, 0.1, 0.1, 0.1, 0.1), noise=0.02))
    assert "cannot be told" in held(examples((1, 1, 1, 1, 0), attention=(1, 1, 1, 1, 0)))
    assert held(examples((9, 0.5, 0.3, 0.1, 0.1))).startswith("1 of 5 image tokens (20%")
    assert "no token gives anything" in held(examples((0, 0, 0, 0, 0), attention=(0, 0, 0, 0, 0)))


def test_background_tokens():
    of = examples((6, 0.001, 0.001, -2, 0), errors=0.3)
    table, tokens = tables.background_table(of, 0.95), tables.tokens_table(of, 0.95)
    text = say.background_tokens(table, tokens)
    assert text.startswith("Some tokens of the background matter: 8 tokens of 24") and "8 of them after correction (0 raise the answer, 8 lower it)" in text
    assert "−2.00 logits" in text and text.endswith("Tokens that touch no object hold 25% of the attribution.")
    none = say.background_tokens(table.clear(), tokens)
    assert none.startswith("No single token of the background can be told to matter: none of 24 outside all objects has an interval without zero.")
    chance = say.background_tokens(table.head(1).with_columns(q=pl.lit(0.4)), tokens)
    assert chance.startswith("No single token") and "none is left after correction" in chance
    assert "cannot be told" in say.background_tokens(table.clear(), tokens.with_columns(in_object=pl.lit(None, pl.Float64)))


@pytest.mark.parametrize(("r", "redundant"), [(0.6, True), (0.95, False)])
def test_trust(r, redundant):
    fits = tables.fits_table(examples((6, 1, 1, 0, 0))).with_columns(held_out_r=pl.lit(r))
    text = say.token_maps(fits)
    assert f"r = {r:.2f}" in text and ("depends on which others are there" in text) == redundant and "each image token was cut off alone" in text
    patchy = say.token_maps(fits.with_columns(components=pl.lit(3), patches_checked=pl.lit(4), patches_agreeing=pl.lit(3)))
    assert "the 5 image tokens were cut off in 3 patches" in patchy and "Of 32 patches halved on the way, 75% are the sum of their parts" in patchy
    assert "cannot be told, as the target does not vary" in say.token_maps(fits.with_columns(held_out_r=pl.lit(None, pl.Float64)))
