"""Single records: found, or made and kept."""

from pathlib import Path

import numpy as np
import pytest

from headflow.errors import HeadflowError
from headflow.execution.fingerprint import record_key
from headflow.execution.records import find_or_make
from headflow.execution.store import ResultStore

UNIT = record_key("a record")


@pytest.fixture
def store(tmp_path: Path):
    with ResultStore(tmp_path / "results.sqlite") as opened:
        yield opened


def never() -> np.ndarray:
    raise AssertionError("the record is there")


def test_a_record_is_made_once_and_is_the_same_when_found(store: ResultStore) -> None:
    made = find_or_make(store, UNIT, lambda: np.array([[1 / 3, 2.0], [np.nan, 4.0]]))
    assert made.dtype == np.float32 and made.shape == (4,)
    np.testing.assert_array_equal(find_or_make(store, UNIT, never), made)
    np.testing.assert_array_equal(find_or_make(store, UNIT, never, 4), made)
    assert find_or_make(store, record_key("another"), lambda: [7]).tolist() == [7.0]


def test_a_record_of_another_length_is_made_anew(store: ResultStore) -> None:
    find_or_make(store, UNIT, lambda: [1.0, 2.0])
    assert find_or_make(store, UNIT, lambda: [3.0], 1).tolist() == [3.0]
    assert find_or_make(store, UNIT, never, 1).tolist() == [3.0]


def test_numbers_that_are_not_finite_are_handed_out_but_not_kept_where_all_have_to_be(store: ResultStore) -> None:
    for _ in range(2):
        np.testing.assert_array_equal(find_or_make(store, UNIT, lambda: [1.0, np.inf], finite=True), np.float32([1, np.inf]))
    assert len(store) == 0
    find_or_make(store, UNIT, lambda: [1.0, 2.0], finite=True)
    np.testing.assert_array_equal(find_or_make(store, UNIT, never, finite=True), [1, 2])


def test_what_cannot_be_made_leaves_no_record(store: ResultStore) -> None:
    def fail() -> np.ndarray:
        raise HeadflowError("not a finite number")

    with pytest.raises(HeadflowError, match="not a finite number"):
        find_or_make(store, UNIT, fail)
    assert len(store) == 0
