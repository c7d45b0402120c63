"""A random checkpoint of Llama 3.2 Vision: the text reads the picture through layers of cross-attention, not through tokens."""

from pathlib import Path

import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from tests.families import Family
from tests.families.saving import draw_weights, save
from tests.families.tokenizers import byte_level

# What meta-llama/Llama-3.2-11B-Vision-Instruct's template makes of a conversation whose first message has a picture.
_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% for c in message['content'] %}{% if c['type'] == 'image' %}{{ '<|image|>' }}{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_TILE = 16  # pixels
_WIDTH = 16  # of the vision tower
_CROSS = (1, 3)


def _mllama(folder: Path) -> Path:
    """Five layers, two of them cross-attention. The image token stands behind the vocabulary: it has an embedding and no logit."""
    tokenizer = byte_level(
        ["<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>"], bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|finetune_right_pad_id|>"
    )
    vocabulary = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image|>"]})
    vision = {
        "hidden_size": _WIDTH, "intermediate_size": 32, "num_hidden_layers": 3, "num_global_layers": 1, "attention_heads": 2, "image_size": _TILE,
        "patch_size": 4, "max_num_tiles": 4, "intermediate_layers_indices": [0, 1], "vision_output_dim": 3 * _WIDTH,
    }  # fmt: skip
    text = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
        "cross_attention_layers": list(_CROSS), "max_position_embeddings": 512, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"))
    model = draw_weights(MllamaForConditionalGeneration(config))
    with torch.no_grad():
        for layer in _CROSS:
            # A fresh model keeps the gates of these layers shut.
            model.get_decoder().layers[layer].cross_attn_attn_gate.fill_(1.0)
            model.get_decoder().layers[layer].cross_attn_mlp_gate.fill_(0.5)
    images = MllamaImageProcessorPil(size={"height": _TILE, "width": _TILE}, max_image_tiles=4, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return save(folder, model, tokenizer, images, "MllamaProcessor", _CHAT)


FAMILIES = (Family("mllama", _mllama, (40, 24), prefix="cross"),)
