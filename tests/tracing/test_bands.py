"""Bands of layers, and the closings of a sweep through the model."""

import pytest

from headflow.errors import HeadflowError
from headflow.tracing.bands import as_masks, default_width, side_by_side, sweep


def test_bands_side_by_side_share_out_the_layers() -> None:
    assert side_by_side(6, 1) == [(0, 6)] and side_by_side(7, 3) == [(0, 3), (3, 5), (5, 7)]
    assert as_masks(side_by_side(7, 3), 7).sum(0).tolist() == [1] * 7
    with pytest.raises(HeadflowError, match=r"text_tokens.windows = 7: the model has 6 layers that read the picture; take 1 to 6"):
        side_by_side(6, 7)


@pytest.mark.parametrize(("layers", "width"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 2), (12, 2), (24, 4), (32, 5), (80, 13)])
def test_a_window_is_a_sixth_of_the_model(layers: int, width: int) -> None:
    assert default_width(layers) == width


def test_a_sweep_runs_every_band_once() -> None:
    found = sweep(5, 2)
    assert found.windows == ((0, 2), (1, 3), (2, 4), (3, 5)) and found.steps == (0, 1, 2, 3, 4, 5)
    assert set(found.bands) == {(0, 2), (1, 3), (2, 4), (3, 5), (0, 5), (1, 5), (2, 5), (4, 5), (0, 1), (0, 3), (0, 4)} and len(found.bands) == 11
    assert found.blocks == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))


def test_wide_steps_end_with_the_model() -> None:
    found = sweep(7, 3, 2)
    assert found.windows == ((0, 3), (2, 5), (4, 7)) and found.steps == (0, 2, 4, 6, 7) and sweep(8, 3, 2).windows[-1] == (5, 8)
    assert sweep(4, 4).windows == ((0, 4),) and sweep(1).bands == ((0, 1),)


@pytest.mark.parametrize(("width", "stride", "name"), [(9, 1, "width = 9"), (2, 7, "stride = 7")])
def test_a_window_wider_than_the_model_is_refused(width: int, stride: int, name: str) -> None:
    with pytest.raises(HeadflowError, match=f"flow.{name}: the model has 6 layers that read the picture; take 1 to 6"):
        sweep(6, width, stride)
