"""Tables of image tokens, from numbers that can be worked out by hand."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.attribution.regression import Attribution
from headflow.tables.image_tokens import IMAGE_BACKGROUND, IMAGE_CURVES, IMAGE_FITS, IMAGE_SHARE_MEANS, IMAGE_SHARES, IMAGE_SPARSITY, IMAGE_TOKENS
from headflow.tracing import image_tables as tables
from headflow.tracing.image_tokens import Traced

# Four tokens on a picture of 4 × 4 pixels, and a newline that shows none of it.
BOXES = np.array([[0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4], [np.nan] * 4], float)


def mask(*rows: str) -> np.ndarray:
    return np.array([[cell == "x" for cell in row] for row in rows])


def traced(values, errors=0.01, freedom=30.0) -> Traced:
    values = np.asarray(values, float)
    errors = np.broadcast_to(np.asarray(errors, float), values.shape)
    fitted = Attribution("known", values[None], errors[None], np.zeros(()), np.zeros(()), np.asarray(freedom), np.asarray(0.9), np.asarray(0.8))
    return Traced(np.arange(len(values)), fitted, float(values.sum()), 0.0, 20, 4)


def example(name="a", picture=0, values=(3, 1, -1, 0, 0.5), attention=(0.1, 0.1, 0.2, 0.1, 0.5), objects="both", **options) -> tables.PicturedExample:
    main, other = mask("xx..", "xx..", "....", "...."), mask("..xx", "....", "....", "....")
    shown = {"both": tables.Objects(main, [other]), "none": None}[objects]
    return tables.PicturedExample(name, picture, traced(values, **options), None, np.array(attention), BOXES, shown)


def test_shares_by_hand():
    table = tables.shares_table([example()])
    IMAGE_SHARES.check(table, "test")
    rows = {row["what"]: [row[part] for part in (*tables.PARTS, "placed")] for row in table.iter_rows(named=True)}
    assert rows["attribution"] == pytest.approx([3 / 5, 0.5 / 5, 1.5 / 5, 5 / 5.5])
    assert rows["positive"] == pytest.approx([3 / 4, 0.5 / 4, 0.5 / 4, 4 / 4.5])
    assert rows["net"] == pytest.approx([3 / 3, 0.5 / 3, -0.5 / 3, 3 / 3.5])
    assert rows["attention"] == pytest.approx([0.2, 0.1, 0.7, 0.5])
    assert rows["even"] == [*rows["area"][:3], 0.8] == pytest.approx([1 / 4, 1 / 8, 5 / 8, 0.8])


def test_a_signed_sum_within_its_error_is_not_divided():
    table = tables.shares_table([example(values=(1, -1, 0.02, 0, 0), errors=0.05)])
    assert table.filter(what="net").select(tables.PARTS).row(0) == (None, None, None)


def test_examples_without_objects_or_places_have_no_shares():
    nowhere = tables.PicturedExample("b", 1, traced([1.0] * 5), None, np.ones(5), np.full((5, 4), np.nan), example().objects)
    assert tables.shares_table([example(objects="none"), nowhere]).is_empty()
    assert tables.share_means_table(tables.shares_table([nowhere]), {}, 0.95).is_empty()
    assert tables.background_table([example(objects="none"), nowhere], 0.95).is_empty()
    assert tables.background_tested([example(objects="none"), nowhere]) == 0
    rows = tables.tokens_table([example(objects="none"), nowhere], 0.95)
    assert rows["in_object"].null_count() == 10 and rows.filter(id="b")["left"].null_count() == 5


def test_means_are_over_pictures_and_against_even_shares():
    examples = [example(str(i), i, values=(3 + 0.1 * i, 1, -1, 0.2, 0)) for i in range(6)]
    table = tables.share_means_table(tables.shares_table(examples), {str(i): i for i in range(6)}, 0.95)
    IMAGE_SHARE_MEANS.check(table, "test")
    own = table.filter(what="attribution", part="object").row(0, named=True)
    expected = np.mean([(3 + 0.1 * i) / (5.2 + 0.1 * i) for i in range(6)])
    assert own["mean"] == pytest.approx(expected) and own["over"] == pytest.approx(expected - 0.25)
    assert own["low"] < expected < own["high"] and own["p_holm"] < 0.001 and own["pictures"] == 6
    assert table.filter(what="even")["p"].null_count() == 3


def test_tokens_and_fits():
    top = tables.PicturedExample("t", 3, traced([2, 0, 0, 0, 0]), traced([1, 0, 0, 0, 0]), np.ones(5) / 5, BOXES, example().objects)
    rows = tables.tokens_table([example(), top], 0.95)
    IMAGE_TOKENS.check(rows, "test")
    first = rows.row(0, named=True)
    assert first["attribution"] == 3 and first["low"] == pytest.approx(3 - 2.0423 * 0.01, abs=1e-4) and first["in_object"] == 1
    assert rows["in_others"].to_list()[:5] == [0, 0.5, 0, 0, None] and rows["group_tokens"].to_list() == [1] * 10
    assert rows.filter(id="a")["attribution_top_heads"].null_count() == 5 and rows.filter(id="t")["attribution_top_heads"][0] == 1
    fits = tables.fits_table([example(), top])
    IMAGE_FITS.check(fits, "test")
    assert fits.select("id", "heads").rows() == [("a", "all"), ("t", "all"), ("t", "top")]
    assert fits["sum"].to_list() == [3.5, 2, 1] and fits["forwards"][0] == pytest.approx(20 + 4 * 2.7)


def test_a_patch_is_spread_evenly():
    partition = np.array([0, 0, 0, 1, 2])
    one = traced([6.0, 1.0, 0.0], errors=[0.3, 0.1, 0.1])
    one = Traced(partition, one.fitted, 7.0, 0.0, 1, 0)
    assert one.attribution.tolist() == [2, 2, 2, 1, 0] and one.error.tolist() == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.1])
    low, high = one.interval(0.95)
    assert (high - low)[0] == pytest.approx((high - low)[3]) and low.shape == (5,)


def test_sparsity_and_curves():
    rows = tables.sparsity_table([example(values=(8, 1, 1, 0, 0)), example("b", 1, values=(0, 0, 0, 0, 0))])
    IMAGE_SPARSITY.check(rows, "test")
    assert rows.filter(what="attribution")["tokens"].to_list() == [1, None] and rows.filter(what="attention")["tokens"].to_list() == [3, 3]
    curves = tables.curves_table([example(values=(8, 1, 1, 0, 0)), example("b", 1, values=(0, 0, 0, 0, 0))], 0.95)
    IMAGE_CURVES.check(curves, "test")
    own = dict(curves.filter(what="attribution").select("percent", "held").iter_rows())
    assert own[20] == pytest.approx(0.8) and own[10] == pytest.approx(0.4) and own[60] == own[100] == pytest.approx(1)


def test_background_tokens_are_those_outside_every_object():
    examples = [example(values=(3, 1, -1, 0.001, 9)), example("b", 1, values=(3, 1, 0.5, 0.0, 9))]
    rows = tables.background_table(examples, 0.95)
    IMAGE_BACKGROUND.check(rows, "test")
    assert rows.select("id", "token").rows() == [("a", 2), ("b", 2)]  # not the newline, nor what is half in an object
    assert tables.background_tested(examples) == 4 and (rows["q"] < 1e-6).all() and rows["high"][0] < 0 < rows["low"][1]


def test_objects_come_from_the_examples_table():
    def png(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    main, other = mask("xx", ".."), mask("..", ".x")
    found = tables.objects_of([{"main": False, "mask": png(other)}, {"main": True, "mask": png(main)}])
    assert np.array_equal(found.main, main) and np.array_equal(found.others[0], other)
    assert tables.objects_of([]) is None and tables.objects_of([{"main": False, "mask": png(other)}]) is None


def test_no_table_is_empty_of_columns():
    assert tables.shares_table([]).columns == list(IMAGE_SHARES.columns)
    assert isinstance(tables.background_table([], 0.95), pl.DataFrame)
