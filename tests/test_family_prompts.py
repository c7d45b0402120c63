"""Prompts of every family: the role of each token is what the family's own template says, and answers go on from the prompt's end."""

import unicodedata
from collections.abc import Callable

import numpy as np
import pytest

import headflow
from headflow.models.lvlm import LVLM
from headflow.prompts import around_question, token_roles
from tests.families import FAMILIES, QUESTION

# Per family, as text: what stands before the picture, between the picture and the question, after the question (final token included), and the final token.
QWEN3 = ("<|im_start|>user\n<|vision_start|>", "<|vision_end|>", "<|im_end|>\n<|im_start|>assistant\n", "\n")
QWEN2 = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + QWEN3[0], *QWEN3[1:])
VICUNA = ("<s>USER: ", "\n", " ASSISTANT:", ":")
INTERNVL = ("<|im_start|>user\n<img>", "</img>\n", "<|im_end|>\n<|im_start|>assistant\n", "\n")
PALIGEMMA = ("", "<bos>", "\n", "\n")
SAID = {
    "llava": VICUNA,
    "llava_next_llama": VICUNA,
    "llava_next_mistral": ("<s>[INST] ", "\n", " [/INST]", "]"),
    "llava_onevision": ("<|im_start|>user ", "\n", "<|im_end|><|im_start|>assistant\n", "\n"),
    "internvl_qwen2": INTERNVL,
    "internvl_qwen3": INTERNVL,
    "mistral3": ("<s>[SYSTEM_PROMPT]You are a helpful assistant.[/SYSTEM_PROMPT][INST]", "[IMG_END]", "[/INST]", "[/INST]"),
    "pixtral_llava": ("<s>[INST]", "[IMG_END]", "[/INST]", "[/INST]"),
    "qwen2_vl": QWEN2,
    "qwen2_5_vl": QWEN2,
    "qwen3_vl": QWEN3,
    "gemma3": ("<bos><start_of_turn>user\n\n\n<start_of_image>", "<end_of_image>\n\n", "<end_of_turn>\n<start_of_turn>model\n", "\n"),
    "paligemma": PALIGEMMA,
    "paligemma2": PALIGEMMA,
    "idefics3": ("<|begin_of_text|>User:<fake_token_around_image><row_1_col_1>", "<fake_token_around_image>", "<end_of_utterance>\nAssistant:", ":"),
    "smolvlm": ("<|im_start|>User:<fake_token_around_image><row_1_col_1>", "<fake_token_around_image>", "<end_of_utterance>\nAssistant:", ":"),
    "mllama": ("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n", "", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "\n"),
}
QUESTIONS = [
    QUESTION, "user", "ASSISTANT:", "assistant\n", ".", "model", "USER: USER", "Où ça ?", "Ou\u0300 c\u0327a ?", "これは何ですか?", "What is 🐈?",
    "  Which   colour?\n",
]  # fmt: skip
ANSWERS = ["cat", "a red house", "chat à l'œil vert", "猫"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LVLM]:
    """A family's model, loaded once."""
    root, models = tmp_path_factory.mktemp("families"), {}

    def load(family: str) -> LVLM:
        if family not in models:
            models[family] = headflow.load(FAMILIES[family].build(root / family), device_map="cpu")
        return models[family]

    return load


def picture(family: str) -> np.ndarray:
    width, height = FAMILIES[family].size
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def solid(text: str) -> str:
    """Without white space, accents joined to their letters: tokenizers differ in how they give both back."""
    return "".join(unicodedata.normalize("NFC", text).split())


def test_every_family_is_spelt_out():
    assert set(SAID) == set(FAMILIES)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_roles(loaded, family, question):
    before, between, after, final = SAID[family]
    capture = loaded(family).capture(picture(family), question)
    pairs = list(zip(capture.pieces, capture.roles, strict=True))
    text = {role: solid("".join(piece for piece, given in pairs if given == role)) for role in dict.fromkeys(capture.roles)}
    assert text.pop("system", "") == solid(before)
    assert text.pop("question") == solid(between + question)
    assert pairs[-1] == (final, "final") and capture.roles.count("final") == 1
    assert text.pop("role", "") + text.pop("final") == solid(after)
    assert list(text) == ["image"]
    # Each role is one stretch of the prompt, in this order.
    order = ["system", "image", "question", "role", "final"]
    assert capture.roles == sorted(capture.roles, key=order.index)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_image_span(loaded, family):
    """From the first image token to the last, what stands between them included; Llama 3.2 Vision's one token sees the picture itself."""
    capture = loaded(family).capture(picture(family), QUESTION)
    token = loaded(family).image_token
    tokens = [i for i, given in enumerate(capture.input_ids) if given == token]
    assert capture.image == slice(tokens[0], tokens[-1] + 1) and capture.roles.count("image") == capture.image.stop - capture.image.start
    between = "".join(capture.pieces[i] for i in range(tokens[0], tokens[-1]) if i not in tokens)
    tiles = "".join(f"<fake_token_around_image>{tile}" for tile in ("<row_1_col_2>", "<row_2_col_1>", "<row_2_col_2>", "<global-img>"))
    structural = {"mistral3": "[IMG_BREAK]" * 2, "pixtral_llava": "[IMG_BREAK]" * 5, "idefics3": tiles, "smolvlm": tiles}
    assert solid(between) == structural.get(family, "")
    assert (len(tokens) == 1) == (family == "mllama")


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_question_is_not_searched_for(loaded, family):
    """With a template that says something else the same prompt is refused, so the roles do come from the template."""
    lvlm = loaded(family)
    capture = lvlm.capture(picture(family), QUESTION)
    before, after = around_question(lvlm.processor, QUESTION)
    assert solid(after) == solid(SAID[family][2])
    with pytest.raises(headflow.HeadflowError, match="is not found in the text after the picture"):
        token_roles(capture.pieces, capture.image, QUESTION, template=(before, after + "."))


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_answers_follow_the_prompt(loaded, family, answer):
    """The answer stands behind the prompt as the template itself writes answers of the model: after a space, or right after the line break or
    the token ([/INST] of Mistral's later models) that ends the prompt."""
    lvlm = loaded(family)
    tokens = lvlm.answer_tokens(QUESTION, answer)
    assert lvlm.answer_token(QUESTION, answer) == tokens[0]
    assert lvlm.processor.tokenizer.decode(tokens).strip() == answer
    prompt = lvlm.capture(picture(family), QUESTION).input_ids
    written = lvlm.processor.tokenizer.decode(prompt + tokens, clean_up_tokenization_spaces=False)
    space = "" if SAID[family][3] == "\n" or family in ("mistral3", "pixtral_llava") else " "
    assert written.endswith(SAID[family][3] + space + answer)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_first_token_is_written_once(loaded, family):
    capture = loaded(family).capture(picture(family), QUESTION)
    first = loaded(family).processor.tokenizer.bos_token_id
    assert first is None or capture.input_ids.count(first) == 1


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_capture_is_of_the_prompt_that_is_answered(loaded, family):
    """The stock model's own first answer token is the one that the capture's logits name."""
    lvlm = loaded(family)
    capture = lvlm.capture(picture(family), QUESTION)
    inputs = lvlm.inputs([picture(family)], QUESTION)
    assert inputs["input_ids"][0].tolist() == capture.input_ids
    answered = lvlm.model.generate(**{k: v for k, v in inputs.items() if k != "labels"}, max_new_tokens=1, do_sample=False)
    assert int(answered[0, -1]) == capture.greedy_token()
