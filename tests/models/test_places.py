"""Boxes of image tokens: against each family's documented geometry, and against what stock towers do when attention adds nothing."""

import re
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

import headflow
from headflow.models import unmixed
from headflow.models.capture import Capture
from headflow.models.lvlm import LVLM
from headflow.models.places import Places, places
from tests.families import FAMILIES, QUESTION

WIDE = (40, 24)
NOWHERE = np.full((1, 4), np.nan)
# Where resampling averages several pixels, those at the border of a picture lie a little further in: share of a box's side.
TOLERANCE = 0.025
# Reach of Lanczos resampling, 3 of the processor's pixels, over the smallest token, 4 of them.
BLUR = 0.75
# The last product of attention in a block, by the names that towers give it.
OUTPUT = re.compile(r"(attn|attention)\.(out_proj|o_proj|proj|projection_layer)$")


def picture(size: tuple[int, int], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LVLM]:
    """A family's random model; ``fresh`` for a test that changes it."""
    folders, loaded = {}, {}

    def get(name: str, *, fresh: bool = False) -> LVLM:
        if name not in folders:
            folders[name] = FAMILIES[name].build(tmp_path_factory.mktemp(name))
        if fresh:
            return headflow.load(folders[name])
        if name not in loaded:
            loaded[name] = headflow.load(folders[name])
        return loaded[name]

    return get


def measure(lvlm: LVLM, size: tuple[int, int]) -> Places:
    return places(lvlm.capture(picture(size), QUESTION))


def between(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """Boxes of a grid with these borders, row by row."""
    return np.array([[x[i], y[j], x[i + 1], y[j + 1]] for j in range(len(y) - 1) for i in range(len(x) - 1)])


def grid(columns: int, rows: int, left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return between(np.linspace(left, right, columns + 1), np.linspace(top, bottom, rows + 1))


def row_ends(boxes: np.ndarray, columns: int) -> np.ndarray:
    """The same with a structural token after each row."""
    return np.concatenate([part for row in boxes.reshape(-1, columns, 4) for part in (row, NOWHERE)])


def tiles(columns: int, rows: int, part: Callable[..., np.ndarray], size: tuple[int, int] = WIDE) -> list[np.ndarray]:
    edges = grid(columns, rows, 0, 0, *size)
    return [part(*edge) for edge in edges]


def llava(width: int, height: int) -> np.ndarray:
    """The shorter side becomes 16 pixels (the longer is rounded down), and the middle 16 x 16 are 4 x 4 patches."""
    scale = 16 / min(width, height)
    wide, high = (16 if side == min(width, height) else int(side * scale) for side in (width, height))
    left, top = (wide - 16) // 2, (high - 16) // 2
    return between((left + 4 * np.arange(5)) * width / wide, (top + 4 * np.arange(5)) * height / high)


def llava_next() -> np.ndarray:
    """The whole picture in 4 x 4 patches; then 32 x 20 pixels in the middle of 32 x 32, of whose 8 rows of patches 4 are kept, from 8 pixels on."""
    rows = (np.arange(8, 25, 4) - 6) * 24 / 20
    return np.concatenate([grid(4, 4, 0, 0, *WIDE), row_ends(between(np.linspace(0, 40, 9), rows), 8)])


def llava_onevision() -> np.ndarray:
    """The same 8 x 4 features, interpolated to 5 x 2: of each axis two neighbours go into each token."""
    columns, rows = (0, 1, 3, 5, 6), (0, 2)  # floor((j + 0.5) * 8 / 5 - 0.5), and the next one
    boxes = np.array([[5 * i, (8 + 4 * j - 6) * 1.2, 5 * (i + 2), (16 + 4 * j - 6) * 1.2] for j in rows for i in columns], float)
    return np.concatenate([grid(4, 4, 0, 0, *WIDE), row_ends(boxes, 5)])


def internvl() -> np.ndarray:
    """3 x 2 tiles of 2 x 2 tokens, then a thumbnail of 2 x 2."""
    return np.concatenate([*tiles(3, 2, lambda *edges: grid(2, 2, *edges)), grid(2, 2, 0, 0, *WIDE)])


def idefics(marker: int, new_line: int, whole: int) -> np.ndarray:
    """2 x 2 tiles of 2 x 2 tokens and the whole picture, with so many tokens between tiles, rows and views."""
    between_tiles = [np.repeat(NOWHERE, count, 0) for count in (marker, new_line, marker, whole)]
    parts = [part for tile, gap in zip(tiles(2, 2, lambda *edges: grid(2, 2, *edges)), between_tiles, strict=True) for part in (tile, gap)]
    return np.concatenate([*parts, grid(2, 2, 0, 0, *WIDE)])


def mllama() -> np.ndarray:
    """32 x 19 pixels at the top of 2 x 2 tiles; each tile has a class token and 4 x 4 patches, of which one holds the last 3 rows of pixels."""
    x, y = np.arange(0, 33, 4) * 40 / 32, np.append(np.arange(0, 17, 4), 19) * 24 / 19
    boxes = [between(x[i : i + 5], y[j : j + 5][:5]) for j, i in ((0, 0), (0, 4), (4, 0), (4, 4))]
    padded = [np.concatenate([NOWHERE, part, np.full((16 - len(part), 4), np.nan)]) for part in boxes]
    return np.concatenate(padded)


WHOLE = grid(4, 4, 0, 0, *WIDE)
EXPECTED = {
    "llava": llava(*WIDE),
    "llava_next_mistral": llava_next(),
    "llava_next_llama": llava_next(),
    "llava_onevision": llava_onevision(),
    "internvl_qwen2": internvl(),
    "internvl_qwen3": internvl(),
    "mistral3": row_ends(grid(5, 3, 0, 0, *WIDE), 5)[:-1],
    "pixtral_llava": row_ends(grid(10, 6, 0, 0, *WIDE), 10)[:-1],
    "qwen2_vl": grid(5, 3, 0, 0, *WIDE),
    "qwen2_5_vl": grid(5, 3, 0, 0, *WIDE),
    "qwen3_vl": grid(5, 3, 0, 0, *WIDE),
    "gemma3": WHOLE,
    "paligemma": WHOLE,
    "paligemma2": WHOLE,
    "idefics3": idefics(14, 15, 14),
    "smolvlm": idefics(2, 3, 4),
    "mllama": mllama(),
}


def assert_boxes(found: Places, expected: np.ndarray) -> None:
    assert found.exact, found.reason
    assert found.boxes.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(found.boxes), np.isnan(expected))
    sides = np.tile(expected[:, 2:] - expected[:, :2], 2)
    assert np.nanmax(np.abs(found.boxes - expected) / sides) < TOLERANCE


@pytest.mark.parametrize("name", list(FAMILIES))
def test_boxes_are_those_of_the_documented_geometry(load, name):
    found = measure(load(name), WIDE)
    assert_boxes(found, EXPECTED[name])
    assert found.size == WIDE
    assert found.covered == (pytest.approx(0.6, abs=0.05) if name == "llava" else 1)


@pytest.mark.parametrize("size", [(61, 37), (30, 90)])
def test_boxes_of_other_shapes(load, size):
    assert_boxes(measure(load("llava"), size), llava(*size))
    assert_boxes(measure(load("paligemma"), size), grid(4, 4, 0, 0, *size))
    high, wide = smart_resize(size[1], size[0], factor=8, min_pixels=16 * 16, max_pixels=64 * 64)
    for name in ("qwen2_vl", "qwen2_5_vl"):
        assert_boxes(measure(load(name), size), grid(wide // 8, high // 8, 0, 0, *size))
    shrunk = [int(side / max(1, max(size) / 48)) for side in size]
    columns, rows = (-(-side // 4) for side in shrunk)
    assert_boxes(measure(load("pixtral_llava"), size), row_ends(grid(columns, rows, 0, 0, *size), columns)[:-1])


@pytest.mark.parametrize("name", list(FAMILIES))
def test_stock_tower_without_attention_answers_to_the_box_and_no_more(load, name):
    """The tower's attention is made to add nothing, by its weights; then the stock model is shown pictures that differ inside one box."""
    lvlm = load(name, fresh=True)
    text = set(lvlm.decoder.modules())
    silenced = [m for path, m in lvlm.model.named_modules() if OUTPUT.search(path) and m not in text]
    assert len(silenced) >= 2
    for module in silenced:
        for weight in module.parameters():
            weight.zero_()
    shown = picture(WIDE)
    before = lvlm.capture(shown, QUESTION)
    boxes = measure(lvlm, WIDE).boxes
    ordinary = np.flatnonzero(np.isfinite(boxes[:, 0]))
    for token in ordinary[:: max(1, len(ordinary) // 5)]:
        left, top, right, bottom = np.rint(boxes[token]).astype(int)
        other = shown.copy()
        other[top:bottom, left:right] = 255 - other[top:bottom, left:right]
        after = lvlm.capture(other, QUESTION).image_embeddings
        change = (after - before.image_embeddings).abs().amax(1).numpy() / float(before.image_embeddings.abs().max())
        reach = BLUR * np.tile(boxes[:, 2:] - boxes[:, :2], 2) * [-1, -1, 1, 1] + boxes
        apart = (reach[:, 0] >= right) | (reach[:, 2] <= left) | (reach[:, 1] >= bottom) | (reach[:, 3] <= top) | np.isnan(boxes[:, 0])
        assert change[token] > 1e-3
        assert apart.any()
        assert change[apart].max() < 1e-5


def test_embedded_model_to_the_pixel():
    lvlm = headflow.load("embedded")
    np.testing.assert_array_equal(measure(lvlm, (48, 48)).boxes, grid(6, 6, 0, 0, 48, 48))


def test_half_precision_finds_the_same_boxes(load, tmp_path):
    exact = measure(load("internvl_qwen2"), WIDE).boxes
    lvlm = headflow.load(FAMILIES["internvl_qwen2"].build(tmp_path), dtype="bfloat16")
    np.testing.assert_allclose(measure(lvlm, WIDE).boxes, exact, atol=0.2)


def test_remembered_by_model_size_and_layout(load):
    lvlm = load("qwen2_vl")
    first, again = (places(lvlm.capture(picture(WIDE, seed), QUESTION)) for seed in (1, 2))
    assert first is again
    assert measure(lvlm, (24, 40)) is not first


def tower(lvlm: LVLM) -> torch.nn.Module:
    return lvlm.model.get_encoder(modality="image")


class OwnAttention(torch.nn.Module):
    """Attention that does not go through transformers' interface."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = torch.nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, hidden_states: torch.Tensor, **others: object) -> tuple[torch.Tensor, None]:
        return self.inner(hidden_states, hidden_states, hidden_states)[0], None


class Averaging(torch.nn.Module):
    """Mixes tokens under a name that does not mean attention."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states.mean(1, keepdim=True).expand_as(hidden_states)


class Smoothed(torch.nn.Conv2d):
    """A first layer whose patches run into their neighbours."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(super().forward(pixels), 3, stride=1, padding=1)


def test_attention_of_the_towers_own_is_found_by_its_name(load):
    lvlm = load("llava", fresh=True)
    for layer in tower(lvlm).encoder.layers:
        layer.self_attn = OwnAttention(layer.embed_dim)
    changed = lvlm.capture(picture(WIDE), QUESTION)
    assert_boxes(places(changed), llava(*WIDE))


def test_mixing_that_cannot_be_switched_off_is_reported(load):
    lvlm = load("llava", fresh=True)
    stock = tower(lvlm).embeddings.patch_embedding
    smoothed = Smoothed(3, stock.out_channels, stock.kernel_size, stock.stride, bias=False)
    smoothed.load_state_dict(stock.state_dict())
    tower(lvlm).embeddings.patch_embedding = smoothed.requires_grad_(False)
    assert_not_found(measure(lvlm, WIDE), "more than 4 image tokens")

    lvlm = load("llava", fresh=True)
    tower(lvlm).encoder.layers[0].mlp = Averaging()
    assert_not_found(measure(lvlm, WIDE), "more than 4 image tokens")


def assert_not_found(found: Places, reason: str) -> None:
    assert not found.exact
    assert reason in found.reason
    assert np.isnan(found.boxes).all()
    assert found.covered == 0


def snapshot(capture: Capture) -> torch.Tensor:
    return torch.cat([capture.image_embeddings.flatten(), capture.logits])


@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama"])
def test_other_threads_keep_the_stock_attention(load, name, hooks):
    lvlm = load(name)
    stock, meanwhile = snapshot(lvlm.capture(picture(WIDE), QUESTION)), []
    with unmixed._unmixed(lvlm, hooks=hooks):
        thread = threading.Thread(target=lambda: meanwhile.append(snapshot(lvlm.capture(picture(WIDE), QUESTION))))
        thread.start()
        thread.join()
        here = snapshot(lvlm.capture(picture(WIDE), QUESTION))
    torch.testing.assert_close(meanwhile[0], stock, rtol=0, atol=0)
    assert not torch.allclose(here, stock, rtol=1e-2)  # the switch was on
    torch.testing.assert_close(snapshot(lvlm.capture(picture(WIDE), QUESTION)), stock, rtol=0, atol=0)


def test_an_error_leaves_the_model_as_it_was(load):
    lvlm = load("idefics3")
    capture = lvlm.capture(picture(WIDE), QUESTION)
    inputs = lvlm.inputs([picture(WIDE)], QUESTION)
    pixels = inputs["pixel_values"][..., :-1].clone().requires_grad_()
    with pytest.raises(RuntimeError):
        unmixed.picture_tokens(lvlm, {**inputs, "pixel_values": pixels}, capture.image)
    torch.testing.assert_close(snapshot(lvlm.capture(picture(WIDE), QUESTION)), snapshot(capture), rtol=0, atol=0)
    assert not any("forward" in vars(module) for module in lvlm.model.modules())
    assert all(getattr(getattr(m, "config", None), "_attn_implementation", None) != unmixed.NAME for m in lvlm.model.modules())
