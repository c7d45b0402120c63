"""The tokens of an answer as they follow the prompt; needs a processor and no model."""

from typing import Any

from headflow.errors import HeadflowError
from headflow.prompts import before_answer, prompt_text


def adds_specials(processor: Any, text: str) -> bool:
    """Whether the tokenizer is to add its special tokens: not where the chat template has written the first one itself."""
    first = processor.tokenizer.bos_token
    return not (first and text.startswith(first))


def answer_tokens(processor: Any, question: str, answer: str) -> list[int]:
    """Ids of the tokens of ``answer`` when it follows the prompt that asks ``question``; what would end it is not among them.

    Raises:
        HeadflowError: the answer tokenises to nothing, or holds an unknown token.
    """
    tokenizer = processor.tokenizer
    text = prompt_text(processor, question)
    options = {"add_special_tokens": adds_specials(processor, text)}
    answer = answer.strip()
    whole = tokenizer(text + before_answer(processor, question) + answer, **options)["input_ids"]
    prompt = tokenizer(text, **options)["input_ids"]
    rest = whole[len(prompt) :] if whole[: len(prompt)] == prompt else tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not rest or not answer:
        raise HeadflowError(f"the answer {answer!r} tokenises to nothing")
    if unknown := unknown_words(processor, answer):
        raise HeadflowError(f"the answer {answer!r} holds words that this model does not know: {', '.join(unknown)}")
    return list(rest)


def unknown_words(processor: Any, text: str) -> list[str]:
    """Words of ``text`` that the tokenizer gives its unknown token for; most tokenizers have a token for every byte and so none."""
    tokenizer = processor.tokenizer
    if tokenizer.unk_token_id is None:
        return []
    words = dict.fromkeys(text.split())
    return [word for word in words if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False)["input_ids"]]
