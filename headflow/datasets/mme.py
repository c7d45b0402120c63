"""Yes/no questions in the format of MME (Fu et al. 2023, arXiv 2306.13394): a folder for each task, two questions for each picture.

Beside every picture lies a text file of the same name, a question and its answer on each line, a tab between them::

    Is there a dog in this image? Please answer yes or no.<TAB>Yes

Two layouts are read, in any mixture: pictures and texts in the task's folder, or in its folders ``images`` and ``questions_answers_YN``.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headflow.datasets.faults import MOST_LINES, Fault, shown
from headflow.datasets.pictures import inside, png, read_picture
from headflow.datasets.scenes.followups import FollowUp
from headflow.errors import HeadflowError
from headflow.progress import progress
from headflow.seeds import generator

_IMAGES, _TEXTS = "images", "questions_answers_YN"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2"}
_QUESTIONS = 2
_WHOLE = "all"  # as in the column category of the COMPRESSED_SUMMARY table
# Far above anything the format is used for.
_MOST_TEXT_BYTES, _MOST_PICTURE_BYTES, _MOST_FILES, _LONGEST_QUESTION = 2**16, 2**28, 200_000, 2000


@dataclass(frozen=True)
class MmePicture:
    """A picture with its questions.

    Attributes:
        id: task and name of the picture, e.g. ``existence/000001``.
        category: the task.
        image: the picture, RGB PNG.
        questions: its two questions; answers are ``yes`` and ``no``.
    """

    id: str
    category: str
    image: bytes
    questions: tuple[FollowUp, ...]


@dataclass(frozen=True)
class _Pair:
    """A text and its picture, as seen from the folder."""

    id: str
    category: str
    text: str
    picture: str


def read_mme(path: str | Path, *, pictures: int | None = None, seed: int = 0, max_pixels: int = 50_000_000) -> list[MmePicture]:
    """Read a folder in the format of MME.

    Every text and every picture is checked, whether it is drawn or not.

    Args:
        path: the folder; no file may lie outside it.
        pictures: how many are drawn, in turn from every task; None = all. A picture's draw depends on the seed and its name alone.
        max_pixels: a picture with more is refused, unopened.

    Raises:
        HeadflowError: no such folder, or anything that is wrong with it: all faults are listed, each with its file and line.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise HeadflowError(f"{folder}: there is no such folder (compressing.path)")
    faults: list[str] = []
    pairs = _pairs(folder, faults)
    questions = {pair.id: _questions(folder, pair, faults) for pair in pairs}
    drawn = {pair.id for pair in _draw(pairs, len(pairs) if pictures is None else pictures, seed)}
    images: dict[str, bytes] = {}
    with progress("check pictures", len(pairs), "pictures") as bar:
        for pair in pairs:
            try:
                file = inside(folder, pair.picture)
                if file.stat().st_size > _MOST_PICTURE_BYTES:
                    raise Fault(f"is larger than {_MOST_PICTURE_BYTES // 2**20} MB")
                picture = read_picture(file, max_pixels).image
                if pair.id in drawn:
                    images[pair.id] = png(picture)
            except (Fault, OSError) as fault:
                faults.append(f"{shown(pair.picture)}: {fault}")
            bar.advance()
    if not pairs and not faults:
        faults.append("no text file with questions was found in any of its folders")
    if faults:
        more = [f"  … and {len(faults) - MOST_LINES:,} more faults"] if len(faults) > MOST_LINES else []
        listed = "\n".join(["", *(f"  {fault}" for fault in faults[:MOST_LINES]), *more])
        raise HeadflowError(f"{folder}: not a folder in the format of MME: {len(faults):,} fault{'s' if len(faults) > 1 else ''}{listed}")
    return [MmePicture(pair.id, pair.category, images[pair.id], tuple(questions[pair.id])) for pair in pairs if pair.id in drawn]


def _pairs(folder: Path, faults: list[str]) -> list[_Pair]:
    """All texts with their pictures, by name."""
    found: list[_Pair] = []
    listed = 0
    for task in _names(folder, faults, folders=True):
        if task == _WHOLE:
            faults.append(f"{shown(task)}: no task may be called so: it stands for all tasks together")
            continue
        split = (folder / task / _TEXTS).is_dir()
        where = {kind: f"{task}/{name}" if split else task for kind, name in (("pictures", _IMAGES), ("texts", _TEXTS))}
        if split and not (folder / where["pictures"]).is_dir():
            faults.append(f"{shown(task)}: there is a folder {_TEXTS}, but none called {_IMAGES}")
            continue
        names = {kind: _names(folder / place, faults, folders=False) for kind, place in where.items()}
        listed += sum(map(len, names.values()))
        if listed > _MOST_FILES:
            faults.append(f"more than {_MOST_FILES:,} files; name the folder that holds the tasks")
            return []
        shots: dict[str, list[str]] = {}
        for name in names["pictures"]:
            if Path(name).suffix.lower() in _SUFFIXES:
                shots.setdefault(Path(name).stem, []).append(name)
        texts = [name for name in names["texts"] if Path(name).suffix.lower() == ".txt"]
        for name in texts:
            candidates = shots.pop(Path(name).stem, [])
            if len(candidates) == 1:
                found.append(_Pair(f"{task}/{Path(name).stem}", task, f"{where['texts']}/{name}", f"{where['pictures']}/{candidates[0]}"))
            else:
                why = f"there are {len(candidates)} pictures" if candidates else "there is no picture"
                faults.append(f"{shown(where['texts'] + '/' + name)}: {why} of this name")
        faults.extend(f"{shown(where['pictures'] + '/' + name)}: there is no text of this name" for left in shots.values() for name in left)
    return found


def _names(folder: Path, faults: list[str], *, folders: bool) -> list[str]:
    """Names in a folder, in order, hidden ones left out: of folders, or of everything else."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir() == folders)
    except OSError as error:
        faults.append(f"{shown(str(folder))}: cannot be read ({error.strerror})")
        return []


def _questions(folder: Path, pair: _Pair, faults: list[str]) -> list[FollowUp]:
    """The questions of one text; what is wrong with it goes to ``faults``, line by line."""
    where = shown(pair.text)
    try:
        file = inside(folder, pair.text)
        if file.stat().st_size > _MOST_TEXT_BYTES:
            raise Fault(f"is larger than {_MOST_TEXT_BYTES // 1024} kB")
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        faults.append(f"{where}: is not UTF-8 (byte {error.start})")
        return []
    except (Fault, OSError) as fault:
        faults.append(f"{where}: {fault}")
        return []
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        question, _, answer = (part.strip() for part in line.strip().rpartition("\t"))
        if "\t" not in line.strip():
            faults.append(f"{where}: line {number}: {shown(line)} has no tab between question and answer")
        elif not question or len(question) > _LONGEST_QUESTION:
            faults.append(f"{where}: line {number}: the question is {'empty' if not question else f'longer than {_LONGEST_QUESTION} characters'}")
        elif answer.lower() not in ("yes", "no"):
            faults.append(f"{where}: line {number}: the answer is {shown(answer, 40)}, expected Yes or No")
        else:
            found.append(FollowUp(pair.category, question, answer.lower()))
            continue
        found.append(FollowUp(pair.category, "", ""))  # counts as a line, and is never used
    if len(found) != _QUESTIONS:
        faults.append(f"{where}: {len(found)} questions, expected {_QUESTIONS}")
    return found


def _draw(pairs: Sequence[_Pair], count: int, seed: int) -> list[_Pair]:
    """``count`` of them: the first of every task, then the second …, in an order that the seed and the name decide."""
    shuffled = sorted(((generator(seed, f"mme {pair.id}").random(), pair) for pair in pairs), key=lambda item: (item[0], item[1].id))
    drawn: dict[str, int] = {}
    ranked = []
    for luck, pair in shuffled:
        drawn[pair.category] = drawn.get(pair.category, 0) + 1
        ranked.append((drawn[pair.category], luck, pair))
    return [pair for _, _, pair in sorted(ranked, key=lambda item: item[:2])[:count]]
