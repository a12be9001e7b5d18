"""Metrics of the training loss's Hessian in parameter space."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sharpbench.curvature.gauss_newton import affine_in_each_parameter, gauss_newton_trace
from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.hessian_operator import HessianOperator, ResidualOperator
from sharpbench.curvature.lanczos import (
    SpectralDensity,
    Which,
    extreme_eigenvalues,
    spectral_density,
)
from sharpbench.curvature.operator import SymmetricOperator
from sharpbench.curvature.trace import (
    TraceResult,
    estimate_trace,
)
from sharpbench.errors import MetricFailed, TimeLimitExceeded, in_words
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.backends import Backend
from sharpbench.metrics.curvature import (
    BackendMetric,
    ProbeBudget,
    ProductBudget,
    frobenius_norm,
    probes_error,
    with_checks,
)
from sharpbench.metrics.sampling import (
    eigenvalue_error,
    frobenius_error,
    sampling_error,
    trace_error,
    untold_points,
)
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import Known, KnownHessian, Truth

__all__ = [
    "GroupedOperator",
    "HessianFrobeniusNorm",
    "HessianSpectralDensity",
    "HessianTopEigenvalue",
    "HessianTrace",
    "quadrature_error",
    "trace_by_products",
]


@dataclass(frozen=True)
class _HessianMetric(BackendMetric, ABC):
    """Metrics of the Hessian, which other libraries compute too."""

    implementation: Literal["native", "pyhessian", "curvlinops"] = "native"

    def _hessian(self, subject: Subject, seed: int) -> HessianOperator:
        operator = self._operator(HessianOperator, subject, seed, Work())
        assert isinstance(operator, HessianOperator)
        return operator


@dataclass(frozen=True)
class _Selection(_HessianMetric, ABC):
    """Which eigenvalues; ahead of their budget in a label."""

    which: Which = "largest"
    count: int = 1


@metrics.register
@dataclass(frozen=True)
class HessianTopEigenvalue(ProductBudget, _Selection):
    """Largest eigenvalue of the training-loss Hessian ∇²_w (1/N) Σ ℓ(f_w(xᵢ), yᵢ).

    ``native``: Lanczos with full reorthogonalisation. The value is a lower bound of the largest
    eigenvalue (in magnitude; an upper one of the smallest), and ``error_bound`` says how far beyond it the
    eigenvalue itself, not just one near it, may lie: wrong with ``failure_probability`` (in the details)
    at most, over the random start. ``converged``: that bound is at most ``tolerance`` times the value.
    ``pyhessian``: PyHessian's power iteration, unpatched; it finds the eigenvalue of largest *magnitude*
    and stops when two successive Rayleigh quotients agree to ``tolerance``, which is no bound on the
    error. ``curvlinops``: its operator under SciPy's ``eigsh``, which stops when the residual, a bound on
    the distance to *some* eigenvalue, is at most ``tolerance`` times the value; its Lanczos size is two
    vectors a decimal digit asked for, at least 6 and at most SciPy's default of 20, which makes 21 products
    even where 7 are enough.
    Of a part of the data the figure is that part's own; its error against all of the data, with the
    excess that a part has on average, is the component ``points``, which the rivals don't tell.

    Parameters: ``which``: ``largest`` or ``smallest`` algebraically, or of largest ``magnitude``;
    ``count`` eigenvalues with multiplicity (``eigenvalues`` and their ``bounds`` in the details, which hold
    together; the value is the first); ``samples`` of ``split`` drawn without replacement;
    ``parameters_of``: names, of modules too, or shell patterns of the parameters meant, all if empty;
    ``tolerance``; ``max_products`` Hessian-vector products at most; ``memory_budget`` bytes for the
    gradient's graph, beyond which the data is passed over in chunks.
    """

    name = "hessian_top_eigenvalue"
    title = "Hessian top eigenvalue"
    unit = "[loss]/[weight]²"
    version = 4
    reference = "arXiv:1912.07145 (PyHessian); Parlett, The Symmetric Eigenvalue Problem (1998)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.count <= self.max_products:
            raise ValueError(f"count must lie in [1, max_products], got {self.count}")
        if self.implementation != "native" and (self.which, self.count) != ("largest", 1):
            raise ValueError("which and count need implementation 'native'")

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        if self.which == "magnitude":
            return float(eigenvalues[eigenvalues.abs().argmax()])
        return float(eigenvalues.max() if self.which == "largest" else eigenvalues.min())

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        known = super().known(truth, subject)
        if known is None or self.implementation != "pyhessian":
            return known
        assert isinstance(truth, KnownHessian)
        eigenvalues = truth.eigenvalues(subject)
        largest = float(eigenvalues[eigenvalues.abs().argmax()])
        return dataclasses.replace(known, computed=largest, computed_is="largest magnitude")

    def by(self, backend: Backend) -> Measurement:
        return backend.top_eigenvalue(self.tolerance, self.max_products)

    def native(self, subject: Subject, seed: int) -> Measurement:
        operator, population = self._hessian(subject, seed), self._population(subject)
        result = extreme_eigenvalues(
            operator,
            count=self.count,
            which=self.which,
            tolerance=self.tolerance,
            max_products=self.max_products,
            generator=torch_generator(derive_seed(seed, "probes")),
            vectors=operator.samples < population,
        )
        details = {
            "products": result.products,
            "failure_probability": result.failure_probability,
            "largest_ritz_values": list(result.ritz_values[:5]),
            "smallest_ritz_value": result.ritz_values[-1],
            "parameters": operator.dimension,
        }
        if self.count > 1:
            details |= {"eigenvalues": list(result.values), "bounds": list(result.error_bounds)}
        return Measurement(
            value=result.value,
            errors=eigenvalue_error(operator, result, population, seed=seed),
            error_bound=result.error_bound,
            converged=result.converged,
            samples=operator.samples,
            work=operator.work,
            details=with_checks(operator, details),
        )


@dataclass(frozen=True)
class _TraceMethod(_HessianMetric, ABC):
    """How the trace is computed here; ahead of its budget in a label."""

    method: Literal["auto", "unit_vectors", "gauss_newton", "xtrace", "hutch++", "hutchinson"] = (
        "auto"
    )


@metrics.register
@dataclass(frozen=True)
class HessianTrace(ProbeBudget, _TraceMethod):
    """Trace of the training-loss Hessian.

    ``native``, by its ``method`` (the details say which one gave the figure):

    - ``auto``: ``unit_vectors`` for a network of at most ``max_probes`` parameters, else
      ``gauss_newton``, else ``xtrace``.
    - ``unit_vectors``: the diagonal, one product a parameter. Exact.
    - ``gauss_newton``: tr H = tr G + tr(H − G). The Gauss-Newton part is summed exactly, sample by
      sample; the rest, which is small, is left to Hutchinson's probes. It is exactly zero, and no probe
      is taken, where the outputs are proved to be affine in each single parameter: in networks that
      are piecewise linear in what their layers return, and use each layer once.
    - ``xtrace``, ``hutch++``, ``hutchinson``: probes of H alone, until the standard error is at most
      ``tolerance`` times the estimate. (``hutchinson`` is what both rivals do.)

    Where the exact sum's assumptions do not hold on the network at hand, ``gauss_newton`` gives way to
    products with H alone (unit vectors, XTrace, or Hutchinson's probes where XTrace's vectors would not
    fit the memory), and ``why`` in the details tells the reason.

    ``pyhessian`` is PyHessian's estimator, unpatched, with the same ``tolerance`` handed to its own
    rule (two successive running means agree), which can stop after two probes. ``curvlinops`` has no
    rule: it takes ``max_probes`` of Hutchinson's probes and tells no error.

    With random probes in ``float32`` the component ``rounding`` tells what the products' rounding does,
    measured by one product beside its like in float64.

    Parameters: ``samples`` of ``split`` drawn without replacement; ``parameters_of``: names or shell
    patterns of the parameters meant; ``tolerance``; ``max_probes`` products at most; ``distribution``
    of the probes; ``memory_budget`` in bytes.
    """

    name = "hessian_trace"
    title = "Hessian trace"
    unit = "[loss]/[weight]²"
    version = 8
    reference = (
        "Hutchinson (1990); arXiv:2010.09649; arXiv:2301.07825; arXiv:1912.07145 (PyHessian)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.implementation != "native" and self.method not in ("auto", "hutchinson"):
            raise ValueError(f"method {self.method!r} needs implementation 'native'")

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        return float(eigenvalues.sum())

    def by(self, backend: Backend) -> Measurement:
        return backend.trace(self.tolerance, self.max_probes)

    def native(self, subject: Subject, seed: int) -> Measurement:
        operator = self._hessian(subject, seed)
        details: dict[str, Any] = {}
        method: ProbeMethod = "auto" if self.method == "gauss_newton" else self.method
        if self.method == "gauss_newton" or (
            self.method == "auto" and operator.dimension > self.max_probes
        ):
            operator.verify()  # H = G would be said of a network that detaches, too: it has no Hessian
            try:
                return self._split_trace(subject, operator, seed)
            except TimeLimitExceeded:
                raise
            except Exception as reason:
                details["why"] = in_words(reason)
        details["parameters"] = operator.dimension
        population = self._population(subject)
        return trace_by_products(self, operator, population, seed, method=method, details=details)

    def _split_trace(self, subject: Subject, operator: HessianOperator, seed: int) -> Measurement:
        known = gauss_newton_trace(
            operator.model,
            operator.loss,
            operator.inputs,
            operator.targets,
            work=operator.work,
            only=operator.parameters,
            shared=self._facts(subject, seed),
        )
        checks: dict[str, float | str] = {**known.checks}
        details: dict[str, Any] = {
            "method": "gauss_newton",
            "gauss_newton_trace": known.value,
            "checks": checks,
        }
        try:
            nothing_left, checks["affine_in_each_parameter"] = affine_in_each_parameter(
                operator.model, operator.inputs[:4], operator.parameters, work=operator.work
            )
        except TimeLimitExceeded:
            raise
        except Exception as reason:  # an operation without a rule in Taylor mode: then probes tell
            nothing_left, checks["affine_in_each_parameter"] = (
                False,
                f"not made: {in_words(reason)}",
            )
        population = self._population(subject)
        if nothing_left:
            result = TraceResult(known.value, 0.0, True, 0)
            points = sampling_error(known.terms / operator.samples, population)
            return self._measurement(operator, result, points, details)
        rest = ResidualOperator(
            operator.model,
            operator.loss,
            operator.inputs,
            operator.targets,
            work=operator.work,
            memory_budget=self.memory_budget,
            parameters=self.parameters_of,
            verify=False,
        )
        result = estimate_trace(
            rest,
            offset=known.value,
            distribution=self.distribution,
            tolerance=self.tolerance,
            max_products=self.max_probes,
            generator=torch_generator(derive_seed(seed, "probes")),
        )
        points = trace_error(rest, population, seed=seed, known=known.terms)
        return self._measurement(operator, result, points, details)

    def _measurement(
        self,
        operator: HessianOperator,
        result: TraceResult,
        points: tuple[ErrorComponent, ...],
        details: dict[str, Any],
    ) -> Measurement:
        return Measurement(
            value=result.value,
            errors=(*probes_error(result, operator), *points),
            converged=result.converged,
            samples=operator.samples,
            work=operator.work,
            details=with_checks(
                operator,
                {"probes": result.products, "parameters": operator.dimension, **details},
            ),
        )


@metrics.register
@dataclass(frozen=True)
class HessianFrobeniusNorm(ProbeBudget, _HessianMetric):
    """Frobenius norm of the training-loss Hessian, the root of E‖Hv‖² over random probes v.

    Stops when the standard error of the square is at most 2·``tolerance`` times it, which is
    ``tolerance`` for the norm. That of a part of the data is larger than that of all on average, which the
    component ``points`` of the error holds. ``curvlinops`` takes ``max_probes`` probes and tells no error;
    PyHessian has none.

    Parameters: as those of ``hessian_trace``.
    """

    name = "hessian_frobenius_norm"
    title = "Hessian Frobenius norm"
    unit = "[loss]/[weight]²"
    version = 5
    reference = "‖H‖²_F = E‖Hv‖²; Hutchinson (1990)"

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        return float(eigenvalues.norm())

    def by(self, backend: Backend) -> Measurement:
        return backend.frobenius_norm(self.tolerance, self.max_probes)

    def native(self, subject: Subject, seed: int) -> Measurement:
        operator = self._hessian(subject, seed)
        norm, result, probes = frobenius_norm(operator, self, seed=seed)
        population = self._population(subject)
        return Measurement(
            value=norm,
            errors=(*probes, *frobenius_error(operator, norm, population, seed=seed)),
            converged=result.converged,
            samples=operator.samples,
            work=operator.work,
            details=with_checks(
                operator, {"probes": result.products, "parameters": operator.dimension}
            ),
        )


@metrics.register
@dataclass(frozen=True)
class HessianSpectralDensity(_HessianMetric):
    """Spectral density of the training-loss Hessian by stochastic Lanczos quadrature.

    The value is the negative share of the spectrum, Σ|λ|[λ < 0]/Σ|λ|: 0 at a minimum, ½ where the loss
    is as much saddle as bowl. The details hold the density itself as a curve, smoothed by Gaussians of
    ``width`` times the range of the spectrum. The standard error over the ``probes`` comes from the density
    itself, which tells the variance of a quadratic form in a probe, so that one probe has it too. It is no
    error of the steps, of which too few see no negative eigenvalue at all: ``error_bound`` says how far more
    of them may move the figure for the very same probes (`SpectralDensity.below_zero`). ``converged``: the
    bound is at most ``tolerance``, and the probes' standard error, too. Of a part
    of the data the error's size is not known: its noise turns eigenvalues near zero negative, so that the
    share of a small trained network's eighth is 17 times that of all of its points, and lies further
    off than all parts of this size differ among themselves.

    Parameters: ``probes`` Gaussian starts of ``steps`` Lanczos steps each; ``width``; ``tolerance``, of the
    share itself; else as those of ``hessian_trace``. The other implementations are used for the curve:
    ``pyhessian`` needs ``torch.eig``, which torch has no more; ``curvlinops`` gives the density on a grid.
    """

    name = "hessian_spectral_density"
    title = "negative share of the Hessian's spectrum"
    unit = ""
    version = 6
    reference = "Ubaru, Chen & Saad (2017); arXiv:1901.10159"

    probes: int = 4
    steps: int = 40
    width: float = 0.01
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probes < 1 or self.steps < 2 or not 0 < self.width < 1:
            raise ValueError("probes must be at least 1, steps at least 2, width in (0, 1)")
        if not 0 < self.tolerance < 1:
            raise ValueError("tolerance must lie in (0, 1)")

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        sizes = _sizes(eigenvalues)
        return float(sizes[eigenvalues < 0].sum() / sizes.sum())

    def by(self, backend: Backend) -> Measurement:
        return backend.spectral_density(self.steps, self.probes)

    def native(self, subject: Subject, seed: int) -> Measurement:
        operator = self._hessian(subject, seed)
        density = spectral_density(
            operator,
            probes=self.probes,
            steps=self.steps,
            generator=torch_generator(derive_seed(seed, "probes")),
        )
        sizes = _sizes(density.nodes)
        negative = (density.weights * sizes * (density.nodes < 0)).sum(1)
        total = (density.weights * sizes).sum(1)
        if not float(total.sum()) > 0:
            raise MetricFailed("the Hessian is zero, and has no spectrum to be divided")
        value = float(negative.sum() / total.sum())
        grid, height = density.curve(width=self.width)
        trace, trace_error = density.mean(density.nodes)
        bound = self._of_steps(density, operator.dimension, value, trace)
        # Delta method for a ratio of means over the probes.
        of_probes = quadrature_error(
            density.weights,
            sizes * ((density.nodes < 0).double() - value) / total.mean(),
            operator.dimension,
        )
        return Measurement(
            value=value,
            errors=(of_probes, *untold_points(operator.samples, self._population(subject))),
            error_bound=bound or None,
            converged=bound <= self.tolerance and (of_probes.size or 0.0) <= self.tolerance,
            samples=operator.samples,
            work=operator.work,
            details=with_checks(
                operator,
                {
                    "grid": [round(g, 8) for g in grid],
                    "density": [round(h, 8) for h in height],
                    "smallest_node": float(density.nodes.min()),
                    "largest_node": float(density.nodes.max()),
                    "absolute_tolerance": self.tolerance,
                    "trace": trace * operator.dimension,
                    "trace_standard_error": None
                    if trace_error is None
                    else trace_error * operator.dimension,
                    "products": density.products,
                    "parameters": operator.dimension,
                },
            ),
        )

    def _of_steps(
        self, density: SpectralDensity, dimension: int, value: float, trace: float
    ) -> float:
        """How far more steps may move the share for these probes: their vᵀAv is exact, and |A| is A and twice
        its negative part."""

        def share(negative: float) -> float:
            negative = max(negative, -trace)
            total = trace + 2 * negative
            return negative / total if total > 0 else value

        _, *ends = (float(bound.mean()) for bound in density.below_zero(dimension))
        return max(abs(share(end) - value) for end in ends)


def quadrature_error(weights: Tensor, values: Tensor, dimension: int) -> ErrorComponent:
    """The error of tr g(A)/P = 0 by Lanczos quadrature, from ``weights`` and g (n, k) at the probes' nodes.

    A probe v, uniform on the unit sphere, has Var(vᵀg(A)v) = 2 tr g(A)²/(P(P + 2)), and the quadrature tells
    tr g(A)² as it tells tr g(A). Degrees of freedom: those of that estimate.
    """
    probes = len(weights)
    second, fourth = (float((weights * values**k).sum(1).mean()) for k in (2, 4))
    if not second > 0:
        return ErrorComponent("probes", 0.0)
    size = math.sqrt(2 * second / ((dimension + 2) * probes))
    uncertain = (fourth / second**2 - 1) / (dimension + 2)
    return ErrorComponent("probes", size, max(probes / uncertain, 1.0) if uncertain > 0 else None)


ProbeMethod = Literal["auto", "unit_vectors", "xtrace", "hutch++", "hutchinson"]

_SKETCH_NUMBERS = 20_000_000
"""Up to so many numbers in the vectors that XTrace keeps; beyond, Hutchinson's probes keep none."""

_UNIT_VECTORS = 32
"""Columns of the identity a block."""


class GroupedOperator(SymmetricOperator, ABC):
    """A symmetric operator made of a loss operator's products, group by group of samples too."""

    @abstractmethod
    def group_products(self, vectors: Tensor, groups: Sequence[Tensor]) -> Iterator[Tensor]:
        """What each group of samples adds to A·V (P, K)."""


def trace_by_products(
    budget: ProbeBudget,
    operator: HessianOperator | GaussNewtonOperator,
    population: int,
    seed: int,
    *,
    details: Mapping[str, Any],
    method: ProbeMethod = "auto",
    of: GroupedOperator | None = None,
) -> Measurement:
    """The trace from products alone, within the metric's ``budget``; the details tell the ``method``.

    ``auto``: unit vectors where ``max_probes`` serve them all, else XTrace, or Hutchinson's probes
    where its vectors would take too much memory. ``population``: samples to draw from. ``of``: what the
    operator's products make, whose trace is meant in place of the operator's own.
    """
    traced = operator if of is None else of
    if method == "auto":
        if traced.dimension <= budget.max_probes:
            method = "unit_vectors"
        else:
            fits = traced.dimension * budget.max_probes <= _SKETCH_NUMBERS
            method = "xtrace" if fits else "hutchinson"
    if method == "unit_vectors":
        result = _by_unit_vectors(traced)
    else:
        result = estimate_trace(
            traced,
            method=method,
            distribution=budget.distribution,
            tolerance=budget.tolerance,
            max_products=budget.max_probes,
            generator=torch_generator(derive_seed(seed, "probes")),
        )
    return Measurement(
        value=result.value,
        errors=(*probes_error(result, operator), *trace_error(traced, population, seed=seed)),
        converged=result.converged,
        samples=operator.samples,
        work=operator.work,
        details=with_checks(operator, {"method": method, "probes": result.products, **details}),
    )


def _by_unit_vectors(operator: SymmetricOperator) -> TraceResult:
    """Σ eᵢᵀAeᵢ: exact."""
    size, total = operator.dimension, 0.0
    for start in range(0, size, _UNIT_VECTORS):
        places = torch.arange(start, min(start + _UNIT_VECTORS, size))
        columns = torch.arange(len(places))
        block = torch.zeros(size, len(places), dtype=torch.float64)
        block[places, columns] = 1
        products = operator.matmat(block.to(operator.device))
        total += float(products[places, columns].to(torch.float64).sum())
    return TraceResult(total, 0.0, True, size)


def _sizes(eigenvalues: Tensor) -> Tensor:
    """|λ|, with what is rounding error of zero set to zero."""
    sizes = eigenvalues.abs()
    return sizes.where(sizes > 1e-10 * sizes.max(), torch.zeros_like(sizes))
