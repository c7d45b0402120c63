"""The models and pictures that are measured."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

import headflow
from headflow.datasets.scenes.render import scene
from headflow.models.baselines import Baseline, mean_baseline
from headflow.models.capture import Capture
from headflow.models.lvlm import LVLM

QUESTION = "What is the main object in the image? Answer with one word."
_REFERENCES = {"embedded": 16, "random weights": 4}


@dataclass
class Subject:
    """A model with one example and its baseline.

    Attributes:
        name: what the tables call it.
        lvlm: the model.
        picture: the example's picture.
        capture: the example.
        baseline: mean over a few other pictures.
        token: id whose logit is the target.
    """

    name: str
    lvlm: LVLM
    picture: np.ndarray
    capture: Capture
    baseline: Baseline
    token: int


def rendered(count: int, first: int = 0) -> list[np.ndarray]:
    """Pictures of rendered scenes ``first``, ``first + 1`` …"""
    return [scene(0, "bench", index).image for index in range(first, first + count)]


def embedded(source: str) -> Subject:
    """The small model, 36 image tokens, on a rendered scene."""
    lvlm = headflow.load(source, device_map="cpu")
    return _subject("embedded", lvlm)


def large(source: str, *, layers: int = 8, width: int = 768, patches: int = 24, head_width: int = 64, spread: float = 0.02) -> Subject:
    """A LLaVA of random weights with 576 image tokens; it borrows the tokenizer of the small model.

    Args:
        source: the small model.
        layers, width: of the language model; its MLP is 8/3 times the width.
        patches: image tokens along each side.
        head_width: of each head of the language model, of which it has width / head_width.
        spread: standard deviation of the language model's weights; the larger, the more its heads act on each other.
    """
    donor = headflow.load(source, device_map="cpu").processor
    size, patch = 14 * patches, 14
    begin, end, pad = (donor.tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>", "<pad>"))
    vision = CLIPVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=size, patch_size=patch)
    text = LlamaConfig(
        vocab_size=32_000, hidden_size=width, intermediate_size=8 * width // 3, num_hidden_layers=layers, num_attention_heads=width // head_width,
        max_position_embeddings=2048, bos_token_id=begin, eos_token_id=end, pad_token_id=pad,
        initializer_range=spread,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=donor.tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=patches**2,
        vision_feature_layer=-1, vision_feature_select_strategy="default",
    )  # fmt: skip
    torch.manual_seed(0)
    network = LlavaForConditionalGeneration(config)
    images = LlavaImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    processor = LlavaProcessor(
        image_processor=images, tokenizer=donor.tokenizer, patch_size=patch, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=donor.chat_template,
    )  # fmt: skip
    return _subject("random weights", LVLM(network, processor))


def _subject(name: str, lvlm: LVLM) -> Subject:
    pictures = rendered(1 + _REFERENCES[name])
    capture = lvlm.capture(pictures[0], QUESTION)
    baseline = mean_baseline(lvlm.capture(picture, QUESTION) for picture in pictures[1:])
    tokens = capture.image.stop - capture.image.start
    return Subject(f"{name}, {tokens} image tokens", lvlm, pictures[0], capture, baseline, capture.greedy_token())
