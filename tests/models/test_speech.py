"""Which characters each token has written."""


import pytest

import headflow
from headflow.models.lvlm import LVLM
from headflow.models.speech import spoken
from tests.families import FAMILIES

TEXTS = ("a red star, an H and café naïve ☃ 🦒 twice  spaced", "日本語 の 絵", "one", " leading and trailing ")


@pytest.fixture(scope="module")
def lvlm(tmp_path_factory: pytest.TempPathFactory) -> LVLM:
    """A model whose tokenizer goes by bytes."""
    return headflow.load(FAMILIES["qwen2_vl"].build(tmp_path_factory.mktemp("speech")))


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_cover_the_text_without_a_gap(lvlm, text):
    """A byte-level tokenizer spreads one character over several tokens: the last of them has written it."""
    ids = lvlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    said = spoken(lvlm, ids)
    assert said.text == lvlm.text(ids) and said.tokens == ids
    assert len(said.starts) == len(said.stops) == len(ids)
    pieces = [said.text[start:stop] for start, stop in zip(said.starts, said.stops, strict=True)]
    assert "".join(pieces) == said.text
    assert said.starts == sorted(said.starts) and said.stops[:-1] == said.starts[1:]


def test_a_token_has_its_own_word():
    lvlm = headflow.load("embedded")
    ids = lvlm.processor.tokenizer("a red star and a blue star", add_special_tokens=False)["input_ids"]
    said = spoken(lvlm, ids)
    for token, start, stop in zip(ids, said.starts, said.stops, strict=True):
        assert said.text[start:stop].strip() == lvlm.processor.tokenizer.decode([token]).strip()


def test_special_tokens_and_nothing_at_all_show_nothing(lvlm):
    assert spoken(lvlm, []).text == "" and spoken(lvlm, []).starts == []
    ids = lvlm.processor.tokenizer("star", add_special_tokens=False)["input_ids"]
    said = spoken(lvlm, [*ids, lvlm.processor.tokenizer.eos_token_id])
    assert said.text == "star" and said.starts[-1] == said.stops[-1] == len("star")
