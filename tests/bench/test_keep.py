"""The benchmark of kept tokens runs, and fewer tokens leave the smaller cache that they must."""

from pathlib import Path

import pytest
import torch

from bench import keep
from headflow.models.embedded.network import build_network, build_processor
from headflow.models.embedded.recipe import Recipe


def test_the_cache_shrinks_with_the_tokens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = Recipe()
    processor = build_processor(recipe)
    build_network(recipe, len(processor.tokenizer)).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    figures = keep.run(str(tmp_path), tiny=True)
    ratios, image = figures["ratios"], figures["image_tokens"]
    assert image == 196 and ratios["stock"]["cache"] == ratios["100 % removed"]["cache"] == 1
    whole = {percent: ratios[f"{percent} % removed"]["cache"] for percent in (50, 10)}
    # All that is left of the difference is the text.
    tokens = (image - 98) / (1 - whole[50])
    assert whole[10] == pytest.approx(1 - (image - 20) / tokens) and ratios["10 % closed"]["cache"] == whole[10]
    assert all(least <= median <= most for row in ratios.values() for median, least, most in (row["first"], row["answer"]))
