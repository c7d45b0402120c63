"""From any picture file to the upright RGB picture that a model is shown, and from any mask to exact pixels.

A stored picture is always a new RGB PNG. So it decodes to the same pixels with every version of every library (JPEG's does not), and no
camera data, such as where it was taken, travels on.
"""

import io
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import ExifTags, Image, ImageOps

from headflow.datasets.faults import Fault, shown

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")
"""What is opened. Pillow reads more, but some of that starts other programs (EPS) or only holds pictures of pictures (icons)."""

_T = Image.Transpose
_TURNS = {
    2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE, 6: _T.ROTATE_270, 7: _T.TRANSVERSE, 8: _T.ROTATE_90,
}  # fmt: skip

_BYTES_PER_PIXEL = 8
_LARGEST_EXTRA = 64 * 2**20
"""What a file may hold beside its pixels (uncompressed, 16 bits in four channels): previews, colour profiles, camera data."""

_MOST_SCANS = 100
"""Of a progressive JPEG, which has about ten: each is a pass over all pixels, and an empty one takes a few bytes of the file."""

Source = Path | bytes
Size = tuple[int, int]
"""Width and height, pixels."""


@dataclass(frozen=True)
class Picture:
    """An upright RGB picture; ``stored`` is its size in the file, before the turn that its EXIF ``orientation`` (1 = none) asks for."""

    image: Image.Image
    stored: Size
    orientation: int

    def turned(self, mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
        """A mask of the stored pixels, turned as the picture was."""
        return _turn(mask, self.orientation)


def inside(folder: Path, name: str) -> Path:
    """The regular file ``name`` in ``folder``, symbolic links followed.

    Raises:
        Fault: there is none, or it lies outside the folder.
    """
    if not name:
        raise Fault("no file is named")
    if Path(name).is_absolute() or PureWindowsPath(name).is_absolute():
        raise Fault(f"{shown(name)} is an absolute path; name files as seen from {folder}")
    try:
        root, file = folder.resolve(), (folder / name).resolve()
        if not file.is_relative_to(root):
            raise Fault(f"{shown(name)} lies outside the folder {folder}")
        if not file.exists():
            raise Fault(f"{shown(name)}: there is no such file")
        if not file.is_file():
            raise Fault(f"{shown(name)} is not a file")
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL in it, a circle of links
        raise Fault(f"{shown(name)}: {getattr(error, 'strerror', None) or _line(error)}") from None
    return file


def read_picture(source: Source, max_pixels: int) -> Picture:
    """Open, decode and turn upright; anything but RGB is converted: alpha lies over white, 16 bits become 8.

    Raises:
        Fault: not a picture of FORMATS, truncated, or of more than ``max_pixels`` (it is then not decoded).
    """
    image, orientation = _decode(source, max_pixels)
    stored = image.size
    try:
        return Picture(_upright(_rgb(image), orientation), stored, orientation)
    except (ValueError, OSError) as error:
        raise Fault(f"a picture of mode {image.mode} cannot be turned into RGB ({_line(error)})") from None


def read_mask(source: Source, size: Size, max_pixels: int) -> Bool[np.ndarray, "height width"]:
    """A mask picture: a pixel belongs to the object if it is brighter than half of the brightest one (so 0 and 1 do as well as 0 and 255).

    Raises:
        Fault: not a picture, of another size than ``size``, or black all over.
    """
    image, orientation = _decode(source, max_pixels)
    levels = np.asarray(image if image.mode[0] in "IF" else _over(image, "black").convert("L"))
    if not levels.max() > 0:
        raise Fault("is black all over")
    mask = _turn(levels > levels.max() / 2, orientation)
    if mask.shape != tuple(size)[::-1]:
        raise Fault(f"has {mask.shape[1]} × {mask.shape[0]} pixels, its picture {size[0]} × {size[1]}")
    return mask


def fit(image: Image.Image, size: Size | None) -> Image.Image:
    """Cut to the aspect ratio of ``size`` at the centre and scale to it; None changes nothing."""
    return image if size is None or image.size == tuple(size) else ImageOps.fit(image, tuple(size), Image.Resampling.LANCZOS)


def fit_mask(mask: Bool[np.ndarray, "height width"], size: Size | None) -> Bool[np.ndarray, "height width"]:
    """The same for a mask; a pixel belongs to the object if at least half of what it is made from does."""
    if size is None or mask.shape == (size[1], size[0]):
        return mask
    return np.asarray(ImageOps.fit(Image.fromarray(mask).convert("L"), tuple(size), Image.Resampling.BOX)) >= 128


def png(image: Image.Image) -> bytes:
    """The picture as PNG, pixels only."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def object_entry(mask: Bool[np.ndarray, "height width"], *, name: str, main: bool, category: str | None = None, style: str | None = None) -> dict[str, Any]:
    """One entry of the column ``objects``. ``mask`` covers the whole picture and is nowhere empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "name": name, "category": category, "colour": None, "style": style, "main": main,
        "x": x, "y": y, "width": int(columns[-1]) - x + 1, "height": int(rows[-1]) - y + 1, "mask": png(Image.fromarray(mask)),
    }  # fmt: skip


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _decode(source: Source, max_pixels: int) -> tuple[Image.Image, int]:
    """The decoded picture as it is stored, and its EXIF orientation."""
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        # Before it is opened: decoders take a chunk that they do not know into memory whole.
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > max_pixels * _BYTES_PER_PIXEL + _LARGEST_EXTRA:
            raise Fault(f"takes {size:,} bytes, more than any picture of examples.max_pixels, {max_pixels:,}")
        # Warnings about odd metadata or large pictures: what matters of them is an error below.
        with warnings.catch_warnings(action="ignore"), Image.open(stream, formats=_formats()) as image:
            if image.width * image.height > max_pixels:
                raise Fault(f"{image.width} × {image.height} pixels are more than examples.max_pixels, {max_pixels:,}")
            if image.format in ("JPEG", "MPO"):
                _check_scans(source)
            image.load()
            return image.copy(), _orientation(image)
    except Fault:
        raise
    except Image.DecompressionBombError:
        raise Fault(f"has more pixels than examples.max_pixels, {max_pixels:,}") from None
    except Image.UnidentifiedImageError:
        raise Fault("is no picture, or of a kind that is not read (PNG, JPEG, WebP, AVIF, GIF, BMP, TIFF, PPM and JPEG 2000 are)") from None
    except Exception as error:  # decoders raise anything for damaged files
        if isinstance(error, OSError) and error.errno:
            raise Fault(f"cannot be read ({error.strerror})") from None
        raise Fault(f"is damaged or truncated ({_line(error)})") from None


def _check_scans(source: Source) -> None:
    """Raise Fault if a JPEG has more scans than pictures have. The marker of a scan (FF DA) cannot stand in coded pixels."""
    scans = (source if isinstance(source, bytes) else source.read_bytes()).count(b"\xff\xda")
    if scans > _MOST_SCANS:
        raise Fault(f"has {scans:,} scans, which would take very long to decode")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("its pixels have more than 16 bits")
        # Pillow would cut at 255; 257 takes 65535 to 255.
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    return _over(image, "white") if image.has_transparency_data else image.convert("RGB")


def _over(image: Image.Image, colour: str) -> Image.Image:
    """RGB, laid over a colour where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, colour), image).convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged camera data do not make a damaged picture; no viewer would turn it
        return 1
    return orientation if orientation in _TURNS else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def _turn(mask: Bool[np.ndarray, "height width"], orientation: int) -> Bool[np.ndarray, "height width"]:
    return mask if orientation == 1 else np.asarray(_upright(Image.fromarray(mask).convert("L"), orientation)) > 0


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
