"""What the entries of a mask stand for: heads, tokens of the text, or tokens of the picture.

A mask says which components are intact; :meth:`Components.gates` says what that means for the edges of attention. Everything else (designs
of masks, masked runs, regression) is the same for every kind.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headflow.errors import HeadflowError
from headflow.gates import Gate, Reads, ablate_heads


@runtime_checkable
class Components(Protocol):
    """Parts of an example that can be cut off from the picture, each alone.

    Attributes:
        shape: shape of one mask.
        mixes: whether a mask's values between 0 and 1 mix outputs, so that gradients in them are exact differences of two outputs.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def mixes(self) -> bool: ...

    def gates(self, masks: Float[Tensor, "batch *shape"], reads: Reads) -> list[Gate]:
        """The cuts of each mask (1 = intact, 0 = ablated); differentiable in the masks."""
        ...

    def fingerprint(self) -> str:
        """What tells these components from others in the result store."""
        ...


@dataclass(frozen=True)
class Heads:
    """Every head of every layer (Kim et al. 2025, head attribution)."""

    layers: int
    heads: int
    mixes = True

    @property
    def shape(self) -> tuple[int, int]:
        return self.layers, self.heads

    def gates(self, masks: Float[Tensor, "batch layers heads"], reads: Reads) -> list[Gate]:
        return [ablate_heads(masks, reads)]

    def fingerprint(self) -> str:
        return ""  # the store's first records were of heads


@dataclass(frozen=True)
class TextTokens:
    """Groups of tokens after the picture, in windows of layers: an ablated one reads no picture there (METHOD, "Tokens").

    Attributes:
        groups: suffix tokens of each group; no token is in two.
        windows: layers of each window; no layer is in two.
        heads: heads that are cut; None = all.
    """

    groups: Bool[Tensor, "groups suffix"]
    windows: Bool[Tensor, "windows layers"]
    heads: Bool[Tensor, "layers heads"] | None = None
    mixes = True

    def __post_init__(self) -> None:
        _check_apart("groups", self.groups)
        _check_apart("windows", self.windows)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.windows), len(self.groups)

    def gates(self, masks: Float[Tensor, "batch windows groups"], reads: Reads) -> list[Gate]:
        heads, groups = _chosen(self.heads, masks), self.groups.to(masks)
        cut = (1 - masks) @ groups
        return [Gate(reads, heads=heads, queries=cut[:, place], layers=window) for place, window in enumerate(self.windows.to(masks))]

    def fingerprint(self) -> str:
        return _fingerprint("text tokens", self.groups, self.windows, self.heads)


@dataclass(frozen=True)
class ImageTokens:
    """Groups of image tokens: an ablated one shows its baseline twin, or nothing, to every token of the text.

    Attributes:
        groups: keys of each group, of all that a gate may name (``capture.key_positions``); no key is in two, and all lie in the image.
        heads: heads that are cut; None = all.
    """

    groups: Bool[Tensor, "groups positions"]
    heads: Bool[Tensor, "layers heads"] | None = None
    mixes = False

    def __post_init__(self) -> None:
        _check_apart("groups", self.groups)

    @property
    def shape(self) -> tuple[int]:
        return (len(self.groups),)

    def gates(self, masks: Float[Tensor, "batch groups"], reads: Reads) -> list[Gate]:
        return [Gate(reads, heads=_chosen(self.heads, masks), keys=(1 - masks) @ self.groups.to(masks))]

    def fingerprint(self) -> str:
        return _fingerprint("image tokens", self.groups, self.heads)


def _chosen(heads: Bool[Tensor, "layers heads"] | None, masks: Tensor) -> Float[Tensor, "1 layers heads"] | None:
    return None if heads is None else heads.to(masks)[None]


def _check_apart(name: str, sets: Bool[Tensor, "sets members"]) -> None:
    """Raise HeadflowError unless ``sets`` are not empty and have no member in common."""
    if sets.ndim != 2 or not len(sets) or sets.dtype != torch.bool:
        raise HeadflowError(f"components: {name} has shape {tuple(sets.shape)} and type {sets.dtype}, expected (sets, members), boolean, with at least one set")
    if bool((sets.sum(0) > 1).any()) or not bool(sets.any(1).all()):
        raise HeadflowError(f"components: {name} must not be empty, nor have a member in common")


def _fingerprint(kind: str, *parts: Tensor | None) -> str:
    total = hashlib.sha256(kind.encode())
    for part in parts:
        total.update(b"all" if part is None else f"{tuple(part.shape)}".encode() + part.cpu().numpy().tobytes())
    return total.hexdigest()
