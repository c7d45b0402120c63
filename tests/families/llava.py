"""Random checkpoints of the families in which a projector puts a vision tower's features in place of image tokens."""

from pathlib import Path

from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from tests.families import Family
from tests.families.saving import draw_weights, save
from tests.families.tokenizers import byte_level, sentence_piece

# The templates of the hub's checkpoints (llava-hf/llava-1.5-7b-hf and so on).
_IMAGES_FIRST = "{% for c in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
_VICUNA_CHAT = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}" + _IMAGES_FIRST
    + "{% for c in message['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)  # fmt: skip
_INST_CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}" + _IMAGES_FIRST
    + "{% for c in message['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}{% endfor %}{{ ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> ' }}{% endif %}{% endfor %}"
)  # fmt: skip
_ONEVISION_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for c in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for c in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + c['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_INTERNVL_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for c in message['content'] %}"
    "{% if c['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PIXTRAL_CHAT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST]' }}{% for c in message['content'] %}"
    "{% if c['type'] == 'image' %}{{ '[IMG]' }}{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{{ '[/INST]' }}"
    "{% else %}{{ message['content'][0]['text'] + eos_token }}{% endif %}{% endfor %}"
)
_MISTRAL3_CHAT = _PIXTRAL_CHAT.replace("{{ bos_token }}", "{{ bos_token }}{{ '[SYSTEM_PROMPT]You are a helpful assistant.[/SYSTEM_PROMPT]' }}")

_TILE = 16  # pixels: one vision tower's picture, of 4 x 4 patches
_PATCH = 4
_PINPOINTS = [[_TILE, 2 * _TILE], [2 * _TILE, _TILE], [2 * _TILE, 2 * _TILE], [3 * _TILE, _TILE], [_TILE, 3 * _TILE]]
_NORMALISE = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_SQUARE = {"size": {"shortest_edge": _TILE}, "crop_size": {"height": _TILE, "width": _TILE}, **_NORMALISE}


def _text(kind: type[PreTrainedConfig], tokenizer: PreTrainedTokenizerFast, kv_heads: int, **options: object) -> PreTrainedConfig:
    return kind(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=kv_heads,
        max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **options,
    )  # fmt: skip


def _vision(kind: type[PreTrainedConfig], **options: object) -> PreTrainedConfig:
    common = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return kind(**common | {"image_size": _TILE, "patch_size": _PATCH} | options)


def _llava(folder: Path) -> Path:
    """LLaVA-1.5: CLIP without its class token, every query head its own key head."""
    tokenizer = sentence_piece(["<image>"])
    config = LlavaConfig(
        vision_config=_vision(CLIPVisionConfig), text_config=_text(LlamaConfig, tokenizer, 4), image_seq_length=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    return save(
        folder, draw_weights(LlavaForConditionalGeneration(config)), tokenizer, LlavaImageProcessorPil(**_SQUARE), "LlavaProcessor", _VICUNA_CHAT,
        patch_size=_PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


def _llava_next(folder: Path, text: type[PreTrainedConfig], chat: str, **options: object) -> Path:
    """LLaVA-NeXT: the whole picture and its tiles, with a newline feature at the end of each row of patches."""
    tokenizer = sentence_piece(["<image>"])
    config = LlavaNextConfig(
        vision_config=_vision(CLIPVisionConfig), text_config=_text(text, tokenizer, 2, **options), image_seq_length=16, image_grid_pinpoints=_PINPOINTS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    images = LlavaNextImageProcessorPil(image_grid_pinpoints=_PINPOINTS, **_SQUARE)
    return save(
        folder, draw_weights(LlavaNextForConditionalGeneration(config)), tokenizer, images, "LlavaNextProcessor", chat,
        patch_size=_PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


def _llava_next_mistral(folder: Path) -> Path:
    # 24 keys: the last tokens see the end of the picture only.
    return _llava_next(folder, MistralConfig, _INST_CHAT, sliding_window=24)


def _llava_next_llama(folder: Path) -> Path:
    return _llava_next(folder, LlamaConfig, _VICUNA_CHAT)


def _llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: SigLIP with all its tokens; tiles beyond the limit are interpolated down."""
    tokenizer = byte_level(["<|im_start|>", "<image>", "<video>"], eos="<|im_end|>", pad="<|endoftext|>")
    config = LlavaOnevisionConfig(
        vision_config=_vision(SiglipVisionConfig, vision_use_head=False), text_config=_text(Qwen2Config, tokenizer, 2),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=_PINPOINTS, vision_aspect_ratio="anyres_max_1",
    )  # fmt: skip
    images = LlavaOnevisionImageProcessorPil(size={"height": _TILE, "width": _TILE}, image_grid_pinpoints=_PINPOINTS, **_NORMALISE)
    return save(
        folder, draw_weights(LlavaOnevisionForConditionalGeneration(config)), tokenizer, images, "LlavaOnevisionProcessor", _ONEVISION_CHAT,
        num_image_tokens=16, vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_1",
    )  # fmt: skip


def _internvl(folder: Path, text: type[PreTrainedConfig], **options: object) -> Path:
    """InternVL: tiles and a thumbnail, four patches merged into one token, no token between tiles."""
    tokenizer = byte_level(
        ["<|im_start|>"], eos="<|im_end|>", pad="<|endoftext|>", start_image_token="<img>", end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>", video_token="<video>",
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=_vision(InternVLVisionConfig), text_config=_text(text, tokenizer, 2, **options), image_seq_length=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"), tie_word_embeddings=False,
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(size={"height": _TILE, "width": _TILE}, crop_to_patches=True, min_patches=1, max_patches=6, **_NORMALISE)
    return save(folder, draw_weights(InternVLForConditionalGeneration(config)), tokenizer, images, "InternVLProcessor", _INTERNVL_CHAT, image_seq_length=4)


def _internvl_qwen2(folder: Path) -> Path:
    return _internvl(folder, Qwen2Config)


def _internvl_qwen3(folder: Path) -> Path:
    # Heads wider than hidden_size / heads, and a norm on queries and keys.
    return _internvl(folder, Qwen3Config, head_dim=16)


def _pixtral_tokenizer() -> PreTrainedTokenizerFast:
    markers = ["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    return byte_level(markers, bos="<s>", eos="</s>", pad="<pad>")


def _pixtral_images() -> PixtralImageProcessorPil:
    return PixtralImageProcessorPil(size={"longest_edge": 3 * _TILE}, patch_size={"height": _PATCH, "width": _PATCH}, **_NORMALISE)


def _mistral3(folder: Path) -> Path:
    """Mistral 3: pictures of any shape, four patches merged into one token, a break token at the end of each row."""
    tokenizer = _pixtral_tokenizer()
    config = Mistral3Config(
        vision_config=_vision(PixtralVisionConfig, image_size=3 * _TILE), text_config=_text(MistralConfig, tokenizer, 2, head_dim=8, sliding_window=None),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"), spatial_merge_size=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = draw_weights(Mistral3ForConditionalGeneration(config))
    return save(folder, model, tokenizer, _pixtral_images(), "PixtralProcessor", _MISTRAL3_CHAT, patch_size=_PATCH, spatial_merge_size=2)


def _pixtral_llava(folder: Path) -> Path:
    """Pixtral: its vision tower in LLaVA's class, one token a patch, a break token at the end of each row."""
    tokenizer = _pixtral_tokenizer()
    config = LlavaConfig(
        vision_config=_vision(PixtralVisionConfig, image_size=3 * _TILE), text_config=_text(MistralConfig, tokenizer, 1, sliding_window=None),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"), image_seq_length=1, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    model = draw_weights(LlavaForConditionalGeneration(config))
    return save(folder, model, tokenizer, _pixtral_images(), "PixtralProcessor", _PIXTRAL_CHAT, patch_size=_PATCH)


_WIDE = (40, 24)  # pixels: several tiles, and padding to be taken off again
FAMILIES = (
    Family("llava", _llava, (_TILE, _TILE)),
    Family("llava_next_mistral", _llava_next_mistral, _WIDE),
    Family("llava_next_llama", _llava_next_llama, _WIDE),
    Family("llava_onevision", _llava_onevision, _WIDE),
    Family("internvl_qwen2", _internvl_qwen2, _WIDE),
    Family("internvl_qwen3", _internvl_qwen3, _WIDE),
    Family("mistral3", _mistral3, _WIDE),
    Family("pixtral_llava", _pixtral_llava, _WIDE),
)
