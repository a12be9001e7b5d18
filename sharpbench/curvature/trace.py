"""The trace and the Frobenius norm of a symmetric operator from random probes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from scipy import special
from torch import Tensor

from sharpbench.curvature.operator import SymmetricOperator
from sharpbench.seeds import generator_there

__all__ = [
    "Distribution",
    "TraceMethod",
    "TraceResult",
    "degrees_of_freedom",
    "estimate_trace",
    "mean_and_standard_error",
    "squared_frobenius_norm",
]

TraceMethod = Literal["hutchinson", "hutch++", "xtrace"]
Distribution = Literal["rademacher", "gaussian"]

_MIN_PROBES = 8
"""Below this the standard error itself is too uncertain to stop by."""

_UNLUCKY = 0.25
"""A sketch stops once its error would meet the tolerance even if this share of errors came out smaller:
stopped by the error alone it would stop where that happens to be small."""

_PLANNED = 0.1
"""The same for the number of probes that a mean plans for: it looks at its error seldom, and again only
where it has taken as many as it had planned."""

_SKEWED = 1.8

_BLOCK = 8
"""Probes a block: one pass over a data set that does not fit the memory serves them all."""


@dataclass(frozen=True)
class TraceResult:
    """An estimate with its standard error, from ``products`` products with the operator.

    ``degrees_of_freedom`` of the error; None where there is no error. ``scale``: about ‖A‖_F and the
    offset, of which rounding errors of the products are a share; 0 where no random vector took part.
    """

    value: float
    standard_error: float
    converged: bool
    products: int
    degrees_of_freedom: float | None = None
    scale: float = 0.0


def degrees_of_freedom(values: Tensor, *, few: bool = False) -> float:
    """Those with which Student's t covers the mean of ``values`` (N,): from N − 1 down to 1 as it is skewed.

    1/ν = 1/(N − 1) + 1.8 γ²/N. Skewness γ lowers the coverage of a t interval at 95% by as much as t with
    ν degrees of freedom raises it, to order 1/N (Hall, Annals of Statistics 16, 1988, §3), if 0.89 stands
    for 1.8; the sample's γ falls short of the law's by so much that twice as many cover 94 to 96% for
    exponential, χ² and log-normal laws at N of 16 to 512. Tails that are heavy on both sides cost nothing.
    Of ``few``, some eight, γ falls shorter: there it is Fisher's unbiased G₁, and its square counts twice
    (95 to 97% for χ² laws of 1 to 17 degrees of freedom at N of 8 and 16).
    """
    n = len(values)
    if n < 3:
        return float(max(n - 1, 1))
    skewness = _skewness(values)
    if few:
        skewness *= math.sqrt(2 * n * (n - 1)) / (n - 2)
    return max(1 / (_SKEWED * skewness**2 / n + 1 / (n - 1)), 1.0)


_CUBED = 1e-90
"""Below it cubes are no numbers that double precision holds in full."""


def _skewness(values: Tensor) -> float:
    centred = (values - values.mean()).double()
    largest = float(centred.abs().max())
    if 0 < largest < _CUBED:
        return _skewness(centred / largest)
    square = float(centred.square().mean())
    return float(centred.pow(3).mean()) / square**1.5 if square > 0 else 0.0


def mean_and_standard_error(values: list[float]) -> tuple[float, float | None]:
    """Mean and its standard error s/√n; None for fewer than two values."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    return mean, statistics.stdev(values) / math.sqrt(len(values))


def estimate_trace(
    operator: SymmetricOperator,
    *,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
    method: TraceMethod = "hutchinson",
    distribution: Distribution = "rademacher",
    offset: float = 0.0,
) -> TraceResult:
    """``offset`` + tr A, stopped when the standard error is surely at most ``tolerance`` times it.

    - ``hutchinson``: the mean of vᵀAv (Hutchinson 1990). A mean that stops as soon as its own error is small
      enough stops where that happens to be too small, and these are the small means of a skewed law. So
      the error is looked at after 8 probes, then when twice as many are taken, or as many as are surely
      enough by the last look; and of a mean that went on and stopped the error is told that all but a
      quarter of such errors stay below, up to the tolerance. Its intervals then cover 93 to 97%.
    - ``hutch++``: exact on a random sketch of the range, Hutchinson's on what is left (Meyer, Musco,
      Musco & Woodruff, arXiv:2010.09649). Sketch and probes grow together until the error is met;
      old probes are projected anew, which takes no product.
    - ``xtrace``: each test vector in turn judges the sketch made of all others (Epperly, Tropp &
      Webber, arXiv:2301.07825). Their spread, for they share a sketch, is too small an error, by up to
      half; their jackknife, by Efron & Stein's inequality (Annals of Statistics 9, 1981), too large a one:
      told is the geometric mean of both. It is looked at after 8 vectors, then when twice as many are
      taken, or as many as were enough if it fell no faster than that of plain probes.

    A sketch that spans the whole space, or the whole range of A, gives the exact trace with standard
    error 0; in less than float64 rounding hides whether a sketch spans the range. With ``max_products``
    used up the best estimate is returned with ``converged=False``.
    """
    probe = _prober(operator, generator, distribution)
    if method == "hutchinson":
        return _hutchinson(operator, probe, tolerance, max_products, offset)
    sketched = _hutch_plus_plus if method == "hutch++" else _xtrace
    return sketched(operator, probe, tolerance, max_products, offset)


def squared_frobenius_norm(
    operator: SymmetricOperator,
    *,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
    distribution: Distribution = "rademacher",
) -> TraceResult:
    """‖A‖²_F = E‖Av‖², by the same rule as Hutchinson's trace of A²."""
    probe = _prober(operator, generator, distribution)

    def squares(v: Tensor) -> tuple[Tensor, Tensor]:
        found = operator.matmat(v).to(torch.float64).square().sum(0)
        return found, found

    result = _means(squares, probe, tolerance, max_products, 0.0)
    return replace(result, scale=2 * result.value)  # of a square twice as large a share


def _prober(
    operator: SymmetricOperator, generator: torch.Generator, distribution: Distribution
) -> Callable[[int], Tensor]:
    """Blocks (P, K) of independent entries of variance 1, the same whatever the block's size."""

    def draw(count: int) -> Tensor:
        columns, size = [], operator.dimension
        for _ in range(count):
            own = generator_there(generator, operator.device, size)
            if distribution == "gaussian":
                column = torch.randn(size, generator=own, dtype=torch.float64, device=own.device)
            else:
                signs = torch.randint(0, 2, (size,), generator=own, device=own.device)
                column = 2.0 * signs.to(torch.float64) - 1
            columns.append(column)
        return torch.stack(columns, 1).to(operator.device)

    return draw


def _surely(error: float, samples: int, unlucky: float) -> float:
    """The error of so many samples' mean if all but the share ``unlucky`` of errors came out smaller."""
    if samples < 2:
        return math.inf
    free = samples - 1
    return error * math.sqrt(free / float(special.chdtri(free, 1 - unlucky)))


def _means(
    sample: Callable[[Tensor], tuple[Tensor, Tensor]],
    probe: Callable[[int], Tensor],
    tolerance: float,
    most: int,
    offset: float,
) -> TraceResult:
    """``sample``: of each probe its figure and ‖Av‖². See `estimate_trace` for when it looks at its error."""
    samples: list[float] = []
    squares: list[float] = []
    value, error, planned = offset, math.inf, False
    aim = min(_MIN_PROBES, most)
    while True:
        while len(samples) < aim:
            fresh, lengths = sample(probe(min(_BLOCK, aim - len(samples))))
            samples += fresh.tolist()
            squares += lengths.tolist()
        n = len(samples)
        mean, found = mean_and_standard_error(samples)
        value, error = offset + mean, math.inf if found is None else found
        allowed = tolerance * abs(value)
        surely = _surely(error, n, _PLANNED)
        met = surely <= allowed or (planned and error <= allowed)
        if met or n >= most:
            break
        enough = n * (surely / allowed) ** 2 if allowed > 0 else math.inf
        planned = enough <= 2 * n
        aim = min(-(-math.ceil(min(enough, 2 * n)) // _BLOCK) * _BLOCK, most)
    if (
        met and n > _MIN_PROBES
    ):  # it stopped where its error came out small: not told as the smaller one
        error = max(error, min(allowed, _surely(error, n, _UNLUCKY)))
    free = degrees_of_freedom(torch.tensor(samples, dtype=torch.float64))
    scale = math.sqrt(statistics.fmean(squares)) + abs(offset)
    return TraceResult(value, error, met, n, free, scale)


def _hutchinson(
    operator: SymmetricOperator,
    probe: Callable[[int], Tensor],
    tolerance: float,
    most: int,
    offset: float,
) -> TraceResult:
    def quadratic_forms(v: Tensor) -> tuple[Tensor, Tensor]:
        image = operator.matmat(v).to(torch.float64)
        return (image * v).sum(0), image.square().sum(0)

    return _means(quadratic_forms, probe, tolerance, most, offset)


def _hutch_plus_plus(
    operator: SymmetricOperator,
    probe: Callable[[int], Tensor],
    tolerance: float,
    most: int,
    offset: float,
) -> TraceResult:
    sketch = _Sketch(operator)
    probes = torch.empty(operator.dimension, 0, dtype=torch.float64, device=operator.device)
    images = probes
    products, size = 0, _MIN_PROBES
    value, error, free, met = offset, math.inf, 1.0, False
    while not met:
        grow = min(size, (most - products) // 3, operator.dimension - sketch.rank)
        if grow < 1:
            break
        sketch.extend(probe(grow))
        fresh = probe(grow)
        probes = torch.cat([probes, fresh], 1)
        images = torch.cat([images, operator.matmat(fresh).to(torch.float64)], 1)
        products += 3 * grow
        value = offset + sketch.trace
        if sketch.rank == operator.dimension:
            return TraceResult(value, 0.0, True, products, scale=sketch.norm + abs(offset))
        # A(I − QQᵀ)g = Ag − (AQ)(Qᵀg) is known without another product.
        inside = sketch.basis.T @ probes
        left = probes - sketch.basis @ inside
        rest = (left * (images - sketch.image @ inside)).sum(0)
        mean, found = mean_and_standard_error(rest.tolist())
        value, error = value + mean, math.inf if found is None else found
        free = degrees_of_freedom(rest)
        met = _surely(error, len(rest), _UNLUCKY) <= tolerance * abs(value)
        size = probes.shape[1]  # doubles
    scale = math.hypot(sketch.norm, float(images.square().sum(0).mean().sqrt())) if products else 0
    return TraceResult(value, error, met, products, free, scale + abs(offset))


def _xtrace(
    operator: SymmetricOperator,
    probe: Callable[[int], Tensor],
    tolerance: float,
    most: int,
    offset: float,
) -> TraceResult:
    sketch = _Sketch(operator)
    omega = torch.empty(operator.dimension, 0, dtype=torch.float64, device=operator.device)
    wanted, products = _MIN_PROBES, 0
    value, error, free, met = offset, math.inf, 1.0, False
    while not met:
        grow = min(wanted, most // 2 - omega.shape[1], operator.dimension - sketch.rank)
        if grow < 1:
            break
        fresh = probe(grow)
        omega = torch.cat([omega, fresh], 1)
        sketch.extend(fresh)
        products += 2 * grow
        if sketch.rank == operator.dimension or sketch.exhausted:
            value, scale = offset + sketch.trace, sketch.norm + abs(offset)
            return TraceResult(value, 0.0, True, products, scale=scale)
        estimates, without = sketch.leave_one_out(omega)
        mean, found = mean_and_standard_error(estimates.tolist())
        value = offset + mean
        if found is not None:
            jackknife = math.sqrt(len(without) - 1) * float(without.std(correction=0))
            error = math.sqrt(found * jackknife)
        free = max(len(estimates) - 1, 1)
        n, allowed = omega.shape[1], tolerance * abs(value)
        met = error <= allowed  # so few looks, each at an eighth more or beyond, need no allowance
        # The error falls at least as fast as that of plain probes.
        enough = n * (error / allowed) ** 2 if allowed > 0 else math.inf
        wanted = max(math.ceil(min(enough, 2 * n)) - n, n // 8)
    return TraceResult(value, error, met, products, free, sketch.norm + abs(offset))


class _Sketch:
    """An orthonormal basis Q of the range of AΩ, with AQ and with the factor R of AΩ = QR."""

    def __init__(self, operator: SymmetricOperator) -> None:
        empty = torch.empty(operator.dimension, 0, dtype=torch.float64, device=operator.device)
        self.operator = operator
        self.basis, self.image, self.products = empty, empty, empty

    @property
    def rank(self) -> int:
        return self.basis.shape[1]

    @property
    def trace(self) -> float:
        """tr QᵀAQ."""
        return float((self.basis * self.image).sum())

    @property
    def norm(self) -> float:
        """‖AQ‖_F."""
        return float(self.image.norm())

    @property
    def exhausted(self) -> bool:
        """Whether AΩ lost rank, so that the sketch already holds the whole range of A.

        Never in less than float64, where a rest below the rounding errors may add up to more than they.
        """
        if self.operator.dtype != torch.float64:
            return False
        sizes = torch.linalg.svdvals(self.basis.T @ self.products)
        eps = 100 * torch.finfo(self.operator.dtype).eps
        return bool(sizes[-1] <= eps * sizes[0])

    def extend(self, omega: Tensor) -> None:
        """Take in the range of A·``omega``: 2 products a column."""
        products = self.operator.matmat(omega).to(torch.float64)
        # All columns together: of a range that is exhausted the new ones would not be orthogonal.
        fresh = torch.linalg.qr(torch.cat([self.basis, products], 1)).Q[:, self.rank :]
        self.products = torch.cat([self.products, products], 1)
        self.basis = torch.cat([self.basis, fresh], 1)
        self.image = torch.cat([self.image, self.operator.matmat(fresh).to(torch.float64)], 1)

    def leave_one_out(self, omega: Tensor) -> tuple[Tensor, Tensor]:
        """XTrace's basic estimates, one a test vector (n,): §2.1 of arXiv:2301.07825; and their means (n,)
        without each test vector in turn, in sketch and estimates alike.

        The sketch without column i projects on Q(I − sᵢsᵢᵀ)Qᵀ, where sᵢ is the unit vector orthogonal
        to every other column of R; without the columns i and j also what is left of sⱼ beside sᵢ. All is
        done in coordinates of Q: an entry [i, j] belongs to the estimate i without j.
        """
        n = omega.shape[1]
        factor = self.basis.T @ self.products
        inner = self.basis.T @ self.image
        inner = 0.5 * (inner + inner.T)
        w = self.basis.T @ omega
        s = torch.linalg.pinv(factor).T
        s = s / s.norm(dim=0).clamp_min(1e-300)
        to_w, to_factor, to_image = s.T @ w, s.T @ factor, s.T @ (inner @ w)
        form, cosine = s.T @ inner @ s, s.T @ s
        own = (t.diagonal().unsqueeze(1) for t in (form, to_w, to_factor, to_image))
        along, on_w, on_factor, on_image = own
        # ωᵀAω, less twice ωᵀAPω, plus ωᵀPAPω, with Qᵀω = w and QᵀAω the column of R.
        whole = ((w * (inner @ w)).sum(0) - (factor * w).sum(0)).unsqueeze(1)
        one = inner.trace() - along + whole
        one = one + 2 * (on_factor - on_image) * on_w + on_w.square() * along
        sine = (1 - cosine.square()).clamp_min(1e-12).sqrt()
        beside = (form - cosine * along) / sine
        other = form.diagonal().unsqueeze(0) - 2 * cosine * form + cosine.square() * along
        other = other / sine.square()
        more = (
            (t.T - cosine * d) / sine
            for t, d in ((to_w, on_w), (to_factor, on_factor), (to_image, on_image))
        )
        also_w, also_factor, also_image = more
        two = one - other + 2 * (also_factor - also_image) * also_w
        two = two + 2 * on_w * also_w * beside + also_w.square() * other
        two.fill_diagonal_(0)
        return one.squeeze(1), two.sum(0) / max(n - 1, 1)
