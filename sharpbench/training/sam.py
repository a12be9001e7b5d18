"""Sharpness-aware minimisation around any base recipe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.subject import frozen_statistics
from sharpbench.training import recipes
from sharpbench.training.base import LossOfBatch
from sharpbench.training.based import BasedRecipe

__all__ = ["Sam"]


@recipes.register
@dataclass(frozen=True, kw_only=True)
class Sam(BasedRecipe):
    """SAM: the base optimizer steps with the gradient taken at the ascent point w + ε.

    ε = ρ g/‖g‖₂; with ``adaptive`` (ASAM) ε = ρ |w|² g / ‖|w| g‖₂, elementwise and for every
    parameter. Batch-norm statistics are those of the first pass alone; dropout draws a new mask for
    the second.

    Parameters: ``base`` names the recipe whose optimizer is used (any that is an optimizer alone) and
    ``base_parameters`` the optimizer's own parameters, e.g. ``{ momentum = 0.9 }``; ``lr`` and
    ``weight_decay`` are SAM's.
    """

    name = "sam"
    reference = "arXiv:2010.01412; adaptive: arXiv:2102.11600"

    rho: float = 0.05
    adaptive: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rho < 0:
            raise ValueError(f"rho must not be negative, got {self.rho}")

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossOfBatch) -> Tensor:
        parameters = [p for p in model.parameters() if p.requires_grad]
        value = loss()
        gradient = torch.autograd.grad(value, parameters, materialize_grads=True)
        originals = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            scaled = [
                g * p.abs() if self.adaptive else g
                for p, g in zip(parameters, gradient, strict=True)
            ]
            norm = torch.stack([s.square().sum() for s in scaled]).sum().sqrt()
            for p, s in zip(parameters, scaled, strict=True):
                p.add_(s * p.abs() if self.adaptive else s, alpha=self.rho / (float(norm) + 1e-12))
        optimizer.zero_grad()
        with frozen_statistics(model):
            loss().backward()
        with torch.no_grad():
            for p, original in zip(parameters, originals, strict=True):
                p.copy_(original)
        optimizer.step()
        return value.detach()
