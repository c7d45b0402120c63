"""Four checks that an intervention is real, run on the actual model and data before any ablation run."""

from dataclasses import dataclass

import torch

from headflow.errors import HeadflowError
from headflow.gates import ablate_heads
from headflow.models.baselines import closed_baseline, swap_baseline
from headflow.models.capture import Capture
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.tolerance import relative

LEAST_EFFECT = 1e-3


@dataclass(frozen=True)
class Checks:
    """What the checks measured, all relative to the largest logit (or key) of the stock model.

    Attributes:
        identity: nothing ablated, against the stock forward.
        swap: all heads ablated with another picture's keys and values, against the stock forward on that picture.
        prefix: keys and values of the shared prefix with another text after it, against those with the question. Where they
            differ no prefix is shared and every masked run goes through the whole sequence; None where the picture stands
            in no sequence.
        effect: how far ablating all heads moves the logits.
        tolerance: what identity and swap may reach.
    """

    identity: float
    swap: float
    prefix: float | None
    effect: float
    tolerance: float


@torch.no_grad()
def check_intervention(capture: Capture, other: Capture) -> Checks:
    """Run the four checks with two different pictures and the same question.

    Raises:
        HeadflowError: a check fails; the message says which, by how much, and what it means.
    """
    if capture.layout() != other.layout() or capture.input_ids != other.input_ids:
        raise HeadflowError("the checks need two pictures that give the same prompt tokens: use pictures of one size (set examples.picture_size)")
    model, tolerance = capture.lvlm, capture.lvlm.tolerance
    everything = torch.ones(1, model.layers, model.heads, device=model.device)
    name = type(model.model).__name__

    prefix = model.prefix_difference(capture) if capture.mode != "cross" else None
    if capture.mode == "shared" and prefix is not None and not prefix <= model.prefix_limit:
        raise HeadflowError(
            f"prefix check failed for {name}: keys and values before the end of the picture change by {prefix:.2g} (allowed {model.prefix_limit:.0e}) when the "
            "text after it is another, with this picture and question though not with the first; set the model's prefix_mode = 'recomputed'"
        )
    swapped = swap_baseline(other)
    bank = make_bank(capture, swapped)
    with prepared(capture):
        fired: list[int] = []
        broken: Exception | None = None
        try:
            # In one batch, so that what forwards share and what they do not is checked too.
            gate = ablate_heads(torch.cat([everything, 0 * everything]))
            intact, ablated = run_suffix(capture, bank, [gate], last=capture.predicts, fired=fired)
        except (RuntimeError, ValueError, IndexError) as error:
            if fired:
                raise
            broken = error  # other attention code, given a cache that holds the suffix alone
        if broken or sorted(fired) != list(range(model.decoder_layers)):
            raise HeadflowError(
                f"effect check failed for {name}: the attention function ran in layers {fired}, expected each of {model.decoder_layers} layers once; "
                "the model does not take its attention from transformers' AttentionInterface; if transformers has this model itself, set "
                "trust_remote_code: false, else it is not supported"
            ) from broken
        identity = relative(intact, capture.answer_logits)
        if not identity <= tolerance:
            raise HeadflowError(
                f"identity check failed for {name}: with nothing ablated the logits differ from the stock model's by {identity:.2g} of the largest "
                f"(allowed {tolerance:.0e}); positions, mask or scaling are not what the model uses: try dtype: float32, attn: eager, and the versions in "
                "constraints.txt; if it still fails, this model is not supported"
            )
        swap = relative(ablated, other.answer_logits)
        if not swap <= tolerance:
            raise HeadflowError(
                f"swap check failed for {name}: with every head reading another picture the logits differ from the stock model's on that picture by "
                f"{swap:.2g} of the largest (allowed {tolerance:.0e}); the picture reaches the text by a way that the gates do not cut: "
                "try dtype: float32; if it still fails, this model is not supported"
            )
        closed = make_bank(capture, closed_baseline())
        blind = run_suffix(capture, closed, [ablate_heads(0 * everything, "nothing")], last=capture.predicts)
    effect = min(relative(ablated, capture.answer_logits), relative(blind[0], capture.answer_logits))
    if not effect >= LEAST_EFFECT:
        raise HeadflowError(
            f"effect check failed for {name}: ablating every head moves the logits by {effect:.2g} of the largest (at least {LEAST_EFFECT:.0e} expected); "
            "either the pictures are the same or the picture plays no part in the answer: try another picture or question"
        )
    return Checks(identity, swap, prefix, effect, tolerance)

