"""The pictures that a model describes: what it is asked, how each is captured, and what its descriptions depend on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headflow.answers import unknown_words
from headflow.decoding import Sampling
from headflow.errors import HeadflowError
from headflow.execution.fingerprint import DECODING, digest, digest_json, engine_version
from headflow.models.capture import Capture
from headflow.models.loading import load_prepared
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
        self.model = load_prepared(paths.model_dir(key), params.model(key).device_map)
        for prompt in dict.fromkeys(map(self._prompt, self.rows.iter_rows(named=True))):
            if unknown := unknown_words(self.model.processor, prompt):
                raise HeadflowError(f"model {key!r} does not know {', '.join(map(repr, unknown))} of {prompt!r}; set describing.prompt to something it can do")

    def _prompt(self, row: dict) -> str:
        return row["question"] if self._own_questions else self.settings.prompt or PROMPT

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Picture]:
        common = digest_json(
            {
                "engine": engine_version(*DECODING), "model": self.prepared.fingerprint, "dtype": self.prepared.dtype, "attn": self.prepared.attn,
                "quantization": self.prepared.quantization, "device": self.model.device.type, "packages": versions(),
            }
        )  # fmt: skip
        for row in self.rows.iter_rows(named=True):
            prompt = self._prompt(row)
            yield Picture(row["id"], row, prompt, digest(common, row["image"], prompt), self.model)


def sampling(settings: DescribingParams) -> Sampling | None:
    """How descriptions are drawn; None = greedily."""
    return None if settings.temperature is None else Sampling(settings.temperature, settings.top_p, settings.seed)
