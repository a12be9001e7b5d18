"""Metrics of the empirical neural tangent kernel, the Gram matrix of the outputs' gradients."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sharpbench.curvature.gauss_newton_operator import GaussNewtonOperator
from sharpbench.curvature.parameters import named_subset
from sharpbench.errors import MetricFailed, TimeLimitExceeded, in_words
from sharpbench.formulas.context import repeatedly_differentiable
from sharpbench.loss import per_sample_loss
from sharpbench.measurement import ErrorComponent, Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import torch_dtype
from sharpbench.metrics.curvature import (
    CurvatureMetric,
    ProbeBudget,
    ProductBudget,
    frobenius_norm,
    with_checks,
)
from sharpbench.metrics.gauss_newton import GaussNewtonTopEigenvalue, gram_where_small
from sharpbench.metrics.sampling import untold_points
from sharpbench.metrics.surface import complex_parameters
from sharpbench.running import as_written
from sharpbench.subject import Subject
from sharpbench.truth import Known, KnownTangentKernel, Truth

__all__ = ["NtkAlignment", "NtkTopEigenvalue"]

_CHUNK = 256
"""Samples of one backward pass."""


@dataclass(frozen=True)
class _TangentKernelMetric(CurvatureMetric, ABC):
    """Θ = JJᵀ (N·C, N·C) shares its eigenvalues with N times the Gauss-Newton matrix of ½ squared error."""

    gauss_newton = True

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        if not isinstance(truth, KnownTangentKernel) or self.parameters_of:
            return None
        kernel, wide = truth.kernel(subject), truth.kernel_of_infinite_width(subject)
        return Known(
            expected=self.of_kernel(kernel, subject),
            limit=None if wide is None else self.of_kernel(wide, subject),
        )

    @abstractmethod
    def of_kernel(self, kernel: Tensor, subject: Subject) -> float:
        """The figure from Θ, whose rows are each sample's outputs one after another."""

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        raise NotImplementedError("a kernel's figures are of the kernel")


@metrics.register
@dataclass(frozen=True)
class NtkTopEigenvalue(ProductBudget, _TangentKernelMetric):
    """Largest eigenvalue of the empirical neural tangent kernel over the samples, λ_max(JJᵀ)/N.

    J (N·C, P) holds the outputs' derivatives in the parameters. It bounds how fast gradient descent can fit
    what the network can fit fastest: with ½ squared error, steps up to 2/λ are stable where the kernel stays.
    Computed as the top eigenvalue of the Gauss-Newton matrix JᵀJ/N, with its method, error and ``checks``.

    Parameters: as those of ``gauss_newton_top_eigenvalue``.
    """

    name = "ntk_top_eigenvalue"
    title = "neural tangent kernel, top eigenvalue"
    unit = "[output]²/[weight]²"
    reference = "Jacot et al., arXiv:1806.07572"

    def of_kernel(self, kernel: Tensor, subject: Subject) -> float:
        return float(torch.linalg.eigvalsh(kernel)[-1]) / len(subject.inputs)

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        fields = dataclasses.fields(self)
        metric = GaussNewtonTopEigenvalue(**{f.name: getattr(self, f.name) for f in fields})
        return metric.measure(with_squared_error(subject), seed=seed)


@metrics.register
@dataclass(frozen=True)
class NtkAlignment(ProbeBudget, _TangentKernelMetric):
    """Kernel–target alignment yᵀΘy/(‖Θ‖_F ‖y‖²) of the empirical neural tangent kernel Θ = JJᵀ.

    y (N·C): the targets; of classes one-hot, less 1/C, so that a shift of all logits has no part in it. 1
    where the targets are the one direction that the kernel learns, and of random targets tr Θ/(N·C·‖Θ‖_F).
    yᵀΘy = ‖Jᵀy‖² takes one backward pass. ‖Θ‖_F is that of JᵀJ: with few samples × outputs exact, else
    by random probes until its standard error is at most ``tolerance`` times it.

    Errors: ``probes``; ``points``, of untold size, where some of the samples are drawn: a part of the samples
    is aligned otherwise than all.

    Parameters: as those of ``hessian_frobenius_norm``.
    """

    name = "ntk_alignment"
    title = "alignment of the neural tangent kernel"
    unit = ""
    reference = "Cristianini et al. 2001; Fort et al., arXiv:2010.15110 (of networks)"

    def unsupported(self, subject: Subject) -> str | None:
        if subject.task == "classification" and (reason := subject.without_classes()):
            return f"the targets need a class a sample, and {reason}"
        return super().unsupported(subject) or complex_parameters(subject)

    def of_kernel(self, kernel: Tensor, subject: Subject) -> float:
        y = _targets(subject, subject.targets, kernel.shape[0] // len(subject.inputs)).reshape(-1)
        return float(y @ kernel @ y / (kernel.norm() * y.square().sum()))

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype, work = torch_dtype(self.dtype), Work()
        squared = with_squared_error(subject)
        inputs, _ = self._data(squared, seed)
        _, targets = self._data(subject, seed)
        model = subject.working_model(dtype)
        parameters = named_subset(model, self.parameters_of)
        with torch.no_grad():
            outputs = model(inputs[:2])
        y = _targets(subject, targets, outputs[0].numel()).to(dtype)
        if not float(y.norm()) > 0:
            raise MetricFailed("the targets are zero: nothing is aligned with them")
        batch, gradient = len(inputs) if subject.coupled else _CHUNK, torch.zeros(())
        with repeatedly_differentiable(), as_written():
            for x, t in zip(inputs.split(batch), y.split(batch), strict=True):
                work.gradient += len(x)
                along = (model(x).flatten(1) * t).sum()
                if not along.requires_grad:
                    raise MetricFailed("the kernel is zero: the outputs depend on no parameter")
                found = torch.autograd.grad(along, parameters, materialize_grads=True)
                gradient = gradient + torch.cat([g.reshape(-1) for g in found]).double().cpu()
        norm, probes, converged, details = self._norm(squared, seed, work)
        if not norm > 0:
            raise MetricFailed("the kernel is zero: the outputs depend on no parameter")
        value = float(gradient @ gradient) / (len(inputs) * norm * float(y.double().square().sum()))
        errors = tuple(
            dataclasses.replace(e, size=None if e.size is None else value / norm * e.size)
            for e in probes
        )
        return Measurement(
            value=value,
            errors=(*errors, *untold_points(len(inputs), self._population(subject))),
            converged=converged,
            samples=len(inputs),
            work=work,
            details=details,
        )

    def _norm(
        self, squared: Subject, seed: int, work: Work
    ) -> tuple[float, tuple[ErrorComponent, ...], bool, dict[str, Any]]:
        """‖Θ‖_F/N with its error, whether it met its tolerance, and what is told of it."""
        details: dict[str, Any] = {}
        try:
            model = squared.working_model(torch_dtype(self.dtype))
            data, facts = self._data(squared, seed), self._facts(squared, seed)
            gram = gram_where_small(squared, model, *data, self.parameters_of, work, facts)
            if gram is not None:
                return float(gram.norm()), (), True, {"gram_rows": len(gram)}
        except TimeLimitExceeded:
            raise
        except Exception as reason:
            details["why"] = in_words(reason)
        operator = self._operator(GaussNewtonOperator, squared, seed, work)
        norm, result, errors = frobenius_norm(operator, self, seed=seed)
        details |= {"probes": result.products}
        return norm, errors, result.converged, with_checks(operator, details)


def with_squared_error(subject: Subject) -> Subject:
    """The same network and points fitted to zero by ½ squared error: its Gauss-Newton matrix is JᵀJ/N."""
    outputs = subject.few_outputs

    def zeros(inputs: Tensor) -> Tensor:
        return outputs.new_zeros((len(inputs), *outputs.shape[1:]))

    splits = subject.splits and dataclasses.replace(
        subject.splits,
        train_targets=zeros(subject.splits.train_inputs),
        test_targets=zeros(subject.splits.test_inputs),
        task="regression",
    )
    squared = dataclasses.replace(
        subject,
        targets=zeros(subject.inputs),
        loss=per_sample_loss("regression"),
        task="regression",
        splits=splits,
    )
    return squared.finding_in(subject.shared.under("squared error"))


def _targets(subject: Subject, targets: Tensor, outputs: int) -> Tensor:
    """y of each sample, (N, C) in float64."""
    if subject.task == "classification":
        return F.one_hot(targets, outputs).double() - 1 / outputs
    return targets.double().reshape(len(targets), -1)
