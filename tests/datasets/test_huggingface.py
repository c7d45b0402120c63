"""Data sets that `datasets` reads, from local folders: the hub cannot be reached from a test."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import ExifTags, Image

from headflow.datasets import Selection, read_huggingface
from headflow.datasets.pictures import png
from headflow.errors import HeadflowError
from headflow.tables.examples import EXAMPLES, SKIPPED
from tests.datasets.folders import QUESTION, decoded, picture

datasets = pytest.importorskip("datasets")
FEW = Selection(3, 2)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    # else every stream that is left early waits five seconds for its threads
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


def write_parquet(folder: Path, count: int = 12, files: int = 1, **more: tuple[object, list]) -> Path:
    """A data set of pictures with questions and a class; ``more`` = further columns, each a feature and its values."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": (datasets.Image(), [Image.fromarray(picture(index)) for index in range(count)]),
        "question": (datasets.Value("string"), [QUESTION] * count),
        "answer": (datasets.ClassLabel(names=["cat", "dog"]), [index % 2 for index in range(count)]),
        "number": (datasets.Value("int64"), list(range(count))),
        "boxes": (datasets.List(datasets.Value("int64")), [[index] for index in range(count)]),
    } | more
    features = datasets.Features({name: feature for name, (feature, _) in columns.items()})
    whole = datasets.Dataset.from_dict({name: values for name, (_, values) in columns.items()}, features=features)
    for file in range(files):
        whole.shard(files, file).to_parquet(folder / f"train-{file:05d}-of-{files:05d}.parquet")
    return folder


def numbers(table: pl.DataFrame, split: str) -> list[int]:
    return [int(id.split("-")[1]) for id in table.filter(split=split)["id"]]


def test_pictures_classes_and_labels(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "a")
    table, skipped = read_huggingface(str(folder), columns={"id": "number", "category": "answer"}, meaning=["answer"], looks=["number"], selection=FEW)
    EXAMPLES.check(table, "table")
    SKIPPED.check(skipped, "skipped")
    assert table["split"].to_list() == ["explain"] * 3 + ["reference"] * 2 and table["scene"].to_list() == [0, 1, 2, 0, 1]
    assert table.columns[11:] == ["meaning_category", "meaning_answer", "looks_number"] and skipped.is_empty()
    for row in table.iter_rows(named=True):
        index = int(row["id"].split("-")[1])
        assert np.array_equal(decoded(row["image"]), picture(index))
        assert row["answer"] == row["meaning_category"] == row["meaning_answer"] == ("cat", "dog")[index % 2]
        assert (row["question"], row["question_kind"], row["looks_number"]) == (QUESTION, "asked", str(index))


def test_the_stream_is_seeded_and_more_pictures_change_none_that_were_there(tmp_path: Path) -> None:
    folder = str(write_parquet(tmp_path / "a", 40, files=3))
    read = {name: read_huggingface(folder, columns={"id": "number"}, selection=wanted)[0]
            for name, wanted in (("few", FEW), ("same", FEW), ("more", Selection(9, 2)), ("other", Selection(3, 2, seed=1)))}  # fmt: skip
    assert read["few"].equals(read["same"])
    assert numbers(read["more"], "explain")[:3] == numbers(read["few"], "explain")
    assert numbers(read["more"], "reference") == numbers(read["few"], "reference")
    assert read["other"]["id"].to_list() != read["few"]["id"].to_list()
    unshuffled, _ = read_huggingface(str(write_parquet(tmp_path / "b")), columns={"id": "number"}, shuffle_buffer=1, selection=FEW)
    assert numbers(unshuffled, "reference") == [0, 1] and numbers(unshuffled, "explain") == [2, 3, 4]


def test_a_folder_of_image_files_and_one_question_for_all(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    for index in range(6):
        place = tmp_path / "a" / ("cat", "dog")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(index)).save(place / f"{index}.png", exif=exif)
    table, _ = read_huggingface(str(tmp_path / "a"), question="Cat or dog?", columns={"answer": "label"}, selection=FEW)
    assert table["question"].unique().to_list() == ["Cat or dog?"] and len(table) == 5
    turned = {picture(index)[::-1, ::-1].tobytes(): ("cat", "dog")[index % 2] for index in range(6)}
    assert all(turned[decoded(row["image"]).tobytes()] == row["answer"] for row in table.iter_rows(named=True))
    assert table["id"].n_unique() == 5


def test_pictures_in_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with zipfile.ZipFile(tmp_path / "a" / "train.zip", "w") as archive:
        for index in range(6):
            archive.writestr(f"{index}.png", png(Image.fromarray(picture(index))))
        archive.writestr("metadata.csv", "file_name,question,answer\n" + "".join(f"{index}.png,Which?,{index}\n" for index in range(6)))
    table, _ = read_huggingface(str(tmp_path / "a"), selection=FEW)
    assert len(table) == 5
    assert all(np.array_equal(decoded(row["image"]), picture(int(row["answer"]))) for row in table.iter_rows(named=True))


def test_questions_about_one_picture_stay_together_and_masks_are_objects(tmp_path: Path) -> None:
    same = [Image.fromarray(picture(index // 2)) for index in range(12)]
    mask = np.zeros((8, 10), np.uint8)
    mask[1:3, 4:9] = 255
    masks = (datasets.Image(), [Image.fromarray(mask) if index % 2 else None for index in range(12)])
    folder = write_parquet(tmp_path / "a", image=(datasets.Image(), same), mask=masks)
    table, _ = read_huggingface(str(folder), columns={"id": "number"}, shuffle_buffer=1, selection=FEW)
    assert numbers(table, "explain") == [4, 5, 6, 7, 8] and numbers(table, "reference") == [0, 1, 2, 3]
    assert table.filter(split="explain")["scene"].to_list() == [0, 0, 1, 1, 2]
    for row in table.iter_rows(named=True):
        if int(row["id"].split("-")[1]) % 2:
            assert (row["objects"][0]["x"], row["objects"][0]["width"], row["objects"][0]["main"]) == (4, 5, True)
        else:
            assert row["objects"] == []


def test_splits_that_a_column_names_and_stand_ins(tmp_path: Path) -> None:
    split = (datasets.Value("string"), ["explain" if index % 3 else "reference" for index in range(12)])
    table, _ = read_huggingface(str(write_parquet(tmp_path / "a", split=split)), columns={"id": "number"}, shuffle_buffer=1, selection=FEW)
    assert numbers(table, "explain") == [1, 2, 4] and numbers(table, "reference") == [0, 3]
    split = (datasets.Value("string"), ["explain" if index < 9 else "reference" for index in range(12)])
    table, _ = read_huggingface(str(write_parquet(tmp_path / "c", split=split)), columns={"id": "number"}, shuffle_buffer=1, selection=FEW)
    assert numbers(table, "explain") == [0, 1, 2] and numbers(table, "reference") == [9, 10]
    table, _ = read_huggingface(str(write_parquet(tmp_path / "b", 4)), columns={"id": "number"}, shuffle_buffer=1, selection=FEW)
    assert numbers(table, "reference") == [0, 1] and numbers(table, "explain") == [2, 3, 1]


def faulty(folder: Path) -> Path:
    """Rows 3 to 7 have a fault each."""
    images = [{"bytes": (folder.parent / f"{index}.png").read_bytes(), "path": None} for index in range(10)]
    images[2] = {"bytes": b"no picture", "path": None}
    images[3] = {"bytes": None, "path": str(folder.parent / "0.png")}
    images[4] = None
    texts = [QUESTION] * 10
    texts[5] = " "
    classes = [index % 2 for index in range(10)]
    classes[6] = -1
    return write_parquet(folder, 10, image=(datasets.Image(), images), question=(datasets.Value("string"), texts),
                         answer=(datasets.ClassLabel(names=["cat", "dog"]), classes))  # fmt: skip


def test_faulty_rows(tmp_path: Path) -> None:
    for index in range(10):
        Image.fromarray(picture(index)).save(tmp_path / f"{index}.png")
    folder = str(faulty(tmp_path / "a"))
    with pytest.raises(HeadflowError) as error:
        read_huggingface(folder, columns={"id": "number"}, shuffle_buffer=1, selection=Selection(8, 2))
    head, *lines, _ = str(error.value).splitlines()
    assert head == f"{folder}: 5 rows with faults (rows are numbered in the order of the seeded stream)"
    assert lines == [
        "  row 3: is no picture, or of a kind that is not read (PNG, JPEG, WebP, AVIF, GIF, BMP, TIFF, PPM and JPEG 2000 are)",
        f"  row 4: names the local file {str(tmp_path / '0.png')!r}, which is no part of the data set",
        "  row 5: has no picture",
        "  row 6: the question is empty",
        "  row 7: the answer is empty",
    ]
    table, skipped = read_huggingface(
        folder, columns={"id": "number"}, shuffle_buffer=1, selection=Selection(2, 2, on_bad_example="skip", picture_size=(4, 4))
    )
    assert numbers(table, "explain") == [7, 8] and numbers(table, "reference") == [0, 1]
    assert skipped["row"].to_list() == [3, 4, 5, 6, 7] and skipped["id"].to_list() == ["2", "3", "4", "5", "6"]
    assert decoded(table["image"][0]).shape == (4, 4, 3)


@pytest.mark.parametrize("path", ["{0}/0.png", "../0.png", "file://{0}/0.png", "zip://0.png::{0}/b.zip", "file://{0}/0.png::hf://datasets/a/b/c.zip"])
def test_a_data_set_names_no_file_outside_it(tmp_path: Path, path: str) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(tmp_path / "0.png", "0.png")
    folder = tmp_path / "a"
    folder.mkdir()
    row = {"image": {"bytes": None, "path": path.format(tmp_path)}, "question": QUESTION, "answer": "cat"}
    pl.DataFrame([row] * 3, schema_overrides={"image": pl.Struct({"bytes": pl.Binary, "path": pl.String})}).write_parquet(folder / "train.parquet")
    with pytest.raises(HeadflowError, match=r"row 1: names the local file .*, which is no part of the data set"):
        read_huggingface(str(folder), selection=FEW)


def test_ids_that_are_no_ids(tmp_path: Path) -> None:
    with pytest.raises(HeadflowError, match="row 3: the id '1' is that of row 2 too"):
        read_huggingface(str(write_parquet(tmp_path / "a", number=(datasets.Value("int64"), [0, 1, 1, *range(3, 12)]))), columns={"id": "number"},
                         shuffle_buffer=1, selection=FEW)  # fmt: skip


def test_wrong_columns_splits_configs_and_data_sets(tmp_path: Path) -> None:
    folder = str(write_parquet(tmp_path / "a"))
    cases = [
        ({"columns": {"answer": "label"}}, r"no column 'label' \(answer\)"),
        ({"columns": {"image": "imag"}, "looks": ["colour"]}, r"no column 'imag' \(image\).*no column 'colour' \(listed under looks\)"),
        ({"columns": {"image": "number"}}, r"column 'number' \(image\) holds Value\('int64'\), not pictures"),
        ({"columns": {"answer": "boxes"}}, r"row 1: answer is \[.*\], not text"),
        ({"split": "test"}, "cannot be read as a data set .*split"),
        ({"config": "large"}, "cannot be read as a data set"),
        ({"id": str(tmp_path / "nowhere")}, "cannot be read as a data set"),
    ]
    for options, message in cases:
        with pytest.raises(HeadflowError, match=message):
            read_huggingface(**{"id": folder, "selection": FEW} | options)


def test_a_damaged_file_and_hardly_any_good_row(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "a", 12, files=2)
    (folder / "train-00001-of-00002.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(HeadflowError, match=r"reading stopped|cannot be read"):
        read_huggingface(str(folder), selection=Selection(20, 2))
    rows = [{"file_name": "0.png", "question": "", "answer": ""}]
    place = tmp_path / "b"
    place.mkdir()
    Image.fromarray(picture(0)).save(place / "0.png")
    (place / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(HeadflowError, match=r"0 usable picture\(s\)"):
        read_huggingface(str(place), selection=Selection(2, 2, on_bad_example="skip"))


def test_without_the_packages_the_extras_are_named(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["datasets"] = sys.modules["pycocotools"] = sys.modules["pycocotools.mask"] = None  # as if not installed
from headflow.datasets import read_coco, read_huggingface
from headflow.datasets.pictures import png
from headflow.errors import HeadflowError
for read in (read_coco, read_huggingface):
    try:
        read(sys.argv[1])
    except HeadflowError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "pip install 'headflow[coco]'" in done.stdout and "pip install 'headflow[huggingface]'" in done.stdout
