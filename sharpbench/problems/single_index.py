"""Single-index functions f(x) = g(scale · ŵ·x) with g from a table of classical functions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor, nn

from sharpbench.problems import problems
from sharpbench.problems.base import Problem
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.taylor.expansion import log_factorials
from sharpbench.truth import KnownDerivatives

__all__ = [
    "CubicPole",
    "Exponential",
    "Gaussian",
    "HyperbolicTangent",
    "PowerPole",
    "Runge",
    "Sine",
    "SingleIndex",
]


@dataclass(frozen=True, kw_only=True)
class SingleIndex(Problem, KnownDerivatives, ABC):
    """f(x) = g(s), s = ``scale`` · ŵ·x, with a random unit vector ŵ of ``dimension`` entries.

    ‖Dⁿf(x)‖_F = |g⁽ⁿ⁾(s)| scaleⁿ whatever the dimension. ``points`` points have ŵ·x evenly spaced
    in [−``half_width``, ``half_width``] and standard normal entries across ŵ.
    """

    single_index = True

    dimension: int = 1
    scale: float = 1.0
    points: int = 1
    half_width: float = 0.0

    def __post_init__(self) -> None:
        for key in ("dimension", "points"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}")
        if self.half_width < 0:
            raise ValueError(f"half_width must not be negative, got {self.half_width}")
        reach = self.scale * self.half_width
        along = torch.linspace(-reach, reach, 1001, dtype=torch.float64)
        if float(self.pole_distance(along).min()) < max(1e-3, 0.002 * reach):
            raise ValueError(f"half_width {self.half_width} reaches a pole of the function")

    @property
    def inputs(self) -> int:
        return self.dimension

    def subject(self, *, seed: int) -> Subject:
        generator = torch_generator(derive_seed(seed, "problem"))
        w = torch.randn(self.dimension, generator=generator, dtype=torch.float64)
        w = w / w.norm()
        steps = torch.arange(self.points, dtype=torch.float64).unsqueeze(1)
        along = (2 * steps + 1) / self.points - 1
        x = torch.randn(self.points, self.dimension, generator=generator, dtype=torch.float64)
        x = x - (x @ w).unsqueeze(1) * w + self.half_width * along * w
        targets = torch.zeros(self.points, 1, dtype=torch.float64)
        return Subject(_Module(self, w * self.scale), x, targets)

    def log_derivatives(self, subject: Subject, order: int) -> Tensor:
        n = torch.arange(order + 1, dtype=torch.float64).unsqueeze(1)
        return self.log_of_g(self._s(subject), order) + n * math.log(self.scale)

    def limits(self, subject: Subject, *, mean_of_logs: bool) -> tuple[float, float]:
        if (rate := self.exponential_type()) is not None:
            return math.log(self.scale * rate), -math.inf
        logs = -(self.pole_distance(self._s(subject)) / self.scale).log()
        factorial = float(logs.mean() if mean_of_logs else logs.max())
        return math.inf, factorial

    def _s(self, subject: Subject) -> Tensor:
        """What the module gives to g, (N,)."""
        assert isinstance(subject.model, _Module)
        return subject.inputs.double() @ subject.model.weight.detach().double()

    @abstractmethod
    def g(self, s: Tensor) -> Tensor:
        """The function of one variable, elementwise."""

    @abstractmethod
    def log_of_g(self, s: Tensor, order: int) -> Tensor:
        """log |g⁽ⁿ⁾(s)|, (order + 1, N)."""

    def exponential_type(self) -> float | None:
        """τ of |g⁽ⁿ⁾| ~ τⁿ for an entire function of exponential type, else None."""
        return None

    def pole_distance(self, s: Tensor) -> Tensor:
        """The distance from s to the nearest singularity in the complex plane; ∞ for an entire g."""
        return torch.full_like(s, math.inf)


class _Module(nn.Module):
    def __init__(self, problem: SingleIndex, weight: Tensor) -> None:
        super().__init__()
        self.problem = problem
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.problem.g(x @ self.weight.unsqueeze(1))


def _of_poles(s: Tensor, order: int, poles: list[complex], residues: list[complex]) -> Tensor:
    """log |Re dⁿ/dsⁿ Σ aᵢ/(pᵢ − s)| = log n! + log |Re Σ aᵢ/(pᵢ − s)ⁿ⁺¹|."""
    n = torch.arange(order + 1).unsqueeze(1)
    gaps = torch.tensor(poles, dtype=torch.complex128) - s.unsqueeze(1)
    # Relative to the nearest pole, so that no power overflows.
    nearest = gaps.abs().min(1).values
    ratios = (nearest.unsqueeze(1) / gaps).unsqueeze(0) ** (n.unsqueeze(2) + 1)
    total = (torch.tensor(residues, dtype=torch.complex128) * ratios).sum(2).real.abs()
    total[total < 1e-14] = 0.0  # roots of unity that cancel
    return log_factorials(order).unsqueeze(1) + total.log() - (n + 1) * nearest.log()


@problems.register
@dataclass(frozen=True, kw_only=True)
class PowerPole(SingleIndex):
    """g(s) = (1 − s)^−``power``: g⁽ⁿ⁾ = (power)ₙ (1 − s)^(−power − n), radius of convergence |1 − s|.

    ``power = 1`` and ``scale = c`` make 1/(1 − cx).
    """

    name = "power_pole"
    title = "(1 − s)⁻ᵖ"
    reference = "arXiv:2511.01438, section 5.1 and its code"

    power: int = 1

    def g(self, s: Tensor) -> Tensor:
        return (1 - s) ** (-self.power)

    def log_of_g(self, s: Tensor, order: int) -> Tensor:
        n = np.arange(order + 1)
        rising = torch.from_numpy(gammaln(self.power + n) - gammaln(self.power)).unsqueeze(1)
        return rising - torch.from_numpy(n + self.power).unsqueeze(1) * (1 - s).abs().log()

    def pole_distance(self, s: Tensor) -> Tensor:
        return (1 - s).abs()


@problems.register
@dataclass(frozen=True, kw_only=True)
class CubicPole(SingleIndex):
    """g(s) = 1/(1 − s³), poles at the cube roots of unity; at 0 two of three derivatives vanish."""

    name = "cubic_pole"
    title = "1/(1 − s³)"
    reference = "arXiv:2511.01438, section 5.1 (its code has (1 − x)⁻³ instead)"

    def _roots(self) -> list[complex]:
        return [complex(math.cos(a), math.sin(a)) for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)]

    def g(self, s: Tensor) -> Tensor:
        return 1 / (1 - s * s * s)

    def log_of_g(self, s: Tensor, order: int) -> Tensor:
        roots = self._roots()
        return _of_poles(s, order, roots, [r / 3 for r in roots])

    def pole_distance(self, s: Tensor) -> Tensor:
        gaps = torch.tensor(self._roots(), dtype=torch.complex128) - s.unsqueeze(1)
        return gaps.abs().min(1).values


@problems.register
@dataclass(frozen=True, kw_only=True)
class Runge(SingleIndex):
    """g(s) = 1/(1 + s²), poles at ±i; ``scale = 5`` makes Runge's 1/(1 + 25x²)."""

    name = "runge"
    title = "1/(1 + s²)"
    reference = "C. Runge, Zeitschrift für Mathematik und Physik 46 (1901)"

    scale: float = 5.0

    def g(self, s: Tensor) -> Tensor:
        return 1 / (1 + s * s)

    def log_of_g(self, s: Tensor, order: int) -> Tensor:
        return _of_poles(s, order, [1j, -1j], [0.5j, -0.5j])

    def pole_distance(self, s: Tensor) -> Tensor:
        return (1 + s * s).sqrt()


@problems.register
@dataclass(frozen=True, kw_only=True)
class Sine(SingleIndex):
    """g(s) = sin s, so that f is sin kx with ``scale`` k: band edge k, λ raw is log k."""

    name = "sine"
    title = "sin s"
    reference = "arXiv:2511.01438, sections 2.2 and 5.1"

    points: int = 64
    half_width: float = math.pi

    def g(self, s: Tensor) -> Tensor:
        return s.sin()

    def log_of_g(self, s: Tensor, order: int) -> Tensor:
        pairs = torch.stack([s.sin(), s.cos()]).abs().log()
        return pairs[torch.arange(order + 1) % 2]

    def exponential_type(self) -> float | None:
        return 1.0


@problems.register
@dataclass(frozen=True, kw_only=True)
class Exponential(SingleIndex):
    """g(s) = exp s, so that f is exp ax with ``scale`` a: λ raw is log a at every order."""

    name = "exponential"
    title = "exp s"
    reference = "arXiv:2511.01438, section 2.2"

    def g(self, s: Tensor) -> Tensor:
        return s.exp()

    def log_of_g(self, s: Tensor, order: int) -> Tensor:
        return s.expand(order + 1, -1).clone()

    def exponential_type(self) -> float | None:
        return 1.0


@problems.register
@dataclass(frozen=True, kw_only=True)
class Gaussian(SingleIndex):
    """g(s) = exp(−s²/2): |g⁽ⁿ⁾| = |Heₙ(s)| exp(−s²/2), growing like √n!: raw λ → +∞, factorial → −∞.

    Not 0, as the paper has it.
    """

    name = "gaussian"
    title = "exp(−s²/2)"
    reference = "arXiv:2511.01438, section 2.2; Heₙ: Abramowitz & Stegun 22.5.19"

    points: int = 256
    half_width: float = 2.0

    def g(self, s: Tensor) -> Tensor:
        return (-0.5 * s * s).exp()

    def log_of_g(self, s: Tensor, order: int) -> Tensor:
        polynomials = [torch.ones_like(s), s.clone()]
        for n in range(1, order):
            polynomials.append(s * polynomials[n] - n * polynomials[n - 1])
        return torch.stack(polynomials[: order + 1]).abs().log() - 0.5 * s * s

    def limits(self, subject: Subject, *, mean_of_logs: bool) -> tuple[float, float]:
        return math.inf, -math.inf


@problems.register
@dataclass(frozen=True, kw_only=True)
class HyperbolicTangent(SingleIndex):
    """g(s) = tanh s, poles at ±iπ/2: every analytic network of tanh units has raw λ → +∞.

    g⁽ⁿ⁾ is a polynomial in t = tanh s by p ↦ (1 − t²)p′, evaluated in exact rational arithmetic.
    """

    name = "hyperbolic_tangent"
    title = "tanh s"
    reference = "d/ds tanh s = 1 − tanh² s"

    points: int = 64
    half_width: float = 1.5

    def g(self, s: Tensor) -> Tensor:
        return s.tanh()

    def log_of_g(self, s: Tensor, order: int) -> Tensor:
        t = [Fraction(float(v)) for v in s.tanh()]
        coefficients = [0, 1]
        rows = []
        for _ in range(order + 1):
            rows.append([_log_abs(_polynomial(coefficients, v)) for v in t])
            slope = [k * c for k, c in enumerate(coefficients)][1:]
            coefficients = [
                (slope[k] if k < len(slope) else 0) - (slope[k - 2] if k >= 2 else 0)
                for k in range(len(slope) + 2)
            ]
        return torch.tensor(rows, dtype=torch.float64)

    def pole_distance(self, s: Tensor) -> Tensor:
        return (s * s + (math.pi / 2) ** 2).sqrt()


def _polynomial(coefficients: list[int], value: Fraction) -> Fraction:
    total = Fraction(0)
    for c in reversed(coefficients):
        total = total * value + c
    return total


def _log_abs(value: Fraction) -> float:
    """The logarithm of a rational number that may not fit a float."""
    if value == 0:
        return -math.inf
    return math.log(abs(value.numerator)) - math.log(value.denominator)
