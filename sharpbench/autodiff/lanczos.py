"""The largest eigenvalue of a symmetric operator, with a bound on its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LanczosResult", "largest_eigenvalue"]


@dataclass(frozen=True)
class LanczosResult:
    """``value`` is a Ritz value; an eigenvalue lies within ``error_bound`` of it."""

    value: float
    error_bound: float
    converged: bool
    products: int
    ritz_values: tuple[float, ...]
    """Ritz values of the last step, largest first."""


def largest_eigenvalue(
    matvec: Callable[[Tensor], Tensor],
    dimension: int,
    *,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> LanczosResult:
    """The algebraically largest eigenvalue by Lanczos iteration with full reorthogonalisation.

    The recurrence runs in float64 whatever the operator's dtype. It stops when the residual norm
    ‖Hv − θv‖ = β_k |s_k| of the top Ritz pair is at most ``tolerance``·|θ| (Parlett 1998, §13.2:
    an eigenvalue lies within the residual norm of θ), or the Krylov space is exhausted.

    ``matvec`` takes and returns vectors (dimension,); the start vector is Gaussian.
    """
    steps = min(max_products, dimension)
    basis = torch.empty(min(steps, 16) + 1, dimension, dtype=torch.float64, device=device)
    start = torch.randn(dimension, generator=generator, dtype=torch.float64)
    basis[0] = (start / start.norm()).to(device)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    value, bound, ritz = 0.0, float("inf"), torch.zeros(1, dtype=torch.float64)
    for k in range(steps):
        product = matvec(basis[k]).to(torch.float64)
        diagonal.append(float(product @ basis[k]))
        for _ in range(2):  # twice is enough (Parlett, §6.9)
            product = product - basis[: k + 1].T @ (basis[: k + 1] @ product)
        beta = float(product.norm())
        tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if off_diagonal:
            side = torch.tensor(off_diagonal, dtype=torch.float64)
            tridiagonal = tridiagonal + torch.diag(side, 1) + torch.diag(side, -1)
        ritz, vectors = torch.linalg.eigh(tridiagonal)
        value, bound = float(ritz[-1]), beta * abs(float(vectors[-1, -1]))
        scale = float(ritz.abs().max())
        exhausted = beta <= 1e-12 * max(scale, 1e-300) or k + 1 == dimension
        if exhausted or bound <= tolerance * abs(value):
            bound = 0.0 if k + 1 == dimension else bound
            break
        if k + 2 > len(basis) and k + 1 < steps:
            grown = torch.empty(
                min(2 * len(basis), steps + 1), dimension, dtype=torch.float64, device=device
            )
            grown[: len(basis)] = basis
            basis = grown
        if k + 1 < steps:
            off_diagonal.append(beta)
            basis[k + 1] = product / beta
    return LanczosResult(
        value=value,
        error_bound=bound,
        converged=bound <= tolerance * abs(value) or bound <= 1e-12 * float(ritz.abs().max()),
        products=len(diagonal),
        ritz_values=tuple(ritz.flip(0).tolist()),
    )
