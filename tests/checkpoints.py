"""Small random checkpoints, built from the real transformers classes and saved as a user's folder would be.

Weights are drawn wider than a fresh model's, so that attention is uneven and cutting an edge changes the answer: an
intervention that does nothing cannot pass for one that is right.
"""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)  # fmt: skip
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

LLAVA_CHAT = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SYSTEM_CHAT = "You answer questions about pictures. " + LLAVA_CHAT
QUESTION_FIRST_CHAT = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
NO_IMAGE_CHAT = LLAVA_CHAT.replace("<image>", "")
QWEN_CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><image><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = "What is the main object?"
_TEXT = "USER : ASSISTANT What Which is the main object colour animal ? . , cat dog tree house red green blue yes no a an in of it picture"
_WORDS = ["\n", *_TEXT.split(), *"You answer questions about pictures".split()]  # noqa: SIM905
_SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, as SentencePiece tokenizers of the LLaVA kind mostly are: spaces carry no tokens."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_SPECIAL + _WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _fast(tokenizer, ["<image>"], unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as in the Qwen family: a space belongs to the word after it, and one character may be several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [QUESTION, "You are a helpful assistant.", "system user assistant", "cat dog tree", "a cat and a dog, a tree"] * 4
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, min_frequency=2, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return _fast(tokenizer, special[1:], eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _fast(tokenizer: Tokenizer, special: list[str], **names: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=special, clean_up_tokenization_spaces=False, padding_side="left", **names
    )


def text_config(kind: str, vocabulary: int, layers: int = 3) -> LlamaConfig | MistralConfig:
    common = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers, "num_attention_heads": 4,
        "max_position_embeddings": 512, "initializer_range": 0.25, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
    }  # fmt: skip
    if kind == "mha":
        return LlamaConfig(num_key_value_heads=4, **common)
    if kind == "gqa":
        return LlamaConfig(num_key_value_heads=2, **common)
    # 12 keys: the last tokens see a part of the picture, and the middle ones see all of it but no system tokens.
    return MistralConfig(num_key_value_heads=2, sliding_window=12, **common)


def build_llava(folder: Path, kind: str, *, seed: int = 0, image_size: int = 32, chat: str = LLAVA_CHAT, words: bool = True, layers: int = 3) -> Path:
    """A LLaVA with a text model of ``kind`` (mha, gqa, window), saved in ``folder`` with its processor; tokens are words or bytes."""
    tokenizer = word_tokenizer() if words else byte_tokenizer()
    processor = LlavaProcessor(
        image_processor=LlavaImageProcessorPil(
            size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=chat,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=image_size, patch_size=8, projection_dim=24,
        initializer_range=0.2, initializer_factor=4.0,
    )  # fmt: skip
    text = text_config(kind, len(tokenizer), layers)
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=(image_size // 8) ** 2,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
            initializer_range=0.25,
        )
    )
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 3
    return save(folder, model, processor)


def build_paligemma(folder: Path) -> Path:
    """A PaliGemma whose processor does not tell it which tokens are the prompt (no token types)."""
    tokenizer = word_tokenizer()
    text = GemmaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
        max_position_embeddings=512, initializer_range=0.25, pad_token_id=3, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    vision = SiglipVisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    torch.manual_seed(0)
    model = PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"), projection_dim=32, hidden_size=32)
    )
    # LLaVA's processor builds the same kind of prompt; PaliGemma's own needs a SentencePiece vocabulary of location tokens.
    processor = LlavaProcessor(
        image_processor=LlavaImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="full", num_additional_image_tokens=0, chat_template=LLAVA_CHAT,
    )  # fmt: skip
    return save(folder, model, processor)


def save(folder: Path, model: torch.nn.Module, processor: LlavaProcessor) -> Path:
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
