"""Fully connected network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import nn

from sharpbench.models import models
from sharpbench.models.base import ACTIVATIONS, Activation, Model

__all__ = ["MultiLayerPerceptron"]


@models.register
@dataclass(frozen=True)
class MultiLayerPerceptron(Model):
    """Fully connected network: Linear, activation, …, Linear.

    ``initialization``: with ``scaled`` biases start at zero, every weight is Xavier-uniform for tanh
    (Glorot & Bengio 2010), the hidden ones Kaiming-uniform (He et al. 2015) for the other activations.
    ``torch`` keeps what torch.nn.Linear draws: weights and biases uniform in ±1/√(fan in).
    """

    name = "mlp"
    reference = "arXiv:2511.01438, section 5.2"

    widths: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    initialization: Literal["scaled", "torch"] = "scaled"

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.widths):
            raise ValueError(f"widths must be positive, got {list(self.widths)}")

    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        sizes = [math.prod(input_shape), *self.widths, outputs]
        layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
        for fan_in, fan_out in pairwise(sizes[:-1]):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[self.activation]()]
        layers.append(nn.Linear(sizes[-2], sizes[-1]))
        for layer in layers if self.initialization == "scaled" else ():
            if isinstance(layer, nn.Linear):
                if self.activation == "tanh" or layer is layers[-1]:
                    nn.init.xavier_uniform_(layer.weight)
                else:
                    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        return nn.Sequential(*layers)
