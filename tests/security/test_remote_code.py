"""Code that comes with a checkpoint runs for that model alone which asks for it, and weights in pickle files are never opened."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import yaml
from markupsafe import Markup

import headflow
from headflow.cli import cost
from headflow.errors import HeadflowError
from headflow.params import ModelParams, Params
from headflow.reporting import blocks
from headflow.reporting import run as runs
from stages import prepare_model
from tests.reporting import synthetic_run


class Runs:
    """What runs when it is unpickled: it leaves a file behind."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return (Path.touch, (self.proof,))


def test_weights_in_a_pickle_file_are_refused_unopened(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints("mha"), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    proof = tmp_path / "it ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(proof)))
    with pytest.raises(HeadflowError, match="safetensors"):
        headflow.load(folder)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Runs(proof)))
    assert proof.exists(), "the trap itself works"


@pytest.fixture
def trapped(checkpoints, tmp_path) -> tuple[Path, Path]:
    """A checkpoint whose configuration, processor and model are classes of its own files, and the file that their code leaves behind."""
    folder, proof = shutil.copytree(checkpoints("mha"), tmp_path / "model"), tmp_path / "it ran"
    code = f"import pathlib\npathlib.Path({str(proof)!r}).touch()\nfrom transformers import LlavaConfig, LlavaForConditionalGeneration\n"
    code += "class MyConfig(LlavaConfig):\n    model_type = 'mine'\n\nclass MyModel(LlavaForConditionalGeneration):\n    config_class = MyConfig\n"
    (folder / "mine.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MyConfig", "AutoModelForImageTextToText": "mine.MyModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, proof


def test_code_of_a_checkpoint_is_not_run_unasked(trapped, monkeypatch, tmp_path):
    folder, proof = trapped
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    params = Params.model_validate({"models": {"theirs": {"id": str(folder)}, "trusted": {"id": "embedded", "trust_remote_code": True}}})
    for attempt in (
        lambda: headflow.load(folder), lambda: prepare_model.main(params, "theirs"), lambda: cost._load(params, "theirs", "cpu"),
    ):  # fmt: skip
        with pytest.raises(HeadflowError, match="trust_remote_code"):
            attempt()
        assert not proof.exists()


def test_consent_is_off_by_default_and_for_one_model_only():
    assert ModelParams().trust_remote_code is False
    root = Path(__file__).resolve().parents[2]
    for path in ("params.yaml", "docs/catalogue.yaml"):
        models = yaml.safe_load((root / path).read_text())["models"]
        assert not any(model.get("trust_remote_code") for model in models.values())
    assert {name for name, group in Params.model_fields.items() if "trust" in str(group)} == set()


@pytest.mark.parametrize("executed", [False, True])
def test_the_colophon_tells(executed, tmp_path, monkeypatch):
    synthetic_run.write(synthetic_run.make(), tmp_path)
    description = tmp_path / "data/models/tiny/model.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"trust_remote_code": executed}))
    monkeypatch.chdir(tmp_path)
    from tests.reporting.test_run import load

    run: runs.Run = load()
    text = blocks.colophon(run, tmp_path)
    assert isinstance(text, Markup)
    assert ("<td>executed (trust_remote_code: true)</td>" in text) == executed == ("This run executed code that came with the model" in text)
    assert ("<td>none executed (trust_remote_code: false)</td>" in text) != executed
