"""Sentences about single heads say which way it came out, or that it cannot be told."""

import numpy as np
import polars as pl
import pytest

from headflow.reporting.sentences import head_maps as says
from headflow.tables.heads import CLUSTER_MAPS, HEAD_WRITING


def maps(follow, examples=6, heads=2, seed=0):
    """Attribution = follow · attention + noise."""
    draws = np.random.default_rng(seed)
    frames = []
    for number in range(examples):
        for head in range(heads):
            attention = draws.random(40)
            attribution = follow * (1 + head) * attention + draws.normal(0, 0.3, 40)
            frames.append(pl.DataFrame({"id": f"e{number}", "layer": 1, "head": head, "attention": attention, "attribution": attribution, "left": 0.0}))
    return pl.concat(frames)


@pytest.mark.parametrize(
    "follow, start",
    [
        (3, "Where a head looks agrees closely with"), (0.4, "Where a head looks agrees in part with"), (0.18, "Where a head looks agrees weakly with"),
        (0, "That the heads look where what they pass on comes from cannot be told"), (-2, "The heads look away from where"),
    ],
)  # fmt: skip
def test_agreement_of_maps(follow, start):
    said = says.head_grid(maps(follow))
    assert said.startswith(start) and "2 heads in each of 6 examples" in said
    assert ("best for L1 H1" in said) == (follow > 0)
    assert "cannot be told" in says.head_grid(maps(follow, examples=1))


def test_maps_without_a_place():
    table = maps(1).with_columns(left=pl.lit(None, pl.Float64))
    assert "so no map is drawn" in says.head_grid(table)
    assert says.head_grid(table.clear()).endswith("cannot be told: there are no maps, or none that varies over the picture.")


def test_clusters():
    rows = [
        {"cluster": cluster, "rank": 1, "id": f"e{cluster}", "token": token, "attention": 0.2, "attention_text": 0.1, "attribution": 0.5 - cluster, "left": 0.0}
        for cluster in range(7) for token in range(3)
    ]  # fmt: skip
    table = pl.DataFrame(rows, schema={name: column.dtype for name, column in CLUSTER_MAPS.columns.items() if name in rows[0]})
    said = says.cluster_grid(table)
    assert "cluster 0 gives the picture 60% of the final token's attention and takes +1.50 logits from it" in said and "2 further clusters" in said
    assert "cluster 1 gives the picture 60% of the final token's attention and takes −1.50 logits" in said
    assert says.cluster_grid(table.clear()) == "There are no clusters of heads to be shown."


def writing(*rows):
    empty = {name: None for name in HEAD_WRITING.columns}
    full = [empty | {"layer": 2, "head": number, "examples": 9, "attribution": 1.0 - number / 10} | row for number, row in enumerate(rows)]
    return pl.DataFrame(full, schema={name: column.dtype for name, column in HEAD_WRITING.columns.items()})


def lead(size, p):
    return {"lead": size, "lead_p": p, "first": 0.8, "first_chance": 0.1}


def test_the_answers_word():
    assert says.head_words(writing(lead(1.0, 1e-6), lead(2.0, 1e-5))).startswith(
        "All 2 heads write the answer's own word: the picture makes them raise it by +1.00 to +2.00 logits"
    )
    said = says.head_words(writing(lead(1.0, 1e-6), lead(-2.0, 1e-5), lead(0.1, 0.3)))
    assert said.startswith("One of 3 heads writes the answer's own word: the picture makes it raise it by +1.00 logits") and "80% of examples" in said
    assert "L2 H1 lowers it" in said and said.endswith("that L2 H2 writes the answer's word cannot be told.")
    assert says.head_words(writing(lead(0.1, 0.4), lead(0.2, 0.03))) == "That L2 H0 and L2 H1 write the answer's word cannot be told."
    assert "cannot be told: what they write cannot be read" in says.head_words(writing({}, {}))


def share(value, low, high):
    return {"share": value, "share_low": low, "share_high": high, "lead": 1.0}


def test_the_direct_share():
    assert says.direct_against_attribution(writing(share(1.3, 1.2, 1.4), share(1.2, 1.1, 1.3))) == (
        "In all 2 top heads more than the attribution is written without any help, and later parts take some of it back (120% to 130% of it)."
    )
    said = says.direct_against_attribution(writing(share(0.2, 0.1, 0.3), share(0.8, 0.7, 0.9), share(1.0, 0.9, 1.1)))
    assert said.startswith("In L2 H1 most of the attribution is written without any help, the rest comes by way of later parts (80%, interval 70% to 90%, of ")
    assert "in L2 H0 less than half" in said and "in L2 H2 what is written without any help cannot be told from the whole attribution" in said
    said = says.direct_against_attribution(writing(share(1.0, 0.99, 1.02)))
    assert said == "In L2 H0 what is written without any help is the whole attribution (100%, interval 99% to 102%, of it)."
    assert "cannot be told: it cannot be read" in says.direct_against_attribution(writing({}, {}))
