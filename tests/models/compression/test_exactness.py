"""Keys that are dropped from a cache are as good as keys that are hidden, in every family."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import headflow
from headflow.models.compression.answering import answers, first_logits
from headflow.models.compression.choice import random_scores, top
from headflow.models.compression.context import Kept, everything, nothing_seen, take_context
from headflow.models.compression.turns import fresh, has_next_turn, next_turn
from tests.families import FAMILIES, QUESTION
from tests.models.compression.reference import follow_up_logits
from tests.reference import relative

SAID, FOLLOW_UP = [11, 7, 12, 9, 7], "Is it a cat?"


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    family = FAMILIES[request.param]
    lvlm = headflow.load(family.build(tmp_path_factory.mktemp(family.name)))
    width, height = family.size
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return lvlm, picture, take_context(lvlm, picture, QUESTION, SAID)


def hidden(context, kept: Kept) -> list[torch.Tensor]:
    """Everything of the context but what stays, per decoder layer."""
    found = []
    for layer, keys in enumerate(context.keys):
        gone = torch.ones(keys.shape[1], dtype=torch.bool)
        gone[kept.places(context, layer)] = False
        found.append(gone)
    return found


def test_dropped_keys_are_hidden_keys(case) -> None:
    lvlm, picture, context = case
    followup = next_turn(lvlm.processor, QUESTION, lvlm.text(SAID), FOLLOW_UP) if has_next_turn(lvlm.processor, QUESTION) else fresh(lvlm, picture, FOLLOW_UP)
    some = top(context, random_scores(context, "test", seed=0), 30)
    whole = everything(context, said=True)
    parts = {"whole": whole, "prompt": everything(context), "both": Kept(context.query(), some), "image": Kept(torch.zeros_like(whole.text), some)}
    if not context.cross:
        parts["query"] = nothing_seen(context, context.query())
        parts["before"] = Kept(context.before(), some)
    # Layers keep different tokens.
    assert len({tuple(row) for row in some.tolist()}) > 1
    found = {name: first_logits(context, kept, followup) for name, kept in parts.items()}
    for name, kept in parts.items():
        expected = follow_up_logits(lvlm, picture, QUESTION, SAID, followup, hidden(context, kept))
        assert relative(found[name], expected) < 1e-5, name
    assert relative(found["both"], found["whole"]) > 1e-3 and relative(found["both"], found["image"]) > 1e-3
