"""Files are whole or absent, whatever the disk does."""

import os
import resource
import shutil
import subprocess

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from headflow.errors import HeadflowError
from headflow.files import read_json, write_atomically, write_json

BIG = np.random.default_rng(0).random(40_000)


def write_numpy(path):
    with path.open("wb") as file:
        np.save(file, BIG)


WRITERS = {
    "text": lambda path: path.write_text("x" * 300_000),
    "parquet": lambda path: pl.DataFrame({"a": BIG}).write_parquet(path),
    "safetensors": lambda path: save_file({"a": torch.from_numpy(BIG)}, path),
    "numpy": write_numpy,
}


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 128 kB where one may be mounted, else a limit on the size of any file that is written."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], capture_output=True).returncode  # fmt: skip
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (128 * 1024, limits[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_the_old_file(tiny_disk, writer):
    path = tiny_disk / "table"
    path.write_bytes(b"old")
    with pytest.raises(HeadflowError, match=r"table: could not be written .*free some space") as error:
        write_atomically(path, WRITERS[writer])
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tiny_disk) == ["table"]


def test_a_full_disk_leaves_the_old_json(tiny_disk):
    path = tiny_disk / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(HeadflowError, match="could not be written"):
        write_json(path, {"a": "x" * 300_000})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path, writer):
    path = tmp_path / "new" / "folder" / "file"
    for _ in range(2):
        write_atomically(path, WRITERS[writer])
        assert path.stat().st_size > 100_000
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_other_errors_leave_the_old_file_too(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_file_where_a_folder_is_needed_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadflowError, match="could not be written"):
        write_json(tmp_path / "file" / "x.json", {})


def test_a_folder_where_the_file_goes_is_explained(tmp_path):
    (tmp_path / "x.json" / "inside").mkdir(parents=True)
    with pytest.raises(HeadflowError, match="could not be written"):
        write_json(tmp_path / "x.json", {})


def test_json_is_stable_and_readable(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": "é"})
    write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()


def test_json_without_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a", {"a": float("nan")})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00"])
def test_a_damaged_json_is_explained(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(HeadflowError, match=r"x.json: not readable as JSON"):
        read_json(tmp_path / "x.json")


def test_a_missing_json_is_explained(tmp_path):
    with pytest.raises(HeadflowError, match=r"x.json: missing; run `dvc repro`"):
        read_json(tmp_path / "x.json")
