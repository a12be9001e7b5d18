"""Losses whose minimum is no point: the learning coefficients of singular learning theory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from sharpbench.problems import problems
from sharpbench.problems.base import Problem, normal
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import KnownLearningCoefficient

__all__ = ["DeepRankRegression", "Monomial", "ReducedRankRegression"]


@dataclass(frozen=True, kw_only=True)
class _Singular(Problem, KnownLearningCoefficient, ABC):
    """At weights of zero, on ``samples`` points with the second moment 1 in every direction, exactly."""

    samples: int = 256

    def subject(self, *, seed: int) -> Subject:
        model = self.network().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        drawn = normal(torch_generator(derive_seed(seed, "problem")), self.samples, self.inputs)
        x = torch.linalg.qr(drawn).Q * math.sqrt(self.samples)
        with torch.no_grad():
            targets = torch.zeros_like(model(x))
        return Subject(model, x, targets)

    @property
    @abstractmethod
    def inputs(self) -> int: ...

    @abstractmethod
    def network(self) -> nn.Module: ...


class _Product(nn.Module):
    def __init__(self, exponents: tuple[int, ...]) -> None:
        super().__init__()
        self.exponents = exponents
        self.weight = nn.Parameter(torch.zeros(len(exponents)))

    def forward(self, x: Tensor) -> Tensor:
        powers = [w**k for w, k in zip(self.weight, self.exponents, strict=True)]
        outputs: Tensor = x * torch.stack(powers).prod()
        return outputs


@problems.register
@dataclass(frozen=True, kw_only=True)
class Monomial(_Singular):
    """f(x) = x ∏ wᵢ^kᵢ fitted to zero: L = ½ ∏ wᵢ^2kᵢ, whose learning coefficient is 1/(2 max kᵢ).

    The localised figure is an integral over one to three weights; of a single weight it is 1/(2k) at every
    temperature where nothing localises it. With k = 1 the model is regular: ½.
    """

    name = "monomial"
    title = "monomial"
    reference = "Watanabe, Algebraic Geometry and Statistical Learning Theory (2009), chapter 2"

    exponents: tuple[int, ...] = (2,)

    def __post_init__(self) -> None:
        if not 1 <= len(self.exponents) <= 3 or min(self.exponents) < 1:
            raise ValueError(
                f"exponents must be one to three, each at least 1, got {list(self.exponents)}"
            )
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2, got {self.samples}")

    inputs = 1

    def network(self) -> nn.Module:
        return _Product(self.exponents)

    def learning_coefficient(self, subject: Subject) -> float:
        return 1 / (2 * max(self.exponents))

    def localised_coefficient(
        self, subject: Subject, inverse_temperature: float, localization: float
    ) -> float | None:
        """On a grid of s = log w, where the trapezoidal rule converges exponentially."""
        if localization == 0:
            return 1 / (2 * self.exponents[0]) if len(self.exponents) == 1 else None
        count = len(self.exponents)
        top = 3 - 0.5 * math.log(localization)
        depth, step = ((45, 0.02), (45, 0.05), (32, 0.2))[count - 1]
        s = torch.arange(top - depth, top, step, dtype=torch.float64)
        axes = torch.meshgrid(*[s] * count, indexing="ij")
        loss = 0.5 * _sum(2 * k * a for k, a in zip(self.exponents, axes, strict=True)).exp()
        pull = _sum(a - 0.5 * localization * (2 * a).exp() for a in axes)
        return _mean(inverse_temperature * loss, pull - inverse_temperature * loss)


@problems.register
@dataclass(frozen=True, kw_only=True)
class ReducedRankRegression(_Singular):
    """Two linear layers f(x) = BAx fitted to zero, A (``hidden``, ``inputs``), B (``outputs``, ``hidden``).

    L = ½‖BA‖_F², whose learning coefficient Aoyagi and Watanabe computed (the true map has rank zero). The
    localised figure: with B integrated out, one over the eigenvalues of AAᵀ, which are a Wishart matrix's; up
    to two of them.
    """

    name = "reduced_rank_regression"
    title = "reduced rank regression"
    reference = "Aoyagi & Watanabe, Neural Networks 18 (2005)"

    inputs: int = 2
    hidden: int = 2
    outputs: int = 2

    def __post_init__(self) -> None:
        if min(self.inputs, self.hidden, self.outputs) < 1:
            raise ValueError("inputs, hidden and outputs must be at least 1")
        if self.samples < self.inputs:
            raise ValueError(f"samples must be at least inputs ({self.inputs})")

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self.inputs, self.hidden, bias=False),
            nn.Linear(self.hidden, self.outputs, bias=False),
        )

    def learning_coefficient(self, subject: Subject) -> float:
        m, h, n = self.inputs, self.hidden, self.outputs
        small, middle, large = sorted((m, h, n))
        if small + middle < large:
            return small * middle / 2
        odd = (m + h + n) % 2
        return (2 * (m * n + h * n + m * h) - m * m - n * n - h * h + odd) / 8

    def localised_coefficient(
        self, subject: Subject, inverse_temperature: float, localization: float
    ) -> float | None:
        """∫ ∏ l^((q−r−1)/2) e^(−γl/2) |l₁ − l₂| (1 + bl/γ)^(−n/2) dl over the r eigenvalues, on grids.

        Of A or of Bᵀ, whichever has fewer of them; q ≥ r are its numbers of rows and columns.
        """
        ends = sorted((self.inputs, self.outputs))
        r, q = sorted((self.hidden, ends[0]))
        if localization == 0 or r > 2:
            return None
        ratio = inverse_temperature / localization

        def one(log: Tensor) -> tuple[Tensor, Tensor]:
            """nβ E[L | l] and the log density in log l."""
            eigenvalue = log.exp()
            fitted = ratio * eigenvalue
            density = 0.5 * (q - r + 1) * log - 0.5 * localization * eigenvalue
            return ends[1] / 2 * fitted / (1 + fitted), density - ends[1] / 2 * fitted.log1p()

        top = 6 - math.log(localization)
        if r == 1:
            return _mean(*one(torch.arange(top - 90, top, 0.05, dtype=torch.float64)))
        first, v = torch.meshgrid(
            torch.arange(top - 60, top, 0.05, dtype=torch.float64),
            torch.arange(-40.0, 4.5, 0.05, dtype=torch.float64),
            indexing="ij",
        )
        apart = v.exp()  # l₂ = l₁ e^(−apart)
        (value, density), (more, other) = one(first), one(first - apart)
        return _mean(value + more, density + other + first + (-(-apart).expm1()).log() + v)


@problems.register
@dataclass(frozen=True, kw_only=True)
class DeepRankRegression(_Singular):
    """Linear layers of the ``widths``, inputs first, fitted to zero: L = ½‖W_k ⋯ W₁‖_F².

    Aoyagi computed its learning coefficient at every depth; here the true map has rank zero. The localised
    figure is known where there is one input or one output: the map's squared length is then a product of
    independent χ² variables, one a layer, whose logarithms add up.
    """

    name = "deep_rank_regression"
    title = "deep linear regression on zero"
    reference = "Aoyagi, Neural Networks 172 (2024); stated in Lau et al., arXiv:2308.12108"

    widths: tuple[int, ...] = (1, 2, 2, 1)

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise ValueError(
                f"widths must be at least two, each at least 1, got {list(self.widths)}"
            )
        if self.samples < self.widths[0]:
            raise ValueError(f"samples must be at least as many as inputs ({self.widths[0]})")

    @property
    def inputs(self) -> int:
        return self.widths[0]

    def network(self) -> nn.Module:
        pairs = pairwise(self.widths)
        return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairs))

    def learning_coefficient(self, subject: Subject) -> float:
        """With the set M of ℓ + 1 narrow layers of sum S ≥ ℓ·(the widest in it), below ℓ·(any other)."""
        widths = sorted(self.widths)
        for count in range(2, len(widths) + 1):
            narrow, rest, ell = widths[:count], widths[count:], count - 1
            total = sum(narrow)
            if total >= ell * narrow[-1] and all(total < ell * w for w in rest):
                break
        else:
            raise AssertionError("one of the sets fits")
        over = total - (math.ceil(total / ell) - 1) * ell
        pairs = (total**2 - sum(w * w for w in narrow)) / 2
        return over * (ell - over) / (4 * ell) - (ell - 1) * total**2 / (4 * ell) + pairs / 2

    def localised_coefficient(
        self, subject: Subject, inverse_temperature: float, localization: float
    ) -> float | None:
        """E[L | s] of the squared length s of all but the last layer's map, over the law of s on a grid."""
        if localization == 0 or 1 not in (self.widths[0], self.widths[-1]):
            return None
        _, *hidden, outputs = self.widths if self.widths[0] == 1 else reversed(self.widths)
        step, logs = 0.05, torch.zeros(1, dtype=torch.float64)
        density = torch.ones(1, dtype=torch.float64)
        for width in hidden:
            top = 6 - math.log(localization)
            own = torch.arange(top - 90, top, step, dtype=torch.float64)
            law = (0.5 * width * own - 0.5 * localization * own.exp()).exp()
            density = torch.from_numpy(np.convolve(density, law))  # of positive terms all
            logs = logs[0] + own[0] + step * torch.arange(len(density), dtype=torch.float64)
        fitted = inverse_temperature / localization * logs.exp()
        return _mean(
            0.5 * outputs * fitted / (1 + fitted), density.log() - 0.5 * outputs * fitted.log1p()
        )


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)


def _mean(values: Tensor, log_weights: Tensor) -> float:
    """Of ``values`` under weights given by their logarithms."""
    weights = (log_weights - log_weights.max()).exp()
    return float((weights * values).sum() / weights.sum())
