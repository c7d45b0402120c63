"""Chat prompts and the role of every token in them: system, image, question, role, final, answer."""

from collections.abc import Sequence
from typing import Any

from headflow.errors import HeadflowError

ROLES = ("system", "image", "question", "role", "final", "answer")


def chat(processor: Any, question: str, answer: str | None = None) -> str:
    """The prompt text for one picture and one question, by the processor's own chat template.

    Raises:
        HeadflowError: the processor has no chat template.
    """
    if not getattr(processor, "chat_template", None):
        raise HeadflowError("this model's processor has no chat template; add chat_template.jinja to the checkpoint folder")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) + (answer or "")


def image_span(input_ids: Sequence[int], image_token: int) -> slice:
    """First to last image position, structural tokens between them included (they see the picture and would leak it).

    Raises:
        HeadflowError: the prompt holds no image token.
    """
    positions = [i for i, token in enumerate(input_ids) if token == image_token]
    if not positions:
        raise HeadflowError(f"the prompt holds no image token (id {image_token}); does the chat template insert the picture?")
    return slice(positions[0], positions[-1] + 1)


def token_roles(pieces: Sequence[str], span: slice, question: str) -> list[str]:
    """Role of each prompt token.

    The question is found in the text that follows the image span: tokens that overlap it are ``question``, the last
    token of the prompt is ``final``, what lies between image and question (a line break, say) counts as question too,
    and what follows the question up to the final token (e.g. ``ASSISTANT``) is ``role``.

    Args:
        pieces: the text of every token of the prompt.
        span: the image span.
        question: the user's text.

    Raises:
        HeadflowError: the question is not in the text after the picture, or nothing follows the picture.
    """
    if span.stop >= len(pieces):
        raise HeadflowError("the prompt ends with the picture: there is no text after it that could receive it")
    # Compared without white space: tokenizers differ in how they give it back.
    wanted = "".join(question.split())
    ends, text = [], ""
    for piece in pieces[span.stop :]:
        text += "".join(piece.split())
        ends.append(len(text))
    start = text.find(wanted)
    if start < 0:
        raise HeadflowError(
            f"the question {question!r} is not found in the text after the picture ({text!r}); it must follow the picture in the chat template, in words "
            "that the tokenizer knows"
        )
    stop = start + len(wanted)
    suffix = ["question" if begin < stop else "role" for begin in [0, *ends[:-1]]]
    suffix[-1] = "final"
    return ["system"] * span.start + ["image"] * (span.stop - span.start) + suffix
