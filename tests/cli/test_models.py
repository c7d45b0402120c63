"""`headflow models` as a user runs it, and what the list says against transformers' own classes."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from headflow.cli import main as cli
from headflow.models.families import COUNTS, FAMILIES, MODES, family_of
from headflow.params import ModelParams, Params

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = ROOT / "docs/catalogue.yaml"


def headflow(*arguments: str, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "headflow.cli.main", *arguments], env=environment, capture_output=True, text=True, encoding="utf-8", timeout=120, **options
    )


def test_every_family_is_listed_whole_in_a_pipe():
    done = headflow("models")
    assert done.returncode == 0 and done.stderr == ""
    assert "\x1b" not in done.stdout and "…" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines == [line.rstrip() for line in lines]
    for family in FAMILIES:
        first, second = (line for line in lines if line.startswith(f" {family.name}  "))
        assert family.mode in first and family.tokens in first and family.text_model in first
        assert family.example in second and second.endswith(family.needs or family.example)


def test_nothing_is_cut_off_on_a_narrow_terminal():
    """The hub ids, which are copied, stay whole on a terminal of 100 columns."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-m", "headflow.cli.main", "models"], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 65536):
            shown += piece
    except OSError:  # Linux says so when the other end is closed
        pass
    assert process.wait(timeout=60) == 0
    os.close(master)
    text = shown.decode()
    assert "…" not in text and all(family.example in text for family in FAMILIES)


def test_json_holds_the_same(capsys):
    assert cli.main(["models", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == [family.name for family in FAMILIES]


def test_listing_loads_no_model_library():
    code = "import sys; from headflow.cli.main import main; main(['models']); print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [[], ["modles"], ["models", "--jsn"]])
def test_a_misspelt_command_line_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as misspelt:
        cli.main(arguments)
    assert misspelt.value.code == 2 and capsys.readouterr().err.splitlines()[-1].startswith("headflow")


def test_a_reader_that_leaves_early_is_no_error():
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "headflow.cli.main", "models"], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == b""


class Subcommand:
    """A subcommand that fails as told."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def add(self, subcommands) -> None:
        subcommands.add_parser("fail").set_defaults(run=self.run)

    def run(self, arguments) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(cli.HeadflowError("no such model; look again"), 1, "error: no such model; look again"), (KeyboardInterrupt(), 130, "stopped")],
)
def test_mistakes_are_one_line_with_their_status(error, status, line, monkeypatch, capsys):
    monkeypatch.setattr(cli, "COMMANDS", (Subcommand(error),))
    assert cli.main(["fail"]) == status
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_classes_are_those_of_transformers(family):
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    assert family.model_class in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()
    assert family.mode in MODES and family.tokens in COUNTS
    for stem in family.text_model.split(", "):
        assert hasattr(transformers, f"{stem}Model"), stem


def test_modes_are_those_that_a_loaded_model_can_have():
    from typing import get_args

    from headflow.suffix_pass import Mode

    assert set(MODES) == set(get_args(Mode))


def test_a_class_of_one_family_goes_by_its_name_and_others_by_themselves():
    assert family_of("LlavaNextForConditionalGeneration") == "LLaVA-NeXT"
    assert family_of("LlavaForConditionalGeneration") == "Llava", "two families share it"
    assert family_of("AyaVisionForConditionalGeneration") == "AyaVision"


def test_every_entry_of_the_catalogue_is_valid_and_whole():
    written = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    assert set(written) == {"models"}
    params = Params.model_validate(written)
    assert len(params.models) >= 10
    assert len({model.id for model in params.models.values()}) == len(params.models)
    for key, model in params.models.items():
        assert "/" in model.id and not model.trust_remote_code, key
        assert (model.dtype, model.revision) == ("bfloat16", None), "a commit that nobody here has seen must not be made up"
    assert {family.example for family in FAMILIES} & {model.id for model in params.models.values()}


def test_the_catalogue_names_the_true_keys_and_explains_every_entry():
    text = CATALOGUE.read_text(encoding="utf-8")
    head, body = text.split("\nmodels:\n")
    offered = {line[4:].split(":")[0] for line in head.splitlines() if line.startswith("#   ") and not line.startswith("#   -")}
    assert offered <= set(ModelParams.model_fields) and {"dtype", "device_map", "attn", "quantization"} <= offered
    lines = body.splitlines()
    for place, line in enumerate(lines):
        if line.startswith("  ") and not line.startswith("   ") and line.endswith(":"):
            assert lines[place - 1].startswith("  # ") and " heads" in lines[place - 1], line
    assert "git ls-remote" in head and "data/models/<key>/model.json" in head and "examples.picture_size" in head
