"""Sharpness-aware minimisation around any base recipe: in a ball, an adaptive one, and the Monge metric."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.subject import frozen_statistics
from sharpbench.training import recipes
from sharpbench.training.base import LossOfBatch
from sharpbench.training.based import BasedRecipe

__all__ = ["Asam", "MongeSam", "Sam"]


@dataclass(frozen=True, kw_only=True)
class _Ascending(BasedRecipe, ABC):
    """Steps with the gradient taken at w + ε, ε = ρ T²g/‖Tg‖₂ with a diagonal T."""

    rho: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rho < 0:
            raise ValueError(f"rho must not be negative, got {self.rho}")

    def _step_length(self, norm: float) -> float:
        """By what T²g is multiplied, from ‖Tg‖."""
        return self.rho / (norm + 1e-12)

    @abstractmethod
    def _scales(self, named: dict[str, nn.Parameter]) -> list[Tensor | None]:
        """T of each parameter; None for 1."""

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: LossOfBatch) -> Tensor:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        parameters = list(named.values())
        value = loss()
        gradient = torch.autograd.grad(value, parameters, materialize_grads=True)
        originals = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            scales = self._scales(named)
            scaled = [g if t is None else g * t for t, g in zip(scales, gradient, strict=True)]
            norm = torch.stack([s.square().sum() for s in scaled]).sum().sqrt()
            for p, s, t in zip(parameters, scaled, scales, strict=True):
                p.add_(s if t is None else s * t, alpha=self._step_length(float(norm)))
        optimizer.zero_grad()
        with frozen_statistics(model):
            loss().backward()
        with torch.no_grad():
            for p, original in zip(parameters, originals, strict=True):
                p.copy_(original)
        optimizer.step()
        return value.detach()


@recipes.register
@dataclass(frozen=True, kw_only=True)
class Sam(_Ascending):
    """SAM: the base optimizer steps with the gradient taken at the ascent point w + ε.

    ε = ρ g/‖g‖₂; with ``adaptive`` ε = ρ |w|² g / ‖|w| g‖₂, elementwise and for every parameter (`asam` is
    as its authors have it). Batch-norm statistics are those of the first pass alone; dropout draws a new mask
    for the second.

    Parameters: ``base`` names the recipe whose optimizer is used (any that is an optimizer alone) and
    ``base_parameters`` the optimizer's own parameters, e.g. ``{ momentum = 0.9 }``; ``lr`` and
    ``weight_decay`` are SAM's.
    """

    name = "sam"
    reference = "arXiv:2010.01412; adaptive: arXiv:2102.11600"

    adaptive: bool = False

    def _scales(self, named: dict[str, nn.Parameter]) -> list[Tensor | None]:
        return [p.abs() if self.adaptive else None for p in named.values()]


@recipes.register
@dataclass(frozen=True, kw_only=True)
class Asam(_Ascending):
    """ASAM: SAM in a ball that scales with the weights, ε = ρ T²g/‖Tg‖₂ with T = |w| + ``eta``.

    T is elementwise, and 1 for what is no weight by its name, as in the authors' code (biases). The ascent
    then follows a rescaling of neurons up to ``eta``. Batch-norm statistics are those of the first pass
    alone; dropout draws a new mask for the second.

    Parameters: ``rho``, in units of the weights' own sizes (the paper: 0.5 on CIFAR-10, 1 on CIFAR-100);
    ``base`` names the recipe whose optimizer is used and ``base_parameters`` its own parameters.
    """

    name = "asam"
    reference = "Kwon et al. 2021, arXiv:2102.11600; the authors' code for biases and eta"

    rho: float = 0.5
    eta: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0:
            raise ValueError(f"eta must not be negative, got {self.eta}")

    def _scales(self, named: dict[str, nn.Parameter]) -> list[Tensor | None]:
        return [p.abs() + self.eta if "weight" in name else None for name, p in named.items()]


@recipes.register
@dataclass(frozen=True, kw_only=True)
class MongeSam(_Ascending):
    """Monge SAM: SAM with the ascent ε = ρ g/(‖g‖ √(1 + ‖g‖²)), the step of length ρ on the loss's own graph.

    In the metric I + ggᵀ a step uphill is as long as the way on the surface: early, where the loss is steep,
    the ascent is shorter than SAM's, near a minimum it is SAM's. Batch-norm statistics are those of the first
    pass alone; dropout draws a new mask for the second.

    Parameters: ``rho`` the length on the surface; ``base`` names the recipe whose optimizer is used and
    ``base_parameters`` its own parameters.
    """

    name = "monge_sam"
    reference = "Jacobsen & Arvanitidis, arXiv:2502.08448"

    def _scales(self, named: dict[str, nn.Parameter]) -> list[Tensor | None]:
        return [None] * len(named)

    def _step_length(self, norm: float) -> float:
        return super()._step_length(norm) / math.hypot(1.0, norm)
