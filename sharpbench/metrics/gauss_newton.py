"""Metrics of the Gauss-Newton matrix, the Fisher matrix for cross-entropy."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sharpbench.curvature.gauss_newton import gauss_newton_gram, gauss_newton_trace
from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.lanczos import extreme_eigenvalues
from sharpbench.curvature.operator import coordinates
from sharpbench.curvature.parameters import named_subset
from sharpbench.errors import MetricFailed, TimeLimitExceeded, in_words
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.backends import Backend
from sharpbench.metrics.base import torch_dtype, unit_of_task
from sharpbench.metrics.curvature import (
    BackendMetric,
    CurvatureMetric,
    ProbeBudget,
    ProductBudget,
    with_checks,
)
from sharpbench.metrics.hessian import trace_by_products
from sharpbench.metrics.sampling import (
    eigenvalue_error,
    gram_eigenvalue_error,
    quadratic_form_error,
    sampling_error,
)
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.shared import Shared
from sharpbench.subject import Subject
from sharpbench.truth import Known, Truth

__all__ = [
    "FisherRaoNorm",
    "GaussNewtonTopEigenvalue",
    "GaussNewtonTrace",
    "few_rows",
    "gram_where_small",
]

_GRAM_NUMBERS = 4_000_000
"""Up to so many entries of the samples' weighted Jacobian the Gram matrix is cheaper than iterating."""


@dataclass(frozen=True)
class _GaussNewtonMetric(BackendMetric, ABC):
    """Metrics of the Gauss-Newton matrix, which curvlinops computes too."""

    gauss_newton = True

    implementation: Literal["native", "curvlinops"] = "native"


@metrics.register
@dataclass(frozen=True)
class GaussNewtonTopEigenvalue(ProductBudget, _GaussNewtonMetric):
    """Largest eigenvalue of the Gauss-Newton matrix (1/N) Σ JᵢᵀΛᵢJᵢ.

    Λᵢ is the loss's Hessian in the outputs: for cross-entropy this is the Fisher matrix. With few
    samples × outputs it is the largest eigenvalue of the Gram matrix, exactly; else Lanczos, where
    ``error_bound`` says how far above the value the eigenvalue may lie, wrong with
    ``failure_probability`` (in the details) at most, and ``converged`` that this is at most ``tolerance``
    times the value. ``curvlinops``: its operator under ``eigsh``.

    Parameters and the error of drawn samples: as those of ``hessian_top_eigenvalue``.
    """

    name = "gauss_newton_top_eigenvalue"
    title = "Gauss–Newton top eigenvalue"
    unit = "[loss]/[weight]²"
    version = 4
    reference = "Martens, arXiv:1412.1193; arXiv:2106.02624 (ViViT)"

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        return float(eigenvalues.max())

    def by(self, backend: Backend) -> Measurement:
        return backend.top_eigenvalue(self.tolerance, self.max_products)

    def native(self, subject: Subject, seed: int) -> Measurement:
        work = Work()
        details: dict[str, Any] = {}
        try:
            if (exact := self._from_gram(subject, seed, work)) is not None:
                return exact
        except TimeLimitExceeded:
            raise
        except Exception as reason:
            details["why"] = in_words(reason)
        population = self._population(subject)
        operator = self._operator(GaussNewtonOperator, subject, seed, work)
        result = extreme_eigenvalues(
            operator,
            tolerance=self.tolerance,
            max_products=self.max_products,
            generator=torch_generator(derive_seed(seed, "probes")),
            vectors=operator.samples < population,
        )
        return Measurement(
            value=result.value,
            errors=eigenvalue_error(operator, result, population, seed=seed),
            error_bound=result.error_bound,
            converged=result.converged,
            samples=operator.samples,
            work=operator.work,
            details=with_checks(
                operator,
                {
                    "products": result.products,
                    "failure_probability": result.failure_probability,
                    **details,
                },
            ),
        )

    def _from_gram(self, subject: Subject, seed: int, work: Work) -> Measurement | None:
        """The exact value where the weighted Jacobian is small, else None.

        Raises whatever stands in the way of it: a loss that is not convex in the outputs, say.
        """
        inputs, targets = self._data(subject, seed)
        model = subject.working_model(torch_dtype(self.dtype))
        facts = self._facts(subject, seed)
        gram = gram_where_small(subject, model, inputs, targets, self.parameters_of, work, facts)
        if gram is None:
            return None
        values, vectors = torch.linalg.eigh(gram)
        return Measurement(
            value=float(values[-1]),
            errors=gram_eigenvalue_error(values, vectors, len(inputs), self._population(subject)),
            samples=len(inputs),
            work=work,
            details={"gram_rows": len(gram)},
        )


def gram_where_small(
    subject: Subject,
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    patterns: Sequence[str],
    work: Work,
    facts: Shared,
) -> Tensor | None:
    """The Gauss-Newton matrix's Gram matrix (N·C, N·C) where it is cheaper than iterating, else None.

    ``facts``: of these points and parameters. Raises whatever stands in the way of it.
    """
    parameters = named_subset(model, patterns)
    if not few_rows(model, inputs, parameters, work):
        return None
    loss = subject.loss
    assert loss is not None
    return gauss_newton_gram(model, loss, inputs, targets, parameters, work=work, shared=facts)


def few_rows(
    model: nn.Module, inputs: Tensor, parameters: Sequence[nn.Parameter], work: Work
) -> bool:
    """Whether the samples' Jacobian is so small that its Gram matrix is cheaper than iterating."""
    few = inputs[:2]  # not one: a network that normalises by the batch takes no single sample
    with torch.no_grad():
        outputs = model(few).numel() // len(few)
    work.forward += len(few)
    rows = len(inputs) * outputs
    numbers = rows * sum(coordinates(p).numel() for p in parameters)
    return bool(rows <= 256 and numbers <= _GRAM_NUMBERS)


@metrics.register
@dataclass(frozen=True)
class GaussNewtonTrace(ProbeBudget, _GaussNewtonMetric):
    """Trace of the Gauss-Newton matrix, (1/N) Σ tr(JᵢᵀΛᵢJᵢ); of the Fisher matrix for cross-entropy.

    Exact: one backward pass an output gives the length of every sample's gradient, layer by layer. What
    that assumes is verified on the network at hand (``checks`` in the details). Where it does not hold,
    and ``why`` says what, products with the operator: unit vectors, exact too, for at most ``max_probes``
    parameters, else XTrace with its standard error. ``curvlinops`` takes ``max_probes`` Hutchinson probes.

    Parameters: as those of ``hessian_trace``.
    """

    name = "gauss_newton_trace"
    title = "Gauss–Newton trace"
    unit = "[loss]/[weight]²"
    version = 6
    reference = "Martens, arXiv:1412.1193; Goodfellow, arXiv:1510.01799"

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        return float(eigenvalues.sum())

    def by(self, backend: Backend) -> Measurement:
        return backend.trace(self.tolerance, self.max_probes)

    def native(self, subject: Subject, seed: int) -> Measurement:
        inputs, targets = self._data(subject, seed)
        model, work = subject.working_model(torch_dtype(self.dtype)), Work()
        assert subject.loss is not None
        parameters = named_subset(model, self.parameters_of)
        try:
            exact = gauss_newton_trace(
                model,
                subject.loss,
                inputs,
                targets,
                work=work,
                only=parameters,
                shared=self._facts(subject, seed),
            )
        except TimeLimitExceeded:
            raise
        except Exception as reason:
            return self._probed(subject, seed, in_words(reason), work)
        return Measurement(
            value=exact.value,
            errors=sampling_error(exact.terms / len(inputs), self._population(subject)),
            samples=len(inputs),
            work=work,
            details={
                "method": "exact",
                "spread_over_samples": exact.spread,
                "checks": exact.checks,
            },
        )

    def _probed(self, subject: Subject, seed: int, reason: str, work: Work) -> Measurement:
        operator = self._operator(GaussNewtonOperator, subject, seed, work)
        assert isinstance(operator, GaussNewtonOperator)
        population = self._population(subject)
        return trace_by_products(self, operator, population, seed, details={"why": reason})


@metrics.register
@dataclass(frozen=True)
class FisherRaoNorm(CurvatureMetric):
    """Fisher–Rao norm √(wᵀFw) of the parameters w in the metric of the Fisher matrix F at w itself.

    Its expectation over the labels is taken, by ``labels``:

    - ``model``: over the labels that the model predicts. F is the Gauss-Newton matrix
      G = (1/N) Σ JᵢᵀΛᵢJᵢ, which for cross-entropy is the Fisher matrix, and for ½ squared error that of a
      Gaussian of variance one. The loss must be convex in the outputs.
    - ``observed``: over the labels given, √((1/N) Σ ⟨w, ∇ℓᵢ⟩²), the empirical Fisher matrix; any loss.
      This is the form of Liang et al., definition 2. It vanishes where every sample is fitted, however
      flat or sharp the loss is around there.

    In the unit of the root of the curvature times that of w: of the root of the loss for ``model``, of the
    loss for ``observed``. Exact, by one product. Both see the parameters through Jw alone, how the outputs
    change as all parameters grow together, so that they stay under every change of the parameters that
    commutes with growing and keeps the function; under a shift of all logits too, which lies in G's null
    space and at a right angle to the gradient of cross-entropy in the logits, whatever the label.

    Parameters: ``samples`` of ``split`` drawn without replacement; ``parameters_of``; ``memory_budget``.
    Error: ``points``, by a jackknife over the samples, where not all are taken. The product J·w that
    ``observed`` takes is checked on a few samples against their gradients (``checks`` in the details).
    """

    name = "fisher_rao_norm"
    title = "Fisher–Rao norm"
    unit = "√[loss]"
    version = 3
    reference = "Liang et al., arXiv:1711.01530"
    # For a shift of all logits see above; other coordinates or more parameters where they grow together.
    invariant_under = frozenset({"homogeneous", "logit_shift"})
    gauss_newton = True

    labels: Literal["model", "observed"] = "model"

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        whose = "that the model predicts" if self.labels == "model" else "given"
        return [*super().notes(details), f"its Fisher matrix is of the labels {whose}"]

    def unit_on(self, subject: Subject) -> str:
        return unit_of_task("√[loss]" if self.labels == "model" else "[loss]", subject.task)

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        return None  # a spectrum alone does not tell it

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        raise NotImplementedError

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        operator = self._operator(GaussNewtonOperator, subject, seed, Work())
        assert isinstance(operator, GaussNewtonOperator)
        population = self._population(subject)
        weights = operator.point
        details: dict[str, Any] = {}
        if self.labels == "model":
            square = float(weights.double() @ operator.matvec(weights).double())
            if square < -1e-9 * float(weights.double().square().sum()):
                raise MetricFailed("wᵀGw is negative: the loss is not convex in the outputs")
            norm = math.sqrt(max(square, 0.0))
        else:
            squares = operator.sample_slopes(weights).double().square()
            norm = math.sqrt(float(squares.mean()))
            details["checks"] = {"sample_slopes": operator.check_slopes(weights)}
        errors: tuple[ErrorComponent, ...]
        if norm == 0:  # a root's error can't be read off a slope where it has none
            errors = (ErrorComponent("points", None),) if operator.samples < population else ()
        elif self.labels == "model":
            scale = 0.5 / norm
            errors = quadratic_form_error(operator, weights, population, seed=seed, scale=scale)
        else:
            errors = sampling_error(squares / len(squares), population, scale=0.5 / norm)
        return Measurement(
            value=norm,
            errors=errors,
            samples=operator.samples,
            work=operator.work,
            details=with_checks(operator, details),
        )
