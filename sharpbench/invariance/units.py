"""Changes of units: of the input, where the function of the raw data stays, and of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.invariance.recording import example
from sharpbench.invariance.structure import computed, graph_of, shared_parameters
from sharpbench.seeds import derive_seed, torch_generator

__all__ = ["InputRescaling", "InputRotation", "LogitShift", "LogitTemperature"]

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@transformations.register
@dataclass(frozen=True)
class InputRescaling(Transformation):
    """Gives the input in another unit: x → ``factor``·x, the first layer's weights divided by it.

    The function of the raw data and every decision stay; a derivative of order n in the input is
    divided by factorⁿ, so that λ falls by log ``factor``.
    """

    name = "input_rescaling"
    reference = "the chain rule, f(x) = f̃(ax)"
    kind = "units"
    traits = frozenset({"diagonal", "homogeneous"})
    preserves = "function"
    rest = "only the first layer is changed"

    factor: float = 2.0

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor must be positive, got {self.factor}")

    @property
    def input_scale(self) -> float:
        return self.factor

    def change(self, model: nn.Module, *, seed: int) -> None:
        first = _first(model)
        if first is None:
            raise TransformationRefused("no linear or convolutional layer takes the input")
        weight = first.weight
        assert isinstance(weight, Tensor)
        weight.div_(self.factor)

    def points(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor


@transformations.register
@dataclass(frozen=True)
class InputRotation(Transformation):
    """Rotates the input, x → Qx with a random orthogonal Q, and the first linear layer's weights back.

    Function of the raw data and decisions stay; a norm of derivatives in all directions does too. Needs a
    linear first layer: a convolution sees neighbours, which a rotation has not.
    """

    name = "input_rotation"
    reference = "the chain rule, f(x) = f̃(Qx)"
    kind = "units"
    traits = frozenset({"isometry", "homogeneous"})
    preserves = "function"
    rest = "only the first layer is changed"

    angle_seed: int = 0

    @property
    def input_scale(self) -> float:
        return 1.0

    def change(self, model: nn.Module, *, seed: int) -> None:
        first = _first(model)
        if not isinstance(first, nn.Linear):
            raise TransformationRefused("the first layer with weights is not linear")
        first.weight.copy_(first.weight @ self._rotation(first.in_features).to(first.weight).T)

    def points(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        return (flat @ self._rotation(flat.shape[1]).to(flat).T).view_as(inputs)

    def _rotation(self, size: int) -> Tensor:
        generator = torch_generator(derive_seed(self.angle_seed, "rotation", size))
        square = torch.randn(size, size, generator=generator, dtype=torch.float64)
        rotation: Tensor = torch.linalg.qr(square).Q
        return rotation


@transformations.register
@dataclass(frozen=True)
class LogitShift(Transformation):
    """Adds ``shift`` to every logit through the last bias: the softmax, and with it the loss, stays."""

    name = "logit_shift"
    reference = "softmax(z + c1) = softmax(z)"
    kind = "decision"
    traits = frozenset({"isometry", "logit_shift"})
    preserves = "loss"
    rest = "only the last layer's bias is changed"

    shift: float = 5.0

    def change(self, model: nn.Module, *, seed: int) -> None:
        last = _last(model)
        if last is None or "bias" not in last._parameters or last.bias is None:
            raise TransformationRefused("the network doesn't end in a linear layer with a bias")
        last.bias.add_(self.shift)


@transformations.register
@dataclass(frozen=True)
class LogitTemperature(Transformation):
    """Divides the logits by ``temperature``: decisions stay, confidence changes, below 1 it rises.

    The last linear layer's weights and biases are divided. A metric of the loss moves; one of a
    logit's growth must not.
    """

    name = "logit_temperature"
    reference = "Guo et al., arXiv:1706.04599 (temperature scaling)"
    kind = "decision"
    preserves = "nothing"
    rest = "only the last layer is changed"

    temperature: float = 0.5

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.temperature == 1:
            raise ValueError(f"temperature must be positive and not 1, got {self.temperature}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        last = _last(model)
        if last is None:
            raise TransformationRefused("the network doesn't end in a linear layer")
        if computed(last):
            raise TransformationRefused("the last layer's weight is computed from others")
        if any(id(p) in shared_parameters(model) for p in last.parameters()):
            raise TransformationRefused("the last layer's weight is that of another layer, too")
        for parameter in last.parameters():
            parameter.div_(self.temperature)


def _first(model: nn.Module) -> nn.Module | None:
    """The layer with weights that runs first, as far as that is seen, else the one that stands first.

    Raises TransformationRefused where writing into its weight changes nothing that stays.
    """
    found = next((m for m in model.modules() if isinstance(m, _WEIGHTED)), None)
    if example() is not None:
        modules = dict(model.named_modules())
        called = (modules[str(n.target)] for n in graph_of(model).nodes if n.op == "call_module")
        found = next((m for m in called if isinstance(m, _WEIGHTED)), found)
    if found is not None and computed(found):
        raise TransformationRefused("the first layer's weight is computed from others")
    return found


def _last(model: nn.Module) -> nn.Linear | None:
    """The last layer that has parameters, if it is linear."""
    layers = []
    for name, module in model.named_modules():
        inside = ".parametrizations" in f".{name}"
        if not inside and (module._parameters or parametrize.is_parametrized(module)):
            layers.append(module)
    return layers[-1] if layers and isinstance(layers[-1], nn.Linear) else None
