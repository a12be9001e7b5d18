"""Sums of waves: signals and feature maps whose band edge is known."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sharpbench.problems import problems
from sharpbench.problems.base import Problem
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import KnownDerivatives

__all__ = ["BandLimited", "FourierFeatures"]


@dataclass(frozen=True, kw_only=True)
class _Waves(Problem, KnownDerivatives, ABC):
    """f(x) = Σₖ Σⱼ aⱼ cos(ωⱼ xₖ + φₖⱼ), the phases drawn from the seed."""

    single_index = False

    @abstractmethod
    def waves(self) -> tuple[Tensor, Tensor]:
        """Frequencies ω and amplitudes a, each (waves,), in float64."""

    @abstractmethod
    def where(self, generator: torch.Generator) -> Tensor:
        """Points (N, dimension)."""

    def subject(self, *, seed: int) -> Subject:
        generator = torch_generator(derive_seed(seed, "problem"))
        frequencies, amplitudes = self.waves()
        phases = torch.rand(self.inputs, len(frequencies), generator=generator, dtype=torch.float64)
        x = self.where(generator)
        module = _SumOfWaves(frequencies, amplitudes, phases * 2 * math.pi)
        return Subject(module, x, torch.zeros(len(x), 1, dtype=torch.float64))

    def log_derivatives(self, subject: Subject, order: int) -> Tensor:
        frequencies, amplitudes = self.waves()
        edge = frequencies.max()
        assert isinstance(subject.model, _SumOfWaves)
        with torch.no_grad():
            angles = subject.model.double().angles(subject.inputs.double())
        cosine, sine = angles.cos(), angles.sin()
        rows = []
        for n in range(order + 1):
            # Relative to the edge, so that no power overflows.
            wave = cosine if n % 2 == 0 else sine
            along = wave @ (amplitudes * (frequencies / edge) ** n)
            rows.append(along.norm(dim=1).log() + n * edge.log())
        return torch.stack(rows)

    def limits(self, subject: Subject, *, mean_of_logs: bool) -> tuple[float, float]:
        return float(self.waves()[0].max().log()), -math.inf


class _SumOfWaves(nn.Module):
    def __init__(self, frequencies: Tensor, amplitudes: Tensor, phases: Tensor) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(frequencies)
        self.amplitudes = nn.Parameter(amplitudes)
        self.phases = nn.Parameter(phases)

    def angles(self, x: Tensor) -> Tensor:
        return x.unsqueeze(2) * self.frequencies + self.phases

    def forward(self, x: Tensor) -> Tensor:
        waves = self.angles(x).cos() @ self.amplitudes.unsqueeze(1)  # (N, dimension, 1)
        return waves.sum(1)


@problems.register
@dataclass(frozen=True, kw_only=True)
class BandLimited(_Waves):
    """A periodic signal with a flat spectrum up to a known edge: unit amplitudes, random phases.

    As in the paper's code: frequencies 2πk/``period`` up to ``share`` of the Nyquist frequency of a
    ``grid``; the defaults make Ω = 450.38. Measured on an even grid of ``points`` over one period
    (more than twice as many as there are waves make the mean square exact).
    """

    name = "band_limited"
    title = "flat band"
    reference = "arXiv:2511.01438, section 5.1 and its code"

    period: float = 20.0
    grid: int = 8192
    share: float = 0.35
    points: int = 3072

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}")
        if self.edge * self.period < 2 * math.pi:
            raise ValueError("not one wave fits below the edge: raise grid or share")

    @property
    def edge(self) -> float:
        """Ω, in radians per unit of x."""
        return self.share * math.pi * self.grid / self.period

    @property
    def inputs(self) -> int:
        return 1

    def waves(self) -> tuple[Tensor, Tensor]:
        count = math.floor(self.edge * self.period / (2 * math.pi))
        frequencies = torch.arange(1, count + 1, dtype=torch.float64) * 2 * math.pi / self.period
        return frequencies, torch.ones_like(frequencies)

    def where(self, generator: torch.Generator) -> Tensor:
        steps = torch.arange(self.points, dtype=torch.float64) / self.points
        return (self.period * steps).unsqueeze(1)


@problems.register
@dataclass(frozen=True, kw_only=True)
class FourierFeatures(_Waves):
    """An additive function of quadrature Fourier features: frequencies √2 node/``length``.

    The positive nodes of a Gauss–Hermite rule with ``nodes`` nodes, its weights' roots as amplitudes,
    so that the band edge is √2 times the largest node over ``length``; the same for each of
    ``dimension`` coordinates. ``points`` points are standard normal.
    """

    name = "fourier_features"
    title = "Fourier features"
    reference = "Mutný and Krause, NeurIPS 2018 (quadrature Fourier features, additive)"

    dimension: int = 8
    nodes: int = 16
    length: float = 1.0
    points: int = 256

    def __post_init__(self) -> None:
        if min(self.dimension, self.points) < 1 or self.nodes < 2:
            raise ValueError("dimension and points must be at least 1, nodes at least 2")
        if not self.length > 0:
            raise ValueError(f"length must be positive, got {self.length}")

    @property
    def inputs(self) -> int:
        return self.dimension

    def waves(self) -> tuple[Tensor, Tensor]:
        nodes, weights = np.polynomial.hermite.hermgauss(self.nodes)
        positive = nodes > 0
        frequencies = torch.from_numpy(nodes[positive]) * math.sqrt(2) / self.length
        return frequencies, torch.from_numpy(weights[positive]).sqrt()

    def where(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.points, self.dimension, generator=generator, dtype=torch.float64)
