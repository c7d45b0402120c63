"""Where generated tokens look: at the picture, at the rest of the prompt, or at what has been said (Kaduri et al. 2025, section 4).

Read off one forward of the stock model with its own words fed to it (teacher forcing), which is what generation computes step by step.

*Which queries.* A generated token attends when it is run, to predict the one after it. So the queries are all generated tokens, the last one
included; the position that the first of them is read off at is the prompt's last: a query token in the paper's terms, and no generated one.
Feed a description with :func:`all_fed`, as a capture does not run the last token of its answer.

*Which keys.* ``image`` is the image span, structural tokens between its tokens included; ``query`` is every other token of the prompt, system
and role tokens included; ``generated`` are the generated tokens so far, the one that attends included. Where the picture is read by
cross-attention (Llama 3.2 Vision), those layers have no keys but the picture's: their image share is 1 by construction. Their other layers see
text alone; the image token of the prompt, which carries no picture there, counts as query.

Attention is summed up inside the attention function, a block of queries at a time: memory does not grow with layers × tokens².
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headflow.errors import HeadflowError
from headflow.models.baselines import closed_baseline
from headflow.models.capture import Capture
from headflow.suffix import make_bank, prepared, run_suffix
from headflow.suffix_pass import Watching


@dataclass(frozen=True)
class SpokenShares:
    """Attention of the generated tokens, mean over them.

    Attributes:
        shares: share that goes to each of :data:`headflow.tables.sharing.GROUPS`, 0..1, for every decoder layer.
        even: the share that each group would get if attention were even over all tokens that the layer shows to the generated token.
        tokens: tokens of each group in the whole sequence; under cross-attention those of the picture that the model shows.
        maps: attention to each of the picture's keys (``capture.key_image``), mean over heads, for every layer that reads the picture (all
            decoder layers, or those of cross-attention).
        head_maps: the same head by head; None where it was not asked for.
        shown: the picture's keys that any layer shows to any generated token: all of them, but for sliding windows and padded tiles.
    """

    shares: Float[Tensor, "layers heads 3"]
    even: Float[Tensor, "layers 3"]
    tokens: tuple[int, int, int]
    maps: Float[Tensor, "reading image"]
    head_maps: Float[Tensor, "reading heads image"] | None
    shown: Bool[Tensor, " image"]


def all_fed(tokens: Sequence[int]) -> list[int]:
    """An answer for :meth:`LVLM.capture` of which every one of ``tokens`` is run: one more follows, which is never read."""
    return [*tokens, *tokens[-1:]]


def generated_positions(capture: Capture) -> range:
    """Positions of the generated tokens that are run.

    Raises:
        HeadflowError: there is none: the example is captured without an answer, or with a single token of one.
    """
    if not _run(capture):
        raise HeadflowError("no generated token is run here, so none attends to anything; capture the example with what the model says: all_fed(tokens)")
    return range(len(capture.input_ids) - _run(capture), len(capture.input_ids))


def _run(capture: Capture) -> int:
    """Generated tokens that are run."""
    return max(0, len(capture.answer_ids) - 1)


@torch.no_grad()
def spoken_shares(capture: Capture, *, head_maps: bool = False, block_bytes: int = 2**24) -> SpokenShares:
    """Share of the generated tokens' attention that goes to image, query and generated tokens, and the mean attention to each image token.

    Args:
        capture: the example with what the model says about it as its answer (:func:`all_fed`).
        head_maps: whether the attention to each image token is wanted head by head.
        block_bytes: memory of the attention weights that are held at a time.

    Raises:
        HeadflowError: the capture has no generated token.
    """
    spoken = generated_positions(capture)
    shares: dict[int, Tensor] = {}
    even: dict[int, Tensor] = {}
    maps: dict[int, Tensor] = {}
    shown = torch.zeros(capture.key_image.stop - capture.key_image.start, dtype=torch.bool)

    def take(layer: int, weights: Float[Tensor, "heads some keys"], visible: Bool[Tensor, "some keys"], first: int) -> None:
        groups = _groups(capture, layer)
        _add(shares, layer, torch.stack([sum(weights[..., part].sum(-1) for part in parts).sum(1) for parts in groups], -1))
        counts = torch.stack([sum(visible[:, part].sum(-1) for part in parts) for parts in groups], -1).float()
        _add(even, layer, (counts / counts.sum(-1, keepdim=True).clamp_min(1)).sum(0))
        if (picture := _picture(capture, layer)) is not None:
            looked = weights[..., picture].sum(1)
            _add(maps, layer, looked if head_maps else looked.mean(0))
            shown.logical_or_(visible[:, picture].any(0).cpu())

    _watch(capture, spoken, take, block_bytes)
    (means, chances, looked), span = (_mean(sums, len(spoken)) for sums in (shares, even, maps)), capture.image.stop - capture.image.start
    cross = capture.mode == "cross"
    tokens = int(shown.sum()) if cross else span, spoken.start - (0 if cross else span), len(spoken)
    return SpokenShares(means, chances, tokens, looked.mean(1) if head_maps else looked, looked if head_maps else None, shown)


@torch.no_grad()
def image_attention_of(capture: Capture, tokens: Sequence[int], *, block_bytes: int = 2**24) -> Float[Tensor, "tokens layers heads image"]:
    """Attention of some generated tokens to each of the picture's keys.

    Args:
        capture: the example with what the model says about it as its answer (:func:`all_fed`).
        tokens: which tokens attend: 0 = the first generated one; −1 = the prompt's last position, which predicts it. In any order.
        block_bytes: memory of the attention weights that are held at a time.

    Returns:
        Weights, 0..1, on the CPU, for the layers that read the picture (``lvlm.image_layers`` under cross-attention, else all) and the keys
        ``capture.key_image``.

    Raises:
        HeadflowError: no token, or one that is not run.
    """
    prompt = len(capture.input_ids) - _run(capture)
    if not tokens:
        raise HeadflowError("no token is named whose attention is wanted")
    for token in tokens:
        if not -1 <= token < _run(capture):
            raise HeadflowError(
                f"generated token {token} is not run: {_run(capture)} are (all_fed(tokens) feeds every one), counted from 0; −1 is the prompt's last position"
            )
    wanted = [prompt + token for token in tokens]
    found = torch.zeros(len(wanted), capture.lvlm.layers, capture.lvlm.heads, capture.key_image.stop - capture.key_image.start)

    def take(layer: int, weights: Float[Tensor, "heads some keys"], visible: Bool[Tensor, "some keys"], first: int) -> None:
        if (picture := _picture(capture, layer)) is None:
            return
        ordinal = layer if capture.lvlm.image_layers is None else capture.lvlm.image_layers.index(layer)
        for row, position in enumerate(wanted):
            if 0 <= position - first < weights.shape[1]:
                found[row, ordinal] = weights[:, position - first, picture].cpu()

    _watch(capture, range(min(wanted), max(wanted) + 1), take, block_bytes)
    return found


_Take = Callable[[int, Float[Tensor, "heads some keys"], Bool[Tensor, "some keys"], int], None]


def _watch(capture: Capture, positions: range, take: _Take, block_bytes: int) -> None:
    """Run the stock model's suffix and hand the weights of the queries at ``positions`` to ``take``: layer, weights, visible keys, first position."""

    def clipped(layer: int, rows: slice, weights: Tensor, visible: Tensor) -> None:
        start, stop = (min(max(end - capture.prefix - rows.start, 0), weights.shape[1]) for end in (positions.start, positions.stop))
        if start < stop:
            take(layer, weights[:, start:stop], visible[start:stop], capture.prefix + rows.start + start)

    with prepared(capture):
        run_suffix(capture, make_bank(capture, closed_baseline()), watching=Watching(clipped, block_bytes))


def _picture(capture: Capture, layer: int) -> slice | None:
    """Where the picture's keys stand among those that the layer attends to; None = it does not read the picture."""
    crossing = capture.lvlm.image_layers
    return capture.key_image if crossing is None or layer in crossing else None


def _groups(capture: Capture, layer: int) -> tuple[list[slice], ...]:
    """Columns of each group among the keys that the layer attends to."""
    spoken = slice(generated_positions(capture).start, None)
    if capture.mode != "cross":
        return [capture.image], [slice(0, capture.image.start), slice(capture.image.stop, spoken.start)], [spoken]
    if _picture(capture, layer) is not None:
        return [slice(None)], [slice(0, 0)], [slice(0, 0)]
    return [slice(0, 0)], [slice(0, spoken.start)], [spoken]


def _add(sums: dict[int, Tensor], layer: int, amount: Tensor) -> None:
    sums[layer] = sums[layer] + amount if layer in sums else amount


def _mean(sums: dict[int, Tensor], count: int) -> Tensor:
    return torch.stack([sums[layer].cpu() for layer in sorted(sums)]) / count
