"""The pictures that a model describes: what it is asked, how each is captured, and what its descriptions depend on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from headflow.answers import unknown_words
from headflow.decoding import Sampling
from headflow.errors import HeadflowError
from headflow.execution.fingerprint import DECODING, digest, digest_json, engine_version
from headflow.models.capture import Capture
from headflow.models.loading import load_prepared, prepared_processor
from headflow.models.lvlm import LVLM
from headflow.models.prepared import read_prepared
from headflow.params import DescribingParams, Params
from headflow.tables.examples import EXAMPLES, FEATURES
from stages import paths
from stages.subjects import versions

PROMPT = "Describe the image."


@dataclass(frozen=True)
class Picture:
    """One picture to be described.

    Attributes:
        id: the example that stands for it, the first one about it.
        row: that example: ``image``, ``scene``, ``description`` (the true one), ``objects`` …
        prompt: what the model is asked.
        context: fingerprint of the model, the picture and the prompt, and of the code that runs them.
    """

    id: str
    row: dict
    prompt: str
    context: str
    model: LVLM

    def capture(self, said: Sequence[int] = ()) -> Capture:
        """Capture the picture with its prompt, and with tokens that are fed as what the model has said."""
        return self.model.capture(self.row["image"], self.prompt, list(said))


class Pictures:
    """The first pictures of the explained split that model ``key`` could be asked about, each once, in order.

    The model is loaded when it is first needed, which a picture's ``context`` does, as numbers depend on the device: the driver of workers, which
    have it, reads :attr:`rows` alone.

    Raises:
        HeadflowError: the model does not know the prompt's words; features of other examples.
    """

    def __init__(self, params: Params, key: str) -> None:
        self.settings, self.prepared = params.describing, read_prepared(paths.model_dir(key))
        examples = EXAMPLES.read(paths.EXAMPLES)
        features = FEATURES.read(paths.features_dir(key) / "features.parquet").select("id")
        rows = features.join(examples, on="id", how="inner", maintain_order="left")
        if len(rows) != len(features):
            raise HeadflowError(f"{paths.features_dir(key)}: made from other examples than {paths.EXAMPLES}; run `dvc repro`")
        self.rows = rows.unique("scene", keep="first", maintain_order=True).head(self.settings.pictures)
        self._own_questions = self.settings.prompt is None and params.examples.source == "planted"
        self._folder, self._device_map = paths.model_dir(key), params.model(key).device_map
        for prompt in dict.fromkeys(map(self.prompt, self.rows.iter_rows(named=True))):
            if unknown := unknown_words(self.processor, prompt):
                raise HeadflowError(f"model {key!r} does not know {', '.join(map(repr, unknown))} of {prompt!r}; set describing.prompt to something it can do")

    @cached_property
    def model(self) -> LVLM:
        """The model, loaded on first use."""
        return load_prepared(self._folder, self._device_map)

    @cached_property
    def processor(self) -> Any:
        """What writes the model's prompts; needs none of its weights."""
        return prepared_processor(self._folder)

    def prompt(self, row: dict) -> str:
        """What the model is asked about the picture of ``row``."""
        return row["question"] if self._own_questions else self.settings.prompt or PROMPT

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _common(self) -> str:
        """What the descriptions of all pictures depend on."""
        return digest_json(
            {
                "engine": engine_version(*DECODING), "model": self.prepared.fingerprint, "dtype": self.prepared.dtype, "attn": self.prepared.attn,
                "quantization": self.prepared.quantization, "device": self.model.device.type, "packages": versions(),
            }
        )  # fmt: skip

    def __getitem__(self, place: int) -> Picture:
        """The picture at ``place``, counted from 0.

        Raises:
            IndexError: there are fewer.
        """
        if not 0 <= place < len(self):
            raise IndexError(place)
        row = self.rows.row(place, named=True)
        prompt = self.prompt(row)
        return Picture(row["id"], row, prompt, digest(self._common, row["image"], prompt), self.model)

    def __iter__(self) -> Iterator[Picture]:
        return (self[place] for place in range(len(self)))


def runs_of(pictures: int, most: int) -> list[dict[str, int]]:
    """Units of work that take pictures together: runs of as even a length as may be, of at most ``most``; the same for any number of workers."""
    runs = -(-pictures // most)
    edges = [pictures * run // runs for run in range(runs + 1)] if runs else [0]
    return [{"start": start, "stop": stop} for start, stop in pairwise(edges)]


def aligned(values: np.ndarray) -> np.ndarray:
    """A copy that lies in memory in C order, its numbers aligned: sums over it have the same order whether it came as a message of a worker or not."""
    return np.array(values, order="C")


def sampling(settings: DescribingParams) -> Sampling | None:
    """How descriptions are drawn; None = greedily."""
    return None if settings.temperature is None else Sampling(settings.temperature, settings.top_p, settings.seed)
