"""A linear model, the least of all networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from sharpbench.models import models
from sharpbench.models.base import Model

__all__ = ["Linear"]


@models.register
@dataclass(frozen=True)
class Linear(Model):
    """One linear layer from the flattened input to the outputs; with cross-entropy logistic regression.

    Of ½ squared error the Hessian is the features' mean square, the same everywhere. ``zero_start``: all
    weights begin at zero, as theory has it; else as torch.nn.Linear draws them.
    """

    name = "linear"
    reference = "least squares (Gauss 1809); multinomial logistic regression (Cox 1958)"

    bias: bool = True
    zero_start: bool = True

    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        layer = nn.Linear(math.prod(input_shape), outputs, self.bias)
        if self.zero_start:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        return nn.Sequential(nn.Flatten(), layer) if len(input_shape) > 1 else layer
