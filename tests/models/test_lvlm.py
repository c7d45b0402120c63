"""Loading models, opening pictures, capturing one example."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import headflow
from headflow.errors import HeadflowError
from headflow.models.lvlm import open_picture
from tests import reference
from tests.checkpoints import QUESTION, QWEN_CHAT
from tests.conftest import random_picture


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- load


def test_a_missing_folder(tmp_path):
    with pytest.raises(HeadflowError, match=r"no-such-model.*cannot be loaded") as error:
        headflow.load(str(tmp_path / "no-such-model"), device_map="cpu")
    one_line(error)


@pytest.fixture
def damaged(checkpoints, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoints("mha"), tmp_path / "model"))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_a_checkpoint_with_a_damaged_file(damaged, file, how):
    if how == "missing":
        (damaged / file).unlink()
    else:
        os.truncate(damaged / file, (damaged / file).stat().st_size // 2)
    with pytest.raises(HeadflowError, match="cannot be loaded") as error:
        headflow.load(damaged, device_map="cpu")
    one_line(error)


def test_a_checkpoint_of_a_text_model(damaged):
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({**config["text_config"], "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(HeadflowError, match="cannot be loaded"):
        headflow.load(damaged, device_map="cpu")


@pytest.mark.parametrize("device", ["tpu", "gpu", "cuda:99", "cuda:-1"])
def test_an_unknown_device(checkpoints, device):
    with pytest.raises(HeadflowError, match="device") as error:
        headflow.load(checkpoints("mha"), device_map=device)
    one_line(error)


def test_an_unknown_number_format(checkpoints):
    with pytest.raises(HeadflowError, match="float7"):
        headflow.load(checkpoints("mha"), device_map="cpu", dtype="float7")


def test_what_is_known_of_a_loaded_model(models):
    model = models("gqa")
    assert (model.layers, model.heads, model.kv_heads) == (3, 4, 2)
    assert model.device == torch.device("cpu") and model.dtype == torch.float32
    assert not model.model.training and not any(parameter.requires_grad for parameter in model.model.parameters())


# --- pictures


PIXELS = random_picture(3)


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "CMYK", "P", "1", "RGB"])
@pytest.mark.parametrize("way", ["file", "bytes", "image"])
def test_pictures_of_any_mode_become_rgb(tmp_path, mode, way):
    image = Image.fromarray(PIXELS).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "LA") else "PNG"
    buffer = io.BytesIO()
    image.save(buffer, kind)
    path = tmp_path / "picture"
    path.write_bytes(buffer.getvalue())
    opened = open_picture({"file": path, "bytes": buffer.getvalue(), "image": image}[way])
    assert opened.mode == "RGB" and opened.size == (32, 32)
    assert np.array_equal(np.asarray(opened), np.asarray(image.convert("RGB")))


def test_arrays():
    assert np.array_equal(np.asarray(open_picture(PIXELS)), PIXELS)
    assert np.array_equal(np.asarray(open_picture(PIXELS[..., 0])), np.repeat(PIXELS[..., :1], 3, -1))


def test_an_array_that_is_no_picture_is_explained():
    with pytest.raises(HeadflowError, match="picture"):
        open_picture(np.zeros((4, 4, 7), np.float32))


def test_every_way_gives_the_same_capture(models, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    ways = [PIXELS, path, str(path), path.read_bytes(), Image.open(path)]
    logits = [models("mha").capture(way, QUESTION).logits for way in ways]
    assert all(torch.equal(logits[0], other) for other in logits[1:])


def truncated(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[:900])
    return path


def test_a_truncated_picture(tmp_path):
    path = truncated(tmp_path)
    with pytest.raises(HeadflowError, match=r"picture.png: not a readable picture") as error:
        open_picture(path)
    one_line(error)
    with pytest.raises(HeadflowError, match="image bytes: not a readable picture"):
        open_picture(path.read_bytes())


def test_a_truncated_picture_that_pillow_has_opened(tmp_path):
    """Pillow reads the pixels only when they are needed."""
    with Image.open(truncated(tmp_path)) as image, pytest.raises(HeadflowError, match="not a readable picture"):
        open_picture(image)


def test_a_missing_picture(tmp_path):
    with pytest.raises(HeadflowError, match=r"no\.png: there is no such picture"):
        open_picture(tmp_path / "no.png")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_picture(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(HeadflowError, match=r"x.png: not a readable picture"):
        open_picture(tmp_path / "x.png")
    with pytest.raises(HeadflowError, match="not a readable picture"):
        open_picture(content)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(HeadflowError, match="not a readable picture"):
        open_picture(tmp_path)


# --- capture


def test_capture_against_the_stock_model(pair):
    capture, _ = pair
    model = capture.lvlm
    inputs = model.inputs([capture.picture], QUESTION)
    with torch.no_grad():
        stock = model.model(**inputs)
    assert torch.equal(capture.logits, stock.logits[0, -1])
    assert capture.input_ids == inputs["input_ids"][0].tolist()
    assert (capture.image, capture.prefix, capture.suffix) == (slice(3, 19), 19, 9)
    assert len(capture.pieces) == len(capture.roles) == len(capture.input_ids) == 28
    keys, values = reference.keys_values(model, capture.picture, QUESTION)
    for layer in range(3):
        assert capture.keys[layer].shape == (model.kv_heads, 19, 8)
        assert reference.relative(capture.keys[layer], keys[layer][:, :19]) < 2e-6
        assert reference.relative(capture.values[layer], values[layer][:, :19]) < 2e-6
    features = model.model.get_image_features(pixel_values=inputs["pixel_values"], vision_feature_layer=-1, vision_feature_select_strategy="default")
    merged = getattr(features, "pooler_output", features)
    assert reference.relative(capture.image_embeddings, torch.cat(list(merged)) if not torch.is_tensor(merged) else merged.reshape(16, 32)) < 1e-6
    assert capture.greedy_token() == int(stock.logits[0, -1].argmax())


def test_vision_is_the_mean_of_the_towers_last_states(captures):
    capture, _ = captures("mha")
    model = capture.lvlm
    tower = model.model.get_encoder(modality="image")
    with torch.no_grad():
        states = tower(model.inputs([capture.picture], QUESTION)["pixel_values"]).last_hidden_state[0]
    assert reference.relative(capture.vision, states.mean(0)) < 1e-6


def test_capture_is_the_same_twice(captures):
    capture, _ = captures("gqa")
    again = capture.lvlm.capture(capture.picture, QUESTION)
    assert torch.equal(again.logits, capture.logits) and all(torch.equal(a, b) for a, b in zip(again.keys, capture.keys, strict=True))


def test_answers_come_one_a_picture_and_do_not_depend_on_the_company(models):
    model = models("mha")
    pictures = [random_picture(seed) for seed in range(3)]
    together = model.answer(pictures, QUESTION, max_new_tokens=3)
    assert together == [model.answer([picture], QUESTION, max_new_tokens=3)[0] for picture in pictures]


def test_the_first_token_of_an_answer(captures):
    capture, _ = captures("mha")
    vocabulary = capture.lvlm.processor.tokenizer.get_vocab()
    assert capture.first_token("cat") == vocabulary["cat"]
    assert capture.first_token("red cat") == vocabulary["red"]


def test_the_first_token_where_the_answer_follows_a_line_break(captures):
    """Qwen's prompt ends with a line break, so the model says "cat" and never " cat": another token."""
    capture, _ = captures("gqa", chat=QWEN_CHAT, words=False)
    tokenizer = capture.lvlm.processor.tokenizer
    assert tokenizer.decode([capture.first_token("cat")]) == tokenizer.decode(tokenizer("cat")["input_ids"][:1])


@pytest.mark.parametrize(("answer", "message"), [("", "tokenises to nothing"), ("  ", "tokenises to nothing"), ("zebra", "does not know")])
def test_answers_without_a_first_token_are_explained(captures, answer, message):
    with pytest.raises(HeadflowError, match=message):
        captures("mha")[0].first_token(answer)


def test_a_near_miss_of_the_embedded_model_is_named():
    with pytest.raises(HeadflowError, match="did you mean 'embedded'"):
        headflow.load("embeded")
