"""Pictures that are made to take all memory or time are refused, quickly and in words; and no manifest reaches out of its folder."""

import io
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from headflow.datasets import coco, manifests, pictures, read_folder
from headflow.datasets.faults import Fault
from headflow.datasets.pictures import read_picture
from headflow.errors import HeadflowError

LIMIT = 1_000_000
ZEROS = zlib.compress(bytes(200_000_000), 1)
PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(kind: bytes, content: bytes) -> bytes:
    """A good PNG with one more chunk after its header."""
    good = encoded("PNG")
    return good[:33] + chunk(kind, content) + good[33:]


def scanned(scans: int) -> bytes:
    """A progressive JPEG whose last scan stands there so many times."""
    good = encoded("JPEG", progressive=True)
    last = good.rindex(b"\xff\xda")
    return good[:last] + good[last:-2] * scans + good[-2:]


def gif(frames: int) -> bytes:
    buffer = io.BytesIO()
    first, *rest = [Image.new("P", (40, 40), number % 7) for number in range(frames)]
    first.save(buffer, "GIF", save_all=True, append_images=rest)
    return buffer.getvalue()


HUGE = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
BOMBS = {
    "more pixels than allowed": (encoded("PNG")[:8] + HUGE + encoded("PNG")[33:], "pixels .*examples.max_pixels"),
    "compressed text of 200 MB": (with_chunk(b"zTXt", b"a\0\0" + ZEROS), "damaged or truncated .*too large"),
    "a colour profile of 200 MB": (with_chunk(b"iCCP", b"a\0\0" + ZEROS), "damaged or truncated .*too large"),
    "thousands of scans": (scanned(5000), "5,0.. scans, which would take very long"),
    "a chunk larger than any picture": (with_chunk(b"quRk", bytes(80_000_000)), "bytes, more than any picture of examples.max_pixels"),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("from_file", [False, True])
def test_bombs_take_neither_memory_nor_time(bomb, from_file, tmp_path):
    content, message = BOMBS[bomb]
    source: bytes | Path = content
    if from_file:
        source = tmp_path / "bomb"
        source.write_bytes(content)
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(Fault, match=message):
            read_picture(source, LIMIT)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 80_000_000 and time.process_time() - start < 10


def test_only_the_first_frame_is_decoded():
    assert read_picture(gif(300), LIMIT).image.size == (40, 40)


def test_no_camera_data_travel_on():
    exif = Image.Exif()
    exif[0x010F], exif[0x8825] = "maker " * 1000, {1: "N", 2: (48.0, 8.0, 0.0)}
    content = encoded("JPEG", exif=exif)
    assert b"maker" in content
    stored = pictures.png(read_picture(content, LIMIT).image)
    assert b"maker" not in stored and b"eXIf" not in stored and Image.open(io.BytesIO(stored)).getexif() == {}


def test_ordinary_progressive_jpegs_and_large_previews_pass():
    assert read_picture(encoded("JPEG", progressive=True), LIMIT).image.size == (32, 24)
    assert read_picture(with_chunk(b"quRk", bytes(1_000_000)), LIMIT).image.size == (32, 24)


def test_a_parquet_manifest_of_more_rows_than_any(tmp_path, monkeypatch):
    pl.DataFrame({"image": ["a.png"] * 2000, "question": ["b"] * 2000, "answer": ["c"] * 2000}).write_parquet(tmp_path / "manifest.parquet")
    assert len(manifests.read_manifest(tmp_path / "manifest.parquet").rows) == 2000
    monkeypatch.setattr(manifests, "MOST_ROWS", 1000)
    with pytest.raises(HeadflowError, match="2,000 rows; a manifest has at most 1,000"):
        manifests.read_manifest(tmp_path / "manifest.parquet")


@pytest.mark.parametrize("name", ["manifest.csv", "instances.json"])
def test_files_larger_than_any_are_not_read(name, tmp_path):
    with open(tmp_path / name, "wb") as file:
        file.truncate(3_000_000_000)  # a hole; it takes no disk
    with pytest.raises(HeadflowError, match=r"3,000,000,000 bytes.* divide it"):
        manifests.read_manifest(tmp_path / name) if name.endswith("csv") else coco._read_json(tmp_path, name)


NAMES = (
    "../secret.png", "..\\..\\secret.png", "a/../../secret.png", "/etc/passwd", "C:\\secret.png", "C:secret.png", "\\\\host\\share\\x.png", "//host/x.png",
    "secret\0.png", "out.png", "outside/secret.png", "file:///etc/passwd", "~/secret.png", "$HOME/secret.png", ".", "..", "pipe", "a" * 5000, "con", "\x1b[2J",
)  # fmt: skip


def test_no_name_in_a_manifest_reaches_out_of_its_folder(tmp_path, monkeypatch):
    """Whatever the column says, only regular files of the folder are opened."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    for path in (secret, folder / "a.png", folder / "b.png"):
        path.write_bytes(encoded("PNG"))
    (folder / "out.png").symlink_to(secret)
    (folder / "outside").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    opened: list[str] = []
    monkeypatch.setattr(pictures, "_decode", lambda source, most, decode=pictures._decode: (opened.append(str(source)), decode(source, most))[1])
    rows = [{"image": name, "question": "what?", "answer": "x", "mask": None} for name in ("a.png", "b.png", *NAMES)]
    rows += [{"image": "a.png", "question": "what?", "answer": "x", "mask": name} for name in NAMES]
    pl.DataFrame(rows, schema={"image": pl.String, "question": pl.String, "answer": pl.String, "mask": pl.String}).write_parquet(folder / "manifest.parquet")
    with pytest.raises(HeadflowError, match=f"{2 * len(NAMES)} of {2 + 2 * len(NAMES)} rows with faults") as error:
        read_folder(folder, manifest="manifest.parquet")
    assert {Path(name).name for name in opened} == {"a.png", "b.png"} and "\x1b" not in str(error.value)
