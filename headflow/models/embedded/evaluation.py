"""How good the embedded model is on scenes that it has never seen, asked as any user would: processor, prompt, greedy generation."""

from collections import Counter

import numpy as np
import torch
from jaxtyping import UInt8
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from headflow.datasets.scenes.questions import QUESTION_KINDS, Question, ask
from headflow.datasets.scenes.render import Scene, scene
from headflow.datasets.scenes.settings import SceneSettings
from headflow.datasets.scenes.vocabulary import NAMES
from headflow.seeds import generator

EVALUATION_STREAM = "test"

_BLANK_LEVEL = 128
_BATCH = 64
_LONGEST_ANSWER = {"description": 32}
_SHORT_ANSWER = 3

Metrics = dict[str, dict[str, float]]
"""Measure → {"image": value, "blank": value with a uniform grey picture in place of the scene's}."""


def evaluate(
    network: LlavaForConditionalGeneration, processor: LlavaProcessor, settings: SceneSettings | None = None, *, scenes: int = 500, seed: int = 0
) -> Metrics:
    """Ask every kind of question about each scene, with the picture and with a blank one. Deterministic.

    Returns:
        Exact match for each question kind (for descriptions, of the whole sentence), from 0 to 1; ``object_f1``, the F1 of the object
        names in descriptions over all scenes; and ``KIND_confidence``, the mean probability of the first token of the answer given.
    """
    rendered = [scene(seed, EVALUATION_STREAM, i, settings) for i in range(scenes)]
    blank = [np.full_like(item.image, _BLANK_LEVEL) for item in rendered]
    metrics: Metrics = {}
    for kind in QUESTION_KINDS:
        questions = [ask(item, kind, generator(seed, f"scenes/{EVALUATION_STREAM}/{kind}", i)) for i, item in enumerate(rendered)]
        for label, images in (("image", [item.image for item in rendered]), ("blank", blank)):
            answers, confidence = answer(network, processor, images, questions)
            right = [given == question.answer for given, question in zip(answers, questions, strict=True)]
            metrics.setdefault(kind, {})[label] = float(np.mean(right))
            metrics.setdefault(f"{kind}_confidence", {})[label] = confidence
            if kind == "description":
                metrics.setdefault("object_f1", {})[label] = object_f1(answers, rendered)
    return metrics


@torch.no_grad()
def answer(
    network: LlavaForConditionalGeneration, processor: LlavaProcessor, images: list[UInt8[np.ndarray, "size size 3"]], questions: list[Question]
) -> tuple[list[str], float]:
    """Greedy answers, and the mean probability that the model gave to their first tokens."""
    answers: list[str] = []
    confidences: list[float] = []
    for start in range(0, len(questions), _BATCH):
        asked = questions[start : start + _BATCH]
        prompts = [prompt(processor, question.text) for question in asked]
        inputs = processor(images=images[start : start + _BATCH], text=prompts, padding=True, return_tensors="pt")
        longest = max(_LONGEST_ANSWER.get(question.kind, _SHORT_ANSWER) for question in asked)
        made = network.generate(**inputs, max_new_tokens=longest, do_sample=False, output_logits=True, return_dict_in_generate=True)
        answers += processor.batch_decode(made.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        confidences += made.logits[0].float().softmax(-1).amax(-1).tolist()
    return answers, float(np.mean(confidences))


def prompt(processor: LlavaProcessor, question: str) -> str:
    """The chat markup around a question about one picture."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def object_f1(descriptions: list[str], scenes: list[Scene]) -> float:
    """F1 of the object names said against those in the scenes, pooled over all."""
    matched = said = true = 0
    for description, item in zip(descriptions, scenes, strict=True):
        names, truth = Counter(word for word in description.replace(",", " ").split() if word in NAMES), Counter(item.names)
        matched += (names & truth).total()
        said += names.total()
        true += truth.total()
    return 2 * matched / max(1, said + true)
