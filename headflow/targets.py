"""The target f: one number from the logits at the last prompt position."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headflow.errors import HeadflowError

Kind = Literal["logit", "logprob", "margin"]


@dataclass(frozen=True)
class Target:
    """What is explained (Kim et al. 2025 explain a logit; the other two are ours).

    Attributes:
        kind: ``logit`` of the answer's first token, its ``logprob`` (nats), or its ``margin`` over the best candidate
            (logits).
        token: id of the answer's first token.
        candidates: ids of the other candidate answers' first tokens; the margin's rivals (all other tokens if empty).
    """

    kind: Kind
    token: int
    candidates: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.token in self.candidates:
            raise HeadflowError(f"target: token {self.token} is the answer and cannot be its own rival")

    def __call__(self, logits: Float[Tensor, "batch vocabulary"]) -> Float[Tensor, " batch"]:
        """f for each row of logits, in float32."""
        logits = logits.float()
        answer = logits[:, self.token]
        if self.kind == "logit":
            return answer
        if self.kind == "logprob":
            return answer - logits.logsumexp(-1)
        if self.candidates:
            return answer - logits[:, list(self.candidates)].amax(-1)
        rivals = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
        rivals[self.token] = False
        return answer - logits[:, rivals].amax(-1)
