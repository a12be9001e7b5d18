"""Controls: changes that a metric ought to notice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.seeds import torch_generator

__all__ = ["WeightNoise"]


@transformations.register
@dataclass(frozen=True)
class WeightNoise(Transformation):
    """Control that changes the function: adds Gaussian noise to every parameter tensor.

    The noise's standard deviation is ``strength`` times the tensor's root mean square. A metric
    that does not move here measures nothing.
    """

    name = "weight_noise"
    preserves = "nothing"

    strength: float = 0.1

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise ValueError(f"strength must be positive, got {self.strength}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        generator = torch_generator(seed)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = self.strength * parameter.double().square().mean().sqrt()
            parameter.add_((noise.to(parameter.device) * scale).to(parameter.dtype))
