"""LLaVA-1.5-7B and Qwen2.5-VL-7B in their exact shapes, with random weights: nothing is downloaded, the arithmetic is the same."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
)  # fmt: skip
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from bench import subjects
from headflow.models.lvlm import LVLM
from headflow.models.processors import assemble

SPECIAL = (
    "<unk>", "<s>", "</s>", "<pad>", "<image>",
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
LLAVA_CHAT = (
    "<s>{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN_CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPREAD = 1.28  # of a projection of normalised input: 0.02 · √4096, as both families are initialised


@dataclass(frozen=True)
class Shape:
    """How to build one model.

    Attributes:
        name: the model whose shapes these are.
        parameters: how many it has, in billions.
        config, tiny: its configuration, and one of the same structure that takes a second on a CPU; given token ids by name.
        side, tiny_side: side of the square pictures, pixels; 576 image tokens in the exact shape.
    """

    name: str
    parameters: float
    config: Callable[[dict[str, int]], PretrainedConfig]
    tiny: Callable[[dict[str, int]], PretrainedConfig]
    side: int
    tiny_side: int


def _llava(ids: dict[str, int], *, vision: dict, text: dict) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(patch_size=14, **vision),
        text_config=LlamaConfig(
            rms_norm_eps=1e-5, max_position_embeddings=4096, bos_token_id=ids["<s>"], eos_token_id=ids["</s>"], pad_token_id=ids["<pad>"], **text
        ),
        image_token_index=ids["<image>"], image_seq_length=(vision["image_size"] // 14) ** 2, vision_feature_layer=-2,
        vision_feature_select_strategy="default", tie_word_embeddings=False,
    )  # fmt: skip


def _qwen(ids: dict[str, int], *, vision: dict, text: dict, sections: list[int]) -> Qwen2_5_VLConfig:
    text = {
        "rms_norm_eps": 1e-6, "max_position_embeddings": 128_000, "bos_token_id": ids["<s>"], "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<pad>"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}, **text,
    }  # fmt: skip
    return Qwen2_5_VLConfig(
        vision_config={"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "tokens_per_second": 2, "window_size": 112, **vision},
        text_config=text, image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"], tie_word_embeddings=False,
    )  # fmt: skip


SHAPES = {
    "llava": Shape(
        "LLaVA-1.5-7B", 7.06,
        lambda ids: _llava(
            ids,
            vision={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336,
                    "projection_dim": 768},
            text={"vocab_size": 32_064, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32},
        ),
        lambda ids: _llava(
            ids,
            vision={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "projection_dim": 32},
            text={"vocab_size": 128, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4},
        ),
        336, 56,
    ),
    "qwen": Shape(
        "Qwen2.5-VL-7B", 8.29,
        lambda ids: _qwen(
            ids,
            vision={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
                    "fullatt_block_indexes": [7, 15, 23, 31]},
            text={"vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28,
                  "num_key_value_heads": 4},
            sections=[16, 24, 24],
        ),
        lambda ids: _qwen(
            ids,
            vision={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64, "fullatt_block_indexes": [1]},
            text={"vocab_size": 128, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "num_key_value_heads": 2},
            sections=[2, 3, 3],
        ),
        672, 112,
    ),
}  # fmt: skip


def build(shape: Shape, *, tiny: bool, device: torch.device, dtype: torch.dtype) -> LVLM:
    """The model on its device, its weights drawn there, with a processor for the question of the benchmark."""
    tokenizer = _tokenizer()
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = (shape.tiny if tiny else shape.config)(ids)
    with torch.device(device):
        network = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    _draw(network)
    return LVLM(network, _processor(config, tokenizer, shape.tiny_side if tiny else shape.side))


def pictures(shape: Shape, count: int, *, tiny: bool) -> list[Image.Image]:
    """Rendered scenes of the size that gives the shape its image tokens."""
    side = shape.tiny_side if tiny else shape.side
    return [Image.fromarray(picture).resize((side, side)) for picture in subjects.rendered(count)]


@torch.no_grad()
def _draw(network: PreTrainedModel) -> None:
    """Weights under which 32 layers neither overflow nor multiply rounding: every layer adds a like, small amount."""
    torch.manual_seed(0)
    depth = network.config.get_text_config().num_hidden_layers
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        spread = 1.0 if "embed_tokens" in name else _SPREAD * (weight.numel() / len(weight)) ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            spread /= (2 * depth) ** 0.5
        weight.normal_(0.0, spread)


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the prompts; its ids lie inside any vocabulary."""
    split = Regex(r"\n|\w+|[^\w\s]")
    texts = f"{subjects.QUESTION} USER ASSISTANT : system user assistant You are a helpful assistant."
    words = list(dict.fromkeys(["\n", *(text for text, _ in pre_tokenizers.Split(split, "removed", invert=True).pre_tokenize_str(texts))]))
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate([*SPECIAL, *words])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(split, "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=list(SPECIAL[4:]), unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        clean_up_tokenization_spaces=False, padding_side="left",
    )  # fmt: skip


def _processor(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, side: int) -> ProcessorMixin:
    if isinstance(config, LlavaConfig):
        images = LlavaImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        return LlavaProcessor(
            image_processor=images, tokenizer=tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
            chat_template=LLAVA_CHAT,
        )  # fmt: skip
    parts = {"image_processor": Qwen2VLImageProcessorPil(), "tokenizer": tokenizer}
    return assemble(Qwen2_5_VLProcessor, parts, {"chat_template": QWEN_CHAT})


def fewer_bits(lvlm: LVLM, dtype: torch.dtype) -> None:
    """Round the weights in place; buffers, such as the frequencies of the positions, stay in float32 as in a loaded model."""
    for weight in lvlm.model.parameters():
        weight.data = weight.data.to(dtype)


def whole_groups(masks: np.ndarray, kv_heads: int) -> np.ndarray:
    """Masks that cut heads sharing a key head together: all that a cache of one key a key head can do; unchanged without sharing."""
    return np.repeat(masks[..., :: masks.shape[-1] // kv_heads], masks.shape[-1] // kv_heads, axis=-1)
