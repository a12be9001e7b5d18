"""What Lanczos iterations have in common, of one vector or of one in each of many blocks in step.

Shapes: ``…`` is () for one iteration and (N,) for N in step, whose numbers are floats and tensors (N,).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast

import torch
from scipy.special import betaincinv
from torch import Tensor

from sharpbench.curvature.operator import SymmetricOperator

__all__ = [
    "ASYMMETRY",
    "DENSE",
    "LARGE",
    "PIECE",
    "SETTLED",
    "KrylovSpace",
    "failure_probability",
    "least_share",
    "rounding_error",
    "stored_in",
]

ASYMMETRY = 1e-2
"""Relative difference of vᵀ(Au) and uᵀ(Av) beyond what float32 products round to."""

SETTLED = 1e-12
"""Of the spectrum's size: below that an eigenvalue is as good as float64 can tell."""

DENSE = 8
"""Up to so many unknowns an eigenvalue the whole matrix takes no more products than iterating."""

_SHORTENED = 0.7
"""A vector that orthogonalisation leaves longer than that is orthogonal to rounding (Kahan)."""

_ROOM = 8
"""Vectors that there is room for at first."""

LARGE = 4_000_000
"""Beyond so many unknowns memory is what is short: vectors are kept one by one, never copied to grow, in the
precision of the products."""

PIECE = 1 << 20
"""Numbers of a vector that are read at once."""

_LEFT = 8
"""Vectors for which a device's memory must have room beside those kept on it."""

_EXCLUDED = 1e100
"""A Christoffel sum beyond that excludes whatever it is of; the next terms may overflow."""

Number = TypeVar("Number", float, Tensor)


def stored_in(dtype: torch.dtype, dimension: int) -> torch.dtype:
    """In what the Krylov vectors of an operator of this ``dtype`` are kept.

    float64; of large operators in float32 that is what their products are in, too: such vectors are
    orthogonal to its rounding, and √ε would do for Ritz values to ε (Simon, Linear Algebra Appl. 61 (1984)).
    """
    return torch.float64 if dimension <= LARGE else dtype


def failure_probability(tolerance: float) -> float:
    """With this probability at most, over the random start, an eigenvalue may lie beyond a stated bound.

    √tolerance/6.3, at least 1/1000 and at most 1/20: certainty costs fewer products, in proportion, where
    many are made anyway. (31 trained networks, 40 starts each: at most 3 false claims of 1240 at tolerances
    of 0.1 and 0.05 and none at 1e-2 and 1e-3, for 1.49, 1.45, 1.36 and 1.30 times the products of a
    residual's bound alone; hard spectra: at most 7 of 300.)
    """
    return min(max(1e-3, 0.05 * math.sqrt(10 * tolerance)), 0.05)


def least_share(dimension: int, chance: float) -> float:
    """With probability ``chance`` a random unit vector has a smaller squared component along a direction."""
    return float(betaincinv(0.5, 0.5 * (dimension - 1), chance)) if dimension > 1 else 1.0


def rounding_error(operator: SymmetricOperator, scale: Number, noise: Number) -> Number:
    """What rounding in the products may do to an eigenvalue; none that float64's own wouldn't.

    ``scale`` of the products, ``noise`` seen in their symmetry.
    """
    if operator.dtype == torch.float64:
        return 0.0 * scale
    least = torch.finfo(operator.dtype).eps * scale
    if isinstance(scale, Tensor):
        return 2 * torch.maximum(noise, least)
    return 2 * max(noise, least)


class KrylovSpace(Generic[Number]):
    """The orthonormal vectors of Lanczos iterations with full reorthogonalisation, and their tridiagonal
    matrices, in float64 whatever the operator's dtype; vectors of a large operator are kept as `stored_in`
    says, and off a GPU whose memory is used up.

    ``diagonal`` α and ``side`` β of the ``steps`` made, A·qₖ = βₖ₋₁qₖ₋₁ + αₖqₖ + βₖqₖ₊₁: the last β is the
    norm of what the next vector is made of. One shorter than ``indistinct`` times the products is made of
    their rounding errors: the iteration is exhausted.
    """

    def __init__(self, operator: SymmetricOperator, start: Tensor, most: int) -> None:
        self.operator, self.most = operator, most
        self.indistinct = max(SETTLED, 30 * torch.finfo(operator.dtype).eps)
        self.steps = 0
        self.diagonal: list[Number] = []
        self.side: list[Number] = []
        large = start.ndim == 1 and len(start) > LARGE
        kind = _OneByOne if large else _Together
        self.rows: _Rows = kind(start, most + 1, operator)

    @property
    def known(self) -> Tensor:
        """The vectors q₀ … q of the last step (…, steps + 1, d)."""
        return self.rows.first(self.steps + 1)

    @property
    def wanted(self) -> Tensor:
        """The vectors (…, d) whose product is the next one."""
        return self.rows.row(self.steps)

    def orthogonal(self, vectors: Tensor) -> Tensor:
        """The vectors (…, d) without what lies along those known; their memory may be used for it.

        Once is enough, unless it shortens one much (Parlett, §6.9: then twice is).
        """
        for _ in range(2):
            before = vectors.norm(dim=-1)
            vectors = self.rows.without(self.steps + 1, self.inside(vectors))
            if bool((vectors.norm(dim=-1) > _SHORTENED * before).all()):
                break
        return vectors

    def inside(self, vectors: Tensor) -> Tensor:
        """The vectors (…, d) without what lies outside of the space that is searched."""
        return vectors

    def append(self, vectors: Tensor | None) -> None:
        """A step is done: the next ``vectors`` (…, d), None where there is none."""
        self.steps += 1
        self.rows.append(vectors)

    def christoffel(self, values: Number) -> Number:
        """Σ_j p_j(value)², j = 0 … steps, with the orthonormal polynomials of the iteration: one over the
        largest squared component of the start along an eigenvector of that value."""
        total: Any = 1.0
        before: Any = 0.0
        here: Any = 1.0
        side: Any = 0.0
        for diagonal, following in zip(self.diagonal, self.side, strict=True):
            before, here = here, ((values - diagonal) * here - side * before) / following
            total, side = total + here * here, following
            if isinstance(total, float) and total > _EXCLUDED:
                break
        return cast(Number, total)

    def tridiagonal(self) -> Tensor:
        """(…, steps, steps)."""
        diagonal, side = _together(self.diagonal), _together(self.side)[..., :-1]
        return torch.diag_embed(diagonal) + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)


class _Rows(ABC):
    """Where Krylov vectors are kept."""

    @abstractmethod
    def __init__(self, start: Tensor, most: int, operator: SymmetricOperator) -> None:
        """``start``: the first of at most ``most``."""

    @abstractmethod
    def append(self, vectors: Tensor | None) -> None:
        """One more; None: a place that is left empty."""

    @abstractmethod
    def row(self, number: int) -> Tensor:
        """One of them (…, d), on the operator's device."""

    @abstractmethod
    def first(self, count: int) -> Tensor:
        """(…, count, d)."""

    @abstractmethod
    def along(self, low: int, high: int, vectors: Tensor) -> Tensor:
        """The components of vectors (…, d) along those from ``low`` to before ``high``, (…, high − low)."""

    @abstractmethod
    def without(self, count: int, vectors: Tensor) -> Tensor:
        """The vectors (…, d) without what lies along the first ``count``."""

    @abstractmethod
    def minus(self, number: int, factor: float, vector: Tensor) -> None:
        """Takes one of them times the factor from a vector (d,) in place; of a single iteration."""

    @abstractmethod
    def combined(self, count: int, turn: Tensor) -> Tensor:
        """The first ``count`` times turn (count, m), (d, m) in float64; of a single iteration."""


class _Together(_Rows):
    """In one tensor, which is copied where it grows."""

    def __init__(self, start: Tensor, most: int, operator: SymmetricOperator) -> None:
        self.most, self.count = most, 1
        self.rows = self._room(start, min(most, _ROOM + 1))
        self.rows[..., 0, :] = start

    def append(self, vectors: Tensor | None) -> None:
        if self.count == self.rows.shape[-2]:
            grown = self._room(self.rows[..., 0, :], min(2 * self.count, self.most))
            grown[..., : self.count, :] = self.rows
            self.rows = grown
        if vectors is not None:
            self.rows[..., self.count, :] = vectors
        self.count += 1

    def row(self, number: int) -> Tensor:
        return self.rows[..., number, :]

    def first(self, count: int) -> Tensor:
        return self.rows[..., :count, :]

    def along(self, low: int, high: int, vectors: Tensor) -> Tensor:
        return _along(self.rows[..., low:high, :], vectors)

    def without(self, count: int, vectors: Tensor) -> Tensor:
        known = self.first(count)
        return vectors - _combined(_along(known, vectors), known)

    def minus(self, number: int, factor: float, vector: Tensor) -> None:
        vector -= factor * self.rows[number]

    def combined(self, count: int, turn: Tensor) -> Tensor:
        return self.first(count).T @ turn

    @staticmethod
    def _room(like: Tensor, count: int) -> Tensor:
        shape = (*like.shape[:-1], count, like.shape[-1])
        return torch.empty(shape, dtype=torch.float64, device=like.device)


class _OneByOne(_Rows):
    """Each for itself, of a single iteration."""

    def __init__(self, start: Tensor, most: int, operator: SymmetricOperator) -> None:
        self.device = start.device
        self.dtype = stored_in(operator.dtype, len(start))
        self.rows: list[Tensor] = []
        self.append(start)

    def append(self, vectors: Tensor | None) -> None:
        if vectors is not None:
            there = self.device if self._fits(vectors) else torch.device("cpu")
            self.rows.append(vectors.to(there, self.dtype))

    def row(self, number: int) -> Tensor:
        return self.rows[number].to(self.device)

    def first(self, count: int) -> Tensor:
        return torch.stack([row.to(self.device, torch.float64) for row in self.rows[:count]])

    def along(self, low: int, high: int, vectors: Tensor) -> Tensor:
        found = torch.zeros(high - low, dtype=torch.float64, device=self.device)
        for i, row in enumerate(self.rows[low:high]):
            for part, own in self._parts(row, vectors):
                found[i] += own @ part
        return found

    def without(self, count: int, vectors: Tensor) -> Tensor:
        for number, component in enumerate(self.along(0, count, vectors).tolist()):
            self.minus(number, component, vectors)
        return vectors

    def minus(self, number: int, factor: float, vector: Tensor) -> None:
        for part, own in self._parts(self.rows[number], vector):
            part -= own.mul_(factor)

    def combined(self, count: int, turn: Tensor) -> Tensor:
        size = (len(self.rows[0]), turn.shape[1])
        total = torch.zeros(size, dtype=torch.float64, device=self.device)
        for row, factors in zip(self.rows[:count], turn, strict=True):
            for part, own in self._parts(row, total):
                part.addr_(own, factors)
        return total

    def _parts(self, row: Tensor, vectors: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Piece by piece of vectors (d, …) and, as a copy in float64, of the row: no second one in memory."""
        for part, own in zip(vectors.split(PIECE), row.split(PIECE), strict=True):
            yield part, own.to(self.device, torch.float64, copy=True)

    def _fits(self, vector: Tensor) -> bool:
        """Whether the products are left room beside one more vector on the device."""
        if self.device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return free + unused > _LEFT * vector.numel() * vector.element_size()


def _along(rows: Tensor, vectors: Tensor) -> Tensor:
    """The components (…, k) of vectors (…, d) along rows (…, k, d)."""
    if vectors.ndim == 1:
        return rows @ vectors
    return torch.bmm(rows, vectors.unsqueeze(2)).squeeze(2)


def _combined(components: Tensor, rows: Tensor) -> Tensor:
    """Σ components (…, k) · rows (…, k, d)."""
    if components.ndim == 1:
        return rows.T @ components
    return torch.bmm(components.unsqueeze(1), rows).squeeze(1)


def _together(numbers: list[Any]) -> Tensor:
    """One after the other, (…, k)."""
    if isinstance(numbers[0], Tensor):
        return torch.stack(numbers, -1)
    return torch.tensor(numbers, dtype=torch.float64)
