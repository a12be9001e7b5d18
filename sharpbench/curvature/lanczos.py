"""Eigenvalues and the spectral density of a symmetric operator, with bounds on their errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sharpbench.curvature.krylov import (
    ASYMMETRY,
    DENSE,
    LARGE,
    PIECE,
    SETTLED,
    KrylovSpace,
    failure_probability,
    least_share,
    rounding_error,
)
from sharpbench.curvature.operator import SymmetricOperator
from sharpbench.errors import MetricFailed
from sharpbench.seeds import generator_there

__all__ = [
    "EigenResult",
    "SpectralDensity",
    "Which",
    "extreme_eigenvalues",
    "extreme_eigenvalues_of_blocks",
    "spectral_density",
]

Which = Literal["largest", "smallest", "magnitude"]

_PUSH = 5.0
"""Length of the operator's guess in the start vector, in standard deviations of a random coordinate: enough
to be no rarity in it, and so little that the bound takes a third of a product more on average."""

_BELOW = 1e-13
"""Of the largest eigenvalue: more than rounding puts one that is 0 below it."""

_PLACES = 128
"""At so many places F is bounded, a seventh further from 0 each."""

_NEAR = 1e-6
"""Of the largest node: the first of these places."""

_UNSETTLED = 0.5
"""Of the tolerance: beyond that residual a Ritz value has not settled."""


@dataclass(frozen=True)
class EigenResult:
    """Ritz values, with bounds on what they miss of the eigenvalues that were asked for.

    ``values``: of the largest eigenvalues, each is a lower bound of its eigenvalue, and ``error_bounds``
    says how far above it that may be, counted with multiplicity: all these hold together with probability
    1 − ``failure_probability``. Of the smallest ones they are upper bounds; of those of largest magnitude
    this is meant of the magnitudes (of two that differ by less than the bound either may be given).
    ``converged``: every bound is at most the tolerance times the value.
    ``vectors``: (P, count) unit Ritz vectors in float64, where asked for. ``ritz_values``: all those of the
    first Krylov space, largest first; ``ritz_vectors`` (P, …) theirs, where vectors are asked for.
    """

    values: tuple[float, ...]
    error_bounds: tuple[float, ...]
    converged: bool
    products: int
    ritz_values: tuple[float, ...]
    failure_probability: float = 0.0
    vectors: Tensor | None = None
    ritz_vectors: Tensor | None = None

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

    Lanczos iteration with full reorthogonalisation, in float64 whatever the operator's dtype. The norm of
    a residual bounds the distance to *some* eigenvalue; what is missed is bounded as follows. Were there
    an eigenvalue λ beyond the Ritz values, its eigenvector v would have left its mark: with the
    orthonormal polynomials p_j of the iteration ⟨v, q_j⟩ = p_j(λ)⟨v, b⟩, so that its share of the unit
    start vector b is at most the Christoffel function 1/Σ_j p_j(λ)², j = 0 … k. The share of a fixed
    direction in a random unit vector of n coordinates is distributed as Beta(½, (n − 1)/2), and below its
    quantile ε only with the probability `failure_probability`; else no eigenvalue exceeds the λ at which
    Σ_j p_j(λ)² = 1/ε. That holds at every step at once, since ε doesn't depend on it.
    (Kuczyński & Woźniakowski, SIAM J. Matrix Anal. Appl. 13 (1992), bound the same event for the worst
    spectrum; here it is the one at hand. Golub & Meurant 2010, ch. 6, for the polynomials.)
    Where the start does hold less than ε, nearly every Ritz value on its way up to λ would pass that test:
    nothing is claimed, therefore, before the leading one has settled, to half of the tolerance by its
    residual. Then the claim fails much more rarely than the chance stated, unless another eigenvalue lies
    just below λ's reach.

    An operator's ``guess`` is added to the random vector: a shift never makes a small overlap more likely.
    For several eigenvalues a Krylov space, which holds one vector an eigenspace, is not enough: what is
    orthogonal to the vectors found is searched from a new start, until the same bound says that it
    holds nothing larger than the last of them (λ_{i+1}(A) ≤ λ_max of A on any complement of dimension
    P − i: Courant–Fischer).

    Raises MetricFailed if the operator is not symmetric or its products are not finite.
    """
    size = operator.dimension
    if not 1 <= count <= size:
        raise MetricFailed(f"{count} eigenvalues asked of an operator of dimension {size}")
    if size <= min(DENSE * count, max_products):
        return _of_the_whole_matrix(operator, count, which, vectors)
    search = _Search(operator, tolerance, count, which, failure_probability(tolerance))
    search.vectors_wanted = vectors or count > 1 or size <= LARGE
    search.run(max_products, generator)
    result = search.result()
    if not vectors:
        return result
    first = search.first
    every = first.rows.combined(first.steps, first.ritz_basis.flip(1).to(operator.device))
    if which == "smallest":
        every = every.flip(1)
    return replace(result, vectors=search.leading().vectors, ritz_vectors=every)


def _of_the_whole_matrix(
    operator: SymmetricOperator, count: int, which: Which, vectors: bool
) -> EigenResult:
    """All eigenvalues from one product with each unit vector."""
    matrix = operator.dense().to(torch.float64)
    noise = float((matrix - matrix.T).abs().max())
    if noise > ASYMMETRY * float(matrix.abs().max()):
        raise MetricFailed(
            f"the operator is not symmetric: Aᵢⱼ and Aⱼᵢ differ by up to {noise:.6g}"
        )
    ritz, basis = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    chosen = _leading(ritz, which, count)
    return EigenResult(
        values=tuple(ritz[chosen].tolist()),
        error_bounds=(rounding_error(operator, float(ritz.abs().max()), noise),) * count,
        converged=True,
        products=operator.dimension,
        ritz_values=tuple(ritz.flip(0).tolist()),
        vectors=basis[:, chosen] if vectors else None,
        ritz_vectors=basis.flip(1) if vectors else None,
    )


def _leading(values: Tensor, which: Which, count: int) -> Tensor:
    keys = {"largest": -values, "smallest": values, "magnitude": -values.abs()}
    return keys[which].argsort(stable=True)[:count]


@dataclass(frozen=True)
class SpectralDensity:
    """Eigenvalue density by stochastic Lanczos quadrature: nodes and weights of each probe, (n, k).

    Each probe's weights sum to one; nodes and weights that are missing (an exhausted Krylov space) are
    0. The mean over probes of Σ weight·g(node) estimates tr g(A)/P.
    """

    nodes: Tensor
    weights: Tensor
    products: int
    tridiagonal: tuple[Tensor, ...] = ()
    """Of each probe, (k, k)."""

    def radau(self, dimension: int) -> SpectralDensity:
        """Gauss-Radau quadrature from the same steps, of an operator without negative eigenvalues: one node
        of each probe lies at 0.

        Where all even derivatives of g have one sign and all odd ones the other, as those of 1/(l + α) and
        of log(l + α), vᵀg(A)v lies between what either rule gives for the probe v (Golub & Meurant 2010,
        ch. 6). A Krylov space that is invariant, or of all ``dimension`` vectors, has nothing to bound.
        """
        steps = self.nodes.shape[1]
        found = []
        for matrix, nodes in zip(self.tridiagonal, self.nodes, strict=True):
            size = len(matrix)
            if 1 < size == steps < dimension:
                # Further below 0 than rounding has put a node: there the shifted matrix is positive.
                low = max(_BELOW * float(nodes.max()), -2 * float(nodes.min()))
                matrix = _with_node(matrix, torch.tensor([-low], dtype=torch.float64))[0]
            found.append(matrix)
        return _quadrature(found, steps)

    def below_zero(self, dimension: int) -> tuple[Tensor, Tensor, Tensor]:
        """vᵀ max(−A, 0) v of each probe v (n,), and bounds below and above it for the very same probe.

        It is the integral of F up to 0, F(t) the share of v in eigenvalues up to t. A Gauss-Radau rule with
        a node at t has at least F(t) in its nodes up to t (Chebyshev-Markov-Stieltjes; Golub & Meurant 2010,
        ch. 6), and F rises, so that rectangles lie above it; with a node at 0 the rule for max(−A, 0)
        itself lies below, since the polynomial that it integrates exactly touches that function from below.
        """
        steps, found = self.nodes.shape[1], []
        for matrix, nodes, weights in zip(self.tridiagonal, self.nodes, self.weights, strict=True):
            here = low = high = float((weights * -nodes.clamp_max(0)).sum())
            if 1 < len(matrix) == steps < dimension:
                low, high = _negative_part(matrix, nodes)
            found.append((here, min(low, here), max(high, here)))
        value, below, above = torch.tensor(found, dtype=torch.float64).unbind(1)
        return value, below, above

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
    matrices = []
    for _ in range(probes):
        iteration = _Lanczos(operator, steps, generator)
        while iteration.steps < steps and not iteration.exhausted:
            iteration.step()
        matrices.append(iteration.tridiagonal())
    return _quadrature(matrices, steps)


def _with_node(matrix: Tensor, at: Tensor) -> Tensor:
    """Jacobi matrices (m, k, k) of the Gauss-Radau rules that have a node at each of ``at`` (m,), by their
    last entry (Golub 1973); not finite where that is an eigenvalue of the others."""
    size = len(matrix)
    unit = torch.zeros(len(at), size - 1, dtype=torch.float64)
    unit[:, -1] = matrix[-1, -2].square()
    shifted = matrix[:-1, :-1] - at[:, None, None] * torch.eye(size - 1, dtype=torch.float64)
    solved, singular = torch.linalg.solve_ex(shifted, unit)
    found = matrix.repeat(len(at), 1, 1)
    found[:, -1, -1] = torch.where(singular > 0, math.nan, at + solved[:, -1])
    return found


def _negative_part(matrix: Tensor, nodes: Tensor) -> tuple[float, float]:
    """`SpectralDensity.below_zero` of one probe: its bounds."""
    size = float(nodes.abs().max())
    if not size > 0:
        return 0.0, 0.0
    ends = math.log10(_NEAR * size), math.log10(2 * float(nodes.max() - nodes.min()) + size)
    places = -torch.logspace(*ends, _PLACES, dtype=torch.float64).flip(0)
    places = torch.cat([places, torch.zeros(1, dtype=torch.float64)])
    rules = _with_node(matrix, places)
    there = rules[:, -1, -1].isfinite()
    own, basis = torch.linalg.eigh(rules[there])
    weights = basis[:, 0, :].square()
    last = (own - places[there].unsqueeze(1)).abs().argmin(1, keepdim=True)
    share = torch.ones_like(places)
    share[there] = weights.cumsum(1).gather(1, last).squeeze(1)
    share = share.flip(0).cummin(0).values.flip(0)  # no less is left further down
    # Beyond the last place F falls as 1/t² at least.
    high = float((places.diff() * share[1:]).sum() - places[0] * share[0])
    low = float((weights[-1] * -own[-1].clamp_max(0)).sum()) if there[-1] else 0.0
    return low, high


def _quadrature(matrices: Sequence[Tensor], steps: int) -> SpectralDensity:
    nodes = torch.zeros(len(matrices), steps, dtype=torch.float64)
    weights = torch.zeros_like(nodes)
    for i, matrix in enumerate(matrices):
        values, basis = torch.linalg.eigh(matrix)
        nodes[i, : len(values)], weights[i, : len(values)] = values, basis[0].square()
    return SpectralDensity(nodes, weights, sum(map(len, matrices)), tuple(matrices))


def extreme_eigenvalues_of_blocks(
    operator: SymmetricOperator,
    blocks: Sequence[Tensor],
    *,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
    which: Which = "largest",
) -> list[EigenResult]:
    """`extreme_eigenvalues`, one of each diagonal block of a block-diagonal operator, all in step.

    One product with the operator serves all blocks; ``blocks``: the places of each one's unknowns. All bounds
    hold together with probability 1 − ``failure_probability`` of the tolerance.
    """
    guess = operator.guess()
    chance = failure_probability(tolerance) / len(blocks)
    searches = [
        _Search(_Block(operator, places, guess), tolerance, 1, which, chance) for places in blocks
    ]
    iterators = [search.wanting(max_products, generator) for search in searches]
    wanting = {i: next(iterator) for i, iterator in enumerate(iterators)}
    while wanting:
        vector = torch.zeros(operator.dimension, dtype=torch.float64, device=operator.device)
        for i, krylov in wanting.items():
            vector[blocks[i]] = krylov.wanted
        image = operator.matvec(vector)
        for i, krylov in list(wanting.items()):
            krylov.take(image[blocks[i]])
            following = next(iterators[i], None)
            if following is None:
                del wanting[i]
            else:
                wanting[i] = following
    return [search.result() for search in searches]


class _Block(SymmetricOperator):
    """A diagonal block, whose products others make."""

    def __init__(self, whole: SymmetricOperator, places: Tensor, guess: Tensor | None) -> None:
        self.dimension, self.dtype, self.device = len(places), whole.dtype, whole.device
        self.samples, self.work = whole.samples, whole.work
        self._guess = None if guess is None else guess[places]

    def matmat(self, vectors: Tensor) -> Tensor:
        raise AssertionError("all blocks are multiplied together")

    def guess(self) -> Tensor | None:
        return self._guess


class _Search:
    """Krylov spaces, each in the complement of what the former ones found."""

    def __init__(
        self,
        operator: SymmetricOperator,
        tolerance: float,
        count: int,
        which: Which,
        failure: float,
    ) -> None:
        self.operator, self.tolerance, self.count = operator, tolerance, count
        # The smallest eigenvalues are the largest of −A.
        self.sign = -1.0 if which == "smallest" else 1.0
        self.both_ends = which == "magnitude"
        self.failure, self.stated = failure, 0.0
        self.products = 0
        self.found = _Vectors.none(operator)
        self.limit = math.inf
        """What `_settled` last held against the start's share."""
        self.beyond = math.inf
        """No eigenvalue of the complement of ``found`` exceeds it, in the sense of ``which``."""
        self.rounding = 0.0
        self.done = False
        self.vectors_wanted = True
        """Else the Ritz value is taken for what its vector says: of a large operator each vector counts."""

    def run(self, most: int, generator: torch.Generator) -> None:
        for krylov in self.wanting(most, generator):
            krylov.step()

    def wanting(self, most: int, generator: torch.Generator) -> Iterator[_Lanczos]:
        """The space that wants its next product, which must have it before the next one is asked for."""
        spaces, size = 0, self.operator.dimension
        while not self.done and self.products < most:
            spaces += 1
            # Chances to fail that add up to the one stated, however many spaces it takes.
            chance = self.failure if self.count == 1 else self.failure * 0.5**spaces
            krylov = self._space(spaces == 1, most, generator, chance)
            if spaces == 1:
                self.first = krylov
            while not krylov.exhausted and self.products < most:
                yield krylov
                self.products += 1
                if self._settled(krylov):
                    break
                # Another space would take about as long again: where that comes near to the whole
                # space, this one goes on until it is invariant, and few dimensions are left.
                nearly_all = spaces == 1 and size <= min(3 * krylov.steps, most)
                if self.count > 1 and not nearly_all and self._ripe(krylov):
                    break
            self._conclude(krylov)

    def _space(self, first: bool, most: int, generator: torch.Generator, chance: float) -> _Lanczos:
        free = self.operator.dimension - self.found.count
        return _Lanczos(
            self.operator,
            min(most - self.products, free),
            generator,
            sign=self.sign,
            against=self.found.vectors,
            guess=self.operator.guess() if first else None,
            chance=chance,
        )

    def _key(self, values: Tensor) -> Tensor:
        return values.abs() if self.both_ends else values

    def _allowed(self, value: float, scale: float) -> float:
        """By how much the bound may exceed ``value``: half goes to residuals, where there are some."""
        share = self.tolerance * (1 - 1e-9) if self.count == 1 else 0.5 * self.tolerance
        return max(share * abs(value) - self.rounding, self.rounding, SETTLED * scale)

    def _last_found(self) -> float:
        """The last of the ``count`` eigenvalues, as far as found."""
        return float(self._key(self.found.values).sort(descending=True).values[self.count - 1])

    def _settled(self, krylov: _Lanczos) -> bool:
        """Whether nothing larger than what was found is left, with the probability asked for."""
        if self.count == 1:
            level = float(self._key(krylov.ritz).max())
        elif self.found.count >= self.count:
            level = self._last_found()
        else:
            return False
        self.rounding = max(self.rounding, krylov.rounding)
        allowed = self._allowed(level, krylov.scale)
        limit = self.limit = level + allowed
        ends = [0, -1] if self.both_ends else [-1]
        top = self._key(krylov.ritz[ends])
        if float(top.max()) > limit:
            return False
        if krylov.exhausted:
            return True
        # One that is still on its way up has a large residual.
        settled = level + _UNSETTLED * allowed if self.count == 1 else limit
        if float((top + krylov.residuals[ends]).max()) > settled:
            return False
        limits = (limit, -limit) if self.both_ends else (limit,)
        return all(krylov.share(value) <= krylov.least_share for value in limits)

    def _ripe(self, krylov: _Lanczos) -> bool:
        """Whether all of the space's vectors that belong to the result are found well enough."""
        values = torch.cat([self.found.values, krylov.ritz])
        if len(values) < self.count:
            return False
        chosen = self._key(values).argsort(descending=True, stable=True)[: self.count]
        fresh = chosen[chosen >= self.found.count] - self.found.count
        allowed = min(self._allowed(value, krylov.scale) for value in values[chosen].tolist())
        if self.found.count >= self.count:
            # Those that tie with what is there change nothing.
            level = self._last_found()
            if float(self._key(krylov.ritz).max()) <= level + self._allowed(level, krylov.scale):
                return False
        return bool((krylov.residuals[fresh] <= allowed / math.sqrt(self.count)).all())

    def _conclude(self, krylov: _Lanczos) -> None:
        """Take in what the space holds of the result, and bound what is left."""
        self.rounding = max(self.rounding, krylov.rounding)
        self.done = self._settled(krylov)
        if krylov is self.first or self.done:
            self.beyond = krylov.upper(both_ends=self.both_ends)
            if self.done:  # `upper` is found to a thousandth
                self.beyond = min(self.beyond, self.limit)
            self.stated = 0.0 if self.count == 1 and krylov.exhausted else self.failure
        if not self.vectors_wanted:
            best = self._key(krylov.ritz).argmax()
            self.found = replace(self.found, values=krylov.ritz[best].unsqueeze(0))
        elif self.count == 1 or not self.done:
            best = self._key(krylov.ritz).argsort(descending=True, stable=True)
            if self.count > 1 and krylov.exhausted:
                # An invariant space: what is left lies in its complement, altogether.
                self.found = self.found.joined(krylov.ritz_vectors(best))
                if self.found.count == self.operator.dimension:
                    self.beyond, self.stated, self.done = -math.inf, 0.0, True
                return
            together = self.found.joined(krylov.ritz_vectors(best[: self.count]))
            keep = max(self.count, self.found.count)
            self.found = together.leading(self._key(together.values), keep)

    def leading(self) -> _Vectors:
        return self.found.leading(self._key(self.found.values), self.count)

    def result(self) -> EigenResult:
        found = self.leading()
        keys = self._key(found.values)
        slack = self.found.residual if self.count > 1 else 0.0
        bounds = [max(self.beyond - key, 0.0) + slack + self.rounding for key in keys.tolist()]
        scale = self.first.scale
        met = all(
            bound <= max(self.tolerance * abs(key), 2 * SETTLED * scale)
            for bound, key in zip(bounds, keys.tolist(), strict=True)
        )
        ritz = (self.sign * self.first.ritz).sort(descending=True).values
        return EigenResult(
            values=tuple((self.sign * found.values).tolist()),
            error_bounds=tuple(bounds),
            converged=self.done and met and found.count == self.count,
            products=self.products,
            ritz_values=tuple(ritz.tolist()),
            failure_probability=self.stated,
        )


@dataclass(frozen=True)
class _Vectors:
    """Orthonormal Ritz vectors (P, m) in float64 with their values (m,) and images A·V (P, m)."""

    vectors: Tensor
    values: Tensor
    images: Tensor

    @staticmethod
    def none(operator: SymmetricOperator) -> _Vectors:
        empty = torch.empty(operator.dimension, 0, dtype=torch.float64, device=operator.device)
        return _Vectors(empty, torch.empty(0, dtype=torch.float64), empty)

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def residual(self) -> float:
        """‖AV − VΘ‖ in the Frobenius norm."""
        return float((self.images - self.vectors * self.values.to(self.vectors)).norm())

    def joined(self, other: _Vectors) -> _Vectors:
        """The Ritz vectors of both spaces together, which are orthogonal."""
        if not self.count and other.count == 1:  # nothing to turn, and no copies of it
            return _Vectors(other.vectors, (other.vectors.T @ other.images)[0].cpu(), other.images)
        vectors = torch.cat([self.vectors, other.vectors], 1)
        images = torch.cat([self.images, other.images], 1)
        inner = vectors.T @ images
        values, turn = torch.linalg.eigh(0.5 * (inner + inner.T))
        return _Vectors(vectors @ turn, values.cpu(), images @ turn)

    def leading(self, keys: Tensor, count: int) -> _Vectors:
        if self.count == 1 == count:
            return self
        best = keys.argsort(descending=True, stable=True)[:count]
        there = best.to(self.vectors.device)
        return _Vectors(self.vectors[:, there], self.values[best], self.images[:, there])


class _Lanczos(KrylovSpace[float]):
    """The Lanczos iteration on ``sign``·A in the complement of the columns of ``against``.

    ``chance``: the probability that the start vector holds less than ``least_share`` (of its squared
    length) of a given direction. ``ritz`` (k,) rising, ``ritz_basis`` (k, k) and ``residuals`` (k,), the
    norms ‖Av − θv‖ = β_k|s_k| (Parlett 1998, §13.2), are those of the last step.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        most: int,
        generator: torch.Generator,
        *,
        sign: float = 1.0,
        against: Tensor | None = None,
        guess: Tensor | None = None,
        chance: float = 1e-2,
    ) -> None:
        size = operator.dimension
        empty = torch.empty(size, 0, dtype=torch.float64, device=operator.device)
        self.sign, self.against = sign, empty if against is None else against
        self.free = size - self.against.shape[1]
        self.scale, self.noise = 0.0, 0.0
        self.exhausted = False
        self._spectrum: tuple[Tensor, Tensor] | None = None
        self._left: list[Tensor] = []  # components of the products along ``against``
        there = generator_there(generator, operator.device, size)
        random = torch.randn(size, generator=there, dtype=torch.float64, device=there.device)
        start, square = self._start(random.to(operator.device), guess)
        super().__init__(operator, start, most)
        self.least_share = least_share(self.free, chance) / square

    def _start(self, random: Tensor, guess: Tensor | None) -> tuple[Tensor, float]:
        """A random unit vector with the guess added; the square of their length."""
        vector = self.inside(random)
        vector = vector.div_(vector.norm())
        square = 1.0
        length = 0.0 if guess is None else float(guess.norm())
        if guess is not None and math.isfinite(length) and length > 0:
            push = min(1.0, _PUSH / math.sqrt(self.free))
            for part, own in zip(vector.split(PIECE), guess.split(PIECE), strict=True):
                part += own.to(vector, copy=True).mul_(push / length)
            square = float(vector @ vector if len(vector) > LARGE else vector.square().sum())
        return vector.div_(math.sqrt(square)), square

    def step(self) -> None:
        """One product with the operator."""
        if self.sign < 0 and self.steps % 2:
            # The vectors of −A are those of A, every other one turned: so are the products asked for.
            self.take(-self.operator.matvec(-self.wanted))
        else:
            self.take(self.operator.matvec(self.wanted))

    def take(self, product: Tensor) -> None:
        """The operator's ``product`` with the wanted vector."""
        k = self.steps
        product = product.to(torch.float64, copy=True).mul_(self.sign)
        *off, diagonal = self.rows.along(max(k - 1, 0), k + 1, product).tolist()
        self.diagonal.append(diagonal)
        self.scale = max(self.scale, float(product.norm()))
        self._left.append(self.against.T @ product)
        self.rows.minus(k, diagonal, product)
        if off:
            self._check_symmetric(off[0])
            self.rows.minus(k - 1, off[0], product)
        product = self.orthogonal(product)
        residual = 0.0 if k + 1 == self.free else float(product.norm())
        self.exhausted = residual <= self.indistinct * self.scale
        self.side.append(residual)
        self.append(None if self.exhausted else product.div_(residual))
        self._spectrum = None

    def inside(self, vectors: Tensor) -> Tensor:
        if not self.against.shape[1]:
            return vectors
        return vectors - self.against @ (self.against.T @ vectors)

    @property
    def ritz(self) -> Tensor:
        return self._eigen()[0]

    @property
    def ritz_basis(self) -> Tensor:
        return self._eigen()[1]

    @property
    def residuals(self) -> Tensor:
        return (0.0 if self.exhausted else self.side[-1]) * self.ritz_basis[-1].abs()

    def _eigen(self) -> tuple[Tensor, Tensor]:
        """Of the tridiagonal matrix, once a step and only where someone asks."""
        if self._spectrum is None:
            values, basis = torch.linalg.eigh(self.tridiagonal())
            self._spectrum = values, basis
        return self._spectrum

    @property
    def rounding(self) -> float:
        return rounding_error(self.operator, self.scale, self.noise)

    def share(self, value: float) -> float:
        """The largest squared component of the start along an eigenvector of a ``value`` beyond the
        Ritz values: one over the Christoffel sum."""
        return 0.0 if self.exhausted else 1 / self.christoffel(value)

    def upper(self, *, both_ends: bool) -> float:
        """The value that an eigenvalue exceeds with the given chance at most; in magnitude, of
        ``both_ends``."""
        top = float(self.ritz.abs().max() if both_ends else self.ritz[-1])
        if self.exhausted:
            return top

        def excluded(excess: float) -> bool:
            ends = (top + excess, -top - excess) if both_ends else (top + excess,)
            return all(self.share(end) <= self.least_share for end in ends)

        low = high = SETTLED * self.scale
        while not excluded(high):
            low, high = high, 2 * high
        while high > 1.001 * low:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if excluded(middle) else (middle, high)
        return top + high

    def ritz_vectors(self, which: Tensor) -> _Vectors:
        turn = self.ritz_basis[:, which].to(self.operator.device)
        vectors = self.rows.combined(self.steps, turn)
        images = vectors * self.ritz[which].to(vectors)
        if not self.exhausted:
            images += self.side[-1] * torch.outer(self.wanted.to(turn), turn[-1])
        if self.against.shape[1]:
            images += self.against @ (torch.stack(self._left, 1) @ turn)
        return _Vectors(vectors, self.ritz[which], images)

    def _check_symmetric(self, found: float) -> None:
        expected = self.side[-1]
        self.noise = max(self.noise, abs(found - expected))
        if self.noise > ASYMMETRY * self.scale:
            raise MetricFailed(
                f"the operator is not symmetric: uᵀAv = {found:.6g}, vᵀAu = {expected:.6g}"
            )
