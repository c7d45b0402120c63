"""How far two ways to compute the same number may differ by rounding alone."""

import torch
from jaxtyping import Float
from torch import Tensor

# Under float64 weights too norms and softmax work in float32. In half precision a shared prefix and a full sequence
# differ by up to a few per cent of the largest logit.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 6e-2, torch.float16: 2e-2}


def relative(value: Float[Tensor, "*shape"], reference: Float[Tensor, "*shape"]) -> float:
    """Largest absolute difference over the largest absolute value of the reference."""
    return float((value.float() - reference.float()).abs().max() / reference.float().abs().max().clamp_min(1e-30))
