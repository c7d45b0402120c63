"""What the model would say under a mask: the next token, and how likely the explained answer is."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headflow.ablation import run_gates
from headflow.gates import ablate_heads
from headflow.models.baselines import Baseline
from headflow.models.capture import Capture


@dataclass(frozen=True)
class Said:
    """Reads the logits that predict the answer's first token."""

    token: int

    def __call__(self, logits: Float[Tensor, "batch answer vocabulary"] | Float[Tensor, "batch vocabulary"]) -> Float[Tensor, "batch 3"]:
        """Probability of the token, its rank among all (1 = the most likely; tokens as likely come after it), and the most likely token's id."""
        first = (logits if logits.ndim == 2 else logits[:, 0]).float()
        answer = first[:, self.token, None]
        return torch.stack([first.softmax(-1)[:, self.token], (first > answer).sum(-1) + 1, first.argmax(-1)], -1).double()


@torch.no_grad()
def said(capture: Capture, masks: Bool[np.ndarray, "masks layers heads"], baseline: Baseline, token: int) -> Float[np.ndarray, "masks 3"]:
    """Probability and rank of ``token`` as the answer's first, and the token that the model says instead, under a few masks in one batch.

    Raises:
        HeadflowError: masks or the baseline do not fit the example.
    """
    gate = ablate_heads(torch.from_numpy(np.ascontiguousarray(masks)), baseline.reads)
    return run_gates(capture, [gate], baseline=baseline, target=Said(token)).cpu().numpy()
