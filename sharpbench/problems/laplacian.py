"""An eigenfunction of the Laplacian in any dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpbench.problems import problems
from sharpbench.problems.base import Problem
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import KnownDerivatives, KnownInputHessian

__all__ = ["LaplacianMode"]


class _Mode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = (math.pi * x).sin().prod(1, keepdim=True)
        return outputs


def _output(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:, 0]


@problems.register
@dataclass(frozen=True, kw_only=True)
class LaplacianMode(Problem, KnownDerivatives, KnownInputHessian):
    """f(x) = ∏ sin πxᵢ on the unit cube, the lowest eigenfunction of the Laplacian there: −Δf = dπ²f.

    The loss is f itself, so that the input Hessian is known whole: −π²f on its diagonal, whose sum is −dπ²f,
    and π² cos πxᵢ cos πxⱼ ∏ sin πxₖ off it. All norms of derivatives: ‖Dⁿf‖²/n! is the coefficient of tⁿ in
    ∏ (sin²πxᵢ cosh π²t + cos²πxᵢ sinh π²t), which grows as (dπ²)ⁿ: λ tends to log π√d.
    """

    name = "laplacian_mode"
    title = "∏ sin πxᵢ"
    reference = "Han, Lu & Zhou, arXiv:2002.02600 (eigenvalue problems in many dimensions)"
    single_index = False

    dimension: int = 4
    points: int = 256

    def __post_init__(self) -> None:
        if min(self.dimension, self.points) < 1:
            raise ValueError("dimension and points must be at least 1")

    @property
    def inputs(self) -> int:
        return self.dimension

    def subject(self, *, seed: int) -> Subject:
        generator = torch_generator(derive_seed(seed, "problem"))
        x = torch.rand(self.points, self.dimension, generator=generator, dtype=torch.float64)
        targets = torch.zeros(self.points, 1, dtype=torch.float64)
        model = _Mode().double()
        return Subject(model, x, targets, loss=_output, task="regression")

    def log_derivatives(self, subject: Subject, order: int) -> Tensor:
        """By multiplying the series in t, of positive terms all: no digits are lost."""
        angles = math.pi * subject.inputs.double()
        even, odd = angles.sin().square(), angles.cos().square()
        n = torch.arange(order + 1, dtype=torch.float64)
        factors = torch.lgamma(n + 1)
        series = torch.zeros(len(angles), order + 1, dtype=torch.float64)
        series[:, 0] = 1.0
        for i in range(self.dimension):
            # coefficients of (π²t)ᵏ: the powers of π² are put back at the end
            own = torch.where(n % 2 == 0, even[:, i : i + 1], odd[:, i : i + 1]) / factors.exp()
            series = torch.stack(
                [(series[:, : k + 1] * own[:, : k + 1].flip(1)).sum(1) for k in range(order + 1)], 1
            )
        logs = 0.5 * (series.log() + factors) + n * math.log(math.pi)
        return logs.T

    def limits(self, subject: Subject, *, mean_of_logs: bool) -> tuple[float, float]:
        return math.log(math.pi * math.sqrt(self.dimension)), -math.inf

    def input_norms(self, subject: Subject) -> tuple[Tensor, Tensor]:
        angles = math.pi * subject.inputs.double()
        sines, cosines = angles.sin(), angles.cos()
        rows = torch.arange(self.dimension)
        away = torch.ones(self.dimension, self.dimension, dtype=torch.bool)
        away[rows, rows] = False
        gradient = torch.stack(
            [cosines[:, i] * sines[:, away[i]].prod(1) for i in range(self.dimension)], 1
        )
        hessian = torch.zeros(len(angles), self.dimension, self.dimension, dtype=torch.float64)
        for i in range(self.dimension):
            hessian[:, i, i] = -sines.prod(1)
            for j in range(i):
                others = sines[:, away[i] & away[j]].prod(1)
                hessian[:, i, j] = hessian[:, j, i] = cosines[:, i] * cosines[:, j] * others
        norms = math.pi**2 * torch.linalg.eigvalsh(hessian).abs().amax(1)
        return math.pi * gradient.norm(dim=1), norms
