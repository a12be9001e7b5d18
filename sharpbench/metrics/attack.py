"""Projected gradient ascent of the loss in the inputs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["Attack"]


@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent of the loss within a ball around each point (Madry et al. 2018).

    ``radius`` in the inputs' units; ``steps`` of 2.5·radius/steps each.
    """

    norm: Literal["l2", "linf"] = "l2"
    radius: float = 0.5
    steps: int = 20

    def parameters(self) -> dict[str, Any]:
        """The three by name."""
        return dataclasses.asdict(self)

    def step(self, moved: Tensor, gradient: Tensor) -> Tensor:
        """Where each point is moved to, relative to where it started, (N, …), by one step up the gradient."""
        return self.projected(moved + 2.5 * self.radius / self.steps * self._steepest(gradient))

    def projected(self, moved: Tensor) -> Tensor:
        """The nearest point of the ball."""
        if self.norm == "linf":
            return moved.clamp(-self.radius, self.radius)
        size = _flat_norm(moved).clamp_min(torch.finfo(moved.dtype).tiny)
        inside: Tensor = moved * (self.radius / size).clamp_max(1.0)
        return inside

    def _steepest(self, gradient: Tensor) -> Tensor:
        """The direction of unit length in the attack's norm in which the loss rises most."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / _flat_norm(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)


def _flat_norm(values: Tensor) -> Tensor:
    sizes: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return sizes.view(-1, *[1] * (values.dim() - 1))
