"""The description that a prepared model leaves behind."""

import json
import shutil

import pytest
import torch

from headflow.errors import HeadflowError
from headflow.models.loading import load_prepared
from headflow.models.prepared import PreparedModel, read_prepared

DESCRIPTION = {
    "key": "tiny", "id": "embedded", "source": None, "revision": None, "dtype": "float32", "attn": "auto", "quantization": None,
    "architecture": "LlavaForConditionalGeneration", "layers": 3, "heads": 4, "kv_heads": 4, "decoder_layers": 3, "image_layers": None,
    "trust_remote_code": False, "fingerprint": "0" * 64,
}  # fmt: skip


def test_read(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(DESCRIPTION))
    assert read_prepared(tmp_path) == PreparedModel(**DESCRIPTION)


@pytest.mark.parametrize("change", [{"layers": "three"}, {"unknown": 1}, {"heads": None}])
def test_a_wrong_description_is_explained(tmp_path, change):
    (tmp_path / "model.json").write_text(json.dumps({**DESCRIPTION, **change}))
    with pytest.raises(HeadflowError, match=r"model.json: not a prepared model"):
        read_prepared(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_damaged_description_is_explained(tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(HeadflowError, match=r"model.json: not"):
        read_prepared(tmp_path)


def test_a_missing_description_is_explained(tmp_path):
    with pytest.raises(HeadflowError, match=r"model.json: missing"):
        read_prepared(tmp_path)


@pytest.mark.parametrize("where", ["beside", "named"])
def test_load(checkpoints, tmp_path, where):
    source = None if where == "beside" else str(checkpoints("gqa"))
    if where == "beside":
        shutil.copytree(checkpoints("gqa"), tmp_path / "checkpoint")
    (tmp_path / "model.json").write_text(json.dumps({**DESCRIPTION, "source": source, "dtype": "bfloat16"}))
    model = load_prepared(tmp_path, "cpu")
    assert (model.kv_heads, model.dtype) == (2, torch.bfloat16)
