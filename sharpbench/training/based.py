"""What recipes share that step with another recipe's optimizer."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn

from sharpbench.training import recipes
from sharpbench.training.base import Recipe

__all__ = ["BasedRecipe"]


@dataclass(frozen=True, kw_only=True)
class BasedRecipe(Recipe, ABC):
    """Uses the optimizer of the recipe ``base``, which must be an optimizer alone.

    A base that trains in a way of its own (SAM, a penalty, a loop) would be left out of the training that
    its name promises, as would ``base_parameters`` that are not the optimizer's; both raise ValueError.
    """

    base: str = "sgd"
    base_parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = recipes.get(self.base)
        own = {m for cls in kind.__mro__[: kind.__mro__.index(Recipe)] for m in vars(cls)}
        steps = sorted(own & _WAYS_TO_TRAIN)
        if steps:
            raise ValueError(
                f"base must be a plain recipe such as 'adam', got {self.base!r}: it has a {steps[0]!r} of "
                f"its own, which {self.name} would leave out"
            )
        shared = sorted({f.name for f in fields(Recipe)} & self.base_parameters.keys())
        if shared:
            raise ValueError(
                f"base_parameters are the optimizer's alone: set {', '.join(shared)} on {self.name} itself"
            )
        self._base()

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return self._base().optimizer(parameters)

    def uses(self) -> tuple[Recipe, ...]:
        return (self._base(),)

    def _base(self) -> Recipe:
        own = {"lr": self.lr, "weight_decay": self.weight_decay}
        return recipes.create(self.base, {**own, **self.base_parameters})


_WAYS_TO_TRAIN = {
    name
    for name, member in vars(Recipe).items()
    if callable(member) and name != "optimizer" and not name.startswith("__")
}
"""The methods of a recipe that decide how it trains, apart from its optimizer."""
