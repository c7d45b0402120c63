"""Work units as they are counted: what a stage asks of a model, and what of it the result store holds."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from headflow.cli.stored import StoreView
from headflow.errors import HeadflowError
from headflow.params import Params


class Missing(Exception):
    """A record is not in the store."""


@dataclass
class Work:
    """What one stage asks of one model.

    Attributes:
        records: work units, each one record of the store.
        forwards, gradients: masked forwards, and forward and backward passes, of all units.
        tokens: generated at most, of all units.
        captures: stock forwards, each with one example's text.
        found_records, found_forwards, found_gradients, found_tokens: of these, those in the store.
        examples: examples that the stage looks at.
        examples_left: those that something is to be computed for, each of which is captured once more.
        sizes: numbers in a record → such records that the store lacks.
        known: whether it can be told what of it the store holds.
        most: whether these are upper bounds, as results decide.
        done: whether the stage keeps no records and its table is there already.
    """

    stage: str
    records: int = 0
    forwards: int = 0
    gradients: int = 0
    tokens: int = 0
    captures: int = 0
    found_records: int = 0
    found_forwards: int = 0
    found_gradients: int = 0
    found_tokens: int = 0
    examples: int = 0
    examples_left: int = 0
    sizes: Counter = field(default_factory=Counter)
    known: bool = True
    most: bool = False
    done: bool = False

    @property
    def forwards_left(self) -> int:
        return 0 if self.done else self.forwards - self.found_forwards

    @property
    def gradients_left(self) -> int:
        return 0 if self.done else self.gradients - self.found_gradients

    @property
    def tokens_left(self) -> int:
        return 0 if self.done else self.tokens - self.found_tokens

    @property
    def bounded(self) -> bool:
        """Whether what is left is an upper bound: of how much is asked, or of how long the answers get."""
        return self.most or self.tokens_left > 0

    @property
    def captures_left(self) -> int:
        return 0 if self.done else self.captures + self.examples_left


@dataclass(frozen=True)
class Outline:
    """What decides how much work a model is, before its features are there: the shapes of one captured example, and how many there will be.

    Attributes:
        layers, heads: that read the picture.
        cross: whether they do by cross-attention.
        roles: of each token of the prompt.
        image: image span.
        image_keys: positions of the picture that a text token can read.
        examples, references: of a run, at most.
    """

    layers: int
    heads: int
    cross: bool
    roles: list[str]
    image: slice
    image_keys: int
    examples: int
    references: int


class Tally:
    """Counts one stage's units while they are asked of the store."""

    def __init__(self, stage: str, store: StoreView, known: bool) -> None:
        self.work, self._store, self._left = Work(stage, known=known), store, False

    def example(self) -> None:
        """A new example begins."""
        self._left = False
        self.work.examples += 1

    def masks(self, context: str, masks: np.ndarray, **options: Any) -> None:
        """Ask for one example's masks, as :func:`headflow.execution.runs.run_example` does."""
        from headflow.execution.runs import blocks, run_example

        spans, found = blocks(len(masks), options.get("starts", (0,))), Counter()
        try:
            run_example(self._store, context, masks, nothing, done=lambda _, there: found.update([there]), **options)
        except Missing:
            self._missing()
        lacking = Counter(span.stop - span.start for span in spans) - found
        self._count(len(spans), found.total(), forwards=len(masks), found_forwards=sum(size * many for size, many in found.items()), lacking=lacking)

    def gradients(self, context: str, corners: np.ndarray, **options: Any) -> None:
        """Ask for one example's gradients, as :func:`headflow.execution.runs.run_gradients` does."""
        from headflow.execution.runs import CORNER_BLOCK, run_gradients

        each, store = 1 + int(np.prod(corners.shape[1:])), Heard(self._store)
        wanted = Counter(min(CORNER_BLOCK, len(corners) - at) for at in range(0, len(corners), CORNER_BLOCK))
        try:
            run_gradients(store, context, corners, nothing, **options)
        except Missing:
            self._missing()
        found = Counter(len(values) // each for values in store.found.values() if len(values) % each == 0) & wanted
        sizes = Counter({size * each: many for size, many in (wanted - found).items()})
        self._count(
            wanted.total(), found.total(), gradients=len(corners), found_gradients=sum(size * many for size, many in found.items()), lacking=sizes
        )  # fmt: skip

    def record(self, unit: bytes, numbers: int, *, forwards: int = 0, gradients: int = 0) -> None:
        """Ask for a single record."""
        there = len(self._store.get([unit]).get(unit, ())) == numbers
        if not there:
            self._missing()
        self._count(
            1, int(there), forwards=forwards, found_forwards=forwards * there, gradients=gradients, found_gradients=gradients * there,
            lacking=Counter() if there else Counter([numbers]),
        )  # fmt: skip

    def bound(self, records: int, found: int, numbers: int, *, forwards: int = 0, gradients: int = 0, tokens: int = 0, share: float | None = None) -> None:
        """Count units of which only the number is known, ``found`` of them in the store; ``share`` of the runs of the model is done by these."""
        if found < records:
            self._missing()
        share = (found / records if records else 1.0) if share is None else share
        self._count(
            records, found, forwards=forwards, found_forwards=round(forwards * share), gradients=gradients, found_gradients=round(gradients * share),
            lacking=Counter({numbers: records - found}),
        )  # fmt: skip
        self.work.tokens += tokens
        self.work.found_tokens += round(tokens * share)

    def _missing(self) -> None:
        if not self._left:
            self._left = True
            self.work.examples_left += 1

    def _count(
        self, records: int, found: int, *, lacking: Counter, forwards: int = 0, found_forwards: int = 0, gradients: int = 0, found_gradients: int = 0
    ) -> None:
        work = self.work
        work.records, work.found_records = work.records + records, work.found_records + found
        work.forwards, work.found_forwards = work.forwards + forwards, work.found_forwards + found_forwards
        work.gradients, work.found_gradients = work.gradients + gradients, work.found_gradients + found_gradients
        work.sizes += lacking


def nothing() -> Any:
    raise Missing


class Heard:
    """A store that remembers what was found."""

    def __init__(self, store: StoreView) -> None:
        self._store, self.found, self.asked = store, {}, 0

    def get(self, units: Any) -> dict[bytes, np.ndarray]:
        units = list(units)
        found = self._store.get(units)
        self.asked += len(units)
        self.found |= found
        return found


class Empty:
    """Of a model whose features are not there nothing can be looked up."""

    def get(self, units: Any) -> dict[bytes, np.ndarray]:
        return {}


class Listed:
    """The examples of one model as its stages see them: by their features or, before these are there, so many times one example.

    Attributes:
        known: whether it is by the features, so that their records can be looked up.
        rows: FEATURES rows joined with their examples; of one example without features: only what masks hang on.
    """

    def __init__(self, params: Params, key: str, outline: Outline | None, device: str | None) -> None:
        self.subjects: Any = None
        self.reason = ""
        try:
            self.subjects = _subjects(params, key, device)
        except HeadflowError as error:
            self.reason = str(error)
            if outline is None:
                raise
        self.known = self.subjects is not None
        if self.known:
            prepared, self.rows = self.subjects.prepared, self.subjects.rows
            self.layers, self.heads, self.cross = prepared.layers, prepared.heads, prepared.image_layers is not None
            self._contexts = [subject.context for subject in self.subjects]
        else:
            import polars as pl

            self.layers, self.heads, self.cross = outline.layers, outline.heads, outline.cross
            row = {
                "id": "", "tokens": outline.roles, "roles": outline.roles, "image_start": outline.image.start, "image_stop": outline.image.stop,
                "correct": True, "question_kind": "asked", "answer_tokens": [0],
            }  # fmt: skip
            self.rows = pl.DataFrame([row | {"id": str(number)} for number in range(outline.examples)])
            self._contexts = [""] * outline.examples
        self.outline, self.params, self.key = outline, params, key

    @property
    def ids(self) -> list[str]:
        return self.rows["id"].to_list()

    def __len__(self) -> int:
        return len(self._contexts)

    def __iter__(self) -> Iterator[tuple[str, str, dict]]:
        """Id, context and row of each."""
        return zip(self.ids, self._contexts, self.rows.iter_rows(named=True), strict=True)

    def image_tokens(self, row: dict) -> int:
        return self.outline.image_keys if self.outline is not None and self.cross else row["image_stop"] - row["image_start"]


def project(folder: Path) -> None:
    """Let the stages of the project in ``folder`` be imported; they are asked what they run.

    Raises:
        HeadflowError: there are none.
    """
    if not (folder / "stages" / "subjects.py").is_file():
        raise HeadflowError(f"{folder}: there are no stages here; run this from the project's folder")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # the last: nothing in it hides an installed package


def _subjects(params: Params, key: str, device: str | None) -> Any:
    """The subjects of ``key``, whose contexts are those of a run on ``device``; the model is not loaded."""
    from headflow.models.prepared import read_prepared
    from stages import paths

    prepared = read_prepared(paths.model_dir(key))  # before what is slow to import
    import torch

    from headflow.models.loading import _place
    from stages.subjects import Subjects

    where = torch.device(device or _place(params.model(key).device_map)[0])
    stand_in = SimpleNamespace(device=torch.device("cpu"), dtype=getattr(torch, prepared.dtype), image_layers=prepared.image_layers)
    subjects = Subjects(params, key, stand_in)
    # Contexts name the kind of device alone, and that need not be in this machine.
    stand_in.device = where
    return subjects
