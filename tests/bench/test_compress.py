"""The benchmark of compressed contexts runs, and the cache holds what stays and nothing else."""

from pathlib import Path

import pytest
import torch

from bench import compress
from headflow.models.embedded.network import build_network, build_processor
from headflow.models.embedded.recipe import Recipe


def test_the_cache_shrinks_with_the_context(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = Recipe()
    processor = build_processor(recipe)
    build_network(recipe, len(processor.tokenizer)).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    figures = compress.run(str(tmp_path), tiny=True)
    ratios, image = figures["ratios"], figures["image_tokens"]
    whole, text = ratios["whole prompt"]["tokens"], ratios["text alone"]["tokens"]
    assert image == 196 and whole - text == image and ratios["text and 5 %"]["tokens"] == text + 10
    assert all(row["cache"] == pytest.approx(row["tokens"] / whole) for row in ratios.values())
    assert all(least <= median <= most for row in ratios.values() for median, least, most in (row["one"], row["many"]))
