"""Pictures beside numbers: small copies that fit into a chart's data or a page."""

import base64
import io

import polars as pl
from PIL import Image, UnidentifiedImageError

from headflow.errors import HeadflowError

LONGEST_SIDE = 128
"""Pictures larger than this are shrunk to it, pixels."""
LARGEST_PNG = 8_000
"""Bytes beyond which a picture becomes a JPEG: drawings stay as they are, photographs do not."""
MANY = {60: LONGEST_SIDE, 150: 96}
"""Longest side by the number of pictures that travel together; beyond both, SMALLEST_SIDE. A page holds several copies of them."""
SMALLEST_SIDE = 72


def data_uri(picture: bytes, most: int = LONGEST_SIDE) -> str:
    """``picture`` (any format that Pillow reads) as a data URI: PNG if small as it is, else a JPEG, shrunken where it is large.

    Args:
        picture: the picture.
        most: longest side, pixels.

    Raises:
        HeadflowError: the bytes are no picture.
    """
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
            buffer, kind = io.BytesIO(), "png"
            if max(image.size) <= most:
                # Written anew, so that only the pixels travel: no metadata, and always a real PNG.
                image.convert("RGB").save(buffer, "PNG", optimize=True)
            if not 0 < buffer.tell() <= LARGEST_PNG:
                buffer, kind = io.BytesIO(), "jpeg"
                small = image.convert("RGB")
                small.thumbnail((most, most))
                small.save(buffer, "JPEG", quality=82)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise HeadflowError(f"a picture in the examples table cannot be read ({error}); run `dvc repro` to make it again") from error
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def longest_side(picture: bytes) -> int:
    """Pixels along the longer side of ``picture``; only its head is read.

    Raises:
        HeadflowError: the bytes are no picture.
    """
    try:
        with Image.open(io.BytesIO(picture)) as image:
            return max(image.size)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise HeadflowError(f"a picture in the examples table cannot be read ({error}); run `dvc repro` to make it again") from error


def with_pictures(examples: pl.DataFrame, most: int | None = None) -> pl.DataFrame:
    """``id`` and ``image`` (a data URI): the lookup table behind tooltips that show a picture; the more pictures, the smaller."""
    if most is None:
        most = next((side for count, side in MANY.items() if examples.height <= count), SMALLEST_SIDE)
    uris = [data_uri(picture, most) for picture in examples["image"]]
    return pl.DataFrame({"id": examples["id"], "image": pl.Series(uris, dtype=pl.String)})
