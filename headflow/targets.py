"""The target f: one number from the logits that predict an answer."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headflow.errors import HeadflowError

Kind = Literal["logit", "logprob", "margin", "answer_logprob"]


@dataclass(frozen=True)
class Target:
    """What is explained (Kim et al. 2025 explain a logit; the others are ours).

    Attributes:
        kind: ``logit`` of the answer's first token, its ``logprob`` (nats), its ``margin`` over the best candidate
            (logits), or ``answer_logprob``: the log-probability of the whole answer, each token given those before it (nats).
        token: id of the answer's first token.
        candidates: ids of the other candidate answers' first tokens; the margin's rivals (all other tokens if empty).
        rest: ids of the answer's further tokens; ``answer_logprob`` needs an example captured with this answer.
    """

    kind: Kind
    token: int
    candidates: tuple[int, ...] = ()
    rest: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.token in self.candidates:
            raise HeadflowError(f"target: token {self.token} is the answer and cannot be its own rival")

    def __call__(self, logits: Float[Tensor, "batch answer vocabulary"] | Float[Tensor, "batch vocabulary"]) -> Float[Tensor, " batch"]:
        """f for each forward, in float32, from the logits that predict the answer's tokens one after the other.

        Raises:
            HeadflowError: the whole answer is wanted and the logits are those of another number of tokens.
        """
        if logits.ndim == 2:  # one position
            logits = logits[:, None]
        if self.kind == "answer_logprob":
            tokens = (self.token, *self.rest)
            if logits.shape[1] != len(tokens):
                raise HeadflowError(
                    f"target: the answer has {len(tokens)} tokens, the example was captured with {logits.shape[1]}; capture it with this answer"
                )
            logits = logits.float()
            wanted = torch.tensor(tokens, device=logits.device)[None, :, None].expand(len(logits), -1, 1)
            return (logits.gather(-1, wanted)[..., 0] - logits.logsumexp(-1)).sum(-1)
        logits = logits[:, 0].float()
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
