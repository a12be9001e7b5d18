"""The posterior mean of a Gaussian process, itself or through Fourier features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sharpbench.problems import problems
from sharpbench.problems.base import Problem, normal
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import KnownDerivatives

__all__ = ["GaussianProcess"]

_REACH = 2.5
"""Observations lie in [−2.5, 2.5], the points in its inner four fifths."""


class _Kernels(nn.Module):
    """x ↦ Σ αᵢ exp(−(x − cᵢ)²/2ℓ²)."""

    centres: Tensor

    def __init__(self, weights: Tensor, centres: Tensor, length: float) -> None:
        super().__init__()
        self.weights, self.length = nn.Parameter(weights), length
        self.register_buffer("centres", centres)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = (-0.5 * ((x - self.centres) / self.length).square()).exp() @ self.weights
        return outputs.unsqueeze(1)


class _Features(nn.Module):
    """x ↦ Σ aⱼ cos ωⱼx + bⱼ sin ωⱼx."""

    frequencies: Tensor

    def __init__(self, cosines: Tensor, sines: Tensor, frequencies: Tensor) -> None:
        super().__init__()
        self.cosines, self.sines = nn.Parameter(cosines), nn.Parameter(sines)
        self.register_buffer("frequencies", frequencies)

    def forward(self, x: Tensor) -> Tensor:
        angles = x * self.frequencies
        outputs: Tensor = angles.cos() @ self.cosines + angles.sin() @ self.sines
        return outputs.unsqueeze(1)


@problems.register
@dataclass(frozen=True, kw_only=True)
class GaussianProcess(Problem, KnownDerivatives):
    """The posterior mean f(x) = Σ αᵢ k(x, xᵢ), α = (K + σ²)⁻¹y, of a Gaussian process on the line.

    k(x, x') = exp(−(x − x')²/2ℓ²) with ℓ = ``length``; ``observations`` of noise σ are drawn. Its derivatives
    are Hermite polynomials, dⁿk = (−1)ⁿ Heₙ((x − x')/ℓ) k/ℓⁿ, and grow as √n!. With ``nodes`` k is its
    Gauss–Hermite quadrature Σ vⱼ cos ωⱼ(x − x'), ωⱼ = √2 node/ℓ, and α follows from that: a linear model on
    Fourier features, whose derivatives and band edge are known too, and which tends to the process
    exponentially fast.
    """

    name = "gaussian_process"
    title = "posterior mean of a Gaussian process"
    reference = "Angelis et al., arXiv:2003.02658 (SLEIPNIR); Mutný & Krause 2018 (the features)"
    single_index = True

    length: float = 0.7
    observations: int = 12
    noise: float = 0.1
    nodes: int = 0
    points: int = 64

    inputs = 1

    def __post_init__(self) -> None:
        if not (self.length > 0 and self.noise > 0):
            raise ValueError("length and noise must be positive")
        if min(self.observations, self.points) < 1 or self.nodes < 0 or self.nodes == 1:
            raise ValueError(
                "observations and points must be at least 1, nodes 0 (the kernel itself) or at least 2"
            )

    def subject(self, *, seed: int) -> Subject:
        generator = torch_generator(derive_seed(seed, "problem"))
        where = _REACH * (2 * torch.rand(self.observations, generator=generator).double() - 1)
        y = (1.5 * where).sin() + self.noise * normal(generator, self.observations)
        apart = where.unsqueeze(1) - where
        frequencies, shares = self._quadrature()
        kernel = (-0.5 * (apart / self.length).square()).exp()
        if self.nodes:
            kernel = (apart.unsqueeze(2) * frequencies).cos() @ shares
        noise = self.noise**2 * torch.eye(self.observations, dtype=torch.float64)
        weights = torch.linalg.solve(kernel + noise, y)
        x = 0.8 * _REACH * torch.linspace(-1, 1, self.points, dtype=torch.float64).unsqueeze(1)
        angles = where.unsqueeze(1) * frequencies
        model = (
            _Features(
                shares * (angles.cos().T @ weights),
                shares * (angles.sin().T @ weights),
                frequencies,
            )
            if self.nodes
            else _Kernels(weights, where, self.length)
        )
        return Subject(model, x, torch.zeros(self.points, 1, dtype=torch.float64))

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Frequencies, none negative, and their shares of k(0) = 1."""
        nodes, weights = np.polynomial.hermite.hermgauss(self.nodes or 2)
        kept = nodes > -1e-12
        twice = np.where(nodes[kept] > 1e-12, 2.0, 1.0)
        shares = torch.from_numpy(twice * weights[kept] / math.sqrt(math.pi))
        return torch.from_numpy(nodes[kept].clip(0)) * math.sqrt(2) / self.length, shares

    def log_derivatives(self, subject: Subject, order: int) -> Tensor:
        x, model = subject.inputs.double(), subject.model.double()
        rows = []
        if isinstance(model, _Features):
            top = model.frequencies.max()
            cosine, sine = (x * model.frequencies).cos(), (x * model.frequencies).sin()
            for n in range(order + 1):
                turned = [(cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine)][n % 4]
                scale = (model.frequencies / top) ** n
                along = turned[0] @ (scale * model.cosines) + turned[1] @ (scale * model.sines)
                rows.append(along.abs().log() + n * top.log())
            return torch.stack(rows).detach()
        assert isinstance(model, _Kernels)
        u = (x - model.centres) / self.length
        bumps = (-0.5 * u.square()).exp()
        before, hermite = torch.zeros_like(u), torch.ones_like(u)  # Heₙ/√n!, so that none overflows
        for n in range(order + 1):
            along = ((hermite * bumps) @ model.weights).abs().log()
            rows.append(along + 0.5 * math.lgamma(n + 1) - n * math.log(self.length))
            following = (u * hermite - math.sqrt(n) * before) / math.sqrt(n + 1)
            before, hermite = hermite, following
        return torch.stack(rows).detach()

    def limits(self, subject: Subject, *, mean_of_logs: bool) -> tuple[float, float]:
        if not self.nodes:
            return math.inf, -math.inf
        return float(self._quadrature()[0].max().log()), -math.inf
