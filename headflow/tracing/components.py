"""What is cut in one example: single text tokens in bands of layers, or routes between groups of tokens (METHOD, "Tokens").

The picture's other ways through the model are left alone. A knockout shows what a model can do without an edge, not only what it does with it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headflow.components import TextTokens
from headflow.errors import HeadflowError
from headflow.gates import Gate, Reads
from headflow.tracing.bands import Band, as_masks
from headflow.tracing.templates import AFTER

QUESTION_TO_ROLE, ROLE_TO_FINAL, IMAGE_TO_QUESTION, IMAGE_TO_ROLE = ROUTES = "question→role", "role→final", "image→question", "image→role"
"""What can be closed. "Role" as the end of a route takes in the role, final and answer tokens, "final" the final and answer tokens."""
FROM_IMAGE = (IMAGE_TO_QUESTION, IMAGE_TO_ROLE)


def single_tokens(tokens: int, bands: Sequence[Band], layers: int, heads: Bool[np.ndarray, "layers heads"] | None = None) -> TextTokens:
    """Every token of the suffix, in every band, a component of its own."""
    chosen = None if heads is None else torch.from_numpy(heads)
    return TextTokens(torch.eye(tokens, dtype=torch.bool), torch.from_numpy(as_masks(list(bands), layers)), chosen)


@dataclass(frozen=True)
class Route:
    """Edges from one group of tokens to another.

    Attributes:
        readers: suffix tokens that read.
        sources: positions of the prompt that are read; None = the picture.
        reads: what the readers find there when the route is closed; None = what the run's baseline says (the picture alone has one).
    """

    name: str
    readers: Bool[Tensor, "suffix"]
    sources: Bool[Tensor, "positions"] | None
    reads: Reads | None


@dataclass(frozen=True)
class Routes:
    """Routes in bands of layers as components: an ablated entry closes that route in those layers. Bands may overlap.

    Attributes:
        routes: the routes.
        bands: layers of each band.
    """

    routes: tuple[Route, ...]
    bands: Bool[Tensor, "bands layers"]
    mixes = True

    def __post_init__(self) -> None:
        empty = [route.name for route in self.routes if not bool(route.readers.any()) or (route.sources is not None and not bool(route.sources.any()))]
        if empty or not self.routes:
            raise HeadflowError(f"routes: {', '.join(empty) or 'none is given, or all'} without a token at one end; leave such routes out")
        if self.bands.ndim != 2 or self.bands.dtype != torch.bool or not bool(self.bands.any(1).all()):
            raise HeadflowError("routes: bands must be boolean, (bands, layers), none of them empty")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.routes), len(self.bands)

    def gates(self, masks: Float[Tensor, "batch routes bands"], reads: Reads) -> list[Gate]:
        # A layer is as far closed as the bands that hold it leave nothing open.
        closed = 1 - (1 - (1 - masks)[..., None] * self.bands.to(masks)).prod(-2)
        return [
            Gate(
                route.reads or reads,
                queries=route.readers.to(masks),
                keys=None if route.sources is None else route.sources.to(masks),
                layers=closed[:, place],
            )
            for place, route in enumerate(self.routes)
        ]

    def fingerprint(self) -> str:
        total = hashlib.sha256(Path(__file__).read_bytes())  # the meaning of a mask is set here
        for route in self.routes:
            total.update(f"{route.name} {route.reads}".encode())
            for part in (route.readers, route.sources):
                total.update(b"picture" if part is None else f"{tuple(part.shape)}".encode() + part.cpu().numpy().tobytes())
        total.update(f"{tuple(self.bands.shape)}".encode() + self.bands.cpu().numpy().tobytes())
        return total.hexdigest()


def routes(roles: Sequence[str], suffix: int, *, cross: bool = False, reads: Reads | None = None) -> tuple[Route, ...]:
    """The routes of one example that have tokens at both ends, in the order of :data:`ROUTES`.

    Args:
        roles: of every token of the prompt and of the answer that is fed.
        suffix: tokens that gates act on: those after the picture; all where the picture stands in no sequence.
        cross: whether the picture is read by cross-attention. Gates then act in those layers alone, where text reads no text, so that only the
            routes from the image can be closed.
        reads: what closed edges from the image find; None = the run's baseline.
    """
    after = torch.tensor([role in AFTER for role in roles])
    last = torch.tensor([role in ("final", "answer") for role in roles])
    role = torch.tensor([one == "role" for one in roles])
    question = torch.tensor([one == "question" for one in roles])
    if cross:  # whatever text stands before the question may read the picture too
        question = ~after
    ends: dict[str, tuple[Tensor, Tensor | None]] = {
        QUESTION_TO_ROLE: (after, question), ROLE_TO_FINAL: (last, role), IMAGE_TO_QUESTION: (question, None), IMAGE_TO_ROLE: (after, None)
    }  # fmt: skip
    return tuple(
        Route(name, readers[-suffix:], sources, reads if sources is None else "nothing")
        for name, (readers, sources) in ends.items()
        if bool(readers[-suffix:].any()) and (sources is None or bool(sources.any())) and not (cross and sources is not None)
    )
