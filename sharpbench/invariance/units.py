"""Changes of units: of the input, where the function of the raw data stays, and of the logits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation

__all__ = ["InputRescaling", "LogitTemperature"]

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@transformations.register
@dataclass(frozen=True)
class InputRescaling(Transformation):
    """Gives the input in another unit: x → ``factor``·x, the first layer's weights divided by it.

    The function of the raw data and every decision stay; a derivative of order n in the input is
    divided by factorⁿ, so that λ falls by log ``factor``.
    """

    name = "input_rescaling"
    preserves = "function"

    factor: float = 2.0

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"factor must be positive, got {self.factor}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        first = next((m for m in model.modules() if isinstance(m, _WEIGHTED)), None)
        if first is None:
            raise TransformationRefused("no linear or convolutional layer takes the input")
        first.weight.div_(self.factor)

    def points(self, inputs: Tensor) -> Tensor:
        return inputs * self.factor


@transformations.register
@dataclass(frozen=True)
class LogitTemperature(Transformation):
    """Divides the logits by ``temperature``: decisions stay, confidence changes, below 1 it rises.

    The last linear layer's weights and biases are divided. A metric of the loss moves; one of a
    logit's growth must not.
    """

    name = "logit_temperature"
    preserves = "nothing"

    temperature: float = 0.5

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.temperature == 1:
            raise ValueError(f"temperature must be positive and not 1, got {self.temperature}")

    def change(self, model: nn.Module, *, seed: int) -> None:
        leaves = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
        if not leaves or not isinstance(leaves[-1], nn.Linear):
            raise TransformationRefused("the network doesn't end in a linear layer")
        for parameter in leaves[-1].parameters():
            parameter.div_(self.temperature)
