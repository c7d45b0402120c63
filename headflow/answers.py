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
        HeadflowError: the answer tokenises to nothing, or begins with an unknown token.
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
    if rest[0] == tokenizer.unk_token_id:
        raise HeadflowError(f"the answer {answer!r} begins with a token that this model does not know")
    return list(rest)
