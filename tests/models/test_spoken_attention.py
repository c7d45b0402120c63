"""Attention of generated tokens, streamed, against what ``generate`` itself says step by step with eager attention."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

import headflow
from headflow.errors import HeadflowError
from headflow.gates import Gate
from headflow.models.baselines import closed_baseline
from headflow.models.capture import Capture
from headflow.models.lvlm import LVLM
from headflow.models.spoken_attention import all_fed, generated_positions, image_attention_of, spoken_shares
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.suffix_pass import Watching
from tests.closure import ROOT
from tests.conftest import random_picture
from tests.families import FAMILIES, QUESTION

NEW = 5


def generated(lvlm: LVLM, picture: np.ndarray, question: str, new: int) -> tuple[list[int], dict[int, list[torch.Tensor]], list[int]]:
    """Greedily generated tokens, and per decoder layer the attention of the prompt's last position and of every one of them, ``[heads, keys]``."""
    lvlm._forget_positions()
    inputs, seen = lvlm.inputs([picture], question), {}
    settings = GenerationConfig(do_sample=False, max_new_tokens=new + 1, min_new_tokens=new + 1, pad_token_id=0)
    before = lvlm.decoder.config._attn_implementation
    lvlm.model.set_attn_implementation("eager")
    handles = [
        module.register_forward_hook(lambda module, args, output: seen.setdefault(module.layer_idx, []).append(output[1][0, :, -1].float()))
        for name, module in lvlm.decoder.named_modules() if name.endswith(("self_attn", "cross_attn"))
    ]  # fmt: skip
    try:
        ids = lvlm.model.generate(**inputs, generation_config=settings)[0, inputs["input_ids"].shape[1] :].tolist()
    finally:
        lvlm.model.set_attn_implementation(before)
        for handle in handles:
            handle.remove()
    assert set(seen) == set(range(lvlm.decoder_layers)) and all(len(steps) == new + 1 for steps in seen.values())
    return ids[:new], seen


def expected(capture: Capture, seen: dict[int, list[torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Per layer, head and generated token the share of each group; and attention to each of the picture's keys, the prompt's last position first."""
    shares, maps = [], []
    prompt = len(capture.input_ids) - len(seen[0]) + 1
    crossing = capture.lvlm.image_layers or ()
    for layer in range(capture.lvlm.decoder_layers):
        rows, looks = [], []
        for step, weights in enumerate(seen[layer]):
            if layer in crossing:
                groups, look = [weights.sum(-1), torch.zeros(len(weights)), torch.zeros(len(weights))], weights
            else:
                whole = torch.nn.functional.pad(weights, (prompt + step - weights.shape[-1], 0))  # a window's cache has forgotten the first keys
                picture = [i for i in range(prompt) if capture.roles[i] == "image" and not crossing]
                text = [i for i in range(prompt) if i not in picture]
                groups, look = [whole[:, picture].sum(-1), whole[:, text].sum(-1), whole[:, prompt:].sum(-1)], whole[:, picture]
            rows.append(torch.stack(groups, -1))
            looks.append(look)
        shares.append(torch.stack(rows[1:], 1))
        if not crossing or layer in crossing:
            maps.append(torch.stack(looks, 1))
    return torch.stack(shares), torch.stack(maps)


def check(lvlm: LVLM, picture: np.ndarray, *, question: str = QUESTION, new: int = NEW, tolerance: float = 1e-5, **options: int) -> None:
    ids, seen = generated(lvlm, picture, question, new)
    capture = lvlm.capture(picture, question, answer=all_fed(ids))
    shares, maps = expected(capture, seen)
    found = spoken_shares(capture, head_maps=True, **options)
    torch.testing.assert_close(found.shares, shares.mean(2), atol=tolerance, rtol=0)
    torch.testing.assert_close(found.head_maps, maps[:, :, 1:].mean(2), atol=tolerance, rtol=0)
    torch.testing.assert_close(found.maps, maps[:, :, 1:].mean((1, 2)), atol=tolerance, rtol=0)
    torch.testing.assert_close(found.shares.sum(-1), torch.ones(lvlm.decoder_layers, lvlm.heads))
    torch.testing.assert_close(found.even.sum(-1), torch.ones(lvlm.decoder_layers))
    chosen = [3, -1, 0, new - 1]
    torch.testing.assert_close(
        image_attention_of(capture, chosen, **options), maps.permute(2, 0, 1, 3)[[token + 1 for token in chosen]], atol=tolerance, rtol=0
    )


@pytest.mark.parametrize("name", list(FAMILIES))
def test_one_fed_forward_is_generation_in_every_family(name, tmp_path):
    family = FAMILIES[name]
    lvlm = headflow.load(family.build(tmp_path))
    check(lvlm, np.random.default_rng(1).integers(0, 256, (*family.size[::-1], 3), dtype=np.uint8))
    assert lvlm.prefix_mode == family.prefix


def test_the_embedded_model_describes_a_scene():
    lvlm = headflow.load("embedded")
    with Image.open(ROOT / "data/pictures/star-1.png") as picture:
        check(lvlm, np.asarray(picture.convert("RGB")), question="Describe the image.", new=9)


@pytest.mark.parametrize("block_bytes", [1, 1500])
def test_any_block_of_queries_gives_the_same(kind, models, block_bytes):
    check(models(kind), random_picture(1), block_bytes=block_bytes)


def test_no_more_weights_are_held_than_a_block(models):
    """However long the description: of every layer one block of queries at a time, in order, each query once."""
    capture = models("gqa").capture(random_picture(1), QUESTION, answer=all_fed([5, 6, 7, 8] * 12))
    seen: dict[int, list[slice]] = {}
    sizes = []

    def take(layer: int, rows: slice, weights: torch.Tensor, visible: torch.Tensor) -> None:
        seen.setdefault(layer, []).append(rows)
        sizes.append(weights.untyped_storage().nbytes())
        assert weights.dtype == torch.float32 and weights.shape[1:] == visible.shape

    with prepared(capture):
        run_suffix(capture, make_bank(capture, closed_baseline()), watching=Watching(take, 20_000))
    assert max(sizes) <= 20_000 and len(sizes) > 6
    for blocks in seen.values():
        assert [row for rows in blocks for row in range(rows.start, rows.stop)] == list(range(capture.computed))
    assert sorted(seen) == [0, 1, 2]


def test_half_precision_shares_still_add_up(models):
    fed = all_fed([5, 6, 7, 8])
    exact, half = (spoken_shares(models("gqa", dtype).capture(random_picture(1), QUESTION, answer=fed)) for dtype in ("float32", "bfloat16"))
    torch.testing.assert_close(half.shares.sum(-1), torch.ones(3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(half.shares, exact.shares, atol=0.1, rtol=0)


def test_even_attention_is_what_the_layer_shows(models):
    """A sliding window of 12 keys: the generated tokens of a long description see less and less of the prompt."""
    lvlm = models("window")
    capture = lvlm.capture(random_picture(1), QUESTION, answer=all_fed([5, 6, 7, 8]))
    prompt, image = generated_positions(capture).start, capture.image
    rows = []
    for position in generated_positions(capture):
        seen = [key for key in range(len(capture.input_ids)) if position - 12 < key <= position]
        parts = [sum(image.start <= key < image.stop for key in seen), sum(key < image.start or image.stop <= key < prompt for key in seen)]
        rows.append([*parts, len(seen) - sum(parts)])
    found = spoken_shares(capture)
    torch.testing.assert_close(found.even, torch.tensor(rows).div(12.0).mean(0).expand(3, 3))
    assert found.tokens == (image.stop - image.start, prompt - image.stop + image.start, 4) and found.head_maps is None


def test_a_description_that_is_not_fed_is_an_error(captures, models):
    capture, _ = captures("mha")
    with pytest.raises(HeadflowError, match="no generated token is run"):
        spoken_shares(capture)
    fed = models("mha").capture(random_picture(1), QUESTION, answer=[5, 6, 7])
    assert image_attention_of(capture, [-1]).shape == (1, 3, 4, 16)
    for tokens in ([], [2], [-2]):
        with pytest.raises(HeadflowError, match=r"no token is named|is not run: 2 are"):
            image_attention_of(fed, tokens)


def test_gates_are_not_watched(captures):
    capture, _ = captures("mha")
    gate = Gate("nothing", layers=torch.ones(3))
    with prepared(capture), pytest.raises(HeadflowError, match="leave the gates out"):
        run_suffix(capture, make_bank(capture, closed_baseline()), [gate], watching=Watching(lambda *_: None))
