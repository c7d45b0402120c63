"""What each attention edge reads: the real key, the baseline key, or nothing.

Every image position has two keys and values, the real one and its *twin*, the baseline one. A :class:`Gate` cuts a set
of edges (layer, head, query position, key position) and says what is read there instead. The set is a product of small
factors, which heads × which queries × which keys × which layers, and is never written out as one tensor.

Head ablation, knockout and token tracing are the same computation with different gates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headflow.errors import HeadflowError

Reads = Literal["baseline", "nothing"]


@dataclass(frozen=True)
class Gate:
    """Edges that are cut, as a product of factors; a factor of ``None`` takes in everything.

    Every factor holds the *amount* of the cut: 0 leaves an edge alone, 1 cuts it. The amount of an edge is the product
    of its factors. Between 0 and 1, two meanings are possible and both are used:

    - ``heads``, ``queries`` and ``layers`` mix outputs: a head's output is (1 − a)·(output with the edges intact) +
      a·(output with the edges cut). It is differentiable everywhere, and its derivative is the exact difference of the
      two outputs ("gate gradients").
    - ``keys`` weigh exponentials: a key enters the softmax with weight (1 − a), its twin with weight a.

    At 0 and 1 the two agree.

    Attributes:
        reads: what is read where an edge is cut: the ``baseline`` twin (image positions only) or ``nothing`` (the edge
            is closed and attention renormalises).
        heads: amount per forward of the batch, layer and query head.
        queries: amount per suffix position (0 = first token after the image span), optionally per forward.
        keys: amount per position of the whole prompt, optionally per forward; ``None`` = the image span.
        layers: amount per layer, optionally per forward.
    """

    reads: Reads = "baseline"
    heads: Float[Tensor, "batch layers heads"] | None = None
    queries: Float[Tensor, "*batch suffix"] | None = None
    keys: Float[Tensor, "*batch positions"] | None = None
    layers: Float[Tensor, "*batch layers"] | None = None

    def __post_init__(self) -> None:
        for name in ("heads", "queries", "keys", "layers"):
            factor = getattr(self, name)
            if factor is None:
                continue
            if not factor.is_floating_point():
                factor = factor.float()
                object.__setattr__(self, name, factor)
            values = factor.detach()
            if not bool(((values >= 0) & (values <= 1)).all()):
                raise HeadflowError(f"gate: {name} holds values outside 0..1")

    @cached_property
    def mixes(self) -> bool:
        """Whether outputs are mixed: a row factor is between 0 and 1, or is to be differentiated."""
        rows = [factor for factor in (self.heads, self.queries, self.layers) if factor is not None]
        return any(factor.requires_grad or bool(((factor != 0) & (factor != 1)).any()) for factor in rows)

    @property
    def batches(self) -> set[int]:
        """Numbers of forwards that its factors tell apart (1 = the same for all)."""
        sizes = {self.heads.shape[0]} if self.heads is not None else set()
        return sizes | {factor.shape[0] for factor in (self.queries, self.keys, self.layers) if factor is not None and factor.ndim == 2}

    @property
    def batch(self) -> int:
        """Forwards that this gate tells apart (1 = the same for all)."""
        return max(self.batches, default=1)

    @property
    def only_heads(self) -> bool:
        """Whether the gate is plain head ablation: chosen heads, every suffix query, the whole image span."""
        return self.heads is not None and self.queries is None and self.keys is None and self.layers is None

    def rows(self, layer: int) -> Float[Tensor, "batch heads suffix"] | None:
        """Amount of the cut per forward, head and query at ``layer`` (dimensions of size 1 broadcast); None = no cut."""
        if self.layers is not None and not self.layers.requires_grad and not bool(self.layers[..., layer].any()):
            return None
        amount = torch.ones(1, 1, 1)
        for factor in (
            None if self.heads is None else self.heads[:, layer, :, None],
            None if self.queries is None else (self.queries if self.queries.ndim == 2 else self.queries[None])[:, None, :],
            None if self.layers is None else self.layers[..., layer].reshape(-1, 1, 1),
        ):
            if factor is not None:
                amount = amount.to(factor) * factor
        if not amount.requires_grad and not bool((amount != 0).any()):
            return None
        return amount

    def to(self, device: torch.device, dtype: torch.dtype) -> "Gate":
        """The same gate with its factors on another device and in another number format."""
        moved = {name: factor.to(device, dtype) for name in ("heads", "queries", "keys", "layers") if (factor := getattr(self, name)) is not None}
        return Gate(reads=self.reads, **moved)


def ablate_heads(
    masks: Bool[Tensor, "batch layers heads"] | Float[Tensor, "batch layers heads"], reads: Reads = "baseline"
) -> Gate:
    """Head ablation (Kim et al. 2025, head attribution): heads with mask 0 read ``reads`` at every image position.

    Args:
        masks: 1 = head intact, 0 = head ablated; values between mix the two outputs.
        reads: ``baseline`` or, for attention knockout (Kaduri et al. 2025), ``nothing``.
    """
    return Gate(reads=reads, heads=1 - masks.to(torch.float32 if masks.dtype == torch.bool else masks.dtype))


def check_gates(gates: Sequence[Gate], *, layers: int, heads: int, suffix: int, positions: int, image: slice) -> int:
    """The batch size that ``gates`` ask for.

    Raises:
        HeadflowError: a factor has the wrong shape, batch sizes differ, or a baseline is asked for outside the image.
    """
    expected = {"heads": (layers, heads), "queries": (suffix,), "keys": (positions,), "layers": (layers,)}
    batches = set()
    for gate in gates:
        for name, shape in expected.items():
            factor = getattr(gate, name)
            if factor is None:
                continue
            least, most = (3, 3) if name == "heads" else (1, 2)
            if tuple(factor.shape[-len(shape) :]) != shape or not least <= factor.ndim <= most:
                raise HeadflowError(f"gate: {name} has shape {tuple(factor.shape)}, expected (forwards, {', '.join(map(str, shape))})")
        if gate.reads == "baseline" and gate.keys is not None:
            outside = gate.keys.detach().clone()
            outside[..., image] = 0
            if bool(outside.any()):
                raise HeadflowError("gate: only image positions have a baseline; cut other keys with reads='nothing'")
        batches |= gate.batches
    batches.discard(1)
    if len(batches) > 1:
        raise HeadflowError(f"gates disagree on the number of forwards: {sorted(batches)}")
    return batches.pop() if batches else 1
