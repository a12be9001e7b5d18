"""Eigenvalues and the spectral density of a symmetric operator, with bounds on their errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sharpbench.autodiff.operator import SymmetricOperator
from sharpbench.errors import MetricFailed

__all__ = ["EigenResult", "SpectralDensity", "Which", "extreme_eigenvalues", "spectral_density"]

Which = Literal["largest", "smallest", "magnitude"]

_ASYMMETRY = 1e-2
"""Relative difference of vᵀ(Au) and uᵀ(Av) beyond what float32 products round to."""


@dataclass(frozen=True)
class EigenResult:
    """Ritz values with residual norms: an eigenvalue lies within ``error_bounds[i]`` of ``values[i]``.

    ``vectors``: (P, count) unit Ritz vectors in float64, where asked for. ``ritz_values``: those of the
    last step, largest first.
    """

    values: tuple[float, ...]
    error_bounds: tuple[float, ...]
    converged: bool
    products: int
    ritz_values: tuple[float, ...]
    vectors: Tensor | None = None

    @property
    def value(self) -> float:
        return self.values[0]

    @property
    def error_bound(self) -> float:
        return self.error_bounds[0]


def extreme_eigenvalues(
    operator: SymmetricOperator,
    *,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
    count: int = 1,
    which: Which = "largest",
    vectors: bool = False,
) -> EigenResult:
    """The ``count`` algebraically largest or smallest eigenvalues, or those of largest magnitude.

    Lanczos iteration with full reorthogonalisation, in float64 whatever the operator's dtype. It stops
    when the residual norm ‖Av − θv‖ = β_k |s_k| of each wanted Ritz pair is at most ``tolerance``·|θ|
    (Parlett 1998, §13.2), or when the Krylov space is the whole space. An exhausted Krylov space goes
    on from a new random vector, so that copies of a multiple eigenvalue are found when ``count`` > 1.

    Raises MetricFailed if the operator is not symmetric or its products are not finite.
    """
    if not 1 <= count <= operator.dimension:
        raise MetricFailed(
            f"{count} eigenvalues asked of an operator of dimension {operator.dimension}"
        )
    iteration = _Lanczos(operator, min(max_products, operator.dimension), generator)
    ritz = torch.zeros(0, dtype=torch.float64)
    chosen, bounds, done = [0], [math.inf], False
    for exhausted in iteration:
        ritz, basis = torch.linalg.eigh(iteration.tridiagonal())
        chosen = _order(ritz, which)[:count]
        last = basis[-1].abs()
        scale = float(ritz.abs().max())
        bounds = [
            0.0 if iteration.complete else iteration.residual * float(last[i]) for i in chosen
        ]
        done = len(chosen) == count and all(
            bound <= max(tolerance * abs(float(ritz[i])), 1e-12 * scale)
            for i, bound in zip(chosen, bounds, strict=True)
        )
        if done and (count == 1 or not exhausted or iteration.complete):
            break
    found = None
    if vectors:
        _, basis = torch.linalg.eigh(iteration.tridiagonal())
        found = iteration.vectors().T @ basis[:, chosen].to(operator.device)
    return EigenResult(
        values=tuple(float(ritz[i]) for i in chosen),
        error_bounds=tuple(bounds),
        converged=done,
        products=iteration.steps,
        ritz_values=tuple(ritz.flip(0).tolist()),
        vectors=found,
    )


def _order(ritz: Tensor, which: Which) -> list[int]:
    keys = {"largest": -ritz, "smallest": ritz, "magnitude": -ritz.abs()}
    order: list[int] = keys[which].argsort(stable=True).tolist()
    return order


@dataclass(frozen=True)
class SpectralDensity:
    """Eigenvalue density by stochastic Lanczos quadrature: nodes and weights of each probe, (n, k).

    Each probe's weights sum to one; nodes and weights that are missing (an exhausted Krylov space) are
    0. The mean over probes of Σ weight·g(node) estimates tr g(A)/P.
    """

    nodes: Tensor
    weights: Tensor
    products: int

    def mean(self, values: Tensor) -> tuple[float, float | None]:
        """tr g(A)/P with its standard error over the probes, from ``values`` = g(nodes)."""
        each = (self.weights * values).sum(1)
        error = float(each.std() / math.sqrt(len(each))) if len(each) > 1 else None
        return float(each.mean()), error

    def curve(self, points: int = 200, width: float = 0.01) -> tuple[list[float], list[float]]:
        """The density smoothed by Gaussians of ``width`` times the spectrum's range: grid and heights."""
        low, high = float(self.nodes.min()), float(self.nodes.max())
        sigma = max(width * (high - low), 1e-300)
        grid = torch.linspace(low - 4 * sigma, high + 4 * sigma, points, dtype=torch.float64)
        distance = (grid[:, None, None] - self.nodes) / sigma
        kernel = (-0.5 * distance.square()).exp() / (sigma * math.sqrt(2 * math.pi))
        height = (kernel * self.weights).sum(2).mean(1)
        return grid.tolist(), height.tolist()


def spectral_density(
    operator: SymmetricOperator, *, probes: int, steps: int, generator: torch.Generator
) -> SpectralDensity:
    """Stochastic Lanczos quadrature with ``probes`` Gaussian starts of ``steps`` steps each.

    Ubaru, Chen & Saad, SIAM J. Matrix Anal. Appl. 38 (2017); Golub & Welsch for nodes and weights.
    """
    steps = min(steps, operator.dimension)
    nodes = torch.zeros(probes, steps, dtype=torch.float64)
    weights = torch.zeros(probes, steps, dtype=torch.float64)
    products = 0
    for probe in range(probes):
        iteration = _Lanczos(operator, steps, generator)
        for exhausted in iteration:
            if exhausted:
                break
        ritz, basis = torch.linalg.eigh(iteration.tridiagonal())
        nodes[probe, : len(ritz)], weights[probe, : len(ritz)] = ritz, basis[0].square()
        products += iteration.steps
    return SpectralDensity(nodes, weights, products)


class _Lanczos:
    """Yields after each step whether the Krylov space is exhausted; restarts if it is."""

    def __init__(self, operator: SymmetricOperator, most: int, generator: torch.Generator) -> None:
        self.operator, self.most, self.generator = operator, most, generator
        self.steps = 0
        self.residual = math.inf
        self.complete = False
        self._diagonal: list[float] = []
        self._side: list[float] = []
        self._basis = self._rows(min(most, 16) + 1)

    def tridiagonal(self) -> Tensor:
        diagonal = torch.tensor(self._diagonal, dtype=torch.float64)
        side = torch.tensor(self._side[: len(diagonal) - 1], dtype=torch.float64)
        return torch.diag(diagonal) + torch.diag(side, 1) + torch.diag(side, -1)

    def vectors(self) -> Tensor:
        return self._basis[: self.steps]

    def __iter__(self) -> Iterator[bool]:
        self._basis[0] = self._start()
        scale = 0.0
        while self.steps < self.most:
            k = self.steps
            product = self.operator.matvec(self._basis[k]).to(torch.float64)
            self._diagonal.append(float(product @ self._basis[k]))
            scale = max(scale, float(product.norm()))
            if k:
                self._check_symmetric(float(product @ self._basis[k - 1]), scale)
            known = self._basis[: k + 1]
            for _ in range(2):  # twice is enough (Parlett, §6.9)
                product = product - known.T @ (known @ product)
            self.steps = k + 1
            self.complete = self.steps == self.operator.dimension
            self.residual = 0.0 if self.complete else float(product.norm())
            exhausted = self.residual <= 1e-12 * max(scale, 1e-300)
            if self.steps < self.most:
                if self.steps == len(self._basis):
                    self._grow()
                # Within an invariant subspace there is no next direction: begin another one.
                follow = self._start() if exhausted else product / self.residual
                self._side.append(0.0 if exhausted else self.residual)
                self._basis[self.steps] = follow
            yield exhausted

    def _check_symmetric(self, found: float, scale: float) -> None:
        if abs(found - self._side[-1]) > _ASYMMETRY * scale:
            raise MetricFailed(
                f"the operator is not symmetric: uᵀAv = {found:.6g}, vᵀAu = {self._side[-1]:.6g}"
            )

    def _start(self) -> Tensor:
        """A random unit vector, orthogonal to what is known. Drawn on the CPU."""
        size = self.operator.dimension
        vector = torch.randn(size, generator=self.generator, dtype=torch.float64)
        vector = vector.to(self.operator.device)
        known = self.vectors()
        for _ in range(2):
            vector = vector - known.T @ (known @ vector)
        unit: Tensor = vector / vector.norm()
        return unit

    def _rows(self, count: int) -> Tensor:
        size = (count, self.operator.dimension)
        return torch.empty(size, dtype=torch.float64, device=self.operator.device)

    def _grow(self) -> None:
        grown = self._rows(min(2 * len(self._basis), self.most + 1))
        grown[: len(self._basis)] = self._basis
        self._basis = grown
