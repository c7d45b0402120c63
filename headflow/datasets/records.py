"""From a row of a manifest or of a data set to a checked question about a picture."""

import datetime
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headflow.datasets.faults import Fault, Faults, shown
from headflow.datasets.pictures import Size, fit_mask, object_entry
from headflow.datasets.selection import SPLITS, Asked, Selection, divide
from headflow.errors import HeadflowError

ROLES = ("id", "image", "question", "answer", "category", "style", "mask", "split")
"""What a column can be, and how it is called unless the user says otherwise."""

_REQUIRED = ("image", "question", "answer")
_LABEL_ROLES = {"category": "meaning_category", "style": "looks_style"}
_PREFIXES = ("meaning_", "looks_")


@dataclass(frozen=True)
class Columns:
    """Which column of the source plays which role (absent ones left out), and which one becomes which label."""

    roles: Mapping[str, str]
    labels: Mapping[str, str]

    @property
    def used(self) -> list[str]:
        """The source's columns that are read."""
        return list(dict.fromkeys([*self.roles.values(), *self.labels.values()]))


@dataclass
class Record:
    """One question about a picture. ``image`` and ``mask`` are as they stand in the source, ``split`` is None where there is no such column."""

    row: int
    id: str | None
    image: Any
    question: str
    answer: str
    labels: dict[str, str | None] = field(default_factory=dict)
    mask: Any = None
    split: str | None = None

    def asked(self, mask: np.ndarray | None, size: Size | None) -> Asked:
        """The question for the table; ``mask`` covers the whole picture, which is cut and scaled to ``size``."""
        mask = None if mask is None else fit_mask(mask, size)
        objects = []
        if mask is not None and mask.any():
            objects.append(object_entry(mask, name=self.answer, main=True, category=self.labels.get("meaning_category"), style=self.labels.get("looks_style")))
        return Asked(self.row, self.id or "", self.question, self.answer, self.labels, objects)


def find_columns(
    available: Sequence[str], names: Mapping[str, str] | None, meaning: Sequence[str], looks: Sequence[str], where: str, *, only_known: bool,
    question: str | None = None,
) -> Columns:  # fmt: skip
    """Give every column its role.

    Args:
        available: the source's columns.
        names: role → column where it is called otherwise; such a column has to exist.
        meaning, looks: further columns that become the labels ``meaning_<column>`` and ``looks_<column>``.
        where: the source, for messages.
        only_known: a column of neither role nor label is an error; else it is ignored.
        question: asked of every picture; there need then be no question column.

    Raises:
        HeadflowError: lists every column that is missing, unknown or gives a label that another one gives too.
    """
    names, faults, roles = dict(names or {}), [], {}
    if strangers := [role for role in names if role not in ROLES]:
        raise HeadflowError(f"columns: unknown {shown(strangers[0])}{_nearest(strangers[0], ROLES)}; there are {', '.join(ROLES)}")
    for role in ROLES:
        name = names.get(role, role)
        if role == "question" and question is not None:
            continue
        if name in available:
            roles[role] = name
        elif role in _REQUIRED or name != role:
            faults.append(f"no column {shown(name)} ({role}){_nearest(name, [column for column in available if column not in ROLES])}")
    labels: dict[str, str] = {}
    wanted = [(label, roles[role]) for role, label in _LABEL_ROLES.items() if role in roles]
    for prefix, listed in zip(_PREFIXES, (meaning, looks), strict=True):
        for name in dict.fromkeys(listed):
            if name in available:
                wanted.append((name if name.startswith(prefix) else prefix + name, name))
            else:
                faults.append(f"no column {shown(name)} (listed under {prefix[:-1]}){_nearest(name, available)}")
    wanted += [(name, name) for name in available if name.startswith(_PREFIXES) and name not in (*meaning, *looks)]
    for label, name in wanted:
        if labels.get(label, name) != name:
            faults.append(f"the columns {shown(labels[label])} and {shown(name)} both give the label {shown(label)}")
        labels[label] = name
    known = {*roles.values(), *labels.values()}
    unknown = [name for name in available if name not in known] if only_known else []
    faults += [f"unknown column {shown(name)}{_nearest(name, [role for role in ROLES if role not in roles])}" for name in unknown]
    if faults:
        hint = "; labels other than category and style are listed under meaning or looks, or begin with meaning_ or looks_" if unknown else ""
        raise HeadflowError(f"{where}: {'; '.join(faults)}{hint}; its columns are {', '.join(map(shown, available))}")
    return Columns(roles, {label: name for label, name in labels.items() if label.startswith("meaning_")} | labels)


def read_record(row: int, cells: Mapping[str, Any], columns: Columns, faults: Faults, question: str | None = None) -> Record:
    """Check what a row says (not its pictures). If something is wrong with it, ``faults`` know, and the record is no use."""
    get = {role: cells.get(name) for role, name in columns.roles.items()}
    id = faults.guard(row, None, lambda: _text(get.get("id"), "id"))
    texts: dict[str, Any] = {}
    for role in ("question", "answer", "split"):
        if role == "question" and question is not None:
            texts[role] = question
        elif role in columns.roles:
            texts[role] = faults.guard(row, id, lambda role=role: _text(get[role], role))
            if texts[role] == "":
                faults.add(row, id, f"the {role} is empty")
            elif role == "split" and texts[role] not in (*SPLITS, None):
                faults.add(row, id, f"the split is {shown(texts[role])}, not {' or '.join(SPLITS)}")
    if id == "" and "id" in columns.roles:
        faults.add(row, None, "the id is empty")
    labels = {label: faults.guard(row, id, lambda name=name: _text(cells.get(name), name)) or None for label, name in columns.labels.items()}
    return Record(row, id or None, get["image"], texts["question"] or "", texts["answer"] or "", labels, get.get("mask"), texts.get("split"))


def check_id(record: Record, first: dict[str, int], faults: Faults) -> None:
    """An id stands for one row; a later one is a fault. ``first`` holds the row of every id so far."""
    if record.id is not None and (other := first.setdefault(record.id, record.row)) != record.row:
        faults.add(record.row, record.id, f"the id {shown(record.id)} is that of {faults.unit} {other} too")


def choose(by_picture: Mapping[str, Sequence[Record]], order: Sequence[str], selection: Selection) -> dict[str, list[str]]:
    """Pictures of each split in drawing order: drawn, or from those that the column ``split`` names (if it names no reference, explained ones stand in)."""
    explain, reference = ([name for name in order if any(record.split == split for record in by_picture[name])] for split in SPLITS)
    if not explain and not reference:
        return divide(order, selection.count, selection.references)
    return {"explain": explain[: selection.count], "reference": (reference or explain)[::-1][: selection.references]}


def of_split(records: Sequence[Record], split: str) -> list[Record]:
    """What is asked about a picture in a split; a picture that stands in for a reference brings its explained questions."""
    return [record for record in records if record.split in (None, split)] or list(records)


def _text(value: Any, name: str) -> str:
    """The text of a cell without blanks at its ends; "" for nothing.

    Raises:
        Fault: it is no text, number or date, or no valid Unicode.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float | datetime.date | datetime.time):
        raise Fault(f"{name} is {shown(value, 40)}, not text")
    try:
        text = str(value).strip()
        text.encode()
    except ValueError:  # half of a surrogate pair; an integer too long to print
        raise Fault(f"{name} is no valid text") from None
    return text


def _nearest(name: str, valid: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" (did you mean {shown(close[0])}?)" if close else ""
