"""Spectral norms of all blocks of a block-diagonal operator at once, with bounds on their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpbench.curvature.krylov import (
    ASYMMETRY,
    DENSE,
    SETTLED,
    KrylovSpace,
    failure_probability,
    least_share,
    rounding_error,
)
from sharpbench.curvature.operator import SymmetricOperator
from sharpbench.errors import MetricFailed

__all__ = ["BlockNorms", "block_norms"]

_OCTAVES = 16
"""Beyond so many above what is allowed a bound is not told."""

_OCTAVES_A_STEP = 6
"""The mean of the bounds hardly falls by more a step (on trained networks 1 to 6, hard blocks last): how
far they are from what is allowed tells when to look again."""


@dataclass(frozen=True)
class BlockNorms:
    """Lower bounds (N,) of the blocks' spectral norms, and by how much these may be larger (N,), float64.

    All the bounds hold together with probability 1 − ``failure_probability``. ``converged``: their
    weighted mean is at most the tolerance times that of the norms. ``asymmetry``: the largest difference
    of vᵀ(Au) and uᵀ(Av) seen, relative to the block's size.
    """

    norms: Tensor
    error_bounds: Tensor
    converged: bool
    products: int
    failure_probability: float
    asymmetry: float


def block_norms(
    operator: SymmetricOperator,
    blocks: int,
    *,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
    weights: Tensor | None = None,
    chance: float | None = None,
) -> BlockNorms:
    """‖Aᵢ‖₂ of the N = ``blocks`` equal diagonal blocks Aᵢ (d, d) of the operator (N·d, N·d).

    A Lanczos iteration in each block with full reorthogonalisation in float64, all in step, so that one
    product serves all of them. It is stopped as `extreme_eigenvalues` is: an eigenvector beyond
    ±(norm + bound) would have a smaller share of the random start than all but the ``chance`` of random
    vectors (`failure_probability` of the tolerance if None), which all blocks share out. A block whose
    Krylov space is invariant has no error: one that is zero, one of a low rank, and all after d products.
    Blocks of at most 8 unknowns are written out.

    ``weights`` (N,) of the blocks in the mean that is asked for, one each if None.

    Raises MetricFailed if a block is not symmetric or a product is not finite.
    """
    size = operator.dimension // blocks
    weights = torch.ones(blocks, dtype=torch.float64) if weights is None else weights.double().cpu()
    if size <= min(DENSE, max_products):
        return _written_out(operator, blocks)
    failure = failure_probability(tolerance) if chance is None else chance
    share = least_share(size, failure / blocks)
    iteration = _Iterations(operator, blocks, min(max_products, size), generator)
    wait = 0
    while iteration.steps < iteration.most:
        iteration.step()
        if iteration.exhausted.all():
            break
        wait -= 1
        if wait <= 0:
            allowed = tolerance * (weights * iteration.norms).mean()
            reached = iteration.reached(allowed / weights, share)
            if reached <= 1:
                break
            wait = 1 + int(math.log2(min(reached, 2**_OCTAVES)) / _OCTAVES_A_STEP)
    bounds = iteration.bounds(share)
    met = (weights * bounds).mean() <= tolerance * (weights * iteration.norms).mean()
    exact = bool(iteration.exhausted.all())
    return BlockNorms(
        norms=iteration.norms,
        error_bounds=bounds,
        converged=exact or bool(met),
        products=iteration.steps,
        failure_probability=0.0 if exact else failure,
        asymmetry=float((iteration.noise / iteration.scale.clamp_min(1e-300)).max()),
    )


def _written_out(operator: SymmetricOperator, blocks: int) -> BlockNorms:
    size = operator.dimension // blocks
    units = torch.eye(size, dtype=torch.float64, device=operator.device).repeat(blocks, 1)
    matrices = operator.matmat(units).double().cpu().view(blocks, size, size)
    scale = matrices.abs().amax((1, 2))
    noise = (matrices - matrices.mT).abs().amax((1, 2))
    _check_symmetric(noise, scale)
    norms = torch.linalg.eigvalsh(0.5 * (matrices + matrices.mT)).abs().amax(1)
    return BlockNorms(
        norms=norms,
        error_bounds=rounding_error(operator, norms, noise),
        converged=True,
        products=size,
        failure_probability=0.0,
        asymmetry=float((noise / scale.clamp_min(1e-300)).max()),
    )


class _Iterations(KrylovSpace[Tensor]):
    """The Lanczos iterations; an exhausted one goes on with zeros, which no magnitude notices."""

    def __init__(
        self, operator: SymmetricOperator, blocks: int, most: int, generator: torch.Generator
    ) -> None:
        self.size = operator.dimension // blocks
        self.scale, self.noise = (torch.zeros(blocks, dtype=torch.float64) for _ in range(2))
        self._norms: Tensor | None = None
        self.exhausted = torch.zeros(blocks, dtype=torch.bool)
        start = torch.randn(blocks, self.size, generator=generator, dtype=torch.float64)
        start = start.to(operator.device)
        super().__init__(operator, start / start.norm(dim=1, keepdim=True), most)

    def step(self) -> None:
        """One product with the operator."""
        last = self.wanted
        product = self.operator.matvec(last.reshape(-1)).double().view_as(last)
        pair = self.known[:, -2:]
        overlaps = torch.bmm(pair, product.unsqueeze(2))
        *off, diagonal = overlaps[..., 0].cpu().unbind(1)
        self.diagonal.append(diagonal)
        self.scale = torch.maximum(self.scale, product.norm(dim=1).cpu())
        if off:
            apart = (off[0] - self.side[-1]).abs()
            self.noise = torch.where(self.exhausted, self.noise, torch.maximum(self.noise, apart))
            _check_symmetric(self.noise, self.scale)
        product = self.orthogonal(product - torch.bmm(overlaps.mT, pair).squeeze(1))
        side = product.norm(dim=1).cpu()
        self.exhausted = self.exhausted | (side <= self.indistinct * self.scale)
        if self.steps + 1 == self.size:
            self.exhausted = torch.ones_like(self.exhausted)
        side = side.masked_fill(self.exhausted, 0.0)
        self.side.append(side)
        inverse = torch.where(self.exhausted, 0.0, 1 / side.clamp_min(1e-300))
        self.append(product * inverse.to(product).unsqueeze(1))
        self._norms = None

    @property
    def norms(self) -> Tensor:
        """The largest magnitudes of Ritz values (N,), once a step and only where someone asks."""
        if self._norms is None:
            self._norms = torch.linalg.eigvalsh(self.tridiagonal()).abs().amax(1)
        return self._norms

    def reached(self, excess: Tensor, share: float) -> float:
        """The mean of the bounds in units of ``excess`` (N,), each rounded up: from 1/16 to 256 to half an
        octave, from there on to an octave."""
        octaves = torch.cat([torch.arange(-4, 8, 0.5), torch.arange(8, _OCTAVES + 1.0)]).double()
        first = self._first_excluded(octaves.exp2().unsqueeze(1) * excess, share)
        bounds = torch.cat([octaves.exp2(), torch.tensor([torch.inf])])[first]
        rounding = rounding_error(self.operator, self.scale, self.noise) / excess
        return float((bounds.masked_fill(self.exhausted, 0.0) + rounding).mean())

    def bounds(self, share: float) -> Tensor:
        """By how much each norm may be larger (N,), to 0.2%."""
        scale = self.scale.clamp_min(1e-300)
        low, octaves = SETTLED * scale, 66.0  # up to 1e8 times the block
        for _ in range(3):
            steps = torch.linspace(0, octaves, 33, dtype=torch.float64).exp2().unsqueeze(1)
            first = self._first_excluded(steps[1:] * low, share).clamp_max(31)
            low, octaves = low * steps[first, 0], octaves / 32
        bounds = (low * math.exp2(octaves)).masked_fill(self.exhausted, 0.0)
        return bounds + rounding_error(self.operator, self.scale, self.noise)

    def _first_excluded(self, excess: Tensor, share: float) -> Tensor:
        """The row (N,) of the first ``excess`` (L, N), rising, beyond which there is no eigenvalue; else L.

        By the Christoffel function 1/Σ pⱼ² at both ends. What overflows, and what an exhausted block
        divides by zero, is excluded.
        """
        ends = torch.stack([self.norms + excess, -self.norms - excess])
        possible = (self.christoffel(ends) * share < 1).any(0)
        first: Tensor = possible.sum(0)
        return first


def _check_symmetric(noise: Tensor, scale: Tensor) -> None:
    worst = noise - ASYMMETRY * scale
    if (worst > 0).any():
        i = int(worst.argmax())
        raise MetricFailed(
            f"block {i} of the operator is not symmetric: uᵀAv and vᵀAu differ by {float(noise[i]):.6g}"
        )
