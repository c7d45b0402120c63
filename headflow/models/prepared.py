"""What prepare_model leaves behind: a description of one model, and where to load exactly that one from."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from headflow.errors import HeadflowError
from headflow.files import read_json

FILE = "model.json"
CHECKPOINT = "checkpoint"


class PreparedModel(BaseModel):
    """One prepared model.

    Attributes:
        key: its key in the params.
        id: the id in the params.
        source: hub id or folder that it is loaded from; null = the ``checkpoint`` folder beside this file.
        revision: the commit that the hub resolved, for hub models.
        dtype: number format.
        architecture: class name.
        layers, heads, kv_heads: of the text model.
        trust_remote_code: whether code from the checkpoint is run.
        fingerprint: SHA-256 of the checkpoint's files, or the hub's commit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    id: str
    source: str | None
    revision: str | None
    dtype: str
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    trust_remote_code: bool
    fingerprint: str


def read_prepared(folder: Path) -> PreparedModel:
    """Read a prepared model's description.

    Raises:
        HeadflowError: it is missing or damaged.
    """
    path = folder / FILE
    try:
        return PreparedModel.model_validate(read_json(path))
    except ValidationError as error:
        raise HeadflowError(f"{path}: not a prepared model ({error.errors()[0]['msg']}); delete it and run `dvc repro` again") from None


def load_prepared(folder: Path, device: str) -> Any:
    """Load the model (an :class:`headflow.models.lvlm.LVLM`) that ``folder`` describes."""
    from headflow.models.lvlm import load

    prepared = read_prepared(folder)
    return load(
        folder / CHECKPOINT if prepared.source is None else prepared.source,
        revision=prepared.revision,
        dtype=prepared.dtype,
        device=device,
        trust_remote_code=prepared.trust_remote_code,
    )
