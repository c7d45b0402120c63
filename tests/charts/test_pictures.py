import base64
import io

import polars as pl
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

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


def photograph(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).resize((width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_photographs_become_jpegs_however_small_they_are():
    uri = pictures.data_uri(photograph(120, 90))
    assert uri.startswith("data:image/jpeg") and decoded(uri).size == (120, 90)
    assert len(uri) < len(photograph(120, 90)) / 3


@pytest.mark.parametrize(("count", "side"), [(3, 128), (61, 96), (151, 72)])
def test_the_more_pictures_travel_together_the_smaller_they_are(count, side):
    examples = pl.DataFrame({"id": [str(place) for place in range(count)], "image": [photograph(300, 200)] * count})
    uris = pictures.with_pictures(examples)["image"]
    assert {decoded(uri).width for uri in uris.head(3)} == {side}
    assert sum(map(len, uris)) < 1_000_000


def test_the_longest_side_is_read_without_unpacking_the_picture():
    assert pictures.longest_side(photograph(30, 70)) == 70
    with pytest.raises(HeadflowError, match="cannot be read"):
        pictures.longest_side(b"no picture")


def test_what_is_no_picture_is_said_in_one_line():
    for broken in (b"", b"<svg onload=alert(1)>", encoded((48, 48))[:60]):
        with pytest.raises(HeadflowError, match="cannot be read") as caught:
            pictures.data_uri(broken)
        assert "\n" not in str(caught.value)
