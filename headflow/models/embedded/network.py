"""The network, its tokenizer and its processor: real transformers classes, built from a recipe."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from headflow.datasets.scenes.questions import all_words
from headflow.models.embedded.recipe import Recipe

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
UNKNOWN, BEGIN, END, PAD, IMAGE = range(len(SPECIAL_TOKENS))

MAX_POSITIONS = 256

# LLaVA-1.5's prompt: USER: <image>\nQUESTION ASSISTANT: ANSWER</s>
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- 'USER: ' -}}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] + ' ' -}}{%- endfor -%}
{%- else -%}
{{- 'ASSISTANT: ' -}}
{%- for part in message['content'] -%}{{- part['text'] -}}{%- endfor -%}
{{- '</s>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, punctuation mark or newline, of every question and answer about a scene."""
    split = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), behavior="removed", invert=True)
    texts = ("USER: \n ASSISTANT:", *all_words())
    words = dict.fromkeys(word for text in texts for word, _ in split.pre_tokenize_str(text))
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate((*SPECIAL_TOKENS, *words))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN)])
    tokenizer.decoder = decoders.WordPiece(cleanup=True)  # a space between words, none before punctuation
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=["<image>"], clean_up_tokenization_spaces=False, padding_side="left", model_max_length=MAX_POSITIONS,
    )  # fmt: skip


def build_processor(recipe: Recipe) -> LlavaProcessor:
    """The processor: prompts to token ids, images to pixels in [-1, 1]."""
    size = recipe.scenes.image_size
    images = LlavaImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        image_processor=images, tokenizer=build_tokenizer(), patch_size=recipe.patch_size, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def build_network(recipe: Recipe, vocabulary_size: int) -> LlavaForConditionalGeneration:
    """CLIP vision tower, LLaVA projector and Llama with random weights from torch's global generator."""
    vision = CLIPVisionConfig(
        hidden_size=recipe.vision_width, intermediate_size=recipe.vision_hidden, num_hidden_layers=recipe.vision_layers,
        num_attention_heads=recipe.vision_heads, image_size=recipe.scenes.image_size, patch_size=recipe.patch_size,
        projection_dim=recipe.vision_width, hidden_act="gelu",
    )  # fmt: skip
    special = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
    text = LlamaConfig(
        vocab_size=vocabulary_size, hidden_size=recipe.width, intermediate_size=recipe.hidden, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads, head_dim=recipe.head_width, max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=1e-5, initializer_range=0.04, rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_base}, **special,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=recipe.image_tokens,
        vision_feature_layer=-1, vision_feature_select_strategy="default", tie_word_embeddings=False,
    )  # fmt: skip
    for key, value in special.items():
        setattr(config, key, value)
    network = LlavaForConditionalGeneration(config)
    network.generation_config.update(**special)
    return network


def to_pixels(images: list[UInt8[np.ndarray, "size size 3"]]) -> Float[Tensor, "batch 3 size size"]:
    """What the processor makes of pictures that already have the right size."""
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def patch_features(network: LlavaForConditionalGeneration, pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch patches width"]:
    """The vision tower's output without its class token, as the projector gets it."""
    return network.model.vision_tower(pixels).last_hidden_state[:, 1:]
