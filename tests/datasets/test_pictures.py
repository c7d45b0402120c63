"""Any picture file becomes an upright RGB picture, or a fault in a few words."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from headflow.datasets.faults import Fault
from headflow.datasets.pictures import fit, fit_mask, inside, object_entry, png, read_mask, read_picture

LIMIT = 1_000_000
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(read_picture(content, LIMIT).image)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG of any bit depth, or one that lies about its size."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_rgb_stays_exactly_as_it_is_and_only_the_pixels_are_kept() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a camera"
    content = encoded(Image.fromarray(COLOURS), exif=exif)
    assert np.array_equal(pixels(content), COLOURS)
    stored = png(read_picture(content, LIMIT).image)
    assert b"a camera" in content and b"a camera" not in stored
    opened = Image.open(io.BytesIO(stored))
    assert (opened.format, opened.mode, np.array_equal(np.asarray(opened), COLOURS)) == ("PNG", "RGB", True)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_every_format_without_loss(kind: str) -> None:
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    assert np.array_equal(pixels(encoded(Image.fromarray(COLOURS), kind, **options)), COLOURS)


def test_greyscale_one_bit_and_palette() -> None:
    grey = COLOURS[..., 0]
    assert np.array_equal(pixels(encoded(Image.fromarray(grey))), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(pixels(encoded(Image.fromarray(grey > 99))), np.repeat(255 * (grey > 99)[..., None], 3, 2))
    palette = Image.fromarray(COLOURS).quantize(16)
    assert np.array_equal(pixels(encoded(palette)), np.asarray(palette.convert("RGB")))
    assert np.array_equal(pixels(encoded(palette, "GIF")), np.asarray(palette.convert("RGB")))


def test_transparent_pixels_lie_over_white() -> None:
    alpha = np.zeros((6, 9), np.uint8)
    alpha[:, :3], alpha[:, 3:6] = 255, 128
    found = pixels(encoded(Image.fromarray(np.dstack([COLOURS, alpha]))))
    assert np.array_equal(found[:, :3], COLOURS[:, :3]) and (found[:, 6:] == 255).all()
    np.testing.assert_allclose(found[:, 3:6], 255 - (255 - COLOURS[:, 3:6].astype(float)) * 128 / 255, atol=1)
    grey = Image.fromarray(COLOURS[..., 0])
    grey.putalpha(Image.fromarray(alpha))
    assert grey.mode == "LA" and (pixels(encoded(grey))[:, 6:] == 255).all()
    palette = Image.new("P", (9, 6), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    assert (pixels(encoded(palette, transparency=1)) == 255).all()
    assert (pixels(encoded(Image.new("RGB", (9, 6), (1, 2, 3)), transparency=(1, 2, 3))) == 255).all()


def test_cmyk_as_pillow_converts_it() -> None:
    ink = Image.merge("CMYK", [Image.fromarray(COLOURS[..., i % 3]) for i in range(4)])
    assert np.array_equal(pixels(encoded(ink, "TIFF")), np.asarray(ink.convert("RGB")))
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    found = pixels(encoded(flat, "JPEG", quality=100))
    assert found[..., 0].min() > 240 and found[..., 1:].max() < 15  # red, not its negative


def test_sixteen_bits_become_eight() -> None:
    grey = np.array([[0, 128, 129, 257, 65407, 65535]], ">u2")
    content = raw_png(6, 1, 16, 0, b"\0" + grey.tobytes())
    assert pixels(content)[0, :, 0].tolist() == [0, 0, 1, 1, 255, 255]
    colour = np.array([[[0xFF00, 0x8000, 0x0000], [0x1000, 0x2000, 0x3000]]], ">u2")
    assert pixels(raw_png(2, 1, 16, 2, b"\0" + colour.tobytes())).tolist() == [[[255, 128, 0], [16, 32, 48]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_pictures_and_their_masks_are_turned_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(Image.fromarray(COLOURS), kind, exif=exif)
    found = read_picture(content, LIMIT)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(np.asarray(found.image), np.asarray(expected.convert("RGB")))
    assert found.image.size == ((9, 6) if orientation < 5 else (6, 9))
    if kind == "TIFF":  # Pillow turns these by itself
        return
    assert found.stored == (9, 6)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(Image.fromarray(COLOURS[..., 0]), exif=exif))))
    assert np.array_equal(found.turned(COLOURS[..., 0] > 99), np.asarray(turned) > 99)


def test_damaged_camera_data_turn_nothing() -> None:
    content = encoded(Image.fromarray(COLOURS), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40)
    assert pixels(content).shape == COLOURS.shape


FAULTS = {
    "text": (b"no picture at all", "is no picture"),
    "nothing": (b"", "is no picture"),
    "half a PNG": (encoded(Image.fromarray(COLOURS))[:120], "damaged or truncated"),
    "half a JPEG": (encoded(Image.fromarray(np.tile(COLOURS, (30, 30, 1))), "JPEG")[:-3000], "damaged or truncated"),
    "bomb": (raw_png(50_000, 50_000, 8, 2, b"\0"), r"50000 × 50000 pixels are more than examples.max_pixels, 1,000,000|more pixels than"),
    "large": (encoded(Image.new("1", (1001, 1000))), "1001 × 1000 pixels are more than examples.max_pixels"),
    "floating point": (encoded(Image.new("F", (3, 3)), "TIFF"), "mode F cannot be turned into RGB .*floating-point"),
    "32 bits": (encoded(Image.new("I", (3, 3), 70_000), "TIFF"), "mode I.* more than 16 bits"),
    "PostScript": (encoded(Image.fromarray(COLOURS), "EPS"), "is no picture, or of a kind that is not read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fault: str) -> None:
    content, message = FAULTS[fault]
    with pytest.raises(Fault, match=message) as error:
        read_picture(content, LIMIT)
    assert "\n" not in str(error.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_bytes_give_a_picture_or_a_fault(data: st.DataObject) -> None:
    """Real files with some bytes changed reach deeper into the decoders than random bytes do."""
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"]))
    content = bytearray(encoded(Image.fromarray(COLOURS), kind))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)):
        content[place] = value
    content = bytes(content[: data.draw(st.integers(0, len(content)))]) if data.draw(st.booleans()) else bytes(content)
    for read in (lambda: read_picture(content, LIMIT).image.size, lambda: read_mask(content, (9, 6), LIMIT).shape):
        try:
            read()
        except Fault as fault:
            assert str(fault)


def test_masks_of_every_kind() -> None:
    mask = np.zeros((6, 9), bool)
    mask[2:4, 3:7] = True
    bytes_of = {
        "one bit": encoded(Image.fromarray(mask)),
        "0 and 255": encoded(Image.fromarray(mask * np.uint8(255))),
        "0 and 1": encoded(Image.fromarray(mask * np.uint8(1))),
        "16 bits": raw_png(9, 6, 16, 0, b"".join(b"\0" + row.tobytes() for row in (mask * 4000).astype(">u2"))),
        "colour": encoded(Image.fromarray(np.repeat(mask[..., None] * np.uint8(200), 3, 2))),
        "JPEG noise": encoded(Image.fromarray(mask * np.uint8(255)), "JPEG", quality=95),
        "alpha": encoded(Image.fromarray(np.dstack([np.full((6, 9, 3), 255, np.uint8), mask * np.uint8(255)]))),
        "palette": encoded(Image.fromarray(mask * np.uint8(255)).quantize(2)),
    }
    for kind, content in bytes_of.items():
        assert np.array_equal(read_mask(content, (9, 6), LIMIT), mask), kind
    with pytest.raises(Fault, match="has 9 × 6 pixels, its picture 6 × 9"):
        read_mask(bytes_of["one bit"], (6, 9), LIMIT)
    with pytest.raises(Fault, match="black all over"):
        read_mask(encoded(Image.new("L", (9, 6))), (9, 6), LIMIT)


def test_an_object_entry_has_the_box_of_its_mask() -> None:
    mask = np.zeros((6, 9), bool)
    mask[2:4, 3:7] = mask[5, 4] = True
    entry = object_entry(mask, name="cat", main=True, category="animal")
    assert (entry["x"], entry["y"], entry["width"], entry["height"]) == (3, 2, 4, 4)
    stored = Image.open(io.BytesIO(entry["mask"]))
    assert stored.mode == "1" and np.array_equal(np.asarray(stored), mask)


def test_fitting_cuts_at_the_centre_and_scales_the_mask_alike() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 255  # what the cut leaves
    image[10:20, 30:50] = (255, 0, 0)
    mask = (image == (255, 0, 0)).all(2)
    fitted = np.asarray(fit(Image.fromarray(image), (20, 20)))
    assert fitted.shape == (20, 20, 3) and fitted[2, 2].min() > 250 and fitted.min(2)[:, 0].min() > 200
    expected = np.zeros((20, 20), bool)
    expected[5:10, 5:15] = True
    assert np.array_equal(fit_mask(mask, (20, 20)), expected)
    assert fit(Image.fromarray(image), None).size == (80, 40) and fit_mask(mask, None) is mask


def test_a_file_has_to_lie_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for place in (tmp_path / "secret.png", folder / "a.png", folder / "deep" / "b.png"):
        place.write_bytes(b"x")
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "outside").symlink_to(tmp_path)
    (folder / "circle").symlink_to(folder / "circle")
    os.mkfifo(folder / "pipe")  # opening it would wait for ever
    assert inside(folder, "deep/../deep/b.png") == (folder / "deep" / "b.png").resolve()
    assert inside(folder, "link.png") == (folder / "a.png").resolve()
    faults = {
        "../secret.png": "outside the folder", "deep/../../secret.png": "outside the folder", "out.png": "outside the folder",
        "outside/secret.png": "outside the folder", str(folder / "a.png"): "absolute", "C:\\a.png": "absolute", "none.png": "no such file",
        "deep": "is not a file", "pipe": "is not a file", "circle": "circle", "a\0.png": "x00", "x" * 5000: "xxx", "": "no file is named",
        "\ud800": "ud800",
    }  # fmt: skip
    for name, message in faults.items():
        with pytest.raises(Fault, match=message):
            inside(folder, name)
