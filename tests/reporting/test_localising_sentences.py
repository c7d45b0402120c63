"""The sentences about localisation say what the numbers say, and that it cannot be told where it cannot."""

import numpy as np
import polars as pl

from headflow.analysis import localisation_tables as tables
from headflow.reporting.sentences import localising
from tests.analysis.test_localisation_tables import BOXES, LAYERS, mention


def run(own: float, other: float, count: int = 12, spread: float = 0.05, attribution: bool = True, others=(8,), boxes=BOXES):
    """Attention ``own`` on the named object's token in layer 3 and ``other`` on another's, besides even amounts; layer 8 is noise."""
    random, found = np.random.default_rng(1), []
    for place in range(count):
        attention = np.full((2, 4, 9), 0.1) + spread * random.random((2, 4, 9))
        attention[0, :, 0] += own
        attention[0, :, 8] += other
        effects = np.stack([random.random(9), np.eye(9)[0] * 5]) if attribution else None
        found.append(mention(str(place), place, attention=attention, attribution=effects, others=others, boxes=boxes))
    return tables.layers_table(found, LAYERS, 0.95), tables.heads_table(found, LAYERS, 0.95), found


def test_attention_on_the_named_object():
    layers, heads, _ = run(own=0.9, other=0.0)
    text = localising.share_by_layer(layers)
    assert text.startswith("Chance would put 11% inside the object's mask. Of the attention of the naming token ")
    assert "lies there in layer 3, the layer with most" in text and "(above chance in 1 of 2 layers)" in text
    assert "of the attribution of the word 100% (100% to 100%) lies there in layer 8" in text
    assert text.endswith("Over all layers attribution lies more on the object than the attention of the naming token.")
    text = localising.ranks_by_layer(layers)
    assert text.startswith("The attention of the naming token finds the object best in layer 3 (AUROC 1.00, 1.00 to 1.00; above chance in 1 of 2 layers)")
    assert "its largest token lies inside for 100% of the mentions in layer 3 (chance 11%)" in text and "better than AUROC 1.00" in text
    text = localising.own_and_others(layers)
    assert text.startswith("The attention of the naming token is on the named object more than on the others over all layers (difference in AUROC +")
    assert "more in 1 of 2 layers, less in 0" in text and text.endswith("That is over 12 mentions in 12 pictures with other objects.")
    text = localising.head_grid(heads)
    assert text.startswith("After correction 4 of 8 heads look at the named object more than chance, 0 less; head ")
    assert "of layer 3 finds it best (AUROC 1.00" in text


def test_attention_on_another_object():
    layers, heads, _ = run(own=-0.1, other=0.9)
    assert "below it in 1" in localising.ranks_by_layer(layers)
    assert "is on the others more than on the named object over all layers (difference in AUROC −" in localising.own_and_others(layers)
    assert "0 of 8 heads look at the named object more than chance, 4 less" in localising.head_grid(heads)


def test_chance_is_called_chance():
    layers, heads, _ = run(own=0.0, other=0.0, spread=0.4, attribution=False)
    assert "(told from chance in none of 2 layers)" in localising.share_by_layer(layers)
    assert ", which may be chance; told from chance in none of 2 layers)" in localising.ranks_by_layer(layers)
    assert "favours neither the named object nor the others, as far as can be told" in localising.own_and_others(layers)
    assert localising.head_grid(heads).startswith("No head can be told to look at the named object more or less than chance, of 8 after correction;")


def test_one_picture_says_that_there_is_no_interval():
    layers, heads, _ = run(own=0.9, other=0.0, count=1)
    assert "(no interval) lies there in layer 3" in localising.share_by_layer(layers) and "told from chance in none" in localising.share_by_layer(layers)
    assert "p unknown" in localising.own_and_others(layers) and "no interval" in localising.head_grid(heads)


def test_what_is_named():
    _, _, found = run(own=0.9, other=0.0, count=3)
    text = localising.named_objects(tables.namings_table(found, [("0", 0, "cat"), ("1", 1, "bird")]))
    assert text == "The descriptions of 3 pictures name 3 objects whose place is known. 2 further names have no known object in the picture and are left out."
    text = localising.named_objects(tables.namings_table(found, []).with_columns(pl.Series("objects", [2, 1, 1])))
    assert text.endswith(" whose place is known; 1 stands for several objects of that name, whose masks are taken together.")


def test_the_gallery_counts_its_hits():
    layers, _, found = run(own=0.9, other=0.0, count=3)
    text = localising.gallery(tables.maps_table(found, LAYERS, ("attention", 3), 6), tables.namings_table(found, []))
    assert text == (
        "Of the 3 mentions shown, the token that the map is largest on lies mostly in the outlined object for 3 by attention of the naming token in "
        "layer 3 and for 3 by attribution of the word."
    )
    assert tables.best_layer(layers, "attention")["layer"] == 3


def test_nothing_can_be_told_of_nothing():
    nowhere = run(own=0.9, other=0.0, boxes=np.full((9, 4), np.nan))
    for layers, heads, found in (run(own=0, other=0, count=0), nowhere):
        namings = tables.namings_table(found, [("0", 0, "cat")])
        maps = tables.maps_table(found, LAYERS, None, 6)
        for text in (
            localising.share_by_layer(layers), localising.ranks_by_layer(layers), localising.own_and_others(layers), localising.head_grid(heads),
            localising.gallery(maps, namings),
        ):  # fmt: skip
            assert "cannot be told" in text
        expected = "Of 12 no image token is known to show the object, so that nothing" if found else "Whether words look at their objects cannot"
        assert expected in localising.named_objects(namings)
    assert localising.own_and_others(run(own=0.9, other=0.0, others=())[0]).endswith("no picture with a named object shows another one with a mask.")
