"""Real fast tokenizers, trained on a few sentences: byte-level BPE, and BPE on word boundaries as SentencePiece makes it.

Both hold all 256 bytes, so that any text has tokens.
"""

import json
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "What is the main object? Answer with one word.", "You are a helpful assistant.", "A chat between a human and an artificial intelligence assistant.",
    "system user assistant model human", "USER: ASSISTANT: User: Assistant:", "cat dog tree house red green blue yes no", "a cat and a dog, a tree",
] * 4  # fmt: skip
_VOCABULARY = 420
_SPACE = "\u2581"


def byte_level(special: Sequence[str], *, bos: str | None = None, eos: str, pad: str, **named: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as Qwen, Llama 3, SmolLM and Mistral's newer models have: a space belongs to the word after it.

    Args:
        special: tokens that are never split; ``bos``, ``eos``, ``pad`` and ``named`` need not be repeated.
        bos: token that the tokenizer puts before every text (None = nothing).
        eos, pad: end of text and padding.
        named: further tokens that the processor asks for by attribute, such as ``start_image_token="<img>"``.
    """
    every = _unique([pad, bos, eos, *named.values(), *special])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY, min_frequency=2, special_tokens=every, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _fast(tokenizer, every, bos, named, bos_token=bos, eos_token=eos, pad_token=pad)


def sentence_piece(
    special: Sequence[str], *, bos: str | None = "<s>", eos: str = "</s>", pad: str = "<pad>", unknown: str = "<unk>", prepend: bool = True, **named: str
) -> PreTrainedTokenizerFast:
    """BPE over text whose spaces are "▁", with byte tokens for all other characters, as Llama 2, Mistral and Gemma have.

    Args:
        special, bos, eos, pad, named: see :func:`byte_level`.
        unknown: the unknown token.
        prepend: put a space before every text (Llama 2 does, Gemma does not).
    """
    every = _unique([unknown, bos, eos, pad, *named.values(), *special])
    learner = Tokenizer(models.BPE())
    words = pre_tokenizers.Metaspace(prepend_scheme="first" if prepend else "never")
    learner.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Punctuation()])
    learner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=_VOCABULARY - 256, min_frequency=2, special_tokens=every, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    # The order of SentencePiece's own files: special tokens, bytes, then what was learned.
    pieces = _unique([*every, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(learned["vocab"], key=learned["vocab"].get)])
    merges = [tuple(merge) for merge in learned["merges"]]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prepend else spaces
    strip = [decoders.Strip(" ", left=1)] if prepend else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return _fast(tokenizer, every, bos, named, bos_token=bos, eos_token=eos, pad_token=pad, unk_token=unknown)


def _unique(names: Sequence[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))


def _fast(tokenizer: Tokenizer, special: Sequence[str], bos: str | None, named: dict[str, str], **names: str | None) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens=named, clean_up_tokenization_spaces=False, padding_side="left",
        **{name: token for name, token in names.items() if token is not None},
    )  # fmt: skip
