"""Muon for the weight matrices inside layers, AdamW for the rest.

torch.optim.Muon is not used: it orthogonalises in bfloat16, which CPUs without native support do fifteen times more slowly than float32,
and one matrix at a time. Here matrices of one shape are orthogonalised together in float32.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

_MOMENTUM = 0.95
_NEWTON_SCHULZ_STEPS = 5
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al. (2024), chosen for speed: singular values end up in about 0.7 to 1.2
_ADAM_BETAS = (0.9, 0.98)
_GRADIENT_NORM = 1.0  # AdamW's gradients are clipped to it; Muon's update does not depend on the gradient's size


class Optimiser:
    """Steps all given parameters; matrices of transformer layers by Muon.

    Args:
        parameters: (name, parameter) pairs; parameters without a gradient stay as they are in that step.
        matrix_rate: Muon's peak learning rate.
        other_rate: AdamW's peak learning rate.
        weight_decay: relative to the learning rate; not applied to vectors.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], matrix_rate: float, other_rate: float, weight_decay: float) -> None:
        self._matrix_rate, self._other_rate, self._weight_decay = matrix_rate, other_rate, weight_decay
        by_shape: dict[tuple[int, ...], list[tuple[str, nn.Parameter]]] = defaultdict(list)
        others: list[tuple[str, nn.Parameter]] = []
        for name, parameter in parameters:
            if parameter.ndim == 2 and ".layers." in name:
                by_shape[tuple(parameter.shape)].append((name, parameter))
            else:
                others.append((name, parameter))
        self._matrices = list(by_shape.values())
        self._momenta = [torch.zeros(len(group), *group[0][1].shape) for group in self._matrices]
        self._others = others
        decayed = [parameter for _, parameter in others if parameter.ndim >= 2]
        plain = [parameter for _, parameter in others if parameter.ndim < 2]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW([group for group in groups if group["params"]], lr=other_rate, betas=_ADAM_BETAS, fused=True)

    @torch.no_grad()
    def step(self, rate_share: float) -> None:
        """Update the parameters from their gradients, at this share of the peak rates, and drop the gradients."""
        others = [parameter for _, parameter in self._others]
        torch.nn.utils.clip_grad_norm_(others, _GRADIENT_NORM)
        for group in self._adam.param_groups:
            group["lr"] = self._other_rate * rate_share
        self._adam.step()
        for group, momentum in zip(self._matrices, self._momenta, strict=True):
            self._step_matrices([parameter for _, parameter in group], momentum, self._matrix_rate * rate_share)
        for parameter in (*others, *(parameter for group in self._matrices for _, parameter in group)):
            parameter.grad = None

    def _step_matrices(self, parameters: list[nn.Parameter], momentum: Float[Tensor, "count rows columns"], rate: float) -> None:
        if parameters[0].grad is None:
            return
        gradients = torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])
        momentum.lerp_(gradients, 1 - _MOMENTUM)
        updates = orthogonalise(gradients.lerp_(momentum, _MOMENTUM))
        rows, columns = parameters[0].shape
        scale = rate * math.sqrt(max(1.0, rows / columns))
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - rate * self._weight_decay).sub_(update, alpha=scale)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, as named tensors."""
        state = {f"momentum.{i}": momentum for i, momentum in enumerate(self._momenta)}
        for name, parameter in self._others:
            state |= {f"adam.{name}.{key}": torch.as_tensor(value) for key, value in self._adam.state[parameter].items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what :meth:`state` gave."""
        for i, momentum in enumerate(self._momenta):
            momentum.copy_(state[f"momentum.{i}"])
        for name, parameter in self._others:
            prefix = f"adam.{name}."
            self._adam.state[parameter] = {key.removeprefix(prefix): value.clone() for key, value in state.items() if key.startswith(prefix)}


def orthogonalise(matrices: Float[Tensor, "count rows columns"]) -> Float[Tensor, "count rows columns"]:
    """Replace all singular values of each matrix by about one, by Newton-Schulz iteration."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
