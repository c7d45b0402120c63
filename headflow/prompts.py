"""Chat prompts and the role of every token in them: system, image, question, role, final, answer."""

import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError

from headflow.errors import HeadflowError

ROLES = ("system", "image", "question", "role", "final", "answer")
# Put in the question's place to see where a template writes it: letters alone, which no template has a reason to change.
_PLACE = "headflowquestion"
# Some templates tell the model the date (Mistral 3): a prompt is to be the same tomorrow, and in every stage of a run.
_TODAY = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")
_THAT_DAY = datetime(2025, 1, 1)


def chat(processor: Any, question: str, answer: str | None = None) -> str:
    """The prompt for one picture and one question, as the processor wants it: written by its own chat template.

    PaliGemma has no chat template: its processor takes the image token and the question, and itself adds the first
    token before the question and a line break at the end (see :func:`prompt_text`).

    Raises:
        HeadflowError: the processor has no chat template, or its template takes no pictures.
    """
    template = _template(processor)
    if template is None:
        if not _is_paligemma(processor):
            raise HeadflowError("this model's processor has no chat template; add chat_template.jinja to the checkpoint folder")
        return processor.image_token + question + ("" if answer is None else "\n" + answer)
    try:
        prompt = processor.apply_chat_template([_message(question)], chat_template=template, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        raise HeadflowError(f"the chat template cannot write a message that holds a picture and a question ({error}); is it one for text alone?") from error
    return prompt + (answer or "")


def prompt_text(processor: Any, question: str) -> str:
    """The prompt as the model reads it, image tokens not yet multiplied; an answer goes on from its end.

    Raises:
        HeadflowError: see :func:`chat`.
    """
    if _template(processor) is not None or not _is_paligemma(processor):
        return chat(processor, question)
    return f"{processor.image_token}{processor.tokenizer.bos_token}{question}\n"


def before_answer(processor: Any, question: str) -> str:
    """What stands between the prompt and an answer: white space, or nothing, as the chat template writes an answer of the model.

    Where that does not go on from the prompt: a space after a word or a role's colon, nothing after a line break.
    """
    text = prompt_text(processor, question)
    template, place = _template(processor), _PLACE
    while place in text:
        place += "x"
    # Templates take the text of an answer as a part, like the question's, or as it is.
    for content in () if template is None else ([{"type": "text", "text": place}], place):
        try:
            messages = [_message(question), {"role": "assistant", "content": content}]
            whole = processor.apply_chat_template(messages, chat_template=template, tokenize=False)
        except (TemplateError, TypeError, ValueError):
            continue
        between, found, _ = whole.removeprefix(text).partition(place)
        if whole.startswith(text) and found and not between.strip():
            return between
    return "" if text[-1:].isspace() else " "


def _message(question: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}


def around_question(processor: Any, question: str) -> tuple[str, str]:
    """What the prompt says before the question and after it.

    Taken from the template itself, with another text in the question's place: the words of the question may well occur
    elsewhere in the prompt ("user", "assistant", ".").

    Raises:
        HeadflowError: see :func:`chat`; or the template leaves the question out.
    """
    place = _PLACE
    while place in question or place in prompt_text(processor, question):
        place += "x"
    before, found, after = prompt_text(processor, place).rpartition(place)
    if not found:
        raise HeadflowError("the chat template leaves the question out; it must write the text of the message after the picture")
    return before.replace(place, question), after


def _template(processor: Any) -> str | None:
    """The chat template of the processor or, in older checkpoints, of its tokenizer alone."""
    own = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    template = own.get("default") if isinstance(own, dict) else own
    return _TODAY.sub(lambda call: repr(_THAT_DAY.strftime(call[2])), template) if template else None


def _is_paligemma(processor: Any) -> bool:
    return type(processor).__name__ == "PaliGemmaProcessor"


def image_span(input_ids: Sequence[int], image_token: int) -> slice:
    """First to last image position, structural tokens between them included (they see the picture and would leak it).

    Raises:
        HeadflowError: the prompt holds no image token.
    """
    positions = [i for i, token in enumerate(input_ids) if token == image_token]
    if not positions:
        raise HeadflowError(f"the prompt holds no image token (id {image_token}); does the chat template insert the picture?")
    return slice(positions[0], positions[-1] + 1)


def token_roles(pieces: Sequence[str], span: slice, question: str, *, template: tuple[str, str]) -> list[str]:
    """Role of each prompt token.

    The question is found in the text that follows the image span, counted from the end of the prompt, where no image
    tokens have been put in: tokens that overlap it are ``question``, the last token of the prompt is ``final``, what
    lies between image and question (a line break, say) counts as question too, and what follows the question up to the
    final token (e.g. ``ASSISTANT``) is ``role``.

    Args:
        pieces: the text of every token of the prompt.
        span: the image span.
        question: the user's text.
        template: what the prompt says before and after the question (:func:`around_question`).

    Raises:
        HeadflowError: the question is not in the text after the picture, or nothing follows the picture.
    """
    if span.stop >= len(pieces):
        raise HeadflowError("the prompt ends with the picture: there is no text after it that could receive it")
    ends, text = [], ""
    for piece in pieces[span.stop :]:
        text += _solid(piece)
        ends.append(len(text))
    stop = _end_of_question(text, question, template[1])
    if stop is None:
        raise HeadflowError(
            f"the question {question!r} is not found in the text after the picture ({text!r}); it must follow the picture in the chat template, in words "
            "that the tokenizer knows"
        )
    suffix = ["question" if begin < stop else "role" for begin in [0, *ends[:-1]]]
    suffix[-1] = "final"
    return ["system"] * span.start + ["image"] * (span.stop - span.start) + suffix


def _end_of_question(text: str, question: str, after: str) -> int | None:
    """Where in ``text``, the end of a prompt, the question ends and ``after`` begins; None if they are not there."""
    # Some tokenizers compose characters first (Qwen: NFC; SentencePiece: NFKC).
    for form in (None, "NFC", "NFKC"):
        wanted, rest = (_solid(unicodedata.normalize(form, part) if form else part) for part in (question, after))
        if text.endswith(wanted + rest):
            return len(text) - len(rest)
    return None


def _solid(text: str) -> str:
    """The text without white space: tokenizers differ in how they give it back."""
    return "".join(text.split())
