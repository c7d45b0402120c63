"""Runs on pictures that lose tokens, which can be stopped at any moment and continue where they stopped."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from headflow.ablation import BatchSize
from headflow.execution.executors.jobs import Records
from headflow.execution.fingerprint import digest, digest_json, record_key
from headflow.execution.records import find_or_make
from headflow.models import keeping, kept_runs
from headflow.models.answering import _ANSWER_TOKENS, _DESCRIPTION_TOKENS
from headflow.models.baselines import Baseline
from headflow.models.capture import Capture
from headflow.models.kept_runs import WAYS, KeptExample, Way, answer_and_ends
from headflow.targets import Target


def code_version() -> str:
    """SHA-256 of the code that decides these numbers beside the engine's."""
    return digest(*(Path(module.__file__).read_bytes() for module in (keeping, kept_runs)))


class StoredExample:
    """One example as the result store knows it; the model runs only for what is missing there.

    The right answer is what the stock model itself says where that is right, token by token; else the answer that is explained.

    Args:
        store: finished work.
        context: fingerprint of all that the example's target depends on.
        row: the example with its features: ``image``, ``question``, ``question_kind``, ``correct``, ``answer_tokens``.
        prepare: captures the example.
        version: :func:`code_version`.
    """

    def __init__(self, store: Records, context: str, row: dict[str, Any], prepare: Callable[[], tuple[Capture, Baseline, Target]], version: str) -> None:
        self._store, self._row, self._prepare = store, row, prepare
        self._context = digest(context, "keep image tokens", version, digest_json([row["question_kind"], row["correct"], row["answer_tokens"]]))

    @cached_property
    def example(self) -> KeptExample:
        """The example as the model reads it."""
        row, (capture, baseline, target) = self._row, self._prepare()
        longest = _DESCRIPTION_TOKENS if row["question_kind"] == "description" else _ANSWER_TOKENS
        said = capture.lvlm.answer_ids([row["image"]], row["question"], longest)[0] if row["correct"] else row["answer_tokens"]
        return KeptExample(capture.lvlm, row["image"], row["question"], baseline, target, *answer_and_ends(capture.lvlm, said, longest))

    @property
    def selectable(self) -> Bool[np.ndarray, " image"]:
        """Which places of the image span are image tokens."""
        return self._stored("selectable", lambda: self.example.selectable) > 0.5

    def attention(self, queries: str) -> Float[np.ndarray, " image"]:
        """The stock model's attention to each place; see :func:`headflow.models.keeping.image_token_attention`."""
        return self._stored(f"attention {queries}", lambda: keeping.image_token_attention(self.example.capture, queries).numpy()).astype(float)

    def ways(self, wanted: list[Way]) -> list[Way]:
        """See :meth:`KeptExample.ways`."""
        found = self._stored("ways", lambda: np.isin(WAYS, self.example.ways(WAYS)))
        return [way for way in wanted if found[WAYS.index(way)]]

    def run(self, way: Way, sets: Bool[np.ndarray, "sets image"], batch_size: BatchSize = "auto") -> Float[np.ndarray, "sets 3"]:
        """See :meth:`KeptExample.run`."""
        name = digest(way, str(sets.shape), np.packbits(sets).tobytes())
        return self._stored(name, lambda: self.example.run(way, sets, batch_size)).reshape(-1, 3)

    def _stored(self, name: str, make: Callable[[], np.ndarray]) -> Float[np.ndarray, " numbers"]:
        return find_or_make(self._store, record_key(self._context, name), make)
