"""Tables to arrays and back: order, completeness, and messages that name what is missing."""

import numpy as np
import polars as pl
import pytest

from headflow.attribution.frames import attribution_grid, gradient_array, masks_done, target_matrix
from headflow.attribution.masks import sample_masks
from headflow.attribution.regression import fit
from headflow.attribution.results import attributions_table, fits_table, predictions_table
from headflow.errors import HeadflowError
from headflow.tables.ablations import ATTRIBUTIONS, FITS, PREDICTIONS

TARGETS = pl.DataFrame({"id": ["a", "b", "b", "a", "c"], "mask": [7, 9, 7, 9, 7], "target": [1.0, 2.0, 3.0, 4.0, 5.0]})


def test_targets_come_in_the_order_asked_for():
    np.testing.assert_array_equal(target_matrix(TARGETS, ["b", "a"], [9, 7]), [[2, 3], [4, 1]])
    assert target_matrix(TARGETS, ["b"], []).shape == (1, 0)


@pytest.mark.parametrize(("frame", "ids", "message"), [
    (TARGETS, ["a", "c"], "no entries for example c, mask 9"),
    (pl.concat([TARGETS, TARGETS[:1]]), ["a", "b"], "2 entries for example a, mask 7"),
])  # fmt: skip
def test_missing_and_repeated_targets_are_named(frame, ids, message):
    with pytest.raises(HeadflowError, match=message):
        target_matrix(frame, ids, [7, 9])


def test_a_missing_value_is_left_for_the_fit_to_refuse():
    assert np.isnan(target_matrix(TARGETS.with_columns(target=pl.lit(None, pl.Float64)), ["a"], [7, 9])).all()


def test_a_fit_survives_its_tables():
    masks = sample_masks(2, 3, 30)
    targets = np.random.default_rng(0).normal(size=(2, 30))
    targets[1] = 1.0
    fitted = fit(masks, targets, held_out=(masks, targets))
    singles = np.random.default_rng(1).normal(size=(2, 2, 3))
    frame = ATTRIBUTIONS.check(attributions_table(["x", "b"], fitted, singles), "test")
    for name, expected in (("attribution", fitted.attribution_), ("standard_error", fitted.standard_error_), ("single_head_effect", singles)):
        ids, grid = attribution_grid(frame, name)
        assert ids == ["x", "b"]
        np.testing.assert_array_equal(grid, expected)
    np.testing.assert_array_equal(attribution_grid(frame.sample(fraction=1, shuffle=True, seed=3).sort("id"))[1], fitted.attribution_[::-1])

    fits = FITS.check(fits_table(["x", "b"], fitted, targets[:, 0], targets[:, 1]), "test")
    assert fits["held_out_r"][0] == fitted.held_out_r_[0] and fits["held_out_r"][1] is None and fits["held_out_r2"][1] is None
    predictions = PREDICTIONS.check(predictions_table(["x", "b"], range(100, 130), targets, fitted.predict(masks)), "test")
    np.testing.assert_array_equal(predictions.filter(id="b", mask=104)["actual"], targets[1, 4])
    np.testing.assert_array_equal(predictions.filter(id="x", mask=129)["predicted"], fitted.predict(masks)[0, 29])


def test_an_incomplete_grid_is_named():
    frame = attributions_table(["x", "b"], fit(sample_masks(2, 3, 30), np.random.default_rng(0).normal(size=(2, 30))), np.zeros((2, 2, 3)))
    with pytest.raises(HeadflowError, match="0 rows for example b, layer 1, head 2"):
        attribution_grid(frame[:-1])


def test_gradients_come_out_by_example_and_corner():
    frame = pl.DataFrame(
        {"id": ["b", "a", "a", "b"], "mask": [2, 1, 2, 1], "target": [0.0] * 4, "gradient": [[21.0, 22], [11, 12], [31, 32], [41, 42]]},
        schema_overrides={"gradient": pl.List(pl.Float32)},
    )
    np.testing.assert_array_equal(gradient_array(frame, ["a", "b"], [1, 2], 1, 2), [[[[11, 12]], [[31, 32]]], [[[41, 42]], [[21, 22]]]])
    assert gradient_array(frame, ["a"], [], 1, 2) is None
    with pytest.raises(HeadflowError, match="no entries for example c, mask 1"):
        gradient_array(frame, ["c"], [1], 1, 2)
    with pytest.raises(HeadflowError, match="holds 2 heads, the model has 1 layers × 3 heads"):
        gradient_array(frame, ["a"], [1], 1, 3)


def test_masks_done_counts_those_that_were_asked_for():
    assert masks_done(TARGETS, ["a", "b", "x"], [7, 9, 11]).tolist() == [2, 2, 0]
    assert masks_done(TARGETS, ["a", "c"], [9]).tolist() == [1, 0]
