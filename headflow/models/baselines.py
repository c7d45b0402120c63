"""What an ablated head reads at image positions in place of the picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headflow.errors import HeadflowError
from headflow.files import write_atomically
from headflow.models.capture import Capture

GREY = (128, 128, 128)


@dataclass(repr=False)
class Baseline:
    """Baseline keys and values at image positions (Kim et al. 2025, head ablation).

    Attributes:
        kind: ``mean`` (over reference pictures), ``blank`` (a uniform grey picture), ``swap`` (another picture) or
            ``closed`` (none: the edge is cut and attention renormalises).
        keys, values: per layer ``[kv_heads, image, head_dim]``, after RoPE; empty for ``closed``.
        layout: where the picture's keys stand (:meth:`Capture.layout`); keys carry their position, so it has to match the
            example's.
        pictures: pictures that went into it.
    """

    kind: str
    keys: list[Float[Tensor, "kv_heads image head_dim"]]
    values: list[Float[Tensor, "kv_heads image head_dim"]]
    layout: str = ""
    pictures: int = 0

    def __repr__(self) -> str:
        image = self.keys[0].shape[1] if self.keys else 0
        return f"Baseline({self.kind!r}, {len(self.keys)} layers, {image} image positions, of {self.pictures} pictures)"

    @property
    def reads(self) -> str:
        """What a gate with this baseline reads where it cuts."""
        return "baseline" if self.keys else "nothing"

    def fingerprint(self) -> str:
        """SHA-256 over all its numbers."""
        digest = hashlib.sha256(f"{self.kind} {self.layout} {[tuple(x.shape) for x in (*self.keys, *self.values)]}".encode())
        for tensor in (*self.keys, *self.values):
            digest.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def check_fits(self, capture: Capture) -> None:
        """Raise HeadflowError unless this baseline stands at the same positions as the example's picture."""
        if not self.keys:
            return
        shapes = [k.shape for k in self.keys], [k.shape for k in capture.image_keys_values()[0]]
        if [(s[0], s[2]) for s in shapes[0]] != [(s[0], s[2]) for s in shapes[1]]:
            raise HeadflowError(f"baseline {self.kind!r} was made by a model with other layers or key heads than the example's; make it anew with this model")
        if self.layout != capture.layout():
            raise HeadflowError(
                f"baseline {self.kind!r} covers {self.keys[0].shape[1]} image positions, the example {shapes[1][0][1]}, or they stand at other places: "
                "references must have the example's image size (set examples.picture_size), or use `baseline: blank` or `closed`"
            )

    def save(self, path: Path) -> None:
        """Write as safetensors: ``keys`` and ``values``, ``[layers, kv_heads, image, head_dim]``."""
        # The layers of a model that is spread over devices leave theirs on several.
        both = {"keys": self.keys, "values": self.values} if self.keys else {}
        tensors = {name: torch.stack([x.cpu() for x in layers]).contiguous() for name, layers in both.items()}
        # One entry: safetensors writes several in an order that differs from process to process.
        metadata = {"baseline": json.dumps({"kind": self.kind, "layout": self.layout, "pictures": self.pictures})}
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))

    @classmethod
    def load(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Baseline:
        """Read what :meth:`save` wrote.

        Raises:
            HeadflowError: the file is missing, truncated or something else.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = json.loads((file.metadata() or {})["baseline"])
                tensors = {name: file.get_tensor(name).to(device, dtype) for name in file.keys()}  # noqa: SIM118
                return cls(
                    kind=metadata["kind"],
                    keys=list(tensors["keys"]) if tensors else [],
                    values=list(tensors["values"]) if tensors else [],
                    layout=metadata["layout"],
                    pictures=metadata["pictures"],
                )
        except FileNotFoundError:
            raise HeadflowError(f"{path}: missing; run `dvc repro` to make it") from None
        except (SafetensorError, KeyError, ValueError, TypeError, RecursionError, OSError) as error:
            raise HeadflowError(f"{path}: not a readable baseline file ({error}); delete it and run `dvc repro` again") from None


def closed_baseline() -> Baseline:
    """No baseline: ablated heads read nothing at image positions (attention knockout, Kaduri et al. 2025)."""
    return Baseline("closed", [], [])


def swap_baseline(other: Capture, kind: str = "swap") -> Baseline:
    """The keys and values of another picture."""
    keys, values = other.image_keys_values()
    return Baseline(kind, keys, values, layout=other.layout(), pictures=1)


def blank_baseline(capture: Capture) -> Baseline:
    """Those of a uniform grey picture of the example's size."""
    grey = Image.new("RGB", capture.picture.size, GREY)
    return swap_baseline(capture.lvlm.capture(grey, capture.question), "blank")


def mean_baseline(captures: Iterable[Capture]) -> Baseline:
    """Mean over reference pictures, per layer, key head and position; one capture is held at a time.

    Raises:
        HeadflowError: there is no reference, or references differ in the place or number of image tokens.
    """
    keys: list[Tensor] = []
    values: list[Tensor] = []
    count, layout, dtype = 0, "", torch.float32
    for capture in captures:
        k, v = capture.image_keys_values()
        if not count:
            keys, values = [x.double() for x in k], [x.double() for x in v]
            layout, dtype = capture.layout(), k[0].dtype
        elif layout != capture.layout():
            raise HeadflowError(
                "the mean baseline needs references of one image size: set examples.picture_size, or use `baseline: blank` or `closed`"
            )
        else:
            for total, x in zip((*keys, *values), (*k, *v), strict=True):
                total += x.double()
        count += 1
    if not count:
        raise HeadflowError("the mean baseline needs at least one reference picture")
    return Baseline("mean", [x.div(count).to(dtype) for x in keys], [x.div(count).to(dtype) for x in values], layout=layout, pictures=count)
