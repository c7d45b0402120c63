"""Passwords and tokens: refused in params without being shown, and carried from the environment into no file."""

import contextlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from headflow.cli.main import main
from headflow.errors import HeadflowError
from headflow.params import Params, read_params
from stages import door, prepare_examples, prepare_model, sample_masks

ROOT = Path(__file__).resolve().parents[2]
SECRETS = (
    "hf_" + "aB3" * 11, "sk-" + "aB3" * 10, "sk-proj-" + "aB3" * 12, "ghp_" + "aB3" * 12, "github_pat_" + "aB3" * 12, "AKIA" + "ABCD1234EFGH5678",
    "https://user:pa55word@example.org/model", "xoxb-1234567890-abcdef",
)  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "place", ["models.tiny.id", "models.tiny.revision", "examples.path", "report.title", "models.tiny.hf_token", "examples.folder.meaning", "unknown"]
)
def test_secrets_in_params_are_refused_and_not_shown(secret, place, tmp_path):
    content: dict = {"models": {"tiny": {}}}
    *groups, last = place.split(".")
    at = content
    for group in groups:
        at = at.setdefault(group, {})
    at[last] = [secret] if last == "meaning" else secret
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(HeadflowError, match="looks like a password or an access token") as error:
        read_params(tmp_path / "params.yaml")
    assert place in str(error.value) and secret not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("content", ["masks: {api_key: abc}", "hub_token: abc", "a: {password: x}"])
def test_keys_that_ask_for_a_secret_are_refused_and_their_value_is_not_shown(content, tmp_path):
    (tmp_path / "params.yaml").write_text(f"models: {{a: {{}}}}\n{content}")
    with pytest.raises(HeadflowError, match="looks like a password or an access token") as error:
        read_params(tmp_path / "params.yaml")
    assert "abc" not in str(error.value)


@pytest.mark.parametrize("text", ['models: {{tiny: {{}}}}\nx: "{secret}', "{secret}: [", "{secret}"])
def test_a_file_that_is_no_yaml_shows_no_secret_either(text, tmp_path):
    (tmp_path / "params.yaml").write_text(text.format(secret=SECRETS[0]))
    with pytest.raises(HeadflowError) as error:
        read_params(tmp_path / "params.yaml")
    assert SECRETS[0] not in str(error.value)


def test_params_that_are_used_pass():
    content = yaml.safe_load((ROOT / "params.yaml").read_text()) | yaml.safe_load((ROOT / "docs/catalogue.yaml").read_text())
    from headflow.params import _secret

    assert _secret(content) == "" and _secret({"id": "someone/sk-llava-onevision-qwen2-7b-ov", "revision": "0f3c" * 10}) == ""


def test_no_param_is_meant_for_a_secret():
    from headflow.params import _SECRET_NAME

    def names(schema: dict) -> set[str]:
        return {name for group in (schema, *schema.get("$defs", {}).values()) for name in group.get("properties", {})}

    assert not [name for name in names(Params.model_json_schema()) if _SECRET_NAME.search(name)]


def test_what_the_environment_holds_gets_into_no_file(tmp_path, monkeypatch, capfd):
    """Stages with a token in their environment, as those that load a gated model have; their files, output and errors are searched."""
    secret = SECRETS[0]
    (tmp_path / "stages").symlink_to(ROOT / "stages")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"examples": {"count": 2, "references": 2}, "models": {"tiny": {}, "other": {"id": "./nowhere"}}}))
    monkeypatch.chdir(tmp_path)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, secret)
    for stage, *key in ((prepare_examples,), (prepare_model, "tiny"), (prepare_model, "other"), (sample_masks, "tiny")):
        monkeypatch.setattr(sys, "argv", ["stage", *key])
        with contextlib.suppress(SystemExit):
            door.enter(stage.main, per_model=bool(key))
    assert main(["status"]) == 0
    with pytest.raises(HeadflowError):
        read_params(tmp_path / "none.yaml")
    said = "".join(capfd.readouterr())
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "stages" not in path.relative_to(tmp_path).parts]
    assert any(path.name == "model.json" for path in files) and any(path.suffix == ".parquet" for path in files)
    assert "'./nowhere' cannot be loaded" in said and "results.sqlite" in said and secret not in said
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert json.loads((tmp_path / "data/models/tiny/model.json").read_text())["key"] == "tiny"
