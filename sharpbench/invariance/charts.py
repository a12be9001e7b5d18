"""The same network in other coordinates: the function stays, what a gradient is taken in changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation

__all__ = ["LogScale", "WeightNormalization"]

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class _Chart(Transformation, ABC):
    """Puts every weight of linear and convolutional layers in other coordinates; biases stay."""

    preserves = "function"

    def change(self, model: nn.Module, *, seed: int) -> None:
        layers = [
            m
            for m in model.modules()
            if isinstance(m, _WEIGHTED) and not parametrize.is_parametrized(m)
        ]
        if not layers:
            raise TransformationRefused("the network has no linear or convolutional layer")
        for layer in layers:
            chart = self.chart(layer.weight)
            with torch.enable_grad():
                parametrize.register_parametrization(layer, "weight", chart, unsafe=True)

    @abstractmethod
    def chart(self, weight: Tensor) -> nn.Module:
        """The map from the coordinates to ``weight``, with its inverse ``right_inverse``."""


@transformations.register
@dataclass(frozen=True)
class WeightNormalization(_Chart):
    """w = g·v/‖v‖ for each unit: the coordinates g and v in place of w (weight normalisation).

    It starts with v = w and g = ‖w‖. Metrics of parameter space are taken in g and v.
    """

    name = "weight_normalization"
    kind = "chart"
    traits = frozenset({"homogeneous"})
    reference = "Salimans & Kingma, arXiv:1602.07868"

    def chart(self, weight: Tensor) -> nn.Module:
        return _Normalized()


class _Normalized(nn.Module):
    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / _row_norms(v))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _row_norms(weight), weight


def _row_norms(weight: Tensor) -> Tensor:
    norms: Tensor = weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
    return norms


@transformations.register
@dataclass(frozen=True)
class LogScale(_Chart):
    """w = s·eᵘ with a fixed sign s: the coordinates u = log|w| of every weight; zero weights are refused.

    In u the ordinary ball is the elementwise adaptive one: ∂/∂u = w ∂/∂w.
    """

    name = "log_scale"
    reference = "arXiv:1703.04933, section 5 (reparametrisations)"
    kind = "chart"

    def chart(self, weight: Tensor) -> nn.Module:
        if bool((weight == 0).any()):
            raise TransformationRefused("a weight is exactly zero and has no logarithm")
        return _Exponential(weight.detach().sign())


class _Exponential(nn.Module):
    sign: Tensor

    def __init__(self, sign: Tensor) -> None:
        super().__init__()
        self.register_buffer("sign", sign)

    def forward(self, u: Tensor) -> Tensor:
        return self.sign * u.exp()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.abs().log()
