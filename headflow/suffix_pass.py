"""What one suffix pass knows beside its arguments: the keys and values that all forwards share, and the gates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headflow.gates import Gate

Mode = Literal["shared", "recomputed", "cross"]
"""How a model's masked forwards treat what stands before the text: one shared prefix, the whole sequence recomputed, or
cross-attention to a picture that stands in no sequence."""

Record = Callable[[int, Float[Tensor, "batch heads queries keys"]], None]


@dataclass(frozen=True)
class Watching:
    """How the stock model's attention is looked at while it is computed, without ever being held whole.

    Attributes:
        take: called layer by layer with a block of queries at a time, in order: the layer, which of the queries that are run, their weights over
            [shared real keys | own keys], float32, and which of these keys the model shows to them.
        block_bytes: memory that the weights of one block may take; one query at least goes at a time.
    """

    take: Callable[[int, slice, Float[Tensor, "heads queries keys"], Bool[Tensor, "queries keys"]], None]
    block_bytes: int = 2**24


@dataclass(frozen=True)
class Reading:
    """How the heads of one layer come to their output: a softmax over [shared real keys | twins | the forward's own keys].

    Attributes:
        layer: the decoder layer.
        cuts: the gates that are in force there, with their amount for each row.
        weigh: scores under given cuts, ``[kv_heads, batch, group, rows, keys]``; without any, those of the stock model for all keys and twins.
        shared_values: values of the shared keys and twins, ``[kv_heads, shared, head_dim]``.
        values: values of the forward's own keys, ``[batch, kv_heads, own, head_dim]``.
        picture, twins: columns of the picture's real keys, and of their twins (none where no gate reads the baseline).
    """

    layer: int
    cuts: list[tuple[Gate, Tensor]]
    weigh: Callable[[list[tuple[Gate, Tensor]]], Tensor]
    shared_values: Tensor
    values: Tensor
    picture: slice
    twins: slice


Differences = Callable[[Reading, Float[Tensor, "batch heads queries head_dim"]], Float[Tensor, "batch heads queries head_dim"]]


@dataclass
class Bank:
    """Keys and values that all forwards share, decoder layer by decoder layer.

    Attributes:
        keys, values: per decoder layer ``[kv_heads, real + twins, head_dim]``: the real ones that are shared (the prefix; the
            picture in a layer of cross-attention; none where everything is recomputed), then the baseline twins of the
            image (absent where there is no baseline).
        prefix: tokens in the shared prefix; the image span is its last part.
        image: the image span in the prompt.
        mode: see :data:`Mode`.
        image_layers: decoder layers that read the picture by cross-attention; None = every layer reads it.
        picture: keys of the picture in a layer of cross-attention.
        visible: per decoder layer what the stock model shows to each query, where it cannot be told from the suffix alone.
    """

    keys: list[Float[Tensor, "kv_heads bank head_dim"]]
    values: list[Float[Tensor, "kv_heads bank head_dim"]]
    prefix: int
    image: slice
    mode: Mode = "shared"
    image_layers: Sequence[int] | None = None
    picture: int = 0
    visible: list[Bool[Tensor, "1 1 rows keys"]] | None = None

    # Keys and values of an ablated head, made when first needed: per (layer, whether there are twins to read).
    _ablated: dict[tuple[int, bool], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def has_baseline(self) -> bool:
        layer = 0 if self.image_layers is None else self.image_layers[0]
        return self.keys[layer].shape[1] > self.place(layer)[0]

    def ordinal(self, layer: int) -> int | None:
        """The number that gates know a decoder layer by, counted along the layers that read the picture; None = it reads none."""
        if self.image_layers is None:
            return layer
        return self.image_layers.index(layer) if layer in self.image_layers else None

    def crosses(self, layer: int) -> bool:
        """Whether the layer attends to the picture alone."""
        return self.image_layers is not None and layer in self.image_layers

    def place(self, layer: int) -> tuple[int, slice]:
        """Shared real keys of a layer, and where among the layer's real keys the image stands."""
        return (self.picture, slice(0, self.picture)) if self.crosses(layer) else (self.prefix, self.image)

    def ablated(self, layer: int, reads: str) -> tuple[Tensor, Tensor]:
        """What a fully ablated head sees of the shared prefix: the system tokens, then the twins of the image span or nothing."""
        wanted = (layer, reads == "baseline" and self.has_baseline)
        if wanted not in self._ablated:
            system = slice(0, self.image.start)
            both = (self.keys[layer], self.values[layer])
            self._ablated[wanted] = tuple(torch.cat([x[:, system], x[:, self.prefix :]], 1) if wanted[1] else x[:, system] for x in both)
        return self._ablated[wanted]


@dataclass
class SuffixPass:
    """State of one suffix pass: what the attention function needs beside its arguments.

    Attributes:
        bank: shared keys and values.
        gates: the cuts; empty = the stock model.
        last: output positions that the last layer has to produce, counted from the end (None = all).
        record: called per layer with the attention weights over [real prefix | baseline image | suffix], in float32.
        watching: looks at the stock model's attention block by block (one forward, no gates).
        differences: called per layer with a cut, with how the output came about and the output; hands on the output.
        fired: layers that came through here, in order.
        last_layer: number of the last layer.
        forwards, suffix: the batch size, and tokens that each forward runs.
        one_start: whether all forwards enter the first layer with the same embeddings.
        sorted: the forwards in the order of each head.
        seen: receives what the model shows to each query, layer by layer.
        generated: whether the tokens that are run were generated, and follow the prompt; gates then act on them alike.
        parts: the examples that share the pass where there are several, each with its own bank and gates.
    """

    bank: Bank
    gates: Sequence[Gate] = ()
    last: int | None = None
    record: Record | None = None
    watching: Watching | None = None
    differences: Differences | None = None
    fired: list[int] = field(default_factory=list)
    last_layer: int = -1
    forwards: int = 1
    suffix: int = 1
    one_start: bool = False
    sorted: object | None = None
    seen: dict[int, Bool[Tensor, "1 1 rows keys"]] | None = None
    generated: bool = False
    parts: Sequence["Part"] = ()

    def queries_needed(self, layer: int, suffix: int) -> int:
        return suffix if self.last is None or layer != self.last_layer else min(self.last, suffix)

    def plain(self, visible: Bool[Tensor, "1 1 rows keys"], softcap: float | None) -> bool:
        """Whether the pass is plain head ablation over a shared prefix that every query sees whole, with nothing to differentiate or record."""
        return (
            not torch.is_grad_enabled()
            and softcap is None
            and self.record is None
            and self.bank.mode == "shared"
            and len(self.gates) == 1
            and self.gates[0].only_heads
            and not self.gates[0].mixes
            and bool(visible[..., : self.bank.prefix].all())
        )

    def rows(self, gate: Gate, layer: int) -> Float[Tensor, "batch heads rows"] | None:
        """Amount of a gate's cut for every row that is run; None = the layer is left alone."""
        ordinal = self.bank.ordinal(layer)
        rows = None if ordinal is None else gate.rows(ordinal)
        if rows is None or self.generated or self.bank.mode != "recomputed":
            return rows
        before = self.bank.image.stop  # rows up to the end of the picture are run, but never cut
        return torch.nn.functional.pad(rows.expand(*rows.shape[:-1], self.suffix - before), (before, 0))


@dataclass
class Part:
    """One example's share of a pass in which several grow by one token each.

    Attributes:
        state: its bank and its gates.
        rows: its forwards in the batch.
        own: keys of its own that each of its forwards has; they stand last among those that the pass hands over.
    """

    state: SuffixPass
    rows: slice
    own: int

    def visible(self, layer: int, visible: Bool[Tensor, "1 1 rows keys"]) -> Bool[Tensor, "1 1 rows keys"]:
        """What its queries see: examples end together, whatever their length; a picture that is read by cross-attention is seen as it is."""
        return visible if self.state.bank.crosses(layer) else visible[..., -(self.state.bank.prefix + self.own) :]
