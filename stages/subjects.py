"""The examples that a model's masked runs are about: how each is captured, what is measured, and what its numbers depend on."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version

import polars as pl

from headflow.errors import HeadflowError
from headflow.execution.fingerprint import digest, digest_json, engine_version
from headflow.models.baselines import Baseline, blank_baseline, swap_baseline
from headflow.models.capture import Capture
from headflow.models.loading import load_prepared
from headflow.models.lvlm import LVLM
from headflow.models.prepared import PreparedModel, read_prepared
from headflow.params import Params
from headflow.tables.examples import EXAMPLES, FEATURES
from headflow.targets import Target
from stages import paths
from stages.references import known_references, make_baseline


class NoBaseline(HeadflowError):
    """There is no such baseline for an example, or for any."""


@dataclass(frozen=True)
class Subject:
    """One example to be explained.

    Attributes:
        context: fingerprint of all that its numbers depend on, masks apart.
        fed: the answer that is fed to the model: the whole one where its log-probability is the target, else none.
        swapped: the picture whose keys ablated heads read, where the baseline is ``swap``; empty if there is none.
        mean_with: the mean baseline for a question, where the picture's keys depend on the text after it.
    """

    id: str
    row: dict
    target: Target
    context: str
    fed: list[int]
    swapped: bytes
    baseline: str
    shared: Baseline
    mean_with: Callable[[str], Baseline]
    model: LVLM

    def prepare(self) -> tuple[Capture, Baseline, Target]:
        """Capture the example; what :func:`headflow.execution.runs.run_example` calls if something is to be computed.

        Raises:
            NoBaseline: there is no picture to swap with, or the baseline stands at other positions than the example's picture.
        """
        capture = self.model.capture(self.row["image"], self.row["question"], self.fed)
        baseline = self._baseline_of(capture)
        try:
            baseline.check_fits(capture)
        except HeadflowError as error:
            raise NoBaseline(str(error)) from None
        return capture, baseline, self.target

    def _baseline_of(self, capture: Capture) -> Baseline:
        if self.baseline == "swap":
            if not self.swapped:
                raise NoBaseline("no reference picture of the same size shows another object")
            return swap_baseline(self.model.capture(self.swapped, self.row["question"]))
        if self.baseline == "mean" and capture.mode == "recomputed":
            return self.mean_with(self.row["question"])
        return blank_baseline(capture) if self.baseline == "blank" else self.shared


class Subjects:
    """All explained examples of one model, in the order of its features, under the baseline of the run.

    The model is loaded when it is first needed: the driver of workers, which have it, never does.

    Args:
        model: in place of the prepared one, which is then not loaded: its device and number format are all that a subject's ``context`` needs.

    Attributes:
        kind: the baseline that they are given.

    Raises:
        HeadflowError: features of other examples.
    """

    def __init__(self, params: Params, key: str, model: LVLM | None = None) -> None:
        self.settings, self.prepared = params.features, read_prepared(paths.model_dir(key))
        examples = EXAMPLES.read(paths.EXAMPLES)
        features = FEATURES.read(paths.features_dir(key) / "features.parquet").filter(pl.col("explained"))
        self.rows = features.join(examples.drop("split"), on="id", how="inner", maintain_order="left")
        if len(self.rows) != len(features):
            raise HeadflowError(f"{paths.features_dir(key)}: made from other examples than {paths.EXAMPLES}; run `dvc repro`")
        self._load: Callable[[], LVLM] = lambda: load_prepared(paths.model_dir(key), params.model(key).device_map) if model is None else model
        self._baseline = paths.features_dir(key) / "baseline.safetensors"
        self._pictures = dict(zip(examples["id"], examples["image"], strict=True))
        self.kind = self.settings.baseline

        @lru_cache(maxsize=1)
        def references() -> pl.DataFrame:
            return known_references(self.model.processor, examples, key)

        @lru_cache(maxsize=2)
        def mean_with(question: str) -> Baseline:
            return make_baseline("mean", self.model, references(), question)

        self._references = references

        self._mean_with = mean_with

    @cached_property
    def model(self) -> LVLM:
        """The model, loaded on first use."""
        return self._load()

    @cached_property
    def shared(self) -> Baseline:
        """The baseline that all examples share, on the model's device."""
        return Baseline.load(self._baseline, self.model.device, self.model.dtype)

    def under(self, kind: str) -> "Subjects":
        """The same examples under another baseline: masked runs of a run with ``features.baseline: kind``.

        Raises:
            NoBaseline: it cannot be made for any example, as references of several sizes have no mean.
        """
        if kind == self.kind:
            return self
        _ = self.model  # one for all baselines
        other = copy.copy(self)
        other.kind = kind
        other.__dict__.pop("_common", None)
        try:
            other.shared = make_baseline(kind, self.model, self._references())
        except HeadflowError as error:
            raise NoBaseline(str(error)) from None
        return other

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        return self.rows["id"].to_list()

    @cached_property
    def _common(self) -> str:
        return _common(self.prepared, self.model, self.shared, self.settings.target)

    def __getitem__(self, place: int) -> Subject:
        """The example at ``place``, counted from 0.

        Raises:
            IndexError: there are fewer.
        """
        if not 0 <= place < len(self):
            raise IndexError(place)
        row = self.rows.row(place, named=True)
        fed = fed_answer(self.settings.target, row)
        target = Target(self.settings.target, row["answer_tokens"][0], tuple(row["rival_tokens"]), tuple(fed[1:]))
        swapped = self._pictures[row["swap_partner"]] if self.kind == "swap" and row["swap_partner"] is not None else b""
        rivals = target.candidates if target.kind == "margin" else ()
        context = digest(self._common, row["image"], row["question"], digest_json([target.token, rivals, target.rest]), swapped)
        return Subject(row["id"], row, target, context, fed, swapped, self.kind, self.shared, self._mean_with, self.model)

    def __iter__(self) -> Iterator[Subject]:
        return (self[place] for place in range(len(self)))


def _common(prepared: PreparedModel, model: LVLM, shared: Baseline, target: str) -> str:
    """All that the numbers of every example depend on."""
    return digest_json(
        {
            "engine": engine_version(), "model": prepared.fingerprint, "dtype": prepared.dtype, "attn": prepared.attn,
            "quantization": prepared.quantization, "device": model.device.type, "packages": versions(),
            "baseline": shared.fingerprint(), "target": target,
        }
    )  # fmt: skip


def versions() -> dict[str, str | None]:
    """The packages that a masked forward's numbers depend on: where torchvision is there, pictures are scaled by it, for one."""
    found: dict[str, str | None] = {}
    for name in ("torch", "transformers", "tokenizers", "torchvision", "pillow", "accelerate", "bitsandbytes"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def fed_answer(target: str, row: dict) -> list[int]:
    """The answer that is fed to the model: the whole one where its log-probability is the target, else none."""
    return row["answer_tokens"] if target == "answer_logprob" else []
