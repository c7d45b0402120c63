"""Every target that the params allow is put into words, and none by the words of another."""

from typing import get_args

import pytest

from headflow.params import FeaturesParams
from headflow.reporting import targets

KINDS = get_args(FeaturesParams.model_fields["target"].annotation)
ANSWERS = get_args(FeaturesParams.model_fields["answer"].annotation)


def test_every_target_has_words_and_a_unit():
    said = {targets.described({"target": kind, "answer": answer}) for kind in KINDS for answer in ANSWERS}
    assert len(said) == len(KINDS) * len(ANSWERS)
    assert set(targets.UNITS) == set(KINDS)


@pytest.mark.parametrize(
    ("features", "said", "unit"),
    [
        ({"target": "logit"}, "logit of the first token of the true answer", "logits"),
        ({"target": "logprob", "answer": "greedy"}, "log-probability of the first token of the model's own answer", "nats"),
        ({"target": "answer_logprob", "answer": "truth"}, "log-probability of the whole of the true answer, each token given those before it", "nats"),
    ],
)
def test_words_follow_the_params(features, said, unit):
    assert targets.described(features) == said and targets.unit(features) == unit
    assert targets.whole_answer(features) == (features["target"] == "answer_logprob")
