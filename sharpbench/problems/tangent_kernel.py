"""A network whose tangent kernel is known, at its width and at infinite width."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.problems import problems
from sharpbench.problems.base import Problem, normal
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import KnownTangentKernel

__all__ = ["NtkCircle"]


class _Wide(nn.Module):
    """f(x) = Σ aₖ max(wₖ·x, 0)/√m."""

    def __init__(self, generator: torch.Generator, width: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(normal(generator, width, 2))
        self.outer = nn.Parameter(normal(generator, width))

    def forward(self, x: Tensor) -> Tensor:
        hidden = (x @ self.inner.T).relu()
        outputs: Tensor = (hidden @ self.outer / len(self.outer) ** 0.5).unsqueeze(1)
        return outputs


@problems.register
@dataclass(frozen=True, kw_only=True)
class NtkCircle(Problem, KnownTangentKernel):
    """A two-layer ReLU network of standard normal weights on ``points`` evenly around the circle.

    Θ(x, y) = (1/m) Σ aₖ² 1[wₖ·x > 0] 1[wₖ·y > 0] x·y + (1/m) Σ max(wₖ·x, 0) max(wₖ·y, 0), m = ``width``, and
    as m grows [(π − θ) 2 cos θ + sin θ]/(2π) at the angle θ between x and y: on the whole circle its
    eigenvalues are 3/π² for constants, ¼ for the first mode, and zero for the other odd ones. The targets are
    cos(``mode``·φ).
    """

    name = "ntk_circle"
    title = "wide network on the circle"
    reference = "Jacot et al., arXiv:1806.07572; Bietti & Mairal, arXiv:1905.12173"

    width: int = 512
    points: int = 32
    mode: int = 1

    def __post_init__(self) -> None:
        if self.width < 1 or self.points < 2 or self.mode < 0:
            raise ValueError("width must be at least 1, points at least 2, mode at least 0")

    def subject(self, *, seed: int) -> Subject:
        angles = self._angles()
        x = torch.stack([angles.cos(), angles.sin()], 1)
        model = _Wide(torch_generator(derive_seed(seed, "problem")), self.width)
        return Subject(model, x, (self.mode * angles).cos().unsqueeze(1))

    def _angles(self) -> Tensor:
        return 2 * math.pi / self.points * torch.arange(self.points, dtype=torch.float64)

    def kernel(self, subject: Subject) -> Tensor:
        inner, outer = (p.detach().double() for p in subject.model.parameters())
        x = subject.inputs.double()
        before = x @ inner.T
        on = (before > 0).double()
        hidden = before * on
        return ((on * outer.square()) @ on.T * (x @ x.T) + hidden @ hidden.T) / len(outer)

    def kernel_of_infinite_width(self, subject: Subject) -> Tensor:
        x = subject.inputs.double()
        cosine = (x @ x.T).clamp(-1, 1)
        angle = cosine.acos()
        return ((math.pi - angle) * 2 * cosine + angle.sin()) / (2 * math.pi)
