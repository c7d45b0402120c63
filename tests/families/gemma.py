"""Random checkpoints of Gemma 3 and of PaliGemma 1 and 2: text models that scale their embeddings, pictures attended in both directions."""

from pathlib import Path

import torch
from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.families import Family
from tests.families.saving import draw_weights, save
from tests.families.tokenizers import sentence_piece

# What google/gemma-3-4b-it's template makes of a conversation with pictures.
_GEMMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% for c in message['content'] %}{% if c['type'] == 'image' %}{{ '<start_of_image>' }}{% elif c['type'] == 'text' %}{{ c['text'] | trim }}{% endif %}"
    "{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

_SIZE = 16  # pixels
_PATCH = 4
_HIDDEN = 32
_NORMALISE = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def _tokenizer(**named: str) -> PreTrainedTokenizerFast:
    return sentence_piece(["<start_of_turn>", "<end_of_turn>"], bos="<bos>", eos="<eos>", prepend=False, **named)


def _text(kind: type[PreTrainedConfig], tokenizer: PreTrainedTokenizerFast, **options: object) -> PreTrainedConfig:
    return kind(
        vocab_size=len(tokenizer), hidden_size=_HIDDEN, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, head_dim=8,
        max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **options,
    )  # fmt: skip


def _vision(size: int) -> SiglipVisionConfig:
    return SiglipVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=size, patch_size=_PATCH, vision_use_head=False
    )


def _draw(model: PreTrainedModel) -> PreTrainedModel:
    """Random weights; the embeddings, which the text model multiplies by the root of its width and shares with the output, so much smaller."""
    draw_weights(model)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(_HIDDEN**-0.5)
    return model


def _gemma3(folder: Path) -> Path:
    """Gemma 3: a picture's tokens see each other both ways; three layers see 20 keys back, one all; normed queries and keys."""
    tokenizer = _tokenizer(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    text = _text(
        Gemma3TextConfig, tokenizer, num_key_value_heads=2, query_pre_attn_scalar=8, sliding_window=20,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    ids = {f"{name}_token_index": tokenizer.convert_tokens_to_ids(getattr(tokenizer, f"{name}_token")) for name in ("boi", "eoi", "image")}
    # 8 x 8 patches, averaged to 4 x 4 tokens.
    config = Gemma3Config(vision_config=_vision(2 * _SIZE), text_config=text, mm_tokens_per_image=16, **ids)
    images = Gemma3ImageProcessorPil(size={"height": 2 * _SIZE, "width": 2 * _SIZE}, **_NORMALISE)
    return save(folder, _draw(Gemma3ForConditionalGeneration(config)), tokenizer, images, "Gemma3Processor", _GEMMA3_CHAT, image_seq_length=16)


def _paligemma(folder: Path, text: type[PreTrainedConfig], **options: object) -> Path:
    """PaliGemma: the whole prompt sees itself both ways; no chat template, and 1152 tokens for places that its processor adds."""
    tokenizer = _tokenizer()
    images = SiglipImageProcessorPil(size={"height": _SIZE, "width": _SIZE}, **_NORMALISE)
    images.image_seq_length = (_SIZE // _PATCH) ** 2
    processor = PaliGemmaProcessor(images, tokenizer)
    config = PaliGemmaConfig(
        vision_config=_vision(_SIZE), text_config=_text(text, tokenizer, **options), projection_dim=_HIDDEN, hidden_size=_HIDDEN,
        vocab_size=len(tokenizer), image_token_index=processor.image_token_id,
    )  # fmt: skip
    save(folder, _draw(PaliGemmaForConditionalGeneration(config)), tokenizer, images, "PaliGemmaProcessor", "")
    (folder / "chat_template.jinja").unlink()
    return folder


def _paligemma1(folder: Path) -> Path:
    return _paligemma(folder, GemmaConfig, num_key_value_heads=1)


def _paligemma2(folder: Path) -> Path:
    # Gemma 2 caps attention scores and logits softly; these caps are low enough to be felt.
    return _paligemma(folder, Gemma2Config, num_key_value_heads=2, query_pre_attn_scalar=8, attn_logit_softcapping=2.0, final_logit_softcapping=5.0)


FAMILIES = (
    Family("gemma3", _gemma3, (40, 24)),
    Family("paligemma", _paligemma1, (40, 24), prefix="recomputed"),
    Family("paligemma2", _paligemma2, (40, 24), prefix="recomputed"),
)
