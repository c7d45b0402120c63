"""Packing many questions behind one image must not change any of them."""

import numpy as np
import pytest
import torch

from headflow.datasets.scenes.questions import QUESTION_KINDS, ask
from headflow.datasets.scenes.render import scene
from headflow.models.embedded.evaluation import prompt
from headflow.models.embedded.lessons import Lessons
from headflow.models.embedded.network import patch_features, to_pixels
from headflow.models.embedded.packing import UNLABELLED, Strand, TokenTree, labelled_logits, pack
from headflow.models.embedded.training import Trainer
from tests.models.embedded.conftest import TINY


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(TINY)


@pytest.fixture(scope="module")
def lessons(trainer: Trainer) -> Lessons:
    return Lessons(trainer.processor.tokenizer, TINY.image_tokens, description_weight=0.5, name_weight=2.0)


@torch.no_grad()
def test_packed_logits_equal_those_of_separate_prompts(trainer: Trainer, lessons: Lessons) -> None:
    """The oracle is the stock forward on each prompt alone, with its own image tokens, mask and positions."""
    scenes = [scene(0, "train", i, TINY.scenes) for i in range(3)]
    strands = [lessons.strands(item, np.random.default_rng(0)) for item in scenes]
    packed = pack(lessons.prefix, strands)
    pixels = to_pixels([item.image for item in scenes])
    network = trainer.network.eval()
    logits = torch.full((*packed.labels.shape, network.config.text_config.vocab_size), torch.nan)
    logits[packed.labelled] = labelled_logits(network, patch_features(network, pixels), packed)
    for i, branches in enumerate(strands):
        tree = TokenTree(lessons.prefix)
        for strand in branches:
            nodes = tree.add(strand)
            ids = torch.tensor([[*lessons.prefix, *strand.tokens]])
            alone = network(input_ids=ids, pixel_values=pixels[i : i + 1]).logits[0, len(lessons.prefix) :]
            labelled = [j for j, label in enumerate(strand.labels) if label != UNLABELLED]
            together = logits[i, [nodes[j] for j in labelled]]
            assert torch.allclose(together, alone[labelled], atol=1e-5)


def test_every_token_stands_once_and_sees_its_ancestors_alone() -> None:
    tree = TokenTree([1, 2])
    first = tree.add(Strand((3, 4), (UNLABELLED, 9), (0.0, 1.0)))
    second = tree.add(Strand((3, 5), (UNLABELLED, 8), (0.0, 0.5)))
    assert first[0] == second[0]
    assert tree.tokens == [1, 2, 3, 4, 5]
    assert tree.positions == [0, 1, 2, 3, 3]
    assert tree.labels == [UNLABELLED, UNLABELLED, UNLABELLED, 9, 8]
    expected = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1]], bool)
    assert np.array_equal(tree.visible(), expected)


def test_contradicting_labels_are_refused() -> None:
    tree = TokenTree([1])
    tree.add(Strand((2,), (7,), (1.0,)))
    with pytest.raises(ValueError, match="two labels, 7 and 8"):
        tree.add(Strand((2,), (8,), (1.0,)))


def test_training_prompts_are_those_of_the_processor(trainer: Trainer, lessons: Lessons) -> None:
    rendered = scene(0, "train", 0, TINY.scenes)
    for kind in QUESTION_KINDS:
        question = ask(rendered, kind, np.random.default_rng(0))
        strand = lessons.strand(question)
        trained = [*lessons.prefix, *strand.tokens[: sum(label == UNLABELLED for label in strand.labels) + 1]]
        made = trainer.processor(images=[rendered.image], text=[prompt(trainer.processor, question.text)], return_tensors="pt")
        assert trained == made["input_ids"][0].tolist()
        pixels = to_pixels([rendered.image])
        assert torch.allclose(pixels, made["pixel_values"], atol=1e-6)


def test_look_ups_are_labelled_at_the_name_too(lessons: Lessons, trainer: Trainer) -> None:
    rendered = scene(0, "train", 1, TINY.scenes)
    tokenizer = trainer.processor.tokenizer
    cut = [strand for strand in lessons.strands(rendered, np.random.default_rng(0)) if strand.labels[:-1] == (UNLABELLED,) * (len(strand.labels) - 1)]
    at_names = {}
    for strand in cut:
        text = tokenizer.decode(strand.tokens)
        if "ASSISTANT" not in text:
            at_names[text.strip().removeprefix("\n").strip()] = tokenizer.decode([strand.labels[-1]])
    assert len(at_names) == 23 + len(rendered.objects)
    for item in rendered.objects:
        assert at_names[f"What is the colour of the {item.name}"] == item.colour
