"""Pictures beside numbers: small copies that fit into a chart's data or a page."""

import base64
import io

import polars as pl
from PIL import Image, UnidentifiedImageError

from headflow.errors import HeadflowError

LONGEST_SIDE = 128
"""Pictures larger than this are shrunk to it, pixels."""


def data_uri(picture: bytes, longest_side: int = LONGEST_SIDE) -> str:
    """``picture`` (any format that Pillow reads) as a data URI: PNG if small as it is, else a shrunken JPEG.

    Raises:
        HeadflowError: the bytes are no picture.
    """
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
            buffer = io.BytesIO()
            if max(image.size) <= longest_side:
                # Written anew, so that only the pixels travel: no metadata, and always a real PNG.
                image.convert("RGB").save(buffer, "PNG", optimize=True)
                kind = "png"
            else:
                image = image.convert("RGB")
                image.thumbnail((longest_side, longest_side))
                image.save(buffer, "JPEG", quality=82)
                kind = "jpeg"
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise HeadflowError(f"a picture in the examples table cannot be read ({error}); run `dvc repro` to make it again") from error
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def with_pictures(examples: pl.DataFrame, longest_side: int = LONGEST_SIDE) -> pl.DataFrame:
    """``id`` and ``image`` (a data URI): the lookup table behind tooltips that show a picture."""
    uris = [data_uri(picture, longest_side) for picture in examples["image"]]
    return pl.DataFrame({"id": examples["id"], "image": pl.Series(uris, dtype=pl.String)})
