"""Metrics of the training loss's Hessian in parameter space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sharpbench.autodiff.hessian import HessianOperator
from sharpbench.autodiff.lanczos import largest_eigenvalue
from sharpbench.autodiff.trace import hutchinson_trace
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Count, Dtype, Metric, check_count, measured_points, torch_dtype
from sharpbench.metrics.pyhessian import PyHessian
from sharpbench.problems.base import Known, KnownHessian, Problem
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject

__all__ = ["HessianTopEigenvalue", "HessianTrace"]

Implementation = Literal["native", "pyhessian"]


@dataclass(frozen=True)
class _HessianMetric(Metric, ABC):
    """What the Hessian metrics share: whose implementation, on which data, in which precision."""

    space = "parameter"
    invariant_under = frozenset({"neuron_permutation"})

    implementation: Implementation = "native"
    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)

    def known(self, problem: Problem, subject: Subject) -> Known | None:
        if not isinstance(problem, KnownHessian) or self.samples != "all":
            return None
        return Known(expected=self.of_spectrum(problem.eigenvalues(subject)))

    @abstractmethod
    def of_spectrum(self, eigenvalues: Tensor) -> float:
        """The figure from all eigenvalues (P,), rising."""

    def _data(self, subject: Subject, seed: int) -> tuple[Tensor, Tensor]:
        """The same points for every implementation."""
        dtype = torch_dtype(self.dtype)
        return measured_points(subject, self.split, self.samples, dtype, seed=seed)

    def _operator(self, subject: Subject, seed: int) -> HessianOperator:
        assert subject.loss is not None
        model = subject.working_model(torch_dtype(self.dtype))
        return HessianOperator(model, subject.loss, *self._data(subject, seed), work=Work())

    def _rival(self, subject: Subject, seed: int) -> PyHessian:
        dtype = torch_dtype(self.dtype)
        probes = derive_seed(seed, "probes")
        return PyHessian(subject, dtype, *self._data(subject, seed), seed=probes)


@metrics.register
@dataclass(frozen=True)
class HessianTopEigenvalue(_HessianMetric):
    """Largest eigenvalue of the training-loss Hessian ∇²_w (1/N) Σ ℓ(f_w(xᵢ), yᵢ).

    ``native``: Lanczos with full reorthogonalisation, stopped when the residual norm, which bounds
    the distance to an eigenvalue, is at most ``tolerance`` times the value; the algebraically
    largest one. ``pyhessian``: PyHessian's power iteration, unpatched; it finds the eigenvalue of
    largest *magnitude* and stops when two successive Rayleigh quotients agree to ``tolerance``,
    which is no bound on the error.

    Parameters: ``samples`` of ``split`` drawn without replacement; ``tolerance``;
    ``max_products`` Hessian-vector products at most.
    """

    name = "hessian_top_eigenvalue"
    title = "Hessian top eigenvalue"
    reference = "arXiv:1912.07145 (PyHessian); Parlett, The Symmetric Eigenvalue Problem (1998)"

    tolerance: float = 1e-3
    max_products: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_budget(self.tolerance, "max_products", self.max_products)

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        return float(eigenvalues.max())

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        if self.implementation == "pyhessian":
            return self._rival(subject, seed).top_eigenvalue(self.tolerance, self.max_products)
        operator = self._operator(subject, seed)
        result = largest_eigenvalue(
            operator.matvec,
            operator.dimension,
            tolerance=self.tolerance,
            max_products=self.max_products,
            generator=torch_generator(derive_seed(seed, "probes")),
            device=operator.device,
        )
        return Measurement(
            value=result.value,
            converged=result.converged,
            samples=operator.samples,
            work=operator.work,
            details={
                "error_bound": result.error_bound,
                "products": result.products,
                "largest_ritz_values": list(result.ritz_values[:5]),
                "smallest_ritz_value": result.ritz_values[-1],
                "parameters": operator.dimension,
            },
        )


@metrics.register
@dataclass(frozen=True)
class HessianTrace(_HessianMetric):
    """Trace of the training-loss Hessian by Hutchinson's estimator with Rademacher probes.

    ``native`` stops when the standard error is at most ``tolerance`` times the estimate.
    ``pyhessian`` is PyHessian's estimator, unpatched, with the same ``tolerance`` handed to its own
    rule (two successive running means agree), which can stop after two probes; ``converged`` then
    says whether the standard error of its probes meets the tolerance.

    Parameters: ``samples`` of ``split`` drawn without replacement; ``tolerance``;
    ``max_probes`` at most.
    """

    name = "hessian_trace"
    title = "Hessian trace"
    reference = "Hutchinson (1990); arXiv:1912.07145 (PyHessian)"

    tolerance: float = 0.05
    max_probes: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_budget(self.tolerance, "max_probes", self.max_probes)

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        return float(eigenvalues.sum())

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        if self.implementation == "pyhessian":
            return self._rival(subject, seed).trace(self.tolerance, self.max_probes)
        operator = self._operator(subject, seed)
        result = hutchinson_trace(
            operator.matvec,
            operator.dimension,
            tolerance=self.tolerance,
            max_probes=self.max_probes,
            generator=torch_generator(derive_seed(seed, "probes")),
            device=operator.device,
        )
        return Measurement(
            value=result.value,
            standard_error=result.standard_error,
            converged=result.converged,
            samples=operator.samples,
            work=operator.work,
            details={"probes": result.probes, "parameters": operator.dimension},
        )


def _check_budget(tolerance: float, key: str, budget: int) -> None:
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must lie in [0, 1), got {tolerance}")
    if budget < 2:
        raise ValueError(f"{key} must be at least 2, got {budget}")
