"""Folders in the format of MME: both layouts, every fault by file and line, and whatever bytes they hold."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from headflow.datasets.mme import read_mme
from headflow.errors import HeadflowError
from tests.datasets.folders import decoded, picture

TEXT = "Is there a dog in this image?\tYes\nIs there a cat in this image?\tNo\n"


def write(folder: Path, name: str, seed: int = 0, text: str | bytes = TEXT, split: bool = False, suffix: str = ".png") -> None:
    """One picture with its text, named ``task/name``."""
    task, stem = name.split("/")
    places = [folder / task / part for part in (("images", "questions_answers_YN") if split else ("", ""))]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(places[0] / f"{stem}{suffix}")
    (places[1] / f"{stem}.txt").write_bytes(text.encode() if isinstance(text, str) else text)


def fault(folder: Path, **options: object) -> str:
    with pytest.raises(HeadflowError) as caught:
        read_mme(folder, **options)
    return str(caught.value)


def test_both_layouts_are_read(tmp_path):
    write(tmp_path, "existence/1", 1)
    write(tmp_path, "OCR/a", 2, "\ufeffIs it 'x'? Please answer yes or no. \t NO\r\n\r\nIs it 'y'?\tyes", split=True, suffix=".bmp")
    found = {one.id: one for one in read_mme(tmp_path)}
    assert set(found) == {"existence/1", "OCR/a"}
    assert [(q.text, q.answer, q.category) for q in found["existence/1"].questions] == [
        ("Is there a dog in this image?", "yes", "existence"), ("Is there a cat in this image?", "no", "existence"),
    ]  # fmt: skip
    assert [(q.text, q.answer) for q in found["OCR/a"].questions] == [("Is it 'x'? Please answer yes or no.", "no"), ("Is it 'y'?", "yes")]
    assert (decoded(found["OCR/a"].image) == picture(2)).all() and found["OCR/a"].category == "OCR"


def test_pictures_are_drawn_from_all_tasks_alike(tmp_path):
    for number in range(5):
        write(tmp_path, f"many/{number}")
    write(tmp_path, "few/0")
    drawn = [one.id for one in read_mme(tmp_path, pictures=3, seed=1)]
    assert "few/0" in drawn and len(drawn) == 3
    more = [one.id for one in read_mme(tmp_path, pictures=4, seed=1)]
    assert set(drawn) < set(more) and more == [one.id for one in read_mme(tmp_path, pictures=4, seed=1)]
    assert len({tuple(one.id for one in read_mme(tmp_path, pictures=3, seed=seed)) for seed in range(8)}) > 1


def test_every_fault_is_told_at_once_with_its_line(tmp_path):
    write(tmp_path, "good/1")
    write(tmp_path, "bad/1", text="Is it a dog? Yes\nIs it?\tPerhaps\n")
    write(tmp_path, "bad/2", text=TEXT + "\n\tYes\n")
    write(tmp_path, "bad/3", text=b"Is it\xff?\tYes\nIs it?\tNo\n")
    write(tmp_path, "bad/4")
    (tmp_path / "bad/4.png").write_bytes((tmp_path / "bad/4.png").read_bytes()[:60])
    write(tmp_path, "bad/5")
    (tmp_path / "bad/5.png").unlink()
    write(tmp_path, "bad/6")
    (tmp_path / "bad/6.txt").unlink()
    write(tmp_path, "bad/7")
    Image.fromarray(picture(0)).save(tmp_path / "bad/7.jpg")
    write(tmp_path, "half/1", split=True)
    (tmp_path / "half/images/1.png").unlink()
    (tmp_path / "half/images").rmdir()
    text = fault(tmp_path)
    for part in (
        "'bad/1.txt': line 1: 'Is it a dog? Yes' has no tab", "'bad/1.txt': line 2: the answer is 'Perhaps'", "'bad/2.txt': line 4: ",
        "'bad/2.txt': 3 questions, expected 2", "'bad/3.txt': is not UTF-8 (byte 5)", "'bad/4.png': is damaged", "'bad/5.txt': there is no picture",
        "'bad/6.png': there is no text", "'bad/7.txt': there are 2 pictures", "'half': there is a folder questions_answers_YN, but none called images",
    ):  # fmt: skip
        assert part in text
    assert "good" not in text and "10 faults" in text
    write(tmp_path / "named", "all/1")
    assert "'all': no task may be called so" in fault(tmp_path / "named")


def test_nothing_outside_the_folder_is_read(tmp_path):
    inside, outside = tmp_path / "mme", tmp_path / "secret"
    write(inside, "task/1")
    write(outside, "task/1", text="Is it a secret?\tYes\nIs it not?\tNo\n")
    (inside / "task/1.txt").unlink()
    (inside / "task/1.txt").symlink_to(outside / "task/1.txt")
    (inside / "task/1.png").unlink()
    (inside / "task/1.png").symlink_to(outside / "task/1.png")
    text = fault(inside)
    assert "'task/1.txt': 'task/1.txt' lies outside the folder" in text and "'task/1.png': 'task/1.png' lies outside" in text and "secret?" not in text


def test_limits(tmp_path):
    write(tmp_path, "task/1", text="x" * 3000 + "\tYes\n" + TEXT.splitlines()[1])
    write(tmp_path, "task/2", text=TEXT + "\n" * 70_000)
    assert all(
        part in (text := fault(tmp_path, max_pixels=50)) for part in ("longer than 2000 characters", "larger than 64 kB", "more than examples.max_pixels, 50")
    )
    assert len(text) < 3000
    assert "there is no such folder (compressing.path)" in fault(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no text file with questions" in fault(tmp_path / "empty")


_names = st.sampled_from(["1.txt", "1.png", "2.TXT", "2.jpg", "images", "questions_answers_YN", ".hidden", "é.txt", "é.png"])
_bytes = st.one_of(st.binary(max_size=60), st.sampled_from([TEXT.encode(), b"a\tyes\nb\tno"]), st.just(b"PNG"))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.tuples(st.sampled_from(["a", "b", "a/images", "a/questions_answers_YN"]), _names), _bytes, max_size=6))
def test_any_bytes_give_pictures_or_an_error(tmp_path_factory, files: Mapping[tuple[str, str], bytes]):
    folder = tmp_path_factory.mktemp("fuzz")
    for (place, name), content in files.items():
        try:
            (folder / place).mkdir(parents=True, exist_ok=True)
            if content == b"PNG":
                Image.fromarray(picture(0)).save(folder / place / name, format="PNG")
            else:
                (folder / place / name).write_bytes(content)
        except OSError:  # a folder of this name
            continue
    try:
        found = read_mme(folder)
    except HeadflowError as error:
        assert "fault" in str(error)
        return
    assert found and all(len(one.questions) == 2 and {q.answer for q in one.questions} <= {"yes", "no"} for one in found)
