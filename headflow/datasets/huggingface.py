"""Examples from a data set of the Hugging Face hub, or from a local folder that `datasets` reads; streamed, so only what is needed is fetched."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headflow.datasets.faults import Fault, Faults, shown
from headflow.datasets.pictures import fit, png, read_mask, read_picture
from headflow.datasets.records import Columns, Record, check_id, choose, find_columns, of_split, read_record
from headflow.datasets.selection import SPLITS, Asked, Examples, Selection, Shown, make_table
from headflow.errors import HeadflowError

NUMBERING = "rows are numbered in the order of the seeded stream"
MOST_BYTES = 1_000_000_000
"""Size of a picture's file."""

_REMOTE = ("hf://", "https://")
_ARCHIVES = ("zip://", "tar://", "gzip://", "bz2://", "xz://", "zstd://", "lz4://")


def read_huggingface(
    id: str, *, split: str = "train", config: str | None = None, revision: str | None = None, shuffle_buffer: int = 1000, question: str | None = None,
    columns: Mapping[str, str] | None = None, meaning: Sequence[str] = (), looks: Sequence[str] = (), selection: Selection | None = None,
) -> Examples:  # fmt: skip
    """Stream a data set in seeded order until there are enough pictures.

    The first ``selection.references`` different pictures are references and the next ``selection.count`` are explained, so that explaining
    more changes none that were there. Further rows about a picture come along. No code of the data set is run.

    Args:
        id: id on the hub, or a local folder.
        split, config, revision: as in ``datasets.load_dataset``.
        shuffle_buffer: rows held while shuffling; 1 keeps the data set's order within each of its files.
        question: asked of every picture; None takes the question column.
        columns: role → name of the column where it is called otherwise; ``image`` (and ``mask``) hold pictures. Other columns are ignored.
        meaning, looks: label columns.
        selection: how many pictures, how they are kept, and what happens to faulty rows.

    Raises:
        HeadflowError: `datasets` is not installed, the data set cannot be read, wrong columns, faulty rows, or too few pictures.
    """
    selection = selection or Selection()
    stream, found, class_names = _open(id, split, config, revision, columns, meaning, looks, question)
    stream = stream.shuffle(seed=selection.seed, buffer_size=shuffle_buffer)
    faults = Faults(id, NUMBERING, selection.on_bad_example)
    needed = selection.count + selection.references
    wanted = {None: needed, "explain": selection.count, "reference": selection.references}
    kept: dict[str, Kept] = {}
    drawn: dict[str | None, set[str]] = {None: set(), "explain": set(), "reference": set()}
    ids: dict[str, int] = {}
    for row, cells in enumerate(_rows(stream, id), 1):
        cells |= {column: _class_name(cells.get(column), names) for column, names in class_names.items()}
        record = read_record(row, cells, found, faults, question)
        record.id = record.id or f"{row:06d}"
        check_id(record, ids, faults)
        try:
            picture, mask = _pictures(record, id, selection.max_pixels)
        except Fault as fault:
            faults.add(row, record.id, str(fault))
        if row not in faults:
            image = png(fit(picture, selection.picture_size))
            key, own = hashlib.sha256(image).hexdigest(), drawn[record.split]
            if key in own or len(own) < wanted[record.split]:
                kept.setdefault(key, Kept(image)).add(record, record.asked(mask, selection.picture_size))
                own.add(key)
        if len(drawn[None]) >= needed or all(len(drawn[part]) >= wanted[part] for part in SPLITS):
            break
        if faults and selection.on_bad_example == "stop" and len(kept) + len(faults) >= needed:
            break
        if len(faults) >= 1000 + 10 * needed:
            faults.on_bad = "stop"  # hardly a row is any good: going through the whole of a large data set would not help
            break
    faults.settle()
    faults.warn()

    arrived = list(kept)
    if drawn[None]:
        order = arrived[selection.references :] + arrived[: selection.references][::-1]
    else:
        order = [key for key in arrived if key in drawn["explain"]] + [key for key in arrived[::-1] if key not in drawn["explain"]]
    by_picture = {key: picture.records for key, picture in kept.items()}

    def show(key: str, part: str) -> Shown:
        return Shown(kept[key].image, [kept[key].asked[record.row] for record in of_split(by_picture[key], part)])

    return Examples(make_table(choose(by_picture, order, selection), show, list(found.labels), selection, id), faults.table())


class Kept:
    """A picture (PNG) with all that is asked about it, by row."""

    def __init__(self, image: bytes) -> None:
        self.image, self.records, self.asked = image, [], {}

    def add(self, record: Record, asked: Asked) -> None:
        """Note a further question."""
        self.records.append(record)
        self.asked[record.row] = asked


def _open(
    id: str, split: str, config: str | None, revision: str | None, columns: Mapping[str, str] | None, meaning: Sequence[str], looks: Sequence[str],
    question: str | None,
) -> tuple[Any, Columns, dict[str, list[str]]]:  # fmt: skip
    """The stream with only the columns that are read, their roles, and the names behind numbers of classes."""
    try:
        import datasets
    except ImportError:
        raise HeadflowError("examples.source huggingface needs the package `datasets`: pip install 'headflow[huggingface]'") from None
    try:
        stream = datasets.load_dataset(id, name=config, split=split, revision=revision, streaming=True)
        features = stream.features or {}
        available = stream.column_names or list(next(iter(stream), {}))
    except Exception as error:  # of whatever class the data set's files call forth
        raise HeadflowError(f"{id}: cannot be read as a data set ({_line(error)}); see examples.huggingface") from None
    if not available:
        raise HeadflowError(f"{id}: split {split!r} holds no rows")
    found = find_columns(available, columns, meaning, looks, id, only_known=False, question=question)
    stream = stream.select_columns(found.used)
    for role in ("image", "mask"):
        column = found.roles.get(role)
        feature = features.get(column)
        if isinstance(feature, datasets.Image):
            # Raw bytes: decoding is ours, with its limits.
            stream = stream.cast_column(column, datasets.Image(decode=False))
        elif feature is not None and not isinstance(feature, dict):
            raise HeadflowError(f"{id}: column {shown(column)} ({role}) holds {feature}, not pictures")
    classes = {column: feature.names for column, feature in features.items() if column in found.used and isinstance(feature, datasets.ClassLabel)}
    return stream, found, classes


def _rows(stream: Any, id: str) -> Iterator[dict[str, Any]]:
    rows = iter(stream)
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except Exception as error:  # network, damaged files: of whatever class
            raise HeadflowError(f"{id}: reading stopped ({_line(error)}); run again, or choose another revision") from None
        yield dict(cells)


def _class_name(value: Any, names: Sequence[str]) -> Any:
    """The name of a numbered class; None for -1, which stands for unknown."""
    return (names[value] if 0 <= value < len(names) else None) if isinstance(value, int) else value


def _pictures(record: Record, id: str, max_pixels: int) -> tuple[Image.Image, np.ndarray | None]:
    """The row's picture and its mask, if it has one."""
    picture = read_picture(_content(record.image, id), max_pixels).image
    if record.mask is None:
        return picture, None
    try:
        return picture, read_mask(_content(record.mask, id), picture.size, max_pixels)
    except Fault as fault:
        raise Fault(f"the mask {fault}") from None


def _content(value: Any, id: str) -> bytes:
    """The bytes of a picture, given by themselves or by the place where they lie."""
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
    if isinstance(content, bytes):
        return content
    if not isinstance(path, str):
        raise Fault("has no picture" if value is None or isinstance(value, dict) else f"has {shown(value, 40)} in place of a picture")
    *within, place = path.split("::")  # a chain such as zip://a.png::/data/b.zip
    if not all(part.startswith(_ARCHIVES) for part in within) or not (place.startswith(_REMOTE) or _within(place, id)):
        raise Fault(f"names the local file {shown(path)}, which is no part of the data set")
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except Exception as error:  # every file system has its own
        raise Fault(f"{shown(path)} cannot be read ({_line(error)})") from None
    if len(content) > MOST_BYTES:
        raise Fault(f"{shown(path)} is larger than {MOST_BYTES:,} bytes")
    return content


def _within(place: str, id: str) -> bool:
    """Whether a local file belongs to the local folder ``id``; links in it may point elsewhere, as those of the hub's cache do."""
    file = Path(os.path.abspath(place))
    return Path(id).is_dir() and any(file.is_relative_to(root) for root in (Path(id).absolute(), Path(id).resolve()))


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
