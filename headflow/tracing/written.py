"""What the picture makes a head write: the words that its output stands for, and what it adds to the target without any help.

The input of a layer's output projection holds its heads side by side; each head's slice goes through its own columns of the projection, and these parts add up
to the projection's output but for its bias. The *picture's* part of a head's output is the difference between what it reads with the picture's keys and
what it reads with those of the baseline, all else as it is: what ablating the head takes away. :mod:`headflow.tracing.residual` says how that is
read as logits.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headflow.ablation import BatchSize, Masks, _baseline, _fitting, _target
from headflow.batching import batch_of, run_in_batches
from headflow.components import Heads
from headflow.errors import HeadflowError
from headflow.gates import ablate_heads
from headflow.models.baselines import Baseline
from headflow.models.capture import Capture
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.targets import Kind, Target
from headflow.tracing.residual import Paths, Stream, find_paths, recordable, recording

Head = tuple[int, int]


@torch.no_grad()
def written_logits(
    capture: Capture, heads: Sequence[Head], *, baseline: Baseline | str = "blank", rows: int | None = 1, batch_size: BatchSize = "auto"
) -> Float[Tensor, "heads rows vocabulary"]:
    """What the picture makes each of these heads of the stock model write, as logits: which words it raises and lowers.

    Each row is the share of the logits *at that position*. A constant added to all words of a row changes no probability.

    Args:
        capture: the example.
        heads: (layer, head), layers counted along those that read the picture.
        baseline: what the difference is taken from, as for :func:`headflow.ablation.run_masks`.
        rows: positions, counted from the end; None = every token that gates act on.
        batch_size: forwards at once; one for each layer of ``heads``, and one.

    Returns:
        Logits, float32, on the CPU; before the soft cap of a model that has one.

    Raises:
        HeadflowError: the model is no sum of parts that can be told apart (:func:`headflow.tracing.residual.find_paths`), or there is no such head.
    """
    lvlm, rows = capture.lvlm, capture.suffix if rows is None else rows
    for layer, head in heads:
        if not (0 <= layer < lvlm.layers and 0 <= head < lvlm.heads):
            raise HeadflowError(f"head ({layer}, {head}): the model has {lvlm.layers} layers that read the picture, of {lvlm.heads} heads each")
    baseline, paths = _baseline(capture, baseline), find_paths(capture)
    bank = make_bank(capture, baseline)
    wanted = sorted({layer for layer, _ in heads})
    step, parts = max(1, batch_of(capture, batch_size) - 1), {}
    for start in range(0, len(wanted), step):
        some = wanted[start : start + step]
        masks = torch.ones(1 + len(some), lvlm.layers, lvlm.heads, device=lvlm.device)
        masks[range(1, 1 + len(some)), some] = 0
        with prepared(capture), recordable(paths), recording(rows) as seen:
            run_suffix(capture, bank, [ablate_heads(masks, baseline.reads)], last=rows)
        stream = Stream(paths, seen, lvlm.tolerance, slice(0, 1))
        for place, layer in enumerate(some, 1):
            outputs = seen.heads[_decoder_layer(capture, layer)]
            change = (outputs[:1].float() - outputs[place : place + 1].float())[None]
            of_layer = [head for at, head in heads if at == layer]
            alone = torch.stack([only(change[0], head, lvlm.heads) for head in of_layer])
            for head, logits in zip(of_layer, stream.read(stream.write(_decoder_layer(capture, layer), alone)), strict=True):
                parts[layer, head] = logits[0].cpu()
    return torch.stack([parts[head] for head in heads])


def direct_effects(
    capture: Capture, masks: Masks | None = None, *, baseline: Baseline | str = "blank", target: Target | Kind | None = None, batch_size: BatchSize = "auto"
) -> Float[np.ndarray, "masks layers heads"]:
    """What every head adds to the target by what the picture makes it write, at each mask, without what later layers make of it.

    The part of the gate gradients (:func:`headflow.ablation.gate_gradients`) that goes straight from the head to the logits: the difference of its two outputs,
    read as logits with the norms frozen, times the slope of the target by the logits there (1 for the answer's word where the target is its logit).
    All heads come from one forward pass and one short backward pass.

    Args:
        capture, baseline, target, batch_size: as for :func:`headflow.ablation.run_masks`.
        masks: states of all heads at which the differences are taken, 1 = intact; None = all intact, one state.

    Raises:
        HeadflowError: see :func:`written_logits` and :func:`headflow.ablation.run_masks`.
    """
    lvlm = capture.lvlm
    states, _ = _fitting(capture, np.ones((1, lvlm.layers, lvlm.heads), bool) if masks is None else masks, Heads(lvlm.layers, lvlm.heads))
    baseline, target, paths = _baseline(capture, baseline), _target(capture, target), find_paths(capture)
    bank, effects = make_bank(capture, baseline), np.empty(tuple(states.shape), np.float32)

    def work(start: int, stop: int) -> Float[Tensor, "batch layers heads"]:
        with torch.enable_grad():
            gates = states[start:stop].to(lvlm.device, torch.float32).requires_grad_(True)
            with recording(capture.predicts, cut_off=True) as seen:
                run_suffix(capture, bank, [ablate_heads(gates, baseline.reads)], last=capture.predicts)
            stream = Stream(paths, seen, lvlm.tolerance)
            reading = [_decoder_layer(capture, layer) for layer in range(lvlm.layers)]
            total = sum(stream.write(layer, seen.heads[layer]).to(lvlm.device) for layer in reading)
            slopes = _slopes(paths, seen.norms[paths.norm.module][1], target)
            (found,) = torch.autograd.grad((stream.read(total) * slopes).sum(), gates)
        return found.cpu()

    with prepared(capture), recordable(paths):
        for start, stop, found in run_in_batches(work, len(states), batch_of(capture, batch_size), capture):
            effects[start:stop] = found
    return effects


def only(outputs: Float[Tensor, "*some width"], head: int, heads: int) -> Float[Tensor, "*some width"]:
    """The outputs of a layer's heads, side by side, with all but one set to nothing."""
    alone = torch.zeros_like(outputs)
    width = outputs.shape[-1] // heads
    mine = slice(head * width, (head + 1) * width)
    alone[..., mine] = outputs[..., mine]
    return alone


def _slopes(paths: Paths, normed: Float[Tensor, "batch rows hidden"], target: Target) -> Float[Tensor, "batch rows vocabulary"]:
    """Change of the target by the logits before any soft cap, where they stand."""
    with torch.enable_grad():
        raw = paths.unembed(normed).detach().requires_grad_(True)
        (slopes,) = torch.autograd.grad(target(paths.logits(raw)).sum(), raw)
    return slopes


def _decoder_layer(capture: Capture, layer: int) -> int:
    """Number in the decoder of a layer that reads the picture."""
    return layer if capture.lvlm.image_layers is None else capture.lvlm.image_layers[layer]
