"""A folder of pictures with a manifest: what becomes of it, and everything that can be wrong with it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from headflow.datasets import Selection, read_folder
from headflow.datasets.manifests import read_manifest
from headflow.errors import HeadflowError
from headflow.tables.examples import EXAMPLES, SKIPPED
from tests.datasets.folders import QUESTION, decoded, picture, rows_for, write_folder

SKIP = Selection(on_bad_example="skip")


@pytest.mark.parametrize("manifest", ["manifest.csv", "deep/rows.jsonl", "rows.parquet"])
def test_every_kind_of_manifest_gives_the_same_table(tmp_path: Path, manifest: str) -> None:
    labelled = [row | {"category": "animal", "style": "photo", "looks_light": "dim", "meaning_name": "x", "shot": "near"} for row in rows_for(6)]
    (tmp_path / "a/deep").mkdir(parents=True)
    folder = write_folder(tmp_path / "a", labelled, manifest)
    table, skipped = read_folder(folder, manifest=manifest, looks=["shot"], selection=Selection(4, 2))
    EXAMPLES.check(table, "table")
    SKIPPED.check(skipped, "skipped")
    assert table["split"].to_list() == ["explain"] * 4 + ["reference"] * 2 and skipped.is_empty()
    assert table["scene"].to_list() == [0, 1, 2, 3, 0, 1]
    assert set(table.columns[11:]) == {"meaning_category", "meaning_name", "looks_style", "looks_light", "looks_shot"}
    assert all(name.startswith("meaning_") for name in table.columns[11:13])
    for row in table.iter_rows(named=True):
        index = int(row["id"].removeprefix(f"{row['split']}-").removesuffix(".png"))
        assert row["row"] == index + (1 if manifest.endswith(".jsonl") else 2)
        assert np.array_equal(decoded(row["image"]), picture(index))
        assert (row["question_kind"], row["question"], row["answer"]) == ("asked", QUESTION, ("cat", "dog")[index % 2])
        assert (row["meaning_category"], row["looks_style"], row["looks_light"], row["looks_shot"]) == ("animal", "photo", "dim", "near")
        assert (row["object_count"], row["description"], row["objects"]) == (None, None, [])


def test_the_sample_in_the_project() -> None:
    root = Path(__file__).resolve().parents[2] / "data" / "pictures"
    table, skipped = read_folder(root)
    assert (len(table), len(skipped), table["id"].n_unique()) == (32, 0, 32)
    assert table.null_count().select("answer", "meaning_category", "looks_style", "looks_colour").sum_horizontal().item() == 0
    assert sum(file.stat().st_size for file in root.iterdir()) < 200_000


def test_columns_of_other_names_numbers_dates_and_empty_labels(tmp_path: Path) -> None:
    rows = [
        {"file": f"{index}.png", "ask": f"  {QUESTION}\n", "truth": index, "category": (None, "", float("nan"))[index], "right": index == 1, "key": f"k{index}"}
        for index in range(3)
    ]
    folder = write_folder(tmp_path / "a", rows, "rows.jsonl")
    columns = {"image": "file", "question": "ask", "answer": "truth", "id": "key"}
    table, _ = read_folder(folder, manifest="rows.jsonl", columns=columns, meaning=["right", "truth"])
    explained = table.filter(split="explain").sort("id")
    assert explained["id"].to_list() == ["explain-k0", "explain-k1", "explain-k2"]
    assert explained["answer"].to_list() == explained["meaning_truth"].to_list() == ["0", "1", "2"]
    assert explained["meaning_right"].to_list() == ["false", "true", "false"]
    assert explained["meaning_category"].null_count() == 3 and explained["question"].unique().to_list() == [QUESTION]


def test_a_mask_becomes_the_main_object(tmp_path: Path) -> None:
    rows = [row | {"mask": "mask.png" if index else "", "category": "animal"} for index, row in enumerate(rows_for(2))]
    folder = write_folder(tmp_path / "a", rows)
    mask = np.zeros((8, 10), np.uint8)
    mask[2:5, 3:9] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    table, _ = read_folder(folder)
    assert table.filter(id="explain-0.png")["objects"][0].to_list() == []
    (entry,) = table.filter(id="explain-1.png")["objects"][0].to_list()
    assert np.array_equal(decoded(entry.pop("mask")), mask > 0)
    assert entry == {"name": "dog", "category": "animal", "colour": None, "style": None, "main": True, "x": 3, "y": 2, "width": 6, "height": 3}
    small, _ = read_folder(folder, selection=Selection(picture_size=(4, 4)))
    (entry,) = small.filter(id="explain-1.png")["objects"][0].to_list()
    assert decoded(entry["mask"]).shape == (4, 4) and decoded(small["image"][0]).shape == (4, 4, 3)


def test_turned_pictures_and_masks_of_their_upright_size(tmp_path: Path) -> None:
    rows = [row | {"mask": "mask.png"} for row in rows_for(2)]
    folder = write_folder(tmp_path / "a", rows)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for index in range(2):
        Image.fromarray(picture(index)).save(folder / f"{index}.png", exif=exif)
    Image.new("L", (8, 10), 255).save(folder / "mask.png")
    table, _ = read_folder(folder)
    assert np.array_equal(decoded(table.filter(id="explain-1.png")["image"][0]), np.rot90(picture(1), -1))
    Image.new("L", (10, 8), 255).save(folder / "mask.png")
    with pytest.raises(HeadflowError, match=r"row 2: mask 'mask.png' has 10 × 8 pixels, its picture 8 × 10"):
        read_folder(folder)


def test_questions_about_one_picture_stay_together(tmp_path: Path) -> None:
    rows = rows_for(10) + [row | {"question": "And the colour?"} for row in rows_for(10)]
    folder = write_folder(tmp_path / "a", rows, pictures=10)
    (folder / "again.png").symlink_to(folder / "3.png")
    rows.append({"image": "again.png", "question": "And its name?", "answer": "Tom"})
    write_folder(folder, rows, pictures=0)
    table, _ = read_folder(folder, selection=Selection(6, 4))
    splits = table.group_by("image").agg(pl.col("split").n_unique(), pl.col("scene").n_unique(), pl.len())
    assert len(splits) == 10 and splits["split"].max() == 1 and splits["scene"].max() == 1 and sorted(splits["len"])[-2:] == [2, 3]
    of_three = table.filter(pl.col("id").str.contains("-3.png"))["id"].str.split("-").list.last().to_list()
    assert of_three == ["3.png", "3.png#2", "3.png#3"]


def test_more_pictures_move_none_that_were_there(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", rows_for(30))
    few, _ = read_folder(folder, selection=Selection(5, 6))
    more, _ = read_folder(folder, selection=Selection(9, 8))
    of = {name: [table.filter(split=split)["id"].to_list() for split in ("explain", "reference")] for name, table in (("few", few), ("more", more))}
    assert of["more"][0][:5] == of["few"][0] and of["more"][1][:6] == of["few"][1]
    assert not {id.split("-")[1] for id in of["more"][0]} & {id.split("-")[1] for id in of["more"][1]}
    assert few.equals(read_folder(folder, selection=Selection(5, 6))[0])
    assert few["id"].to_list() != read_folder(folder, selection=Selection(5, 6, seed=1))[0]["id"].to_list()
    write_folder(folder, rows_for(33))
    grown = read_folder(folder, selection=Selection(30, 2))[0].filter(split="explain")["id"].to_list()
    before = read_folder(write_folder(tmp_path / "b", rows_for(30)), selection=Selection(30, 2))[0].filter(split="explain")["id"].to_list()
    old = {f"explain-{index}.png" for index in range(30)}
    assert [id for id in grown if id in old] == [id for id in before if id in grown]


def test_too_few_pictures_stand_in_as_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "a", rows_for(5))
    table, _ = read_folder(folder, selection=Selection(4, 3))
    assert "2 are both" in capsys.readouterr().err
    assert table["split"].value_counts().sort("split").rows() == [("explain", 4), ("reference", 3)]
    assert table["id"].n_unique() == 7
    with pytest.raises(HeadflowError, match=r"1 usable picture\(s\)"):
        read_folder(write_folder(tmp_path / "b", rows_for(1)))


def test_splits_that_the_manifest_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row | {"split": "explain" if index < 4 else "reference"} for index, row in enumerate(rows_for(9))]
    table, _ = read_folder(write_folder(tmp_path / "a", rows), selection=Selection(3, 64))
    assert {id.split("-")[1] for id in table.filter(split="explain")["id"]} < {f"{index}.png" for index in range(4)}
    assert {id.split("-")[1] for id in table.filter(split="reference")["id"]} == {f"{index}.png" for index in range(4, 9)}
    assert len(table) == 8 and "note" not in capsys.readouterr().err
    both = [*rows, rows[0] | {"split": "reference", "answer": "other"}]
    table, _ = read_folder(write_folder(tmp_path / "a", both), selection=Selection(4, 64))
    assert table.filter(pl.col("id").str.contains("-0.png"))["id"].to_list() == ["explain-0.png", "reference-0.png#2"]
    for row in rows:
        row["split"] = "explain"
    table, _ = read_folder(write_folder(tmp_path / "a", rows))
    assert table["split"].value_counts().sort("split").rows() == [("explain", 9), ("reference", 9)]
    for row in rows:
        row["split"] = "reference"
    with pytest.raises(HeadflowError, match="0 of them to explain"):
        read_folder(write_folder(tmp_path / "a", rows))


def faulty(folder: Path) -> Path:
    """Two good rows, 2 and 16, and one row for each fault."""
    rows = rows_for(15)
    rows += [rows[14] | {"image": "0.png"}]
    for index, row in enumerate(rows):
        row |= {"id": f"r{index}", "mask": "", "split": "explain"}
    rows[1]["image"] = "gone.png"
    rows[2]["image"] = "../outside.png"
    rows[3]["image"] = "/etc/hostname"
    rows[4]["image"] = "link.png"
    rows[5]["question"] = "  "
    rows[6]["answer"] = ""
    rows[7]["id"] = "r0"
    rows[8]["split"] = "test"
    rows[9]["mask"] = "small.png"
    rows[10]["image"] = "cut.png"
    rows[11]["image"] = "text.png"
    rows[12]["image"] = "bomb.png"
    rows[13] |= {"image": "", "id": "", "answer": ""}
    write_folder(folder, rows)
    Image.fromarray(picture(99)).save(folder.parent / "outside.png")
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    Image.new("L", (4, 4), 255).save(folder / "small.png")
    (folder / "cut.png").write_bytes((folder / "10.png").read_bytes()[:150])
    (folder / "text.png").write_text("not a picture")
    Image.new("1", (3000, 1000)).save(folder / "bomb.png")
    return folder


EXPECTED = {
    3: ["'gone.png': there is no such file"],
    4: ["'../outside.png' lies outside the folder"],
    5: ["'/etc/hostname' is an absolute path"],
    6: ["'link.png' lies outside the folder"],
    7: ["the question is empty"],
    8: ["the answer is empty"],
    9: ["the id 'r0' is that of row 2 too"],
    10: ["the split is 'test', not explain or reference"],
    11: ["mask 'small.png' has 4 × 4 pixels, its picture 10 × 8"],
    12: ["'cut.png' is damaged or truncated"],
    13: ["'text.png' is no picture"],
    14: ["'bomb.png' 3000 × 1000 pixels are more than examples.max_pixels, 1,000,000"],
    15: ["the answer is empty", "the id is empty", "the image is empty"],
}


def test_all_faults_are_told_at_once_with_their_rows(tmp_path: Path) -> None:
    folder = faulty(tmp_path / "a")
    with pytest.raises(HeadflowError) as error:
        read_folder(folder, selection=Selection(max_pixels=1_000_000))
    head, *lines, advice = str(error.value).splitlines()
    assert head == f"{folder}/manifest.csv: 13 of 16 rows with faults (rows are numbered as a spreadsheet shows them: the header is row 1)"
    assert len(lines) == sum(map(len, EXPECTED.values()))
    for row, reasons in EXPECTED.items():
        for reason in reasons:
            assert any(line.startswith(f"  row {row}: {reason}") for line in lines), (row, reason, lines)
    assert "on_bad_example: skip" in advice


def test_faulty_rows_are_left_out_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = faulty(tmp_path / "a")
    table, skipped = read_folder(folder, selection=Selection(on_bad_example="skip", max_pixels=1_000_000))
    assert sorted(table.filter(split="explain")["id"]) == ["explain-r0", "explain-r14", "explain-r15"]
    assert skipped["row"].to_list() == list(EXPECTED)
    SKIPPED.check(skipped, "skipped")
    assert dict(skipped.select("row", "id").iter_rows()) == {row: f"r{row - 2}" for row in EXPECTED} | {9: "r0", 15: None}
    assert skipped["reason"][-1].split("; ") == EXPECTED[15]
    assert "warning: left out:" in capsys.readouterr().err


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    rows = [row | {"answer": ""} for row in rows_for(3)]
    with pytest.raises(HeadflowError, match=r"0 usable picture\(s\), 0 of them"):
        read_folder(write_folder(tmp_path / "a", rows), selection=SKIP)


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", rows_for(300), pictures=0)
    with pytest.raises(HeadflowError) as error:
        read_folder(folder)
    lines = str(error.value).splitlines()
    assert len(lines) == 53 and lines[0].startswith(f"{folder}/manifest.csv: 300 of 300 rows") and "250 more faults" in lines[-2]


def test_rows_of_another_length_keep_their_numbers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", rows_for(4))
    text = 'image,question,answer\n0.png,"Is it a cat,\nor a dog?",cat\n\n1.png,Is it a cat, or a dog?,dog\n2.png,Which?\n,,\n3.png,Which?,cat\n'
    (folder / "manifest.csv").write_text("\ufeff" + text)
    with pytest.raises(HeadflowError) as error:
        read_folder(folder)
    assert str(error.value).splitlines()[1:3] == [
        "  row 4: has 4 cells, the header 3; put texts with commas in double quotes",
        "  row 5: has 2 cells, the header 3; put texts with commas in double quotes",
    ]
    table, skipped = read_folder(folder, selection=SKIP)
    assert sorted(table.filter(split="explain")["question"]) == ["Is it a cat,\nor a dog?", "Which?"] and skipped["row"].to_list() == [4, 5]


STRUCTURE = {
    "missing and misspelt": ("imag,question,answer,catgory\n", r"no column 'image' \(image\) \(did you mean 'imag'\?\); unknown column 'imag'.*"
                             r"unknown column 'catgory' \(did you mean 'category'\?\).*labels other than category"),
    "unknown": ("image,question,answer,mood\n", "unknown column 'mood'; labels other than category and style are listed under meaning or looks"),
    "the same label twice": ("image,question,answer,category,meaning_category\n", "'category' and 'meaning_category' both give the label"),
    "twice": ("image,question,answer,answer\n", "the column 'answer' twice"),
    "nameless": ("image,question,answer,,\n", "columns without a name"),
    "semicolons": ("image;question;answer\n", "semicolons or tabs"),
    "blank header": ("\nimage,question,answer\n", "row 1, the header, is blank"),
    "open quote": ('image,question,answer\n0.png,"Which,cat\n', "row 2: unexpected end of data"),
}  # fmt: skip


@pytest.mark.parametrize("fault", STRUCTURE)
def test_a_manifest_of_the_wrong_form_always_stops(tmp_path: Path, fault: str) -> None:
    text, message = STRUCTURE[fault]
    folder = write_folder(tmp_path / "a", rows_for(2))
    (folder / "manifest.csv").write_text(text if "quote" in fault else text + ",".join("x" for _ in text.split(",")) + "\n")
    with pytest.raises(HeadflowError, match=message) as error:
        read_folder(folder, selection=SKIP)
    assert "\n" not in str(error.value)


def test_columns_that_the_params_name_have_to_exist(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", rows_for(2))
    with pytest.raises(HeadflowError, match=r"no column 'maske' \(mask\); no column 'imge' \(listed under looks\) \(did you mean 'image'\?\)"):
        read_folder(folder, columns={"mask": "maske"}, looks=["imge"])
    with pytest.raises(HeadflowError, match=r"columns: unknown 'anser' \(did you mean 'answer'\?\)"):
        read_folder(folder, columns={"anser": "x"})


def test_no_folder_no_manifest_or_none_that_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(HeadflowError, match=r"nowhere: there is no such folder \(examples.path\)"):
        read_folder(tmp_path / "nowhere")
    folder = write_folder(tmp_path / "a", rows_for(2))
    (folder / "rows.txt").touch()
    (folder / "empty.csv").write_text("image,question,answer\n")
    (folder / "latin.csv").write_bytes("image,question,answer\n0.png,Which?,é\n".encode("latin-1"))
    (folder / "list.jsonl").write_text('{"image": "0.png"}\n\n[1]\n')
    (folder / "half.jsonl").write_text('{"image": "0.png"}\n{"image"\n')
    (folder / "bad.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    cases = {
        "none.csv": "manifest 'none.csv': there is no such file", "../a/../../x.csv": "outside", "rows.txt": "a .csv, .jsonl or .parquet file",
        "empty.csv": "holds no rows", "latin.csv": "not UTF-8 text .*save it as UTF-8", "list.jsonl": "line 3 is no object", "half.jsonl": "line 2: ",
        "bad.parquet": "not readable as PARQUET",
    }  # fmt: skip
    for manifest, message in cases.items():
        with pytest.raises(HeadflowError, match=message) as error:
            read_folder(folder, manifest=manifest)
        assert "\n" not in str(error.value)


def test_values_that_are_no_text(tmp_path: Path) -> None:
    rows = rows_for(6)
    rows[0]["answer"], rows[1]["image"], rows[2]["question"] = ["cat"], 7, "\ud800"
    rows[3]["image"], rows[4]["answer"] = {"bytes": "x"}, {"text": ["cat"]}
    (tmp_path / "a").mkdir()
    with pytest.raises(HeadflowError) as error:
        read_folder(write_folder(tmp_path / "a", rows, "rows.jsonl"), manifest="rows.jsonl")
    lines = str(error.value).splitlines()
    assert "numbered as the lines of the file" in lines[0]
    assert lines[1:6] == [
        "  row 1: answer is ['cat'], not text", "  row 2: the image is 7, not the name of a file", "  row 3: question is no valid text",
        "  row 4: the image is {'bytes': 'x'}, not the name of a file", "  row 5: answer is {'text': ['cat']}, not text",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("bare"), rows_for(3))


@settings(max_examples=120, deadline=None)
@given(
    suffix=st.sampled_from([".csv", ".jsonl", ".parquet"]),
    content=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))),
    headed=st.booleans(),
)
def test_any_bytes_in_a_manifest_give_a_table_or_a_clear_error(bare: Path, suffix: str, content: bytes, headed: bool) -> None:
    header = {".csv": b"image,question,answer\n0.png,a,b\n", ".jsonl": b'{"image": "0.png", "question": "a", "answer": "b"}\n'}.get(suffix, b"")
    (bare / f"any{suffix}").write_bytes(header + content if headed else content)
    for on_bad in ("stop", "skip"):
        try:
            read_folder(bare, manifest=f"any{suffix}", selection=Selection(on_bad_example=on_bad))
        except HeadflowError as error:
            assert str(error)


CELL = st.one_of(st.text(max_size=12), st.sampled_from(["0.png", "1.png", "2.png", "..", "a\0b", "explain", ""]), st.none(), st.integers(), st.floats(),
                 st.booleans(), st.lists(st.integers(), max_size=2))  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["id", "image", "question", "answer", "category", "mask", "split", "looks_x"]), CELL), max_size=6))
def test_any_rows_give_a_table_or_a_clear_error(bare: Path, rows: list[dict]) -> None:
    write_folder(bare, rows, "rows.jsonl", pictures=0)
    for on_bad in ("stop", "skip"):
        try:
            table, skipped = read_folder(bare, manifest="rows.jsonl", selection=Selection(on_bad_example=on_bad))
        except HeadflowError as error:
            assert str(error)
        else:
            EXAMPLES.check(table, "table")
            assert table["id"].n_unique() == len(table) and (on_bad == "skip" or skipped.is_empty())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_parquet_manifest_gives_a_manifest_or_a_clear_error(bare: Path, changes: list[tuple[float, int]]) -> None:
    write_folder(bare, rows_for(3), "rows.parquet", pictures=0)
    content = bytearray((bare / "rows.parquet").read_bytes())
    for place, value in changes:
        content[int(place * (len(content) - 1))] = value
    (bare / "rows.parquet").write_bytes(content)
    try:
        read_manifest(bare / "rows.parquet")
    except HeadflowError as error:
        assert str(error)
