"""How far training has moved the tangent kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpbench.change import Change
from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.operator import SymmetricOperator
from sharpbench.curvature.trace import TraceResult, squared_frobenius_norm
from sharpbench.errors import MetricFailed, TimeLimitExceeded, in_words
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import torch_dtype
from sharpbench.metrics.curvature import CurvatureMetric, ProbeBudget, with_checks
from sharpbench.metrics.gauss_newton import gram_where_small
from sharpbench.metrics.ntk import with_squared_error
from sharpbench.metrics.sampling import untold_points
from sharpbench.metrics.surface import complex_parameters
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject
from sharpbench.truth import Known, Truth

__all__ = ["NtkDrift"]


@metrics.register
@dataclass(frozen=True)
class NtkDrift(ProbeBudget, CurvatureMetric):
    """Drift of the empirical tangent kernel since initialization, ‖Θ − Θ₀‖_F/‖Θ₀‖_F.

    Θ = JJᵀ of the samples measured, Θ₀ that of the initial network on the same ones, which a suite derives
    anew from the seed; elsewhere it is the subject's ``initial``. Where it is small the network has been
    fitted as its linearization: under the scaling 1/√width it falls at least as width^−½ (Jacot et al.;
    Welper), and faster where the signs of the weights are even, for smooth activations as 1/width.

    Exact where samples × outputs are few; else both norms are estimated by random products with
    Θ − Θ₀ and Θ₀, until their standard errors are at most ``tolerance`` times the figure.

    Errors: ``probes``; ``points``, of untold size, where some of the samples are drawn; ``rounding`` in
    float32, of untold size: a small difference drowns in it.

    Parameters: as those of ``hessian_frobenius_norm``.
    """

    name = "ntk_drift"
    title = "drift of the neural tangent kernel"
    unit = ""
    reference = (
        "Jacot et al., arXiv:1806.07572; Welper, arXiv:2309.04860; Dyer & Gur-Ari, arXiv:1909.11304"
    )
    gauss_newton = True

    def stays_under(self, change: Change) -> bool:
        # Θ₀ stays where it is: what moves the inputs moves them away from the initial network.
        return super().stays_under(change) and getattr(change, "kind", None) != "units"

    def unsupported(self, subject: Subject) -> str | None:
        if subject.initial is None:
            return "the initial weights are not known: give them as Subject(..., initial=network)"
        return super().unsupported(subject) or complex_parameters(subject)

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        return None  # a problem has no beginning

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        raise NotImplementedError("one spectrum does not tell it")

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        assert subject.initial is not None
        work, details = Work(), dict[str, Any]()
        now = with_squared_error(subject)
        then = now.with_model(subject.initial)
        samples = len(self._data(now, seed)[0])
        errors: tuple[ErrorComponent, ...] = ()
        converged = True
        if (exact := self._exact(now, then, seed, work, details)) is not None:
            drift, norm = exact
        else:
            pair = [self._kernel_of(each, seed, work) for each in (now, then)]
            difference = _Kernels(pair)
            results = [
                squared_frobenius_norm(
                    operator,
                    distribution=self.distribution,
                    tolerance=math.sqrt(2) * self.tolerance,
                    max_products=self.max_probes,
                    generator=torch_generator(derive_seed(seed, "probes", i)),
                )
                for i, operator in enumerate((difference, _Kernels(pair[1:])))
            ]
            drift, norm = (math.sqrt(result.value) for result in results)
            errors = _probes_error(drift, norm, results)
            converged = all(result.converged for result in results)
            probes = sum(result.products for result in results)
            details = with_checks(pair[0], {**details, "probes": probes})
        if not norm > 0:
            raise MetricFailed("the initial network's kernel is zero")
        if self.dtype != "float64":
            errors = (*errors, ErrorComponent("rounding", None))
        return Measurement(
            value=drift / norm,
            errors=(*errors, *untold_points(samples, self._population(subject))),
            converged=converged,
            samples=samples,
            work=work,
            details=details,
        )

    def _kernel_of(self, subject: Subject, seed: int, work: Work) -> GaussNewtonOperator:
        operator = self._operator(GaussNewtonOperator, subject, seed, work)
        assert isinstance(operator, GaussNewtonOperator)
        return operator

    def _exact(
        self, now: Subject, then: Subject, seed: int, work: Work, details: dict[str, Any]
    ) -> tuple[float, float] | None:
        """‖Θ − Θ₀‖_F and ‖Θ₀‖_F where the Jacobians are small."""
        kernels = []
        try:
            for subject in (now, then):
                model = subject.working_model(torch_dtype(self.dtype))
                data, facts = self._data(subject, seed), self._facts(subject, seed)
                gram = gram_where_small(subject, model, *data, self.parameters_of, work, facts)
                if gram is None:
                    return None
                kernels.append(gram)  # of Θ/N, both
        except TimeLimitExceeded:
            raise
        except Exception as reason:
            details["why"] = in_words(reason)
            return None
        details["gram_rows"] = len(kernels[0])
        after, before = kernels
        return float((after - before).norm()), float(before.norm())


class _Kernels(SymmetricOperator):
    """The tangent kernel of the first network less those of the others, over samples × outputs."""

    def __init__(self, operators: list[GaussNewtonOperator]) -> None:
        first = self._first = operators[0]
        self._operators = operators
        for operator in operators:
            operator.verify(blocks=False)
        with torch.no_grad():
            self._outputs = tuple(first.model(first.inputs[:2]).shape[1:])
        self.dimension = first.samples * math.prod(self._outputs)
        self.dtype, self.device = first.dtype, first.device
        self.work, self.samples = first.work, first.samples

    def matmat(self, vectors: Tensor) -> Tensor:
        blocks = vectors.T.reshape(-1, self.samples, *self._outputs)
        found, *others = (o.kernel_products(blocks) for o in self._operators)
        for other in others:
            found = found - other
        return found.reshape(len(blocks), -1).T


def _probes_error(
    drift: float, norm: float, results: list[TraceResult]
) -> tuple[ErrorComponent, ...]:
    """Of the ratio of the roots of two independent estimates."""
    if not norm > 0:
        return ()
    slopes = (0.5 / (drift * norm) if drift > 0 else 0.0, 0.5 * drift / norm**3)
    return tuple(
        ErrorComponent("probes", slope * result.standard_error, result.degrees_of_freedom)
        for slope, result in zip(slopes, results, strict=True)
    )
