"""How a follow-up question is written, token by token.

- ``turn``: as the user's next turn, after the model's description: what the chat template writes between the model's answer and the place where
  it is to answer again. The description's own keys and values may be gone; the text is the same.
- ``fresh``: as if it were the first question: what a prompt about the picture has after it. For models that know one turn alone. What goes
  before it then is not the first question, so that the only text that stays of the context is what stands before the picture.
"""

from collections.abc import Sequence
from typing import Any, Literal

from jinja2 import TemplateError

from headflow.answers import adds_specials, unknown_words
from headflow.errors import HeadflowError
from headflow.models.lvlm import LVLM, Picture
from headflow.prompts import _message, _template, before_answer, image_span, prompt_text

Asking = Literal["turn", "fresh"]
_ANSWER, _QUESTION = "headflowanswer", "headflowfollowup"


def next_turn(processor: Any, question: str, said: str, followup: str) -> list[int]:
    """Token ids of a follow-up as the user's next turn, from the end of the model's answer to where the model is to answer again.

    Args:
        question: the first question.
        said: what the model answered to it; the tokens that follow it may depend on how it ends.
        followup: the second question.

    Raises:
        HeadflowError: the chat template writes no second turn; the question holds the image token, or words that the model does not know.
    """
    check_followup(processor, followup)
    rest, text = _second_turn(processor, question).replace(_QUESTION, followup), prompt_text(processor, question)
    tokenizer, options = processor.tokenizer, {"add_special_tokens": adds_specials(processor, text)}
    before = text + before_answer(processor, question) + said
    first, whole = tokenizer(before, **options)["input_ids"], tokenizer(before + rest, **options)["input_ids"]
    # Tokenizers that end a prompt with a token of their own, or join what meets here, leave the follow-up to stand by itself.
    return list(whole[len(first) :]) if whole[: len(first)] == first else list(tokenizer(rest, add_special_tokens=False)["input_ids"])


def has_next_turn(processor: Any, question: str) -> bool:
    """Whether the chat template writes a second turn."""
    try:
        return bool(_second_turn(processor, question))
    except HeadflowError:
        return False


def fresh(lvlm: LVLM, picture: Picture, followup: str) -> list[int]:
    """Token ids of a follow-up in the place of the first question: all that a prompt about this picture has after it.

    Raises:
        HeadflowError: see :func:`next_turn` and :meth:`LVLM.inputs`.
    """
    check_followup(lvlm.processor, followup)
    ids: Sequence[int] = lvlm.inputs([picture], followup)["input_ids"][0].tolist()
    return list(ids[image_span(ids, lvlm.image_token).stop :])


def check_followup(processor: Any, followup: str) -> None:
    """
    Raises:
        HeadflowError: the follow-up is empty, holds the image token, or words that the model does not know.
    """
    marker = getattr(processor, "image_token", None)
    if not followup.strip():
        raise HeadflowError("a follow-up question is empty")
    if marker and marker in followup:
        raise HeadflowError(f"the follow-up question {followup!r} holds the image token ({marker!r})")
    if unknown := unknown_words(processor, followup):
        raise HeadflowError(f"the follow-up question {followup!r} holds words that this model does not know: {', '.join(unknown)}")


def _second_turn(processor: Any, question: str) -> str:
    """What the template writes after the first answer, with :data:`_QUESTION` in the follow-up's place."""
    template, answer, followup = _template(processor), _ANSWER, {"role": "user", "content": [{"type": "text", "text": _QUESTION}]}
    # Templates take the text of an answer as a part, like the question's, or as it is.
    for content in () if template is None else ([{"type": "text", "text": answer}], answer):
        try:
            messages = [_message(question), {"role": "assistant", "content": content}, followup]
            whole = processor.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False)
        except (TemplateError, TypeError, ValueError):
            continue
        _, found, rest = whole.rpartition(answer)
        if found and rest.count(_QUESTION) == 1:
            return rest
    raise HeadflowError("this model's chat template writes no second turn; ask follow-ups in the place of the first question (asking: fresh)")
