"""Maps of single heads: attention that adds up to its share, attribution that finds planted tokens through planted heads and adds up to the whole effect."""

import numpy as np
import pytest

import headflow
from headflow.ablation import run_masks
from headflow.attribution.masks import sample_masks
from headflow.datasets.planted import QUESTION as PLANTED_QUESTION
from headflow.datasets.planted import pattern
from headflow.datasets.scenes.examples import make_examples
from headflow.local_differences import token_effects
from headflow.models.baselines import blank_baseline
from headflow.models.features import image_attention
from headflow.models.planted.circuits import find_circuit
from headflow.tables.heads import CLUSTER_MAPS, HEAD_MAPS
from headflow.targets import Target
from headflow.tracing import head_maps
from headflow.tracing.head_maps import attention_maps, attribution_maps, averaged, cluster_maps_table, each_token, head_maps_table, means_over
from tests.families import FAMILIES, QUESTION


@pytest.fixture(scope="module")
def additive():
    drawn = pattern("jade", "warm", np.random.default_rng(3))
    capture = headflow.load("planted:additive").capture(drawn.image, PLANTED_QUESTION)
    return capture, Target("logit", capture.first_token("jade")), drawn.mask[4::8, 4::8].ravel()


@pytest.mark.parametrize("name", ["llava", "paligemma", "mllama"])
def test_attention_maps_add_up_to_the_share_of_the_picture(name, tmp_path):
    """A shared prefix, a prompt that is read both ways, cross-attention."""
    lvlm = headflow.load(FAMILIES[name].build(tmp_path))
    width, height = FAMILIES[name].size
    capture = lvlm.capture(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8), QUESTION)
    final, text = attention_maps(capture)
    assert final.shape == (lvlm.layers, lvlm.heads, capture.key_image.stop - capture.key_image.start)
    shares = image_attention(capture)
    np.testing.assert_allclose(final.sum(-1), shares.final, atol=1e-6)
    np.testing.assert_allclose(text.sum(-1), shares.suffix, atol=1e-6)
    assert final.std(-1).min() > 0


def test_attention_maps_against_the_weights_of_a_stock_run(captures):
    capture = captures("mha")[0]
    final, text = attention_maps(capture)
    lvlm = capture.lvlm
    before = lvlm.decoder.config._attn_implementation
    lvlm.decoder.config._attn_implementation = "eager"
    try:
        weights = lvlm.model(**lvlm.inputs([capture.picture], capture.question), output_attentions=True).attentions
    finally:
        lvlm.decoder.config._attn_implementation = before
    at = len(capture.roles) - 1 - capture.roles[::-1].index("final")
    for layer, one in enumerate(weights):
        image = one[0, :, :, capture.image]
        np.testing.assert_allclose(final[layer], image[:, at].detach(), atol=1e-6)
        np.testing.assert_allclose(text[layer], image[:, capture.image.stop :].mean(1).detach(), atol=1e-6)
    told = lvlm.capture(capture.picture, capture.question, [5, 6, 7])  # the final token is the prompt's, whatever is said after it
    np.testing.assert_allclose(attention_maps(told)[0], final, atol=1e-6)
    assert np.abs(attention_maps(told)[1] - text).max() > 1e-4


def test_attribution_goes_through_the_readers_and_comes_from_the_object(additive):
    """The readers take in all tokens alike and add to the logit, so at every corner each token of the object gives its part of each reader's share."""
    capture, target, inside = additive
    maps = attribution_maps(capture, corners=4, baseline=blank_baseline(capture), target=target)
    expected = np.zeros_like(maps)
    for reader in find_circuit("additive").readers:
        expected[reader.place] = reader.weight * inside / inside.sum()
    np.testing.assert_allclose(maps, expected, atol=1e-4)


def test_maps_add_up_to_the_whole_effect_where_tokens_stand_in_for_each_other():
    """In the embedded model any part of the object is enough: with half of all tokens real, none of them seems to add anything. Averaged over every
    share of real tokens, the maps add up, over tokens and heads and but for taking slopes, to the fall of the target without the picture."""
    example = make_examples(count=1, references=1).row(0, named=True)
    capture = headflow.load("embedded").capture(example["image"], example["question"])
    target, baseline = Target("logit", capture.first_token(example["answer"])), blank_baseline(capture)
    intact, none = run_masks(capture, np.stack([np.ones((6, 8), bool), np.zeros((6, 8), bool)]), baseline=baseline, target=target)
    maps = attribution_maps(capture, corners=64, baseline=baseline, target=target)
    half = sample_masks(1, 36, 16, design="antithetic")[:, 0]
    _, of_half = token_effects(capture, half, components=each_token(capture), baseline=baseline, target=target)
    assert intact - none > 5 and maps.sum() == pytest.approx(intact - none, rel=0.4)
    assert abs(of_half.mean(0).sum()) < 0.2 * (intact - none)


def test_pieces_of_the_work_change_nothing(additive, monkeypatch):
    capture, target, _ = additive
    whole = attribution_maps(capture, corners=6, seed=2, target=target)
    monkeypatch.setattr(head_maps, "_AT_ONCE", 1)
    np.testing.assert_allclose(attribution_maps(capture, corners=6, seed=2, target=target, batch_size=1), whole, atol=1e-5)


def test_each_token_stands_alone(additive):
    groups = each_token(additive[0]).groups
    assert groups.shape == (36, additive[0].key_positions) and groups.sum(1).eq(1).all() and groups[:, additive[0].image].sum(0).eq(1).all()


def test_means_over_heads():
    maps = np.random.default_rng(0).normal(size=(2, 3, 5))
    weights = means_over([[(0, 1)], [(0, 0), (1, 2), (1, 1)]], 2, 3)
    found = averaged(weights, maps)
    np.testing.assert_allclose(found, [maps[0, 1], (maps[0, 0] + maps[1, 2] + maps[1, 1]) / 3])


def test_tables_keep_what_is_unknown_as_null():
    maps = tuple(np.arange(8.0).reshape(2, 4) + shift for shift in (0.0, 0.1, 0.2))
    boxes = np.array([[0, 0, 8, 8], [8, 0, 16, 8], [np.nan] * 4, [0, 8, 8, 16]])
    table = HEAD_MAPS.check(head_maps_table([("a", maps, boxes), ("b", maps, boxes * np.nan)], [(0, 3), (2, 1)]), "here")
    assert table.height == 16 and table["left"].null_count() == 10
    row = table.row(5, named=True)
    assert (row["id"], row["layer"], row["head"], row["token"], row["attention"], row["attribution"]) == ("a", 2, 1, 1, 5.0, 5.2)
    assert (row["left"], row["top"], row["right"], row["bottom"]) == (8, 0, 16, 8)
    clusters = CLUSTER_MAPS.check(cluster_maps_table([(1, 2, "a", 1, maps, boxes)]), "here")
    assert clusters["attention_text"].to_list() == [4.1, 5.1, 6.1, 7.1] and clusters["rank"].unique().to_list() == [2]
    assert HEAD_MAPS.check(head_maps_table([], [(0, 0)]), "here").is_empty() and CLUSTER_MAPS.check(cluster_maps_table([]), "here").is_empty()
