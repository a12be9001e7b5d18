"""One transformation after another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.errors import TransformationRefused
from sharpbench.invariance import transformations
from sharpbench.invariance.base import Transformation
from sharpbench.seeds import derive_seed

__all__ = ["Composition"]


@transformations.register
@dataclass(frozen=True)
class Composition(Transformation):
    """The transformations ``of``, by name and with their defaults, one after another.

    Each must preserve the function; those that do not apply to a network are left out, and it is refused if
    none does.
    """

    name = "composition"
    preserves = "function"

    of: tuple[str, ...] = ("neuron_rescaling", "neuron_permutation")

    def __post_init__(self) -> None:
        if len(self.of) < 2 or self.name in self.of:
            raise ValueError(
                f"of must name at least two other transformations, got {list(self.of)}"
            )
        for part in self.parts:
            if part.preserves != "function":
                raise ValueError(f"{part.name} does not preserve the function")

    @property
    def parts(self) -> tuple[Transformation, ...]:
        return tuple(transformations.create(name) for name in self.of)

    def change(self, model: nn.Module, *, seed: int) -> None:
        applied = 0
        for place, part in enumerate(self.parts):
            try:
                part.change(model, seed=derive_seed(seed, part.name, place))
                applied += 1
            except TransformationRefused as refusal:
                reason = refusal
        if not applied:
            raise TransformationRefused(f"none of {', '.join(self.of)} applies: {reason}")

    def points(self, inputs: Tensor) -> Tensor:
        for part in self.parts:
            inputs = part.points(inputs)
        return torch.as_tensor(inputs)
