"""Many masks over one captured example: targets, and their change for every gate at once."""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headflow.batching import batch_of, run_in_batches
from headflow.components import Components, Heads
from headflow.errors import HeadflowError
from headflow.gates import Gate
from headflow.models.baselines import Baseline, blank_baseline, closed_baseline
from headflow.models.capture import Capture
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.targets import Kind, Target

Masks = Bool[np.ndarray, "masks *shape"] | Float[np.ndarray, "masks *shape"] | Tensor
BatchSize = int | Literal["auto"]


def run_masks(
    capture: Capture,
    masks: Masks,
    *,
    baseline: Baseline | Literal["blank", "closed"] = "blank",
    target: Target | Kind | None = None,
    components: Components | None = None,
    batch_size: BatchSize = "auto",
) -> Float[np.ndarray, " masks"]:
    """The target under each mask (Kim et al. 2025, head ablation).

    Args:
        capture: the example.
        masks: 1 = head intact, 0 = head ablated: it reads the baseline at every image position, for every suffix query;
            values between mix the two outputs. ``[masks, layers, heads]``, or the shape of other ``components``.
        baseline: what ablated heads read: ``"blank"``, a uniform grey picture; ``"closed"``, nothing; or a :class:`Baseline`, such as
            ``mean_baseline(captures)`` or ``swap_baseline(other)`` of :mod:`headflow.models.baselines`.
        target: what is measured: a :class:`Target`, or ``"logit"``, ``"logprob"``, ``"margin"`` or ``"answer_logprob"`` of the model's
            own first answer token or of the answer that the example was captured with; None = the log-probability of that
            answer if there is one, else the logit of the model's own first token.
        components: what the entries of a mask stand for (:mod:`headflow.components`); None = heads.
        batch_size: masked forwards at once.

    Returns:
        f for each mask, float32, logits or nats.

    Raises:
        HeadflowError: masks of the wrong shape or outside 0..1, a baseline for other positions, or too little memory.
    """
    results = np.empty(len(masks), np.float32)
    for start, stop, values in stream_masks(capture, masks, baseline=baseline, target=target, components=components, batch_size=batch_size):
        results[start:stop] = values
    return results


def stream_masks(
    capture: Capture,
    masks: Masks,
    *,
    baseline: Baseline | Literal["blank", "closed"] = "blank",
    target: Target | Kind | None = None,
    components: Components | None = None,
    batch_size: BatchSize = "auto",
    edges: Sequence[int] | None = None,
) -> Iterator[tuple[int, int, Float[np.ndarray, " batch"]]]:
    """:func:`run_masks`, batch by batch: yields (start, stop, targets) in order as they are done.

    Args:
        edges: where parts of the masks end; what a part gives does not depend on the others, see :func:`headflow.batching.run_in_batches`.
    """
    lvlm = capture.lvlm
    masks, components = _fitting(capture, masks, components)
    baseline = _baseline(capture, baseline)
    target = _target(capture, target)
    bank = make_bank(capture, baseline)

    def work(start: int, stop: int) -> Float[Tensor, " batch"]:
        with torch.no_grad():
            gates = components.gates(masks[start:stop].to(lvlm.device, torch.float32), baseline.reads)
            logits = run_suffix(capture, bank, gates, last=capture.predicts)
            return target(logits).expand(stop - start).cpu()

    batch = batch_of(capture, batch_size)
    with prepared(capture):
        for start, stop, values in run_in_batches(work, len(masks), batch, capture, edges):
            yield start, stop, values.numpy()


def run_gates(capture: Capture, gates: Sequence[Gate], *, baseline: Baseline | None = None, target: Target | Kind | None = None) -> Float[Tensor, " batch"]:
    """The target under any gates, in one batch; differentiable in their factors.

    Args:
        capture: the example.
        gates: the cuts; those that tell forwards apart must agree on their number.
        baseline: what gates with ``reads="baseline"`` read; None = a uniform grey picture, where one is needed.
        target: what is measured: a :class:`Target`, or ``"logit"``, ``"logprob"``, ``"margin"`` or ``"answer_logprob"`` of the model's
            own first answer token or of the answer that the example was captured with; None = the log-probability of that
            answer if there is one, else the logit of the model's own first token.

    Raises:
        HeadflowError: a gate or the baseline does not fit the example.
    """
    device = capture.lvlm.device
    gates = [gate.to(device, torch.float32) for gate in gates]
    if baseline is None and any(gate.reads == "baseline" for gate in gates):
        baseline = blank_baseline(capture)
    if baseline is not None and not baseline.keys and any(gate.reads == "baseline" for gate in gates):
        raise HeadflowError("a gate reads the baseline, but the baseline is 'closed'; use reads='nothing'")
    bank = make_bank(capture, baseline) if baseline is not None else make_bank(capture, closed_baseline())
    target = _target(capture, target)
    with prepared(capture):
        logits = run_suffix(capture, bank, gates, last=capture.predicts)
    return target(logits)


def gate_gradients(
    capture: Capture,
    masks: Masks,
    *,
    baseline: Baseline | Literal["blank", "closed"] = "blank",
    target: Target | Kind | None = None,
    components: Components | None = None,
    batch_size: BatchSize = "auto",
) -> tuple[Float[np.ndarray, " masks"], Float[np.ndarray, "masks *shape"]]:
    """The target at each mask and its derivative for every head's gate, by one forward and one backward pass.

    With a head's output g·o(real) + (1 − g)·o(baseline), ∂f/∂g is taken along the exact difference of its two outputs.
    At the intact model this is attribution patching; averaged over random complementary corners it estimates the same
    quantity as the regression on masks.

    Returns:
        f, and ∂f/∂g for every head (or other component), in target units.

    Raises:
        HeadflowError: see :func:`run_masks`; or the components have no gates that mix outputs (image tokens).
    """
    lvlm = capture.lvlm
    corners, components = _fitting(capture, masks, components)
    if not components.mixes:
        raise HeadflowError(f"{type(components).__name__}: the derivative of a closed key's weight has no bound; use headflow.token_effects")
    baseline = _baseline(capture, baseline)
    target = _target(capture, target)
    bank = make_bank(capture, baseline)
    targets = np.empty(len(corners), np.float32)
    gradients = np.empty(corners.shape, np.float32)

    def work(start: int, stop: int) -> Float[Tensor, "batch one_and_all"]:
        with torch.enable_grad():
            gate = corners[start:stop].to(lvlm.device, torch.float32).requires_grad_(True)
            logits = run_suffix(capture, bank, components.gates(gate, baseline.reads), last=capture.predicts)
            values = target(logits)
            (gradient,) = torch.autograd.grad(values.sum(), gate)
        return torch.cat([values.detach()[:, None], gradient.flatten(1)], 1).cpu()

    with prepared(capture):
        for start, stop, found in run_in_batches(work, len(corners), batch_of(capture, batch_size), capture):
            targets[start:stop] = found[:, 0]
            gradients[start:stop] = found[:, 1:].view(stop - start, *components.shape)
    return targets, gradients


def _target(capture: Capture, target: Target | Kind | None) -> Target:
    """What is measured: by default the log-probability of the answer that the example was captured with, or the logit of the model's own
    first token; a kind by its name is that of the same answer."""
    if callable(target):  # a Target, or whatever else gives a number for each row of logits
        return target
    if target is not None and target not in get_args(Kind):
        raise HeadflowError(f"target = {target!r}: must be one of {', '.join(get_args(Kind))}, or a headflow.targets.Target")
    first, *rest = capture.answer_ids or [capture.greedy_token()]
    return Target(target or ("answer_logprob" if capture.answer_ids else "logit"), first, rest=tuple(rest))


def _baseline(capture: Capture, baseline: Baseline | str) -> Baseline:
    if isinstance(baseline, Baseline):
        return baseline
    if baseline not in ("blank", "closed"):
        raise HeadflowError(
            f"baseline = {baseline!r}: must be 'blank', 'closed', or made by mean_baseline(captures) or swap_baseline(other) of headflow.models.baselines"
        )
    return blank_baseline(capture) if baseline == "blank" else closed_baseline()


def _as_tensor(masks: Masks) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(masks)) if isinstance(masks, np.ndarray) else masks


def _fitting(capture: Capture, masks: Masks, components: Components | None) -> tuple[Tensor, Components]:
    """Masks as a tensor and what they are of, if the two agree."""
    masks = _as_tensor(masks)
    components = components or Heads(capture.lvlm.layers, capture.lvlm.heads)
    if tuple(masks.shape[1:]) != tuple(components.shape) or not masks.ndim:
        names = ("layers", "heads") if isinstance(components, Heads) else ("windows", "groups")[-len(components.shape) :]
        expected = ", ".join(f"{size} {name}" for size, name in zip(components.shape, names, strict=True))
        raise HeadflowError(f"masks have shape {tuple(masks.shape)}, expected (masks, {expected})")
    return masks, components
