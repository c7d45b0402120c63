"""`headflow check` as a command and as the function behind it; that commands start from a shell is in tests/cli/test_models.py."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from headflow.cli.main import main
from headflow.diagnosis import diagnose
from tests.checkpoints import QUESTION
from tests.families import FAMILIES


def shown(text: str) -> dict[str, str]:
    """The rows of both tables by their first cell."""
    rows = [line.strip().split("  ", 1) for line in text.splitlines() if "  " in line.strip()]
    return {row[0].strip(): row[1].strip() for row in rows}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("headflow.diagnosis._TIMED_S", 0.05)
    return tmp_path


def test_a_local_checkpoint(checkpoints, here, capsys):
    assert main(["check", str(checkpoints("gqa")), "--question", QUESTION]) == 0
    text = capsys.readouterr().out
    rows = shown(text)
    assert rows["family"] == "llava (LlavaForConditionalGeneration; text model llama)"
    assert rows["layers × heads"] == "3 × 4 = 12 heads (2 key heads a layer)"
    assert rows["picture"] == "48 × 48 pixels, 16 image tokens"
    assert rows["prefix mode"] == "shared prefix"
    assert "48 examples × 542 masks, 64 references" in rows["time, current params"]
    for name in ("identity", "swap", "prefix"):
        value, limit = rows[name].split()[:2]
        assert float(value) < 1e-5 and limit == "at"
    assert float(rows["effect"].split()[0]) > 0.01
    assert text.endswith("All checks passed: headflow can run this model.\n")


@pytest.mark.parametrize(("name", "mode", "prefix"), [("paligemma", "full sequence", "it does"), ("mllama", "cross-attention", "does not apply")])
def test_models_that_share_no_prefix(name, mode, prefix, here, capsys):
    FAMILIES[name].build(here / "model")
    assert main(["check", str(here / "model")]) == 0
    rows = shown(capsys.readouterr().out)
    assert rows["prefix mode"] == mode and prefix in rows["prefix"]
    assert name != "mllama" or rows["layers × heads"].endswith("in the 2 of 5 layers that read the picture by cross-attention")


def test_a_key_of_the_params_brings_its_settings(checkpoints, here, capsys):
    content = {"models": {"mine": {"id": str(checkpoints("mha")), "dtype": "bfloat16"}}, "masks": {"count": 40, "held_out": 20}, "examples": {"count": 3}}
    (here / "params.yaml").write_text(yaml.safe_dump(content))
    assert main(["check", "mine", "--question", QUESTION]) == 0
    rows = shown(capsys.readouterr().out)
    assert rows["weights"].startswith("bfloat16, on cpu") and rows["model"] == str(checkpoints("mha"))
    assert f"3 examples × {40 + 20 + 12 + 2 + 16} masks" in rows["time, current params"]
    assert main(["check", "mine", "--question", QUESTION, "--dtype", "float32", "--attn", "eager"]) == 0
    assert shown(capsys.readouterr().out)["weights"].startswith("float32, on cpu")


def test_a_picture_and_a_question_of_ones_own(checkpoints, here, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)).save(here / "own.png")
    assert main(["check", str(checkpoints("mha")), "--picture", "own.png", "--question", "Which animal is in the picture ?"]) == 0
    assert shown(capsys.readouterr().out)["picture"].startswith("64 × 40 pixels")


def test_what_cannot_be_checked_is_told_in_one_line(checkpoints, here, capsys):
    for arguments, message in (
        (["./nowhere"], "there is no such folder"),
        (["nokey"], "'nokey' is no key of `models` in params.yaml (no params file here), no folder, and no hub id (owner/name)"),
        ([str(checkpoints("mha")), "--picture", "none.png"], "none.png: there is no such picture"),
        ([str(checkpoints("mha", chat="{{ messages[0]['content'][1]['text'] }}"))], "image token"),
    ):
        assert main(["check", *arguments]) == 1
        error = capsys.readouterr().err
        lines = [line for line in error.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and message in lines[0] and "Traceback" not in error
    with pytest.raises(SystemExit) as misspelt:
        main(["check", "embedded", "--dtype", "float7"])
    assert misspelt.value.code == 2


def test_a_diagnosis_counts_what_is_there(captures, here):
    capture, other = captures("gqa")
    found = diagnose(capture, other)
    image, prefix = 16, capture.prefix
    assert found.shared_bytes == 2 * 3 * 2 * (prefix + image) * 8 * 4  # keys and values, layers, key heads, positions, head dim, bytes
    assert found.rate > 0 and found.capture_s > 0 and not found.measured and found.batch_bytes > 0
    assert found.seconds(10, 5, 200) == pytest.approx(2000 / found.rate + 35 * found.capture_s)
