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
from sharpbench.invariance.recording import note_left
from sharpbench.invariance.structure import shared_parameters, transposed
from sharpbench.network import computed

__all__ = ["LogScale", "WeightNormalization"]

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class _Chart(Transformation, ABC):
    """Puts every weight of linear and convolutional layers in other coordinates; biases stay."""

    preserves = "function"
    rest = "no linear layer and no convolution, or a transposed one"

    def change(self, model: nn.Module, *, seed: int) -> None:
        shared = shared_parameters(model)
        charts: list[tuple[nn.Module, nn.Module]] = []
        reason = ""
        for name, layer in model.named_modules():
            if not isinstance(layer, _WEIGHTED) and not transposed(layer):
                continue
            if computed(layer):
                reason = "its weight has other coordinates already"
            elif id(layer.weight) in shared:
                # With coordinates of its own it would part from the other layer's.
                reason = "its weight is that of another layer, too"
            else:
                chart = self.chart(layer.weight, 1 if transposed(layer) else 0)
                if isinstance(chart, nn.Module):
                    charts.append((layer, chart))
                    continue
                reason = chart
            note_left(name, reason)
        if not charts:
            why = f" that could be changed: {reason}" if reason else ""
            raise TransformationRefused(f"the network has no linear or convolutional layer{why}")
        for layer, chart in charts:
            with torch.enable_grad():
                parametrize.register_parametrization(layer, "weight", chart, unsafe=True)

    @abstractmethod
    def chart(self, weight: Tensor, axis: int) -> nn.Module | str:
        """The map from the coordinates to ``weight``, with its inverse ``right_inverse``, or why it has none.
        ``axis`` runs over the units.
        """


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

    def chart(self, weight: Tensor, axis: int) -> nn.Module | str:
        if not bool((_row_norms(weight, axis) > 0).all()):
            return "a unit's weights are all zero and have no direction"
        return _Normalized(axis)


class _Normalized(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / _row_norms(v, self.axis))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _row_norms(weight, self.axis), weight


def _row_norms(weight: Tensor, axis: int) -> Tensor:
    norms: Tensor = weight.movedim(axis, 0).flatten(1).norm(dim=1)
    return norms.view(*[1] * axis, -1, *[1] * (weight.ndim - 1 - axis))


@transformations.register
@dataclass(frozen=True)
class LogScale(_Chart):
    """w = s·eᵘ with a fixed sign s: the coordinates u = log|w| of every weight; not of layers with zeros.

    In u the ordinary ball is the elementwise adaptive one: ∂/∂u = w ∂/∂w.
    """

    name = "log_scale"
    reference = "arXiv:1703.04933, section 5 (reparametrisations)"
    kind = "chart"

    def chart(self, weight: Tensor, axis: int) -> nn.Module | str:
        if weight.is_complex():
            return "its weights are complex"
        if bool((weight == 0).any()):
            return "a weight is exactly zero and has no logarithm"
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
