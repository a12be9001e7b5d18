"""The gradient's length in the inverse Fisher metric, a control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpbench.curvature.gauss_newton import gauss_newton_rows, output_curvature
from sharpbench.curvature.parameters import named_subset
from sharpbench.errors import MetricFailed
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import Count, torch_dtype
from sharpbench.metrics.curvature import CurvatureMetric
from sharpbench.metrics.gauss_newton import few_rows
from sharpbench.metrics.sampling import untold_points
from sharpbench.subject import Subject
from sharpbench.truth import Known, Truth

__all__ = ["FisherDecrement"]

_RANK = 1e-10
"""Of a Gram matrix of unit rows: a smaller share of its largest eigenvalue is none."""

_ZERO = (1e-13, 1e-10)
"""Between these shares of the largest eigenvalue a direction may or may not be one of no curvature."""


@metrics.register
@dataclass(frozen=True)
class FisherDecrement(CurvatureMetric):
    """The gradient's square in the inverse Fisher metric, gᵀF⁺g: a control, which is confidence alone.

    F = (1/N) Σ JᵢᵀΛᵢJᵢ, the Fisher matrix for cross-entropy, and g the gradient of the mean loss. Where the
    parameters can move all outputs of all samples freely, as in most networks with more parameters than
    samples × outputs, it is (1/N) Σ sᵢᵀΛᵢ⁺sᵢ with the slope sᵢ of the loss in the outputs: for cross-entropy
    the mean of 1/p_y − 1, whatever the weights are. It is invariant under every reparameterization, and tells
    nothing of the parameter space: what predicts no better than it predicts by confidence.

    Exact, from the weighted Jacobian; ``error_bound`` where an eigenvalue of F may or may not be zero. Of
    more samples × outputs than fit a small Gram matrix there is no answer. The part of the samples that is
    drawn is easier to move freely than all, by an untold amount: the component ``points``.

    Parameters: as those of ``gauss_newton_trace``.
    """

    name = "fisher_decrement"
    title = "gradient in the inverse Fisher metric, gᵀF⁺g"
    unit = "[loss]"
    reference = "control; of the kind of Jang et al. 2022 (information-geometric sharpness)"
    invariant_under = frozenset({"permutation", "linear_gauge", "chart", "units", "logit_shift"})
    gauss_newton = True

    samples: Count = 16

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        free = ["it is confidence alone: the parameters can move all outputs freely"]
        return [*super().notes(details), *(free if details.get("confidence_alone") else [])]

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        return None  # a spectrum alone does not tell it

    def of_spectrum(self, eigenvalues: Tensor) -> float:
        raise NotImplementedError("a spectrum alone does not tell it")

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        work = Work()
        inputs, targets = self._data(subject, seed)
        model = subject.working_model(torch_dtype(self.dtype))
        parameters = named_subset(model, self.parameters_of)
        if not few_rows(model, inputs, parameters, work):
            raise MetricFailed(
                "too many samples × outputs for a Gram matrix: ask for fewer samples"
            )
        assert subject.loss is not None
        facts = self._facts(subject, seed)
        rows = gauss_newton_rows(
            model, subject.loss, inputs, targets, parameters, work=work, shared=facts
        )
        with torch.no_grad():
            outputs = model(inputs)
        work.forward += len(inputs)
        weights, kept = self._weights(subject, outputs, targets)
        rows, weights, kept = rows.cpu() * kept.unsqueeze(1), weights * kept, kept.bool()
        lengths = rows.norm(dim=1)
        seen = lengths > 0
        unit = rows[seen] / lengths[seen].unsqueeze(1)
        spread = torch.linalg.eigvalsh(unit @ unit.T) if len(unit) else torch.zeros(1)
        free = float(spread[0]) > _RANK * float(spread[-1])
        if free or not len(unit):
            low = high = float(weights[seen].square().sum())
        else:
            values, vectors = torch.linalg.eigh(rows @ rows.T)
            shares = (vectors.T @ weights).square()
            low, high = (float(shares[values > z * values[-1]].sum()) for z in _ZERO)
        value, bound = low / len(inputs), abs(low - high) / len(inputs)
        details = {"gram_rows": len(rows), "confidence_alone": free and bool(seen[kept].all())}
        return Measurement(
            value=value,
            errors=untold_points(len(inputs), self._population(subject)),
            error_bound=bound or None,
            samples=len(inputs),
            work=work,
            details=details,
        )

    def _weights(self, subject: Subject, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """c of g = (1/N) Σ c·row over the rows √Λ·J, (N·C,), and 1 for each row in which Λ is not zero."""
        assert subject.loss is not None
        values, vectors = output_curvature(subject.loss, outputs, targets)
        free = outputs.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(subject.loss(free, targets).sum(), free)
        along = (vectors.mT @ slopes.unsqueeze(2)).squeeze(2)
        kept = values > 1e-14 * values.amax(1, keepdim=True).clamp_min(1e-300)
        lost = (along * ~kept).norm(dim=1)
        if bool((lost > 1e-6 * along.norm(dim=1)).any()):
            raise MetricFailed(
                "the loss has a slope in the outputs where it has no curvature (or a sample is wrong beyond "
                "doubt): its gradient has no length in the inverse Fisher metric"
            )
        weights = torch.where(kept, along / values.clamp_min(1e-300).sqrt(), 0.0)
        return weights.double().cpu().reshape(-1), kept.double().cpu().reshape(-1)
