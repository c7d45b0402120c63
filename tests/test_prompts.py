"""Token roles on the shapes that chat templates come in, and prompts as the processor builds them."""

import copy
import unicodedata

import pytest

import headflow
from headflow.errors import HeadflowError
from headflow.models.processors import load_processor
from headflow.prompts import ROLES, around_question, chat, image_span, prompt_text, token_roles
from tests.checkpoints import NO_IMAGE_CHAT, QUESTION, QUESTION_FIRST_CHAT, QWEN_CHAT, SYSTEM_CHAT
from tests.conftest import random_picture

IMAGE = 7


def roles(text: str, question: str, after: str) -> list[tuple[str, str]]:
    """Roles of a prompt written with one token between bars, as (token, role) pairs; ``after`` is what its template says behind the question."""
    pieces = text.split("|")
    ids = [IMAGE if piece == "<image>" else 0 for piece in pieces]
    return list(zip(pieces, token_roles(pieces, image_span(ids, IMAGE), question, template=("", after)), strict=True))


def named(pairs: list[tuple[str, str]], role: str) -> str:
    return "|".join(piece for piece, given in pairs if given == role)


def test_llava():
    pairs = roles("<s>|USER|:|<image>|<image>|\n|What| is| it|?| ASS|ISTANT|:", "What is it?", " ASSISTANT:")
    assert named(pairs, "system") == "<s>|USER|:"
    assert named(pairs, "image") == "<image>|<image>"
    assert named(pairs, "question") == "\n|What| is| it|?"
    assert named(pairs, "role") == " ASS|ISTANT"
    assert named(pairs, "final") == ":"


def test_qwen():
    pairs = roles(
        "<:im_start:>|system|\n|You| help|<:im_end:>|\n|<:im_start:>|user|\n|<:vision_start:>|<image>|<image>|<:vision_end:>"
        "|What| is| it|?|<:im_end:>|\n|<:im_start:>|assistant|\n",
        "What is it?",
        "<:im_end:>\n<:im_start:>assistant\n",
    )
    assert named(pairs, "system").endswith("<:vision_start:>")
    assert named(pairs, "question") == "<:vision_end:>|What| is| it|?"
    assert named(pairs, "role") == "<:im_end:>|\n|<:im_start:>|assistant"
    assert pairs[-1] == ("\n", "final")


def test_structural_tokens_between_image_tokens_are_image():
    pairs = roles("<s>|<image>|<image>|[BREAK]|<image>|<image>|[END]|Why|?|:", "Why?", ":")
    assert named(pairs, "image") == "<image>|<image>|[BREAK]|<image>|<image>"
    assert named(pairs, "question") == "[END]|Why|?"


def test_a_token_that_holds_the_end_of_the_question_and_more_is_question():
    assert named(roles("<image>|Why|?\n|A|:", "Why?", "\nA:"), "question") == "Why|?\n"
    assert named(roles("<image>|Why|?A|:", "Why?", "A:"), "question") == "Why|?A"


def test_the_last_token_is_final_even_where_it_ends_the_question():
    assert roles("<image>|Why|?", "Why?", "")[-1] == ("?", "final")


@pytest.mark.parametrize("question", ["What  is\nit?", " What is it? ", "Whatis it?"])
def test_white_space_does_not_count(question):
    assert named(roles("<image>|What| is| it|?|:|A", question, ":A"), "question") == "What| is| it|?"


@pytest.mark.parametrize("question", ["User?", "A", ":", "?", "UserA", "."])
def test_a_question_that_the_template_holds_too(question):
    """Neither the text between picture and question nor that behind it is taken for the question."""
    between, behind = "User|?|A|:", "User|?|.|A|:"
    pairs = roles(f"<image>|{between}|{question}|{behind}", question, behind.replace("|", ""))
    assert named(pairs, "question") == f"{between}|{question}"
    assert named(pairs, "role") == behind.removesuffix("|:")


@pytest.mark.parametrize("question", ["Ou\u0300 est-il\u00a0?", "\ufb01sh?"])
def test_tokenizers_that_compose_characters(question):
    """Qwen's make one character of a letter and its accent, SentencePiece's split ligatures."""
    form = "NFC" if "Ou" in question else "NFKC"
    pieces = unicodedata.normalize(form, question)
    assert named(roles(f"<image>|{pieces}|:|A", question, ":A"), "question") == pieces


def test_every_role_is_a_known_one():
    assert {role for _, role in roles("<s>|<image>|Why|?|A|:", "Why?", "A:")} < set(ROLES)


def test_question_before_the_image_is_explained():
    with pytest.raises(HeadflowError, match="it must follow the picture in the chat template"):
        roles("USER|:|Why|?|<image>|\n|ASSISTANT|:", "Why?", "<image>\nASSISTANT:")


def test_words_that_the_tokenizer_does_not_know_are_explained():
    with pytest.raises(HeadflowError, match="in words that the tokenizer knows"):
        roles("USER|:|<image>|\n|<unk>|?|ASSISTANT|:", "Why?", "ASSISTANT:")


def test_nothing_after_the_image_is_explained():
    with pytest.raises(HeadflowError, match="no text after it"):
        roles("USER|:|Why|?|<image>", "Why?", "<image>")


def test_no_image_token_is_explained():
    with pytest.raises(HeadflowError, match="no image token \\(id 7\\)"):
        roles("USER|:|Why|?|A|:", "Why?", "A:")


# --- through real processors


@pytest.fixture(scope="module")
def processor(checkpoints):
    return load_processor(checkpoints("gqa"))


def test_around_the_question(processor):
    assert around_question(processor, QUESTION) == ("USER: <image>\n", " ASSISTANT:")
    assert chat(processor, QUESTION) == prompt_text(processor, QUESTION) == f"USER: <image>\n{QUESTION} ASSISTANT:"
    assert chat(processor, QUESTION, " cat") == f"USER: <image>\n{QUESTION} ASSISTANT: cat"


@pytest.mark.parametrize("question", ["USER", "ASSISTANT:", "\n", ":", "headflowquestion", "headflowquestionx"])
def test_around_any_question(processor, question):
    """Also one that the template holds, or that looks like what is put in its place."""
    assert around_question(processor, question) == ("USER: <image>\n", " ASSISTANT:")


def test_a_template_that_repeats_the_question(processor):
    """The model reads the picture with what stands after it; the last copy is the one that is followed by the role."""
    template = processor.chat_template.replace("<image>\n", "{{ m['content'][1]['text'] }} <image>\n")
    repeating = copy.copy(processor)
    repeating.chat_template = template
    assert around_question(repeating, "Why?") == ("USER: Why? <image>\n", " ASSISTANT:")


def test_a_template_that_leaves_the_question_out_is_explained(processor):
    silent = copy.copy(processor)
    silent.chat_template = "USER: <image>\nASSISTANT:"
    with pytest.raises(HeadflowError, match="leaves the question out"):
        around_question(silent, QUESTION)


@pytest.mark.parametrize(
    "template",
    ["{% for m in messages %}{{ 'USER: ' + m['content'] }}{% endfor %}", "{{ raise_exception('Conversation roles must alternate') }}", "{% for m in %}"],
    ids=["text alone", "refused", "broken"],
)
def test_a_template_that_fails_is_explained(processor, template):
    failing = copy.copy(processor)
    failing.chat_template = template
    with pytest.raises(HeadflowError, match="cannot write a message that holds a picture and a question"):
        chat(failing, QUESTION)


def test_a_chat_template_that_only_the_tokenizer_has(processor):
    """As in checkpoints from the time when tokenizer_config.json was the only place for it."""
    older = copy.copy(processor)
    older.tokenizer = copy.copy(processor.tokenizer)
    older.tokenizer.chat_template, older.chat_template = processor.chat_template, None
    assert chat(older, QUESTION) == chat(processor, QUESTION)


def test_one_of_several_chat_templates(processor):
    several = copy.copy(processor)
    several.chat_template = {"default": processor.chat_template, "tool_use": "tools"}
    assert chat(several, QUESTION) == chat(processor, QUESTION)


def test_no_chat_template_is_explained(processor):
    bare = copy.copy(processor)
    bare.tokenizer = copy.copy(processor.tokenizer)
    bare.chat_template = bare.tokenizer.chat_template = None
    for ask in (chat, prompt_text, around_question):
        with pytest.raises(HeadflowError, match="no chat template"):
            ask(bare, "Why?")



def test_roles_of_a_captured_prompt(captures):
    capture, _ = captures("gqa", chat=SYSTEM_CHAT)
    pairs = list(zip(capture.pieces, capture.roles, strict=True))
    assert named(pairs, "system").startswith("<s>|You|answer|questions")
    assert named(pairs, "question") == "\n|What|is|the|main|object|?"
    assert (named(pairs, "role"), named(pairs, "final")) == ("ASSISTANT", ":")


def test_roles_of_a_captured_byte_level_prompt(captures):
    capture, _ = captures("gqa", chat=QWEN_CHAT, words=False)
    pairs = list(zip(capture.pieces, capture.roles, strict=True))
    assert "".join(named(pairs, "question").split("|")[-6:]) == QUESTION
    assert capture.roles[-1] == "final" and capture.pieces[-1] == "\n"
    assert capture.roles.count("image") == 16 and named(pairs, "role").replace("|", "").startswith("<im_end>")


@pytest.mark.parametrize("question", ["Qu'est-ce que c'est ? Où ça ?", "これは何ですか?", "What is 🐈?"])
def test_questions_in_any_script(models, question):
    """Characters that a byte-level tokenizer splits over several tokens."""
    capture = models("gqa", chat=QWEN_CHAT, words=False).capture(random_picture(1), question)
    first, last = capture.roles.index("question"), len(capture.roles) - capture.roles[::-1].index("question")
    ids = capture.input_ids[first:last]
    assert capture.lvlm.processor.tokenizer.decode(ids).removeprefix("<|vision_end|>").strip() == question
    assert set(capture.roles[last:]) == {"role", "final"}


@pytest.mark.parametrize(
    ("template", "message"), [(QUESTION_FIRST_CHAT, "must follow the picture"), (NO_IMAGE_CHAT, "no image token")], ids=["question first", "no image"]
)
def test_templates_that_cannot_work_are_explained(checkpoints, template, message):
    model = headflow.load(checkpoints("mha"), device_map="cpu")
    model.processor.chat_template = template
    with pytest.raises(HeadflowError, match=message):
        model.capture(random_picture(1), QUESTION)


def test_a_template_that_begins_with_the_first_token_does_not_double_it(checkpoints):
    """Gemma's and Mistral's templates write the first token themselves; the tokenizer must not add another."""
    model = headflow.load(checkpoints("mha"), device_map="cpu")
    expected = model.capture(random_picture(1), QUESTION).input_ids
    model.processor.chat_template = "{{ '<s>' }}" + model.processor.chat_template
    assert model.capture(random_picture(1), QUESTION).input_ids == expected
