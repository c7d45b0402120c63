"""Random checkpoints of Idefics3 and SmolVLM: a picture becomes several tiles, with marker text between their tokens."""

from pathlib import Path

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from tests.families import Family
from tests.families.saving import draw_weights, save
from tests.families.tokenizers import byte_level

# What HuggingFaceM4/Idefics3-8B-Llama3's and HuggingFaceTB/SmolVLM-Instruct's templates make of a conversation with pictures.
_CHAT = (
    "START{% for message in messages %}{{ message['role'].capitalize() + (':' if message['content'][0]['type'] == 'image' else ': ') }}"
    "{% for c in message['content'] %}{% if c['type'] == 'image' %}{{ '<image>' }}{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_MARKERS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
_TILE = 16  # pixels: 4 x 4 patches, merged to 2 x 2 tokens
_TILING = {"size": {"longest_edge": 2 * _TILE}, "max_image_size": {"longest_edge": _TILE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def _config(kind: type[PreTrainedConfig], tokenizer: PreTrainedTokenizerFast, kv_heads: int) -> PreTrainedConfig:
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=kv_heads,
        max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    vision = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": _TILE, "patch_size": 4}
    image = tokenizer.convert_tokens_to_ids("<image>")
    return kind(vision_config=vision, text_config=text, scale_factor=2, image_token_id=image, pad_token_id=tokenizer.pad_token_id)


def _draw(model: PreTrainedModel) -> PreTrainedModel:
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    return draw_weights(model)


def _idefics3(folder: Path) -> Path:
    """Idefics3: the names of tiles are plain text, several tokens each."""
    tokenizer = byte_level(["<|eot_id|>", *_MARKERS], bos="<|begin_of_text|>", eos="<|end_of_text|>", pad="<|finetune_right_pad_id|>")
    model = _draw(Idefics3ForConditionalGeneration(_config(Idefics3Config, tokenizer, 2)))
    images = Idefics3ImageProcessorPil(**_TILING)
    return save(folder, model, tokenizer, images, "Idefics3Processor", _CHAT.replace("START", "<|begin_of_text|>"), image_seq_len=4)


def _smolvlm(folder: Path) -> Path:
    """SmolVLM: each tile's name is one token."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    tokenizer = byte_level(["<|im_start|>", "<global-img>", *_MARKERS, *tiles], eos="<end_of_utterance>", pad="<|im_end|>")
    model = _draw(SmolVLMForConditionalGeneration(_config(SmolVLMConfig, tokenizer, 4)))
    images = SmolVLMImageProcessorPil(**_TILING)
    return save(folder, model, tokenizer, images, "SmolVLMProcessor", _CHAT.replace("START", "<|im_start|>"), image_seq_len=4)


_WIDE = (40, 24)  # pixels: 2 x 2 tiles and the whole picture
FAMILIES = (Family("idefics3", _idefics3, _WIDE), Family("smolvlm", _smolvlm, _WIDE))
