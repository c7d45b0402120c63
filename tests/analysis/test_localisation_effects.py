"""What image tokens do to a word in the middle of a description: the full-sequence answer key, planted truth, and the store."""

import numpy as np
import pytest
import torch

import headflow
from headflow.ablation import run_masks
from headflow.analysis.localisation_effects import before_naming, naming_effects, stored_effects
from headflow.attribution.masks import sample_corners
from headflow.datasets.planted import QUESTION as PLANTED_QUESTION
from headflow.datasets.planted import pattern
from headflow.errors import HeadflowError
from headflow.execution.store import ResultStore
from headflow.local_differences import token_effects
from headflow.models.baselines import blank_baseline, closed_baseline
from headflow.targets import Target
from headflow.tracing.head_maps import each_token
from tests import reference
from tests.conftest import random_picture
from tests.families import FAMILIES, QUESTION

SAID = [29, 24, 27]


@pytest.fixture(scope="module", params=["llava", "paligemma2", "mllama"])
def told(request, tmp_path_factory):
    """A shared prefix, a prompt that is read both ways, cross-attention; captured with three words said, the last of which is explained."""
    lvlm = headflow.load(FAMILIES[request.param].build(tmp_path_factory.mktemp(request.param)))
    return lvlm.capture(random_picture(1, FAMILIES[request.param].size[0]), QUESTION, SAID)


def masks_of(capture, count=3):
    return np.random.default_rng(0).random((count, len(each_token(capture).groups))) < 0.5


def test_the_word_is_explained_where_it_is_predicted(told):
    """Under closed image tokens as with the whole sequence run at once."""
    masks, components = masks_of(told), each_token(told)
    masks[0] = True
    mine = run_masks(before_naming(told), masks, baseline="closed", target=Target("logit", SAID[-1]), components=components)
    for mask, value in zip(masks, mine, strict=True):
        gates = components.gates(torch.from_numpy(mask[None]).float(), "nothing")
        logits = reference.answer_logits(told.lvlm, told.picture, told.question, SAID, gates)
        assert value == pytest.approx(float(logits[0, -1, SAID[-1]]), abs=2e-5)
    assert mine[0] == pytest.approx(float(before_naming(told).logits[SAID[-1]]), abs=2e-5)


def test_layers_add_up_to_the_effects_of_all_heads(told):
    """The same target read off the last of three answer positions."""
    found = naming_effects(told, baseline="closed", corners=4, seed=1)
    components = each_token(told)
    corners = sample_corners(1, len(components.groups), 4, estimand="shapley", seed=1)[:, 0]
    _, expected = token_effects(told, corners, components=components, baseline=closed_baseline(), target=lambda logits: logits[:, -1, SAID[-1]])
    assert found.shape == (told.lvlm.layers, len(components.groups)) and np.abs(found).max() > 0
    np.testing.assert_allclose(found.sum(0), expected.mean(0), atol=2e-5 * np.abs(expected).max())


def test_planted_readers_find_their_patches():
    """Heads that add to the logit of a name: their layers' weights, in equal parts on the object's nine tokens, and nothing elsewhere."""
    drawn, model = pattern("jade", "warm", np.random.default_rng(3)), headflow.load("planted:additive")
    capture = model.capture(drawn.image, PLANTED_QUESTION, model.answer_tokens(PLANTED_QUESTION, "jade")[:1])
    inside = drawn.mask[4::8, 4::8].ravel()
    expected = np.outer([0, 3, 3.5, 1, 0.5], inside / 9)
    np.testing.assert_allclose(naming_effects(capture, baseline=blank_baseline(capture), corners=2), expected, atol=2e-4)


def test_the_store_is_asked_first(told, tmp_path):
    options = {"baseline": "closed", "corners": 2, "seed": 0}
    with ResultStore(tmp_path / "store.sqlite") as store:
        first = stored_effects(store, "one", SAID, lambda: (told, closed_baseline()), **options)
        again = stored_effects(store, "one", SAID, lambda: pytest.fail("nothing is left to do"), **options)
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(first, naming_effects(told, **options))
        for context, said, changed in (("two", SAID, {}), ("one", SAID[:2], {}), ("one", SAID, {"corners": 4}), ("one", SAID, {"baseline": "blank"})):
            with pytest.raises(LookupError):  # not taken for the same
                stored_effects(store, context, said, lambda: {}["computed"], **options | changed)


def test_without_words_nothing_is_explained(captures):
    with pytest.raises(HeadflowError, match="no token is to be explained: capture the example with what the model says up to that token"):
        naming_effects(captures("mha")[0])
