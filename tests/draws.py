"""Random factors of gates."""

import torch


class Factors:
    """Draws amounts for gates; a subclass says for which example.

    Attributes:
        random: the source of all draws.
        positions: keys that a gate may name.
        image: those of the picture among them.
    """

    random: torch.Generator
    positions: int
    image: slice

    def real(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.random)

    def bits(self, *shape: int) -> torch.Tensor:
        return (self.real(*shape) < 0.5).float()

    def image_keys(self, amounts: torch.Tensor) -> torch.Tensor:
        keys = torch.zeros(*amounts.shape[:-1], self.positions)
        keys[..., self.image] = amounts
        return keys

    @property
    def width(self) -> int:
        return self.image.stop - self.image.start
