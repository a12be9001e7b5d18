"""First-order recipes: torch's own optimizers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sharpbench.training import recipes
from sharpbench.training.base import Recipe

__all__ = ["Adam", "Sgd"]


@recipes.register
@dataclass(frozen=True, kw_only=True)
class Sgd(Recipe):
    """Stochastic gradient descent with momentum (torch.optim.SGD)."""

    name = "sgd"
    reference = "torch.optim.SGD"

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )


@recipes.register
@dataclass(frozen=True, kw_only=True)
class Adam(Recipe):
    """Adam (torch.optim.Adam); weight decay is decoupled as in AdamW if ``decoupled``."""

    name = "adam"
    reference = "arXiv:1412.6980"

    betas: tuple[float, float] = (0.9, 0.999)
    decoupled: bool = False

    def optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if self.decoupled else torch.optim.Adam
        return kind(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
