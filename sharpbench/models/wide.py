"""A network of which the limit of infinite width is a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.models import models
from sharpbench.models.base import ACTIVATIONS, Activation, Model

__all__ = ["WideNetwork"]


class _Times(nn.Module):
    """x ↦ ``factor``·x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


@models.register
@dataclass(frozen=True)
class WideNetwork(Model):
    """Two layers in the tangent kernel's scaling, f(x) = Σ aₖ σ(wₖ·x/√d + bₖ)/√width, weights N(0, 1).

    As the width grows, training by gradient descent becomes that of its tangent kernel, and with ½ squared
    error the residual along each of the kernel's eigenfunctions falls as exp(−eigenvalue · time), the time
    being steps × learning rate. With ``zero_start`` the second half of the units repeats the first with
    the opposite aₖ: the function is zero at the start, its kernel the same in the mean. Without ``bias``
    and with ReLU, f is a linear function and an even one together: of the circle's modes the odd ones
    above the first are out of its reach.
    """

    name = "wide_network"
    reference = (
        "Jacot et al., arXiv:1806.07572; Zhang et al., arXiv:1905.07777 (antisymmetrical start)"
    )

    width: int = 1024
    activation: Activation = "relu"
    bias: bool = True
    zero_start: bool = True

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        if self.zero_start and self.width % 2:
            raise ValueError(f"zero_start needs an even width, got {self.width}")

    def assemble(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        dimension = math.prod(input_shape)
        inner = nn.Linear(dimension, self.width, self.bias)
        outer = nn.Linear(self.width, outputs, bias=False)
        for parameter in (*inner.parameters(), *outer.parameters()):
            nn.init.normal_(parameter)
        if self.zero_start:
            half = self.width // 2
            with torch.no_grad():
                for parameter in inner.parameters():
                    parameter[half:] = parameter[:half]
                outer.weight[:, half:] = -outer.weight[:, :half]
        flat: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
        scaled = [_Times(dimension**-0.5), inner, ACTIVATIONS[self.activation]()]
        return nn.Sequential(*flat, *scaled, _Times(self.width**-0.5), outer)
