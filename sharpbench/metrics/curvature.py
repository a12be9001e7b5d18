"""What the metrics of a curvature matrix share: data, budget, and who computes it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.hessian_operator import HessianOperator
from sharpbench.curvature.rounding import of_loss_operator
from sharpbench.curvature.trace import Distribution, TraceResult, squared_frobenius_norm
from sharpbench.errors import MetricFailed
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics.backends import BACKENDS, Backend
from sharpbench.metrics.base import (
    Count,
    Dtype,
    Metric,
    check_count,
    measured_points,
    place_of_points,
    torch_dtype,
)
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.shared import Shared
from sharpbench.subject import Subject
from sharpbench.truth import Known, KnownHessian, Truth

__all__ = [
    "BackendMetric",
    "CurvatureMetric",
    "ProbeBudget",
    "ProductBudget",
    "check_together",
    "frobenius_norm",
    "probes_error",
    "with_checks",
]


@dataclass(frozen=True)
class CurvatureMetric(Metric, ABC):
    """What metrics of a curvature matrix share: on which data, of which parameters, how precisely."""

    space = "parameter"
    # Orthogonal maps of the parameters keep a spectrum; a shift of all logits keeps the loss around it.
    invariant_under = frozenset({"isometry"})
    gauss_newton: ClassVar[bool] = False
    """Whether it is the Gauss-Newton matrix in place of the Hessian."""

    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    parameters_of: tuple[str, ...] = ()
    """Names (of modules too) or shell patterns of the parameters meant; all if empty."""
    memory_budget: int = 1 << 30
    dtype: Dtype = "float64"

    def unsupported(self, subject: Subject) -> str | None:
        if self.gauss_newton and subject.of_model_and_batch:
            return (
                "the Gauss-Newton matrix is one of outputs and their loss, and the loss given is one of "
                "model and batch; give forward=lambda model, batch: … and loss=lambda outputs, targets: …"
            )
        return None

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        if self.memory_budget < 1 << 20:
            raise ValueError(f"memory_budget must be at least 1 MiB, got {self.memory_budget}")

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        """From the spectrum of all points, whatever ``samples`` of them are measured.

        None where the metric has no figure of such a spectrum.
        """
        if not isinstance(truth, KnownHessian) or self.parameters_of:
            return None
        if self.gauss_newton and not truth.residual_free:
            return None
        limit = truth.limiting_eigenvalues(subject)
        try:
            return Known(
                expected=self.of_spectrum(truth.eigenvalues(subject)),
                limit=None if limit is None else self.of_spectrum(limit),
            )
        except MetricFailed:
            return None

    @abstractmethod
    def of_spectrum(self, eigenvalues: Tensor) -> float:
        """The figure from all eigenvalues (P,), rising."""

    def _data(self, subject: Subject, seed: int) -> tuple[Tensor, Tensor]:
        """The same points for every implementation."""
        dtype = torch_dtype(self.dtype)
        return measured_points(subject, self.split, self.samples, dtype, seed=seed)

    def _facts(self, subject: Subject, seed: int) -> Shared:
        """What metrics of these points and parameters find alike."""
        dtype = torch_dtype(self.dtype)
        place = place_of_points(subject, self.split, self.samples, dtype, seed=seed)
        return subject.shared.under(*place, tuple(self.parameters_of))

    def _population(self, subject: Subject) -> int:
        """How many samples there are to draw from."""
        return len(subject.data(self.split)[0])

    def _operator(
        self,
        kind: type[HessianOperator] | type[GaussNewtonOperator],
        subject: Subject,
        seed: int,
        work: Work,
    ) -> HessianOperator | GaussNewtonOperator:
        assert subject.loss is not None
        operator = kind(
            subject.working_model(torch_dtype(self.dtype)),
            subject.loss,
            *self._data(subject, seed),
            work=work,
            memory_budget=self.memory_budget,
            parameters=self.parameters_of,
            shared=self._facts(subject, seed).under(kind.__name__, self.memory_budget),
        )
        check_together(subject, operator, self._population(subject))
        return operator


def check_together(
    subject: Subject, operator: HessianOperator | GaussNewtonOperator, population: int
) -> None:
    """Raises MetricFailed for samples that depend on each other and are not all taken at once."""
    if subject.coupled and not (operator.kept and operator.samples == population):
        raise MetricFailed(
            "a sample's outputs depend on the other samples of its batch (batch norm without running "
            "statistics?), so that the loss of all samples is none of their parts': measure them "
            'together (samples = "all" and a larger memory_budget), or give the network running '
            "statistics"
        )


@dataclass(frozen=True)
class BackendMetric(CurvatureMetric, ABC):
    """Metrics that other libraries compute too, by ``implementation``."""

    implementation: str = "native"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.implementation != "native" and self.parameters_of:
            raise ValueError("parameters_of needs implementation 'native'")

    def missing(self) -> str | None:
        return None if self.implementation == "native" else BACKENDS[self.implementation].missing()

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        if self.implementation == "native":
            return self.native(subject, seed)
        backend = BACKENDS[self.implementation](
            subject,
            torch_dtype(self.dtype),
            *self._data(subject, seed),
            matrix="gauss_newton" if self.gauss_newton else "hessian",
            population=self._population(subject),
            seed=derive_seed(seed, "probes"),
        )
        return self.by(backend)

    @abstractmethod
    def native(self, subject: Subject, seed: int) -> Measurement:
        """The figure as computed here."""

    @abstractmethod
    def by(self, backend: Backend) -> Measurement:
        """The figure as computed by another library."""


@dataclass(frozen=True)
class ProductBudget(CurvatureMetric, ABC):
    """Of an eigenvalue: how precisely, in at most how many products with the matrix."""

    tolerance: float = 1e-3
    max_products: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_budget(self.tolerance, "max_products", self.max_products)


@dataclass(frozen=True)
class ProbeBudget(CurvatureMetric, ABC):
    """Of an estimate by random probes: from which distribution, how precisely, at most how many."""

    distribution: Distribution = "rademacher"
    tolerance: float = 0.05
    max_probes: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_budget(self.tolerance, "max_probes", self.max_probes)


def probes_error(
    result: TraceResult, operator: HessianOperator | GaussNewtonOperator, scale: float = 1.0
) -> tuple[ErrorComponent, ...]:
    """The components of a trace's error, times ``scale``; none where it is exact.

    ``operator``: whose products they were; in less than float64 they are rounded.
    """
    errors: tuple[ErrorComponent, ...] = ()
    if result.standard_error:
        size = scale * result.standard_error
        known = size if math.isfinite(size) else None
        errors = (ErrorComponent("probes", known, result.degrees_of_freedom),)
    if result.scale and operator.dtype != torch.float64:
        share = of_loss_operator(operator)
        rounding = None if share is None else scale * share * result.scale
        errors += (ErrorComponent("rounding", rounding),)
    return errors


def frobenius_norm(
    operator: HessianOperator | GaussNewtonOperator, metric: ProbeBudget, *, seed: int
) -> tuple[float, TraceResult, tuple[ErrorComponent, ...]]:
    """‖A‖_F by random products within the metric's budget, the estimate of its square that it comes from, and
    the components of its error."""
    result = squared_frobenius_norm(
        operator,
        distribution=metric.distribution,
        tolerance=2 * metric.tolerance,
        max_products=metric.max_probes,
        generator=torch_generator(derive_seed(seed, "probes")),
    )
    norm = math.sqrt(result.value)
    return norm, result, probes_error(result, operator, 0.5 / norm) if norm else ()


def with_checks(operator: Any, details: dict[str, Any]) -> dict[str, Any]:
    """The details with what the operator verified of its products, where it made some."""
    checks = {**operator.checks, **details.get("checks", {})}
    return {**details, "checks": checks} if checks else details


def _check_budget(tolerance: float, key: str, budget: int) -> None:
    """Raises ValueError unless the tolerance lies in [0, 1) and the budget is at least 2."""
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must lie in [0, 1), got {tolerance}")
    if budget < 2:
        raise ValueError(f"{key} must be at least 2, got {budget}")
