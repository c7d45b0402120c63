"""Random checkpoints of the Qwen-VL families: pictures of any shape, positions in three dimensions."""

from pathlib import Path

from tokenizers import normalizers
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.families import Family
from tests.families.saving import draw_weights, save
from tests.families.tokenizers import byte_level

# What Qwen/Qwen2-VL-7B-Instruct's and Qwen/Qwen3-VL-8B-Instruct's templates make of a conversation with pictures; the first adds a system message.
_QWEN3_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' }}{% for c in message['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_QWEN2_CHAT = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + _QWEN3_CHAT

_PATCH = 4  # pixels; 2 x 2 patches are merged into one token
_HIDDEN = 32


def _build(folder: Path, model: type[PreTrainedModel], kind: type[PreTrainedConfig], processor: str, chat: str, vision: dict, text: dict) -> Path:
    tokenizer = byte_level(["<|im_start|>", *_MARKERS.values()], eos="<|im_end|>", pad="<|endoftext|>")
    # Qwen's tokenizers join accents to their letters before anything else.
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _MARKERS.items()}
    config = kind(
        vision_config={"num_heads": 2, "patch_size": _PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
        text_config=_text(tokenizer, **text), tie_word_embeddings=False, **ids,
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(patch_size=_PATCH, merge_size=2, temporal_patch_size=2, min_pixels=16 * 16, max_pixels=64 * 64)
    return save(folder, draw_weights(model(config)), tokenizer, images, processor, chat)


_MARKERS = {
    "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>", "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
}  # fmt: skip


def _text(tokenizer: PreTrainedTokenizerFast, **options: object) -> dict:
    return {
        "vocab_size": len(tokenizer), "hidden_size": _HIDDEN, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, **options,
    }  # fmt: skip


def _qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: the first rotary pairs turn with time, the next with height, the last with width."""
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": _HIDDEN}
    text = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}
    return _build(folder, Qwen2VLForConditionalGeneration, Qwen2VLConfig, "Qwen2VLProcessor", _QWEN2_CHAT, vision, text)


def _qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: all but some layers of the vision tower attend within windows, here of 2 x 2 tokens, and the windows come out reordered."""
    vision = {"depth": 3, "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": _HIDDEN, "window_size": 4 * _PATCH, "fullatt_block_indexes": [1]}
    text = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}}
    return _build(folder, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, "Qwen2_5_VLProcessor", _QWEN2_CHAT, vision, text)


def _qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: features of two vision layers join the first two text layers (deepstack), normed queries and keys, interleaved axes."""
    vision = {
        "depth": 3, "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": _HIDDEN, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    text = {"head_dim": 16, "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [4, 2, 2]}}
    return _build(folder, Qwen3VLForConditionalGeneration, Qwen3VLConfig, "Qwen3VLProcessor", _QWEN3_CHAT, vision, text)


_WIDE = (40, 24)  # pixels: 5 x 3 tokens
FAMILIES = (
    Family("qwen2_vl", _qwen2_vl, _WIDE),
    Family("qwen2_5_vl", _qwen2_5_vl, _WIDE),
    Family("qwen3_vl", _qwen3_vl, _WIDE),
)
