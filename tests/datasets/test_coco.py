"""COCO annotations: the main object, exact masks of every form, and files that are none."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from pycocotools import mask as coco

from headflow.datasets import Selection, read_coco
from headflow.datasets.coco import run_lengths
from headflow.datasets.faults import Fault, shown
from headflow.errors import HeadflowError
from headflow.tables.examples import EXAMPLES
from tests.datasets.folders import decoded, picture

WIDTH, HEIGHT = 20, 16
CATEGORIES = [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 3, "name": "cup", "supercategory": "kitchen"}, {"id": 7, "name": "thing"}]
# pycocotools' own affair with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

SKIP = Selection(on_bad_example="skip")


def box(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    return mask


def polygon(x: int, y: int, width: int, height: int) -> list[list[float]]:
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def runs(mask: np.ndarray) -> dict[str, Any]:
    """Uncompressed run lengths, column by column, the first of zeros."""
    flat = np.concatenate([[False], mask.T.ravel(), [not mask.T.ravel()[-1]]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return {"size": list(mask.shape), "counts": np.diff([0, *edges]).tolist()}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def instance(image: int, category: int, segmentation: Any, crowd: int = 0) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd, "area": 1, "bbox": [0, 0, 1, 1]}


def write_coco(folder: Path, annotations: list[dict[str, Any]], images: int = 0, listed: list[dict[str, Any]] | None = None) -> Path:
    """Images 1, 2 … with their pictures, and these annotations."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    count = images or max(annotation["image_id"] for annotation in annotations)
    listed = listed or [{"id": id, "file_name": f"{id:03d}.png", "width": WIDTH, "height": HEIGHT} for id in range(1, count + 1)]
    for id in range(1, count + 1):
        Image.fromarray(picture(id, WIDTH, HEIGHT)).save(folder / "images" / f"{id:03d}.png")
    content = {"images": listed, "annotations": annotations, "categories": CATEGORIES}
    (folder / "annotations/instances.json").write_text(json.dumps(content))
    return folder


def chosen(folder: Path, **options: Any) -> set[int]:
    return {int(id.split("-")[1]) for id in read_coco(folder, **options).table["id"]}


def test_labels_answers_and_exact_masks_of_every_form(tmp_path: Path) -> None:
    annotations = []
    for image in range(1, 5):
        annotations += [
            instance(image, 3, polygon(1, 1, 4, 3)),
            instance(image, 1, [polygon(8, 2, 9, 10), runs(box(8, 2, 9, 10)), compressed(box(8, 2, 9, 10)), polygon(8, 2, 9, 10)][image - 1]),
            instance(image, 7, compressed(box(0, 14, 6, 2)), crowd=1),
        ]
    table, skipped = read_coco(write_coco(tmp_path / "a", annotations), selection=Selection(3, 2))
    EXAMPLES.check(table, "table")
    assert skipped.is_empty() and len(table) == 5
    for row in table.iter_rows(named=True):
        assert np.array_equal(decoded(row["image"]), picture(int(row["id"].split("-")[1]), WIDTH, HEIGHT))
        assert (row["question_kind"], row["answer"], row["meaning_name"], row["meaning_category"]) == ("asked", "cat", "cat", "animal")
        assert row["question"] == "What is the main object in the image? Answer with one word."
        main, *others = row["objects"]
        assert np.array_equal(decoded(main["mask"]), box(8, 2, 9, 10))
        assert (main["main"], main["name"], main["category"]) == (True, "cat", "animal")
        assert (main["x"], main["y"], main["width"], main["height"]) == (8, 2, 9, 10)
        assert [(o["name"], o["category"], o["main"]) for o in others] == [("cup", "kitchen", False), ("thing", None, False)]
        assert np.array_equal(decoded(others[0]["mask"]), box(1, 1, 4, 3)) and np.array_equal(decoded(others[1]["mask"]), box(0, 14, 6, 2))


def test_only_pictures_with_a_large_unrivalled_object_are_drawn(tmp_path: Path) -> None:
    annotations = [
        instance(1, 1, polygon(0, 0, 10, 8)),  # 80 of 320 pixels
        instance(2, 1, polygon(0, 0, 10, 8)), instance(2, 3, polygon(10, 8, 5, 8)),  # a rival of half its size
        instance(3, 1, polygon(0, 0, 10, 8)), instance(3, 3, polygon(10, 8, 5, 7)),  # of less
        instance(4, 1, polygon(0, 0, 5, 6)),  # too small
        instance(5, 1, polygon(0, 0, 10, 8)), instance(5, 7, runs(box(10, 8, 10, 8)), crowd=1),  # a crowd as rival
        instance(6, 1, runs(box(0, 0, 20, 16)), crowd=1),  # a crowd is no object
        instance(7, 1, polygon(0, 0, 10, 8)), instance(7, 1, polygon(10, 8, 9, 8)),  # a rival of the same category
        instance(8, 3, polygon(0, 0, 8, 4)),  # exactly a tenth
        instance(9, 3, polygon(5, 4, 10, 8)),
    ]  # fmt: skip
    folder = write_coco(tmp_path / "a", annotations, images=10)
    assert chosen(folder) == {1, 3, 8, 9}
    assert chosen(folder, least_share=0.11) == {1, 3, 9}
    assert chosen(folder, rival_share=0.51) == {1, 2, 3, 8, 9}
    assert chosen(folder, rival_share=1.0) == {1, 2, 3, 7, 8, 9}
    # in the middle 16 × 16 pixels, picture 3's main object has lost a fifth and its rival nothing; picture 8's has less than a tenth left
    assert chosen(folder, selection=Selection(picture_size=(16, 16))) == {1, 9}


def test_pictures_are_drawn_until_there_are_enough(tmp_path: Path) -> None:
    """Every second picture has no main object; files that are not needed need not exist."""
    annotations = [instance(image, 1, polygon(0, 0, 10, 8) if image % 2 else polygon(0, 0, 2, 2)) for image in range(1, 41)]
    folder = write_coco(tmp_path / "a", annotations)
    table, _ = read_coco(folder, selection=Selection(6, 5))
    assert table["split"].value_counts().sort("split").rows() == [("explain", 6), ("reference", 5)] and table["image"].n_unique() == 11
    more, _ = read_coco(folder, selection=Selection(9, 5))
    assert more.filter(split="explain")["id"][:6].to_list() == table.filter(split="explain")["id"].to_list()
    assert more.filter(split="reference").equals(table.filter(split="reference"))
    for id in set(range(1, 41)) - chosen(folder, selection=Selection(6, 5)):
        (folder / f"images/{id:03d}.png").unlink()
    assert read_coco(folder, selection=Selection(6, 5)).table.equals(table)


def test_masks_turn_with_their_picture(tmp_path: Path) -> None:
    annotations = [instance(image, 1, polygon(8, 2, 9, 10)) for image in (1, 2)]
    folder = write_coco(tmp_path / "a", annotations)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(picture(1, WIDTH, HEIGHT)).save(folder / "images/001.png", exif=exif)
    row = read_coco(folder).table.filter(id="explain-1").row(0, named=True)
    assert np.array_equal(decoded(row["image"]), np.rot90(picture(1, WIDTH, HEIGHT), -1))
    assert np.array_equal(decoded(row["objects"][0]["mask"]), np.rot90(box(8, 2, 9, 10), -1))


def faulty(folder: Path) -> Path:
    annotations = [instance(image, 1, polygon(0, 0, 10, 8)) for image in range(1, 13)]
    annotations[3]["category_id"] = 99
    annotations[4]["segmentation"] = [[0, 0, 5, 5]]
    annotations[5]["iscrowd"] = "no"
    write_coco(folder, annotations)
    file = folder / "annotations/instances.json"
    content = json.loads(file.read_text())
    content["images"][6]["file_name"] = "../annotations/instances.json"
    content["images"][7]["width"] = -3
    content["images"][8]["id"] = 1
    content["images"][9] |= {"width": 10, "height": 10}
    content["annotations"][9]["segmentation"] = polygon(0, 0, 9, 9)
    (folder / "images/011.png").write_bytes(b"no picture")
    (folder / "images/012.png").unlink()
    file.write_text(json.dumps(content))
    return folder


def test_faults_are_told_by_image(tmp_path: Path) -> None:
    folder = faulty(tmp_path / "a")
    with pytest.raises(HeadflowError) as error:
        read_coco(folder)
    assert str(error.value).splitlines()[:-1] == [
        f"{folder}/annotations/instances.json: 4 of 12 images with faults (numbered by their place in the file's list of images)",
        "  image 4: its annotation 4 has the unknown category_id 99",
        "  image 6: its annotation 6 has iscrowd 'no', not 0 or 1",
        "  image 8: its width and height are -3 and 16, not numbers of pixels",
        "  image 9: the id 1 is that of image 1 too",
    ]
    content = json.loads((folder / "annotations/instances.json").read_text())
    content["images"] = [image for row, image in enumerate(content["images"], 1) if row not in (4, 6, 8, 9)]
    (folder / "annotations/instances.json").write_text(json.dumps(content))
    with pytest.raises(HeadflowError) as error:
        read_coco(folder)
    assert str(error.value).splitlines()[1:-1] == [
        "  image 4: '005.png' (id 5) has an annotation whose segmentation has a polygon that is no list of at least three x, y pairs",
        "  image 5: '../annotations/instances.json' (id 7) '../annotations/instances.json' lies outside the folder " + str(folder / "images"),
        "  image 6: '010.png' (id 10) has 20 × 16 pixels, the annotations say 10 × 10",
        "  image 7: '011.png' (id 11) is no picture, or of a kind that is not read (PNG, JPEG, WebP, AVIF, GIF, BMP, TIFF, PPM and JPEG 2000 are)",
        "  image 8: '012.png' (id 12) '012.png': there is no such file",
    ]


def test_faulty_images_are_left_out_on_request(tmp_path: Path) -> None:
    table, skipped = read_coco(faulty(tmp_path / "a"), selection=SKIP)
    assert {id.split("-")[1] for id in table["id"]} == {"1", "2", "3"}
    assert skipped["row"].to_list() == list(range(4, 13)) and skipped["id"].to_list() == ["4", "5", "6", "7", "8", "1", "10", "11", "12"]


STRUCTURE = {
    "no JSON": (b"{", "not readable as JSON"),
    "too deep": (b"[" * 200_000, "not readable as JSON"),
    "no UTF-8": (b'{"images": "\xff"}', "not readable as JSON"),
    "a list": (b"[]", "has no list 'images'"),
    "captions": (b'{"images": [], "annotations": []}', "has no list 'categories'"),
    "numbers": (b'{"images": [], "annotations": [4], "categories": []}', "entry 1 of 'annotations' is 4, not an object"),
    "nameless": (b'{"images": [], "annotations": [], "categories": [{"id": 1}]}', "category 1 is {'id': 1}; it needs"),
    "twice": (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "category 2 is"),
    "nothing": (b'{"images": [], "annotations": [], "categories": []}', "0 usable picture"),
}


@pytest.mark.parametrize("fault", STRUCTURE)
def test_files_that_are_no_instances_file(tmp_path: Path, fault: str) -> None:
    content, message = STRUCTURE[fault]
    folder = write_coco(tmp_path / "a", [instance(1, 1, polygon(0, 0, 9, 9))])
    (folder / "annotations/instances.json").write_bytes(content)
    with pytest.raises(HeadflowError, match=message):
        read_coco(folder, selection=SKIP)


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "a", [instance(1, 1, polygon(0, 0, 9, 9))])
    for options, message in (
        ({"path": tmp_path / "b"}, r"b: there is no such folder \(examples.path\)"),
        ({"annotations": "../a/x.json"}, r"no such file \(examples.coco.annotations\)"),
        ({"annotations": "../../x.json"}, "lies outside the folder"),
        ({"images": "train"}, r"train: there is no such folder \(examples.coco.images\)"),
    ):
        with pytest.raises(HeadflowError, match=message):
            read_coco(**{"path": folder} | options)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_every_form_of_run_lengths_is_the_same_mask(height: int, width: int, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    for segmentation in (compressed(mask), runs(mask)):
        assert np.array_equal(coco.decode(run_lengths(segmentation, (width, height))) > 0, mask)


NUMBER = st.one_of(st.floats(), st.floats(-10, 30), st.integers(), st.integers(0, 16), st.none(), st.text(max_size=2))


@settings(max_examples=200, deadline=None)
@given(st.one_of(
    st.text(max_size=20), st.text("0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmno", max_size=20), st.lists(st.integers(), max_size=6),
    st.lists(st.integers(0, 30), max_size=6),
))  # fmt: skip
def test_any_run_lengths_give_a_mask_or_a_fault(counts: Any) -> None:
    """pycocotools alone reads past the end of some of these."""
    try:
        mask = coco.decode(run_lengths({"counts": counts}, (5, 4)))
    except Fault as fault:
        assert str(fault)
    else:
        assert mask.shape == (4, 5) and mask.max() <= 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(NUMBER, max_size=10), max_size=3))
def test_any_polygons_give_a_mask_or_a_fault(polygons: list[list[Any]]) -> None:
    try:
        mask = coco.decode(run_lengths(polygons, (WIDTH, HEIGHT)))
    except Fault as fault:
        assert str(fault)
    else:
        assert mask.shape == (HEIGHT, WIDTH) and mask.max() <= 1


def test_outlines_and_masks_too_large_to_unpack_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="outline is too long"):
        run_lengths([[0.0, 0.0, 7000.0, 7000.0] * 400], (7000, 7000))
    annotations = [instance(1, 1, polygon(0, 0, 5, 5))] * 50
    images = [{"id": 1, "file_name": "001.png", "width": 7000, "height": 7000}]
    with pytest.raises(HeadflowError, match="50 annotations on 7000 × 7000 pixels, which are too many to unpack"):
        read_coco(write_coco(tmp_path / "a", annotations, listed=images))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    annotations = [instance(image, 1, [polygon(0, 0, 10, 8), runs(box(0, 0, 10, 8)), compressed(box(0, 0, 10, 8))][image - 1]) for image in (1, 2, 3)]
    return write_coco(tmp_path_factory.mktemp("coco"), annotations)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(10**400), st.just("\ud800")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["id", "name", "counts", "size"]), inner, max_size=3)),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_value_anywhere_gives_a_table_or_a_clear_error(good: Path, data: st.DataObject) -> None:
    content = json.loads((good / "annotations/instances.json").read_text())
    changed = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(["images", "annotations", "categories"]))
        item = changed[name][data.draw(st.integers(0, len(changed[name]) - 1))]
        key = data.draw(st.sampled_from(sorted(item)))
        if key == "segmentation" and isinstance(item[key], dict):
            item[key] |= {data.draw(st.sampled_from(["counts", "size"])): data.draw(JSON)}
        else:
            item[key] = data.draw(JSON)
    (good / "annotations/any.json").write_text(json.dumps(changed))
    for on_bad in ("stop", "skip"):
        try:
            table, _ = read_coco(good, annotations="annotations/any.json", selection=Selection(on_bad_example=on_bad))
        except HeadflowError as error:
            assert str(error)
        else:
            EXAMPLES.check(table, "table")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=4))
def test_any_bytes_anywhere_give_a_table_or_a_clear_error(good: Path, changes: list[tuple[float, bytes]]) -> None:
    content = (good / "annotations/instances.json").read_bytes()
    for place, new in changes:
        start = int(place * len(content))
        content = content[:start] + new + content[start + len(new) :]
    (good / "annotations/any.json").write_bytes(content)
    try:
        read_coco(good, annotations="annotations/any.json", selection=SKIP)
    except HeadflowError as error:
        assert str(error)


def test_values_nested_very_deep(good: Path) -> None:
    for depth in (300, 100_000):
        text = json.dumps({"images": [{"id": 1, "file_name": "DEEP"}], "annotations": [], "categories": CATEGORIES})
        (good / "annotations/any.json").write_text(text.replace('"DEEP"', "[" * depth + "]" * depth))
        with pytest.raises(HeadflowError, match=r"image 1: its file_name is \[\[\[|not readable as JSON"):
            read_coco(good, annotations="annotations/any.json")
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "a list"
