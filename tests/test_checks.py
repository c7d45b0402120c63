"""The four checks: good models pass, and each way of being wrong is caught by the check that names it."""

import dataclasses

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import headflow
from headflow import attention, checks
from headflow.checks import check_intervention
from headflow.errors import HeadflowError
from headflow.gates import ablate_heads
from headflow.models.capture import Capture
from tests.checkpoints import QUESTION, QWEN_CHAT, SYSTEM_CHAT, build_paligemma
from tests.conftest import random_picture
from tests.families import FAMILIES


def captured(model, size: int = 32) -> tuple[Capture, Capture]:
    return model.capture(random_picture(1, size), QUESTION), model.capture(random_picture(2, size), QUESTION)


@pytest.fixture
def model(checkpoints):
    """A model of one's own to damage."""
    return headflow.load(checkpoints("gqa"), device_map="cpu")


def test_good_models_pass(pair):
    measured = check_intervention(*pair)
    assert max(measured.identity, measured.swap, measured.prefix) < measured.tolerance == 1e-5
    assert measured.effect > 0.01


@pytest.mark.parametrize(
    "options", [{"image_size": 104}, {"chat": SYSTEM_CHAT}, {"chat": QWEN_CHAT, "words": False}], ids=["many image tokens", "system prompt", "role markers"]
)
def test_other_prompts_pass(captures, options):
    assert check_intervention(*captures("gqa", **options)).effect > 0.01


def test_bfloat16_passes_with_its_own_tolerance(captures):
    measured = check_intervention(*captures("mha", dtype="bfloat16"))
    assert 1e-5 < max(measured.identity, measured.swap) < measured.tolerance == 6e-2


def test_float64_passes(captures):
    """The norms of a text model, and the softmax, work in float32 whatever the weights are."""
    check_intervention(*captures("gqa", dtype="float64"))


@pytest.fixture
def paligemma(tmp_path):
    """Its prompt sees both ways."""
    return headflow.load(FAMILIES["paligemma"].build(tmp_path / "paligemma"), device_map="cpu")


def test_prefix_a_bidirectional_prompt(paligemma):
    """The picture's keys depend on the question after it, so every masked run goes through the whole sequence."""
    assert paligemma.prefix_mode is None
    measured = check_intervention(*captured(paligemma))
    assert paligemma.prefix_mode == "recomputed" and min(measured.prefix, paligemma.prefix_change) > 0.01
    assert max(measured.identity, measured.swap) < 1e-5 and measured.effect > 0.01


def test_prefix_that_is_shared_against_the_evidence(paligemma):
    paligemma.prefix_mode = "shared"
    with pytest.raises(HeadflowError, match=r"prefix check failed for PaliGemma.*prefix_mode = 'recomputed'"):
        check_intervention(*captured(paligemma))


def test_identity_a_processor_that_leaves_out_what_the_model_needs(tmp_path):
    """Without its token types PaliGemma's stock attention and its own mask say different things; nothing is built on that."""
    model = headflow.load(build_paligemma(tmp_path / "model"), device_map="cpu")
    with pytest.raises(HeadflowError, match=r"identity check failed for PaliGemma"):
        check_intervention(*captured(model))


def test_prefix_keys_of_another_picture(captures):
    capture, other = captures("mha")
    with pytest.raises(HeadflowError, match=r"prefix check failed"):
        check_intervention(dataclasses.replace(capture, keys=other.keys), other)


def test_identity_keys_from_other_positions(captures):
    """Keys carry their position: taken at another offset they are other keys."""
    moved = [dataclasses.replace(capture, position_ids=capture.position_ids + 5) for capture in captures("mha")]
    with pytest.raises(HeadflowError, match=r"identity check failed"):
        check_intervention(*moved)


def test_identity_wrong_positions_of_the_suffix(captures):
    capture, other = captures("mha")
    positions = capture.position_ids.clone()
    positions[..., capture.prefix :] += 1
    with pytest.raises(HeadflowError, match=r"identity check failed.*positions, mask or scaling"):
        check_intervention(dataclasses.replace(capture, position_ids=positions), other)


def test_identity_positions_left_to_their_default(captures):
    """The fault that Qwen-VL models invite: suffix positions that begin at zero."""
    capture, other = captures("gqa")
    positions = capture.position_ids.clone()
    positions[..., capture.prefix :] = torch.arange(capture.suffix)
    with pytest.raises(HeadflowError, match=r"identity check failed"):
        check_intervention(dataclasses.replace(capture, position_ids=positions), other)


def test_identity_a_sliding_window_that_is_ignored(captures, monkeypatch):
    capture, other = captures("window")
    everything = attention._visible
    monkeypatch.setattr(attention, "_visible", lambda mask: everything(mask) | (torch.arange(mask.shape[-1]) < capture.prefix))
    with pytest.raises(HeadflowError, match=r"identity check failed"):
        check_intervention(capture, other)


def cut_short(capture: Capture, by: int = 1) -> Capture:
    """The capture of code that takes the image span ``by`` tokens too short."""
    stop = capture.image.stop - by
    return dataclasses.replace(
        capture,
        image=slice(capture.image.start, stop),
        keys=[k[:, :stop].contiguous() for k in capture.keys],
        values=[v[:, :stop].contiguous() for v in capture.values],
    )


def test_swap_an_image_token_past_the_cut(captures):
    """The last image token stands in the suffix, so its own embedding carries the picture past the gates."""
    capture, other = captures("mha")
    with pytest.raises(HeadflowError, match=r"swap check failed.*a way that the gates do not cut"):
        check_intervention(cut_short(capture), cut_short(other))


def test_swap_a_structural_token_that_is_not_cut(captures, monkeypatch):
    """A row break between image tokens has seen the picture: left out of the cut, its keys carry the picture past it."""
    capture, other = captures("mha")
    keys = torch.zeros(len(capture.input_ids))
    keys[capture.image] = 1
    keys[capture.image.start + 7] = 0
    monkeypatch.setattr(checks, "ablate_heads", lambda masks, reads="baseline": dataclasses.replace(ablate_heads(masks, reads), keys=keys))
    with pytest.raises(HeadflowError, match=r"swap check failed"):
        check_intervention(capture, other)


def test_swap_a_function_that_ignores_the_gates(captures, monkeypatch):
    """Everything runs, nothing is cut."""
    attend = attention._attend
    monkeypatch.setattr(attention, "_attend", lambda state, *rest: attend(dataclasses.replace(state, gates=()), *rest))
    with pytest.raises(HeadflowError, match=r"swap check failed"):
        check_intervention(*captures("mha"))


def test_swap_a_function_that_cuts_one_head_too_few(captures, monkeypatch):
    rows = headflow.gates.Gate.rows

    def one_less(gate, layer):
        amount = rows(gate, layer)
        if amount is not None:
            amount = amount.clone()
            amount[:, -1] = 0
        return amount

    monkeypatch.setattr(headflow.gates.Gate, "rows", one_less)
    with pytest.raises(HeadflowError, match=r"swap check failed"):
        check_intervention(*captures("mha"))


def test_effect_the_stock_function_under_our_name(captures):
    """A silent no-op hook: what is registered as ours is the stock attention."""
    AttentionInterface.register(attention.NAME, sdpa_attention_forward)
    try:
        with pytest.raises(HeadflowError, match=r"effect check failed.*ran in layers \[\].*AttentionInterface"):
            check_intervention(*captures("mha"))
    finally:
        AttentionInterface.register(attention.NAME, attention.gated_attention)


def test_effect_attention_that_does_not_go_through_the_interface(model):
    """A model from the hub with attention code of its own."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, eager_attention_forward

    def own_attention(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **kwargs):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (projection(hidden_states).view(shape).transpose(1, 2) for projection in (self.q_proj, self.k_proj, self.v_proj))
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        length, total = query.shape[2], key.shape[2]
        causal = torch.zeros(length, total).masked_fill_(torch.arange(total)[None] > torch.arange(length)[:, None] + total - length, float("-inf"))
        output, weights = eager_attention_forward(self, query, key, value, causal[None, None], scaling=self.scaling)
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights

    for layer in model.decoder.layers:
        layer.self_attn.forward = own_attention.__get__(layer.self_attn)
    with pytest.raises(HeadflowError, match=r"effect check failed.*ran in layers \[\].*AttentionInterface"):
        check_intervention(*captured(model))


def test_effect_one_layer_that_does_not_go_through_the_interface(model):
    """Hybrid models: a layer without attention (here: one that hands its input on) never fires."""
    for parameter in model.decoder.layers[1].self_attn.parameters():
        parameter.data.zero_()
    model.decoder.layers[1].self_attn.forward = lambda hidden_states, past_key_values=None, **_: (
        past_key_values.update(torch.zeros(1, 2, hidden_states.shape[1], 8), torch.zeros(1, 2, hidden_states.shape[1], 8), 1),
        (torch.zeros_like(hidden_states), None),
    )[1]
    with pytest.raises(HeadflowError, match=r"effect check failed.*layers \[0, 2\]"):
        check_intervention(*captured(model))


def test_effect_attention_plays_no_part(model):
    for layer in model.decoder.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    with pytest.raises(HeadflowError, match=r"effect check failed.*plays no part"):
        check_intervention(*captured(model))


def test_effect_pictures_play_no_part(model):
    """A projector that lost its weights: every picture gives the same tokens, so no attribution can mean anything."""
    for parameter in model.model.model.multi_modal_projector.parameters():
        parameter.data.zero_()
    with pytest.raises(HeadflowError, match=r"effect check failed.*plays no part"):
        check_intervention(*captured(model))


def test_effect_the_same_picture_twice(captures):
    """Swapping a picture for itself passes the swap check whatever the gates do: it must not pass for a proof."""
    capture, _ = captures("mha")
    with pytest.raises(HeadflowError, match=r"effect check failed.*pictures are the same"):
        check_intervention(capture, capture)


def test_logits_that_are_no_numbers(model):
    model.decoder.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(HeadflowError, match=r"check failed"):
        check_intervention(*captured(model))


def test_weights_that_are_all_alike(model):
    """A checkpoint that was never filled: every head does the same, but what the picture does is real, or the checks say that it is not."""
    for layer in model.decoder.layers:
        for name in ("q_proj", "k_proj"):
            getattr(layer.self_attn, name).weight.data.fill_(0.01)
    measured = check_intervention(*captured(model))
    assert measured.swap < 1e-5 < 1e-3 < measured.effect
    for parameter in model.decoder.parameters():
        parameter.data.fill_(0.01)
    with pytest.raises(HeadflowError, match=r"effect check failed"):
        check_intervention(*captured(model))


def test_prompts_of_different_length_are_refused(captures):
    capture, _ = captures("mha")
    longer = capture.lvlm.capture(random_picture(2), "What is the main colour of the tree?")
    with pytest.raises(HeadflowError, match=r"same prompt tokens"):
        check_intervention(capture, longer)


def test_a_failed_check_leaves_the_model_as_it_was(captures):
    capture, other = captures("mha")
    before = capture.lvlm.decoder.config._attn_implementation
    with pytest.raises(HeadflowError):
        check_intervention(cut_short(capture), cut_short(other))
    assert capture.lvlm.decoder.config._attn_implementation == before
