"""Every table is checked on write and on read."""

import polars as pl
import pytest

from headflow.errors import HeadflowError
from headflow.tables.ablations import TARGETS
from headflow.tables.catalogue import ALL_TABLES
from headflow.tables.examples import EXAMPLES

GOOD = pl.DataFrame({"id": ["a", "b"], "mask": [0, 1], "target": [0.5, -1.0]})


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.name)
def test_an_empty_table_of_each_kind_survives(tmp_path, table):
    empty = pl.DataFrame(schema={name: column.dtype for name, column in table.columns.items()})
    table.write(empty, tmp_path / "t.parquet")
    assert table.read(tmp_path / "t.parquet").equals(empty)
    assert all(column.meaning for column in table.columns.values())


def test_write_and_read(tmp_path):
    TARGETS.write(GOOD, tmp_path / "deep" / "t.parquet")
    assert TARGETS.read(tmp_path / "deep" / "t.parquet").equals(GOOD)


FAULTS = {
    "wrong type": (GOOD.with_columns(pl.col("mask").cast(pl.Int32)), r"column 'mask' of the targets table is Int32, expected Int64"),
    "missing": (GOOD.drop("target"), r"the targets table has no column 'target' \(f under this mask"),
    "unknown": (GOOD.with_columns(extra=1), r"the targets table has an unknown column 'extra'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_on_write_and_on_read(tmp_path, fault):
    frame, message = FAULTS[fault]
    path = tmp_path / "t.parquet"
    TARGETS.write(GOOD, path)
    with pytest.raises(HeadflowError, match=message):
        TARGETS.write(frame, path)
    assert TARGETS.read(path).equals(GOOD)
    frame.write_parquet(path)
    with pytest.raises(HeadflowError, match=f"t.parquet: .*{message}"):
        TARGETS.read(path)


def test_extra_columns_by_their_prefix(tmp_path):
    empty = pl.DataFrame(schema={**{name: column.dtype for name, column in EXAMPLES.columns.items()}, "meaning_name": pl.String, "looks_colour": pl.String})
    EXAMPLES.write(empty, tmp_path / "t.parquet")
    with pytest.raises(HeadflowError, match="unknown column 'colour'"):
        EXAMPLES.write(empty.rename({"looks_colour": "colour"}), tmp_path / "t.parquet")


def test_a_missing_file(tmp_path):
    with pytest.raises(HeadflowError, match=r"t.parquet: missing; run `dvc repro`"):
        TARGETS.read(tmp_path / "t.parquet")


def test_damaged_files(tmp_path):
    path = tmp_path / "t.parquet"
    TARGETS.write(GOOD, path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-3], b"", b"PAR1", b"no parquet at all" * 9):
        path.write_bytes(damaged)
        with pytest.raises(HeadflowError, match=r"t.parquet: not a readable Parquet file .*delete it") as error:
            TARGETS.read(path)
        assert "\n" not in str(error.value)


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(HeadflowError, match=r"not a readable Parquet file|missing"):
        TARGETS.read(tmp_path)
