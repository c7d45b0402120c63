"""The sentences about attention shares say what the numbers say, and that it cannot be told where it cannot."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from headflow.analysis import sharing
from headflow.analysis.sharing import Looked
from headflow.reporting.sentences.sharing import attention_fractions, fractions_table, head_shares, layer_maps, layer_shares, map_spread
from tests.analysis.test_sharing import HEADS, IMAGE, LAYERS, look


def described(shares: list[float], pictures: int = 6, noise: float = 0.002, image: int = 300) -> list[Looked]:
    """Pictures whose tokens give image, query and generated tokens these shares in every layer and head."""
    found = []
    for scene in range(pictures):
        moved = np.array(shares) + noise * np.random.default_rng([2, scene]).normal() * np.array([1, -1, 0])
        found.append(replace(look(scene), shares=np.tile(moved, (LAYERS, HEADS, 1)), tokens=(image, 10, 8), even=np.tile([0.93, 0.05, 0.02], (LAYERS, 1))))
    return found


def fractions(looked: list[Looked]) -> pl.DataFrame:
    return sharing.fractions(sharing.picture_rows(looked), 0.95)


def test_query_tokens_as_in_the_paper_and_otherwise():
    text = attention_fractions(fractions(described([0.2, 0.7, 0.1])))
    assert "70% to the rest of the prompt" in text and "10% to what has been said (10% to 10%)" in text and "mean over 6 pictures" in text
    assert "3.1% of the tokens (in the paper under 5%) and gets 70% of the attention, 14 times an even share (5.0%); that is over 60%, as in the paper" in text
    assert "that is not over 60%, unlike in the paper" in attention_fractions(fractions(described([0.6, 0.3, 0.1])))
    near = attention_fractions(fractions(described([0.25, 0.65, 0.1], noise=0.1)))
    assert "whether that is over 60%, as in the paper, cannot be told" in near
    assert "cannot be told" in attention_fractions(fractions(described([0.2, 0.7, 0.1], pictures=1)))
    table = fractions_table(fractions(described([0.2, 0.7, 0.1])))
    assert table.count("<tr>") == 4 and "under 5% of the tokens, over 60% of the attention" in table and "<td>300.0</td>" in table


def test_depth():
    looked = [replace(one, shares=one.shares.copy()) for one in described([0.2, 0.7, 0.1])]
    for one in looked:
        one.shares[4] = [0.9, 0.05, 0.05]
    text = layer_shares(sharing.layer_means(looked, 0.95))
    assert "The image's share of the generated tokens' attention goes from 20%" in text and "to 90% [90% to 90%] in layer 4" in text
    assert text.endswith("The largest part goes to the image in 1 layer and the rest of the prompt in 5 layers.")
    same = layer_shares(sharing.layer_means(described([0.2, 0.7, 0.1]), 0.95))
    assert "that layers differ cannot be told" in same


def test_cross_attention_is_said_to_be_so_by_construction():
    looked = [look(scene, reading=[1, 4]) for scene in range(4)]
    assert layer_shares(sharing.layer_means(looked, 0.95)).startswith("2 layers of cross-attention see the image alone. In the others the rest of the prompt")
    text = attention_fractions(fractions(looked))
    assert "33% to the image" in text and "The image's share is the share of layers of cross-attention, which see nothing else; the other layers give" in text
    assert "cannot be told" in head_shares(sharing.head_means(looked, 0.95))


def test_heads():
    looked = [replace(one, shares=one.shares.copy()) for one in described([0.2, 0.7, 0.1])]
    for one in looked:
        one.shares[3, 1] = [0.8, 0.1, 0.1]
        one.shares[0, 0] = [0.1, 0.8, 0.1]
    text = head_shares(sharing.head_means(looked, 0.95))
    assert text.startswith("1 of 12 heads give more than half") and "from 10% [10% to 10%] (head 0 of layer 0) to 80% [80% to 80%] (head 1 of layer 3)" in text


def test_places():
    maps = np.random.default_rng(1).dirichlet(np.ones(IMAGE), LAYERS)
    maps[:, 3] += np.array([9, 9, 9, 9, 0, 0])
    maps[4, 5], maps[5, 6] = 9, 9
    maps[:, -1] = 99  # a structural token is no image token
    boxes = np.tile([0.0, 0, 8, 8], (IMAGE, 1))
    rows = sharing.map_rows(look(0, maps=maps), boxes)
    assert "in 67% of the 6 layers, mean over 1 picture of 19 image tokens; it would be 17% if" in layer_maps(rows)
    assert "is not known for this model" in layer_maps(rows.with_columns(left=pl.lit(None, pl.Float64)))
    assert "a single layer reads the image" in layer_maps(rows.filter(layer=2))


@pytest.mark.parametrize(("middle", "ends", "says"), [
    (30.0, 0.2, "The middle is more spread out than the ends, as in the paper"),
    (0.2, 30.0, "The middle is less spread out than the ends, the opposite of what the paper reports"),
    (3.0, 3.0, "cannot be told"),
])  # fmt: skip
def test_spread(middle, ends, says):
    looked = []
    for scene in range(10):
        random = np.random.default_rng([5, scene])
        looked.append(look(scene, maps=np.concatenate([random.dirichlet(np.full(IMAGE, even), 2) for even in (ends, middle, ends)])))
    rows = sharing.spread_rows(looked, 0.05)
    text = map_spread(sharing.spread_contrast(rows, 0.95), rows, top=0.05)
    assert says in text and "the largest token of 19 gets" in text
    assert "the 4 largest tokens of 19 get" in map_spread(sharing.spread_contrast(rows, 0.95), rows, top=0.2)


def test_nothing_described():
    rows = sharing.spread_rows([], 0.01)
    texts = [
        attention_fractions(fractions([])), layer_shares(sharing.layer_means([], 0.95)), head_shares(sharing.head_means([], 0.95)),
        layer_maps(sharing.no_maps()), map_spread(sharing.spread_contrast(rows, 0.95), rows),
    ]  # fmt: skip
    assert all("cannot be told: no picture was described" in text for text in texts)
    rows = sharing.spread_rows([look(0, reading=[1, 4])], 0.01)
    assert "fewer than three layers read the image" in map_spread(sharing.spread_contrast(rows, 0.95), rows)
    one = sharing.spread_rows([look(0)], 0.01)
    assert "cannot be told (no interval" in map_spread(sharing.spread_contrast(one, 0.95), one)
