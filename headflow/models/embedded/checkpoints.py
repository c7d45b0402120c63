"""Trained models on disk: what transformers loads, plus the recipe that made them."""

import copy
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from headflow.files import write_json
from headflow.models.embedded.recipe import RECIPE_FILE, Recipe


def save_checkpoint(network: LlavaForConditionalGeneration, processor: LlavaProcessor, recipe: Recipe, folder: Path) -> None:
    """Write a checkpoint, weights in bfloat16, that ``AutoProcessor`` and ``AutoModelForImageTextToText`` load."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(network).to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    write_json(folder / RECIPE_FILE, recipe.model_dump(mode="json"))


def load_checkpoint(folder: Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The network, in float32 and ready to run, and its processor. Nothing is downloaded."""
    network = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    return network, AutoProcessor.from_pretrained(folder, local_files_only=True)
