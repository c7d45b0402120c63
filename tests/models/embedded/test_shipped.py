"""The shipped checkpoint: intact, loadable by anyone, and as good as its metrics say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from headflow.datasets.scenes.questions import QUESTION_KINDS, ask, describe
from headflow.datasets.scenes.render import scene
from headflow.errors import HeadflowError
from headflow.models.embedded import shipped as shipping
from headflow.models.embedded.evaluation import evaluate, object_f1, prompt
from headflow.models.embedded.network import UNKNOWN, build_tokenizer
from headflow.models.embedded.recipe import Recipe, read_recipe
from headflow.models.embedded.sealing import CHECKSUMS_FILE, seal, verify

SCENES = 40


def test_the_checkpoint_is_intact_small_and_of_the_default_recipe() -> None:
    verify(shipping.SHIPPED_FOLDER)
    assert read_recipe(shipping.SHIPPED_FOLDER) == Recipe()
    assert (shipping.SHIPPED_FOLDER / "model.safetensors").stat().st_size <= 4_000_000


def test_it_reproduces_its_metrics(shipped: tuple[LlavaForConditionalGeneration, LlavaProcessor]) -> None:
    """A sample of the scenes may differ from all of them by chance: four standard errors."""
    published = json.loads((shipping.SHIPPED_FOLDER / shipping.METRICS_FILE).read_text())
    measured = evaluate(*shipped, scenes=SCENES)
    for kind in QUESTION_KINDS:
        for picture in ("image", "blank"):
            expected = published[kind][picture]
            assert abs(measured[kind][picture] - expected) <= 4 * np.sqrt(max(expected * (1 - expected), 0.01) / SCENES)
    assert abs(measured["object_f1"]["image"] - published["object_f1"]["image"]) < 0.05
    assert evaluate(*shipped, scenes=5) == evaluate(*shipped, scenes=5)


def test_it_is_as_good_as_promised() -> None:
    published = json.loads((shipping.SHIPPED_FOLDER / shipping.METRICS_FILE).read_text())
    for kind, least in {"object": 0.97, "colour": 0.99, "count": 0.97}.items():
        assert published[kind]["image"] >= least
        assert published[kind]["blank"] <= 0.5
    assert published["object_f1"]["image"] >= 0.95


def test_an_installed_copy_loads_like_any_model(tmp_path: Path) -> None:
    shipping.install(tmp_path / "model")
    network = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32, local_files_only=True)
    processor = AutoProcessor.from_pretrained(tmp_path / "model", local_files_only=True)
    rendered = scene(0, "test", 0)
    inputs = processor(images=[rendered.image], text=[prompt(processor, "What is the main object in the image? Answer with one word.")], return_tensors="pt")
    made = network.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert processor.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True) == rendered.main.name


def test_saving_and_loading_changes_nothing(shipped: tuple[LlavaForConditionalGeneration, LlavaProcessor], tmp_path: Path) -> None:
    from headflow.models.embedded.checkpoints import load_checkpoint, save_checkpoint

    network, processor = shipped
    save_checkpoint(network, processor, Recipe(), tmp_path)
    again, processor_again = load_checkpoint(tmp_path)
    before, after = network.state_dict(), again.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert processor_again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert network.dtype == torch.float32


def test_prompts_have_the_form_of_llava(shipped: tuple[LlavaForConditionalGeneration, LlavaProcessor]) -> None:
    _, processor = shipped
    assert prompt(processor, "Describe the image.") == "USER: <image>\nDescribe the image. ASSISTANT:"
    tokens = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image", "image": scene(0, "test", 0).image}, {"type": "text", "text": "Describe the image."}]}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    assert (tokens["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum() == Recipe().image_tokens
    assert tokens["input_ids"][0, 0] == processor.tokenizer.bos_token_id


def test_every_word_of_every_question_and_answer_is_known() -> None:
    tokenizer = build_tokenizer()
    for i in range(200):
        rendered = scene(0, "test", i)
        for kind in QUESTION_KINDS:
            question = ask(rendered, kind, np.random.default_rng(i))
            for text in (question.text, question.answer):
                ids = tokenizer.encode(text, add_special_tokens=False)
                assert UNKNOWN not in ids, text
                assert tokenizer.decode(ids) == text


def test_object_f1_counts_names_once_each() -> None:
    rendered = next(item for item in (scene(0, "test", i) for i in range(50)) if len(item.objects) == 2)
    assert object_f1([describe(rendered)], [rendered]) == 1.0
    assert object_f1([f"a red {rendered.main.name}"], [rendered]) == pytest.approx(2 / 3)
    assert object_f1(["nothing"], [rendered]) == 0.0


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadflowError, match="another recipe \\(layers 5, not 6\\)"):
        shipping.install(tmp_path, Recipe(layers=5))


def test_damage_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy"
    shipping.install(copy)
    monkeypatch.setattr(shipping, "SHIPPED_FOLDER", copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(HeadflowError, match=r"model\.safetensors: damaged"):
        shipping.install(tmp_path / "target")
    weights.unlink()
    with pytest.raises(HeadflowError, match=r"model\.safetensors: missing"):
        shipping.install(tmp_path / "target")
    (copy / CHECKSUMS_FILE).unlink()
    with pytest.raises(HeadflowError, match=CHECKSUMS_FILE):
        shipping.install(tmp_path / "target")


def test_only_the_default_recipe_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, package = tmp_path / "source", tmp_path / "package"
    shipping.install(source)
    monkeypatch.setattr(shipping, "SHIPPED_FOLDER", package)
    shipping.ship(source)
    assert verify(package) == verify(source)
    shipping.ship(source)  # replaces what was there
    (source / "recipe.json").write_text(Recipe(layers=5).model_dump_json())
    seal(source)
    with pytest.raises(HeadflowError, match="default recipe"):
        shipping.ship(source)
