"""What prepare_model leaves behind: a description of one model, and where to load exactly that one from."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from headflow.errors import HeadflowError
from headflow.files import read_json

FILE = "model.json"
CHECKPOINT = "checkpoint"
TRUTH = "truth.parquet"
"""Name of the table of exact values beside a planted model."""


class PreparedModel(BaseModel):
    """One prepared model.

    Attributes:
        key: its key in the params.
        id: the id in the params.
        source: hub id or folder that it is loaded from; null = the ``checkpoint`` folder beside this file.
        revision: the commit that the hub resolved, for hub models.
        dtype: number format.
        architecture: class name.
        attn: attention code of the stock forwards; ``auto`` leaves the choice to transformers.
        quantization: ``8bit``, ``4bit`` or none.
        layers: layers whose heads read the picture, the ``layer`` of every table; all layers of the text model, but for
            models with cross-attention.
        heads, kv_heads: of each of these layers.
        decoder_layers: layers of the text model.
        image_layers: for models with cross-attention, the decoder layers that ``layers`` counts; null = all of them.
        trust_remote_code: whether code from the checkpoint is run.
        fingerprint: SHA-256 of the checkpoint's files, or the hub's commit.
        circuit: of a planted model, the circuit that its weights spell (:data:`headflow.models.planted.circuits.CIRCUITS`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    key: str
    id: str
    source: str | None
    revision: str | None
    dtype: str
    attn: str
    quantization: str | None
    architecture: str
    layers: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    decoder_layers: PositiveInt
    image_layers: list[NonNegativeInt] | None
    trust_remote_code: bool
    fingerprint: str
    circuit: str | None = None


def read_prepared(folder: Path) -> PreparedModel:
    """Read a prepared model's description.

    Raises:
        HeadflowError: it is missing or damaged.
    """
    path = folder / FILE
    try:
        return PreparedModel.model_validate(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "content"
        raise HeadflowError(f"{path}: not a prepared model ({place}: {fault['msg']}); delete it and run `dvc repro` again") from None
