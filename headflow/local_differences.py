"""What each image token gives, from one forward and one backward pass: the exact local difference.

A gate that weighs a token's exponential has a slope without bound where the token is closed, so its gradient says nothing. What is known
in closed form is the *difference* that a flip makes to a head's output o = Σ e^{s_k}·v_k / Z: when group j turns from real to baseline,

    o becomes (Z·o − Σ_j e^{s}·v + Σ_j e^{s̄}·v̄) / (Z − Σ_j e^{s} + Σ_j e^{s̄}),

with s̄, v̄ the scores and values of the twins (both sums are empty where closed keys read nothing). Dotted with ∂f/∂o and added up over the
text's positions, heads and layers, it estimates what having the group real rather than baseline does to the target: exact in each head,
first order in what comes after it. Gate gradients (:func:`headflow.ablation.gate_gradients`) are the same for whole heads.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headflow.ablation import BatchSize, Masks, _baseline, _fitting, _target
from headflow.batching import batch_of, run_in_batches
from headflow.components import ImageTokens
from headflow.errors import HeadflowError
from headflow.models.baselines import Baseline
from headflow.models.capture import Capture
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.suffix_pass import Bank, Reading
from headflow.targets import Kind, Target


def token_effects(
    capture: Capture,
    masks: Masks | None = None,
    *,
    components: ImageTokens,
    baseline: Baseline | str = "blank",
    target: Target | Kind | None = None,
    batch_size: BatchSize = "auto",
    by_head: bool = False,
) -> tuple[Float[np.ndarray, " masks"], Float[np.ndarray, "masks groups"] | Float[np.ndarray, "masks layers heads groups"]]:
    """The target at each mask, and what every group of image tokens does there: its effect of being real rather than baseline.

    Args:
        capture: the example.
        masks: corners at which the differences are taken, 1 = group intact; None = all groups intact, one corner.
        components: groups of image tokens. Where ``components.heads`` chooses some heads, the others see every token and have no part.
        baseline, target, batch_size: as for :func:`headflow.ablation.run_masks`.
        by_head: keep the heads apart instead of adding them up.

    Returns:
        f, and the effects, float32, in target units. Layers are those that read the picture.

    Raises:
        HeadflowError: see :func:`headflow.ablation.run_masks`; or the components are no image tokens.
    """
    if not isinstance(components, ImageTokens):
        raise HeadflowError(f"token_effects: components are {type(components).__name__}, expected ImageTokens; for others use headflow.ablation.gate_gradients")
    lvlm, groups = capture.lvlm, len(components.groups)
    corners, _ = _fitting(capture, np.ones((1, groups), bool) if masks is None else masks, components)
    baseline, target = _baseline(capture, baseline), _target(capture, target)
    bank = make_bank(capture, baseline)
    shape = (lvlm.layers, lvlm.heads, groups) if by_head else (groups,)
    targets, effects = np.empty(len(corners), np.float32), np.empty((len(corners), *shape), np.float32)

    def work(start: int, stop: int) -> Float[Tensor, "batch one_and_all"]:
        watching = LocalDifferences(bank, components, capture.suffix, shape)
        gates = components.gates(corners[start:stop].to(lvlm.device, torch.float32), baseline.reads)
        with torch.enable_grad():
            values = target(run_suffix(capture, bank, gates, last=capture.predicts, differences=watching)).expand(stop - start)
            found = watching.collect(values)
        return torch.cat([values.detach()[:, None].cpu(), found.flatten(1)], 1)

    with prepared(capture):
        for start, stop, found in run_in_batches(work, len(corners), batch_of(capture, batch_size), capture):
            targets[start:stop] = found[:, 0]
            effects[start:stop] = found[:, 1:].view(stop - start, *shape)
    return targets, effects


class LocalDifferences:
    """Takes every head's local differences during the backward pass of one batch (``differences`` of a suffix pass).

    A layer's differences are taken when the gradient of its output arrives, and are added up at once: what lives longer than a layer is
    ``[batch, *shape]``.
    """

    def __init__(self, bank: Bank, components: ImageTokens, suffix: int, shape: tuple[int, ...]) -> None:
        self.bank, self.suffix, self.shape = bank, suffix, shape
        self.groups = components.groups
        self.found: Tensor | None = None
        self.root: Tensor | None = None  # everything that is differentiated comes after it

    def __call__(self, reading: Reading, output: Float[Tensor, "batch heads rows head_dim"]) -> Float[Tensor, "batch heads rows head_dim"]:
        if self.root is None:
            self.root = output.new_zeros((), requires_grad=True)
            output = output + self.root
        output.register_hook(lambda gradient: self._take(reading, gradient))
        return output

    def collect(self, values: Float[Tensor, " batch"]) -> Float[Tensor, "batch *shape"]:
        """Run the backward pass of ``values``; the effects of every group, on the CPU."""
        self.found = torch.zeros(len(values), *self.shape)
        if self.root is not None:
            torch.autograd.grad(values.sum(), self.root)
        return self.found

    @torch.no_grad()
    def _take(self, reading: Reading, gradient: Float[Tensor, "batch heads rows head_dim"]) -> None:
        batch, heads, rows, dim = gradient.shape
        shared, kv_heads = reading.shared_values, reading.shared_values.shape[0]
        # What each value is worth: its product with the gradient.
        folded = gradient.reshape(batch, kv_heads, -1, dim).transpose(0, 1)
        of_shared = (folded.reshape(kv_heads, -1, dim) @ shared.transpose(1, 2)).view(*folded.shape[:-1], shared.shape[1])
        of_own = folded @ reading.values.transpose(0, 1).transpose(2, 3)
        worth = torch.cat([of_shared, of_own], -1).view(kv_heads, batch, heads // kv_heads, rows, -1)

        (gate, amount) = reading.cuts[0]
        first = max(0, rows - self.suffix)  # rows up to the end of the picture may be run, but are never cut
        effects = flips(
            reading.weigh([])[..., first:, :], reading.weigh(reading.cuts)[..., first:, :], worth[..., first:, :], self._places(reading), len(self.groups),
            reading.twins if gate.reads == "baseline" else None, reading.picture,
        )  # fmt: skip
        effects = effects.transpose(0, 1).reshape(batch, heads, rows - first, -1)
        cut = amount[..., first:] if amount.shape[-1] > 1 else amount
        effects = torch.einsum("bhrg,bhr->bhg", effects, cut.expand(batch, heads, rows - first).to(effects)).cpu()
        if len(self.shape) == 1:
            self.found += effects.sum(1)
        else:
            self.found[:, self.bank.ordinal(reading.layer)] += effects

    def _places(self, reading: Reading) -> Tensor:
        """Group of each image position, in order; the number of groups where it is in none."""
        start = self.bank.place(reading.layer)[1].start
        mine = self.groups[:, start : start + reading.picture.stop - reading.picture.start]
        return torch.where(mine.any(0), mine.int().argmax(0), len(self.groups)).to(reading.shared_values.device)


def flips(
    open_scores: Float[Tensor, "*rows keys"], scores: Float[Tensor, "*rows keys"], worth: Float[Tensor, "*rows keys"], places: Tensor, groups: int,
    twins: slice | None, picture: slice,
) -> Float[Tensor, "*rows groups"]:  # fmt: skip
    """Change of Σ weight·worth when each group alone turns from baseline to real, weights being a softmax over keys.

    In double precision, and with sums over all *other* groups in place of differences: a group that holds nearly all the weight leaves a rest
    that a subtraction would lose.

    Args:
        open_scores: of every key and every twin, −∞ where the model hides it.
        scores: the same under the gates that are in force.
        worth: what a unit of weight on each key is worth.
        places: group of each image position; ``groups`` for none.
        groups: their number.
        twins, picture: columns of the twins (None = a closed key reads nothing) and of the real keys.
    """
    largest = open_scores.amax(-1, keepdim=True).double()
    largest = largest.masked_fill(largest.isinf(), 0)  # a query to which everything is hidden reads nothing, whatever is flipped
    everything, current = (torch.exp(x.double() - largest) for x in (open_scores, scores))
    worth = worth.double()

    def grouped(amounts: Tensor, columns: slice) -> Tensor:
        sums = amounts.new_zeros(*amounts.shape[:-1], groups + 1)
        return sums.index_add_(-1, places, amounts[..., columns])

    def others(amounts: Tensor) -> Tensor:
        """Sum over all keys but those of each group."""
        inside = grouped(amounts, picture)
        if twins is not None:
            inside = inside + grouped(amounts, twins)
        outside = amounts.clone()
        outside[..., picture] = 0
        if twins is not None:
            outside[..., twins] = 0
        rest = outside.sum(-1, keepdim=True) + inside[..., groups:]
        inside = inside[..., :groups]
        before = inside.cumsum(-1).roll(1, -1)
        after = inside.flip(-1).cumsum(-1).flip(-1).roll(-1, -1)
        before[..., 0], after[..., -1] = 0, 0
        return rest + before + after

    without, worth_without = others(current), others(current * worth)

    def output(columns: slice | None) -> Tensor:
        total, product = without, worth_without
        if columns is not None:
            total = total + grouped(everything, columns)[..., :groups]
            product = product + grouped(everything * worth, columns)[..., :groups]
        return torch.where(total > 0, product / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)

    return output(picture) - output(twins)
