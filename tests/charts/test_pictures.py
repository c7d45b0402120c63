import base64
import io

import pytest
from PIL import Image

from headflow.charts import pictures
from headflow.errors import HeadflowError


def encoded(size: tuple[int, int], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def decoded(uri: str) -> Image.Image:
    head, body = uri.split(",", 1)
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_small_pictures_keep_every_pixel():
    picture = encoded((48, 48))
    assert decoded(pictures.data_uri(picture)).tobytes() == Image.open(io.BytesIO(picture)).tobytes()


def test_large_pictures_shrink_and_keep_their_shape():
    assert decoded(pictures.data_uri(encoded((1600, 800)))).size == (128, 64)


def test_what_is_no_picture_is_said_in_one_line():
    for broken in (b"", b"<svg onload=alert(1)>", encoded((48, 48))[:60]):
        with pytest.raises(HeadflowError, match="cannot be read") as caught:
            pictures.data_uri(broken)
        assert "\n" not in str(caught.value)
