"""Fully connected network of equal layers, whose width and depth are axes of a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from sharpbench.models import models
from sharpbench.models.base import (
    ACTIVATIONS,
    Activation,
    Model,
    check_dropout,
    check_equal_layers,
)

__all__ = ["UniformMultiLayerPerceptron"]


@models.register
@dataclass(frozen=True)
class UniformMultiLayerPerceptron(Model):
    """``depth`` hidden layers of ``width`` units: Linear, activation, dropout, …, Linear.

    Biases start at zero; weights are Xavier-uniform for tanh and in the last layer (Glorot & Bengio 2010),
    Kaiming-uniform (He et al. 2015) elsewhere. `mlp` takes layers of different widths.
    """

    name = "uniform_mlp"
    reference = "width and depth as axes: arXiv:1912.02178, section 4"

    width: int = 32
    depth: int = 1
    activation: Activation = "relu"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_equal_layers(self.width, self.depth)
        check_dropout(self.dropout)

    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
        fan_in = math.prod(input_shape)
        for _ in range(self.depth):
            hidden = nn.Linear(fan_in, self.width)
            if self.activation == "tanh":
                nn.init.xavier_uniform_(hidden.weight)
            else:
                nn.init.kaiming_uniform_(hidden.weight, nonlinearity="relu")
            layers += [hidden, ACTIVATIONS[self.activation]()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            fan_in = self.width
        last = nn.Linear(fan_in, outputs)
        nn.init.xavier_uniform_(last.weight)
        layers.append(last)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
        return nn.Sequential(*layers)
