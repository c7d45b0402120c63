"""Processors load from disk with and without torchvision, and prepare pictures as those that were saved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from transformers.utils import is_torchvision_available

from headflow.errors import HeadflowError
from headflow.models.processors import NoVideos, assemble, load_processor
from headflow.prompts import chat
from tests.conftest import random_picture
from tests.families import FAMILIES

# Families whose processor takes a video processor, and those whose processor transformers hides where torchvision is missing.
VIDEO = ["llava_onevision", "internvl_qwen2", "internvl_qwen3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm"]
HIDDEN = ["mistral3", "pixtral_llava"]
QUESTION = "What is the main object?"
without_torchvision = pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed: AutoProcessor loads them")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a family's checkpoint, built on first use."""
    root, built = tmp_path_factory.mktemp("families"), {}

    def folder(family: str) -> Path:
        if family not in built:
            built[family] = FAMILIES[family].build(root / family)
        return built[family]

    return folder


def prepared(processor, family: str) -> dict[str, torch.Tensor]:
    picture = Image.fromarray(random_picture(1)).resize(FAMILIES[family].size)
    batch = processor(images=[[picture]], text=[chat(processor, QUESTION)], return_tensors="pt", add_special_tokens=False)
    return {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", VIDEO)
def test_a_processor_that_takes_videos(folders, tmp_path, family):
    """The parts, as the hub keeps them, and the whole, as transformers 5 saves it, give the same inputs as the processor that was saved."""
    parts = load_processor(folders(family))
    assert type(parts) is getattr(transformers, json.loads((folders(family) / "processor_config.json").read_text())["processor_class"])
    expected = prepared(parts, family)
    assert (expected["input_ids"] == parts.image_token_id).sum() > 8 and expected["pixel_values"].std() > 0.1
    parts.save_pretrained(tmp_path)
    whole = load_processor(tmp_path)
    assert type(whole) is type(parts) and whole.chat_template == parts.chat_template
    assert same(expected, prepared(whole, family))


@pytest.mark.parametrize(("family", "tokens"), [("qwen2_vl", 15), ("smolvlm", 20), ("internvl_qwen2", 28)])
def test_the_number_of_image_tokens_is_that_of_the_grid(folders, family, tokens):
    """40 x 24 pixels: 5 x 3 merged patches; 2 x 2 tiles and the whole, of 4 tokens; 3 x 2 tiles and the whole, of 4 tokens."""
    processor = load_processor(folders(family))
    assert (prepared(processor, family)["input_ids"] == processor.image_token_id).sum() == tokens


@pytest.mark.parametrize("family", VIDEO)
def test_a_video_processor_in_the_folder_does_no_harm(folders, tmp_path, family):
    """The hub's folders describe one, in a file of its own or in preprocessor_config.json."""
    expected = prepared(load_processor(folders(family)), family)
    shutil.copytree(folders(family), tmp_path, dirs_exist_ok=True)
    kind = load_processor(folders(family)).__class__.__name__
    settings = {"processor_class": kind, "video_processor_type": kind.replace("2_5_", "2").replace("Processor", "VideoProcessor"), "fps": 1}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(settings))
    assert same(expected, prepared(load_processor(tmp_path), family))


def test_the_class_may_be_named_in_any_file_or_in_none(folders, tmp_path):
    expected = prepared(load_processor(folders("qwen2_vl")), "qwen2_vl")
    for file in ("preprocessor_config.json", "tokenizer_config.json", None):
        folder = shutil.copytree(folders("qwen2_vl"), tmp_path / str(file))
        (folder / "processor_config.json").unlink()
        for path in (folder / "preprocessor_config.json", folder / "tokenizer_config.json"):
            settings = json.loads(path.read_text())
            settings.pop("processor_class", None)
            path.write_text(json.dumps(settings | ({"processor_class": "Qwen2VLProcessor"} if path.name == file else {})))
        processor = load_processor(folder)
        assert type(processor) is transformers.Qwen2VLProcessor
        assert same(expected, prepared(processor, "qwen2_vl"))


def test_a_chat_template_in_the_older_format(folders, tmp_path):
    shutil.copytree(folders("qwen2_vl"), tmp_path, dirs_exist_ok=True)
    template = tmp_path / "chat_template.jinja"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    expected = load_processor(folders("qwen2_vl")).chat_template
    template.unlink()
    assert load_processor(tmp_path).chat_template == expected


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(VIDEO) - set(HIDDEN)))
def test_other_processors_are_those_of_auto_processor(folders, family):
    expected = transformers.AutoProcessor.from_pretrained(folders(family))
    found = load_processor(folders(family))
    assert type(found) is type(expected)
    assert same(prepared(expected, family), prepared(found, family))


@pytest.mark.parametrize("family", HIDDEN)
def test_a_processor_that_only_looks_as_if_it_needed_torchvision(folders, family):
    """40 x 24 pixels in patches of 4, 2 x 2 of which Mistral 3 merges; a break ends each row but the last."""
    processor = load_processor(folders(family))
    rows, columns = (3, 5) if family == "mistral3" else (6, 10)
    row = "[IMG]" * columns
    assert "[IMG_BREAK]".join([row] * rows) + "[IMG_END]" in processor.tokenizer.decode(prepared(processor, family)["input_ids"][0])


@without_torchvision
def test_videos_are_refused(folders):
    processor = load_processor(folders("qwen2_vl"))
    with pytest.raises(HeadflowError, match="videos need torchvision"):
        processor(text=["<|video_pad|> What happens?"], videos=[[random_picture(1)] * 4])


def test_settings_of_the_video_processor_survive(folders, tmp_path):
    settings = {"video_processor_type": "Qwen2VLVideoProcessor", "fps": 3}
    loaded = load_processor(folders("qwen2_vl"))
    processor = assemble(type(loaded), {"image_processor": loaded.image_processor, "tokenizer": loaded.tokenizer}, {"video_processor": settings})
    assert isinstance(processor.video_processor, NoVideos) and processor.video_processor.fps == 3
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["video_processor"] == settings


def test_a_folder_without_a_processor_is_explained(folders, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folders("llava") / name, tmp_path)
    with pytest.raises((HeadflowError, OSError, ValueError), match="processor"):
        load_processor(tmp_path)


def test_a_model_of_text_alone_is_explained(folders, tmp_path):
    shutil.copytree(folders("llava"), tmp_path, dirs_exist_ok=True)
    for name in ("processor_config.json", "preprocessor_config.json", "chat_template.jinja"):
        (tmp_path / name).unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(HeadflowError, match="no processor for pictures and text together"):
        load_processor(tmp_path)
