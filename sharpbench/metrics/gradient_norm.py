"""The length of the training loss's gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sharpbench.curvature.parameters import named_subset
from sharpbench.loss import per_sample_loss
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import (
    Count,
    Dtype,
    Metric,
    check_count,
    measured_points,
    place_of_points,
    torch_dtype,
)
from sharpbench.metrics.sampling import untold_points
from sharpbench.metrics.surface import whole_gradient
from sharpbench.subject import Subject, batched_outputs
from sharpbench.truth import Known, KnownTangentKernel, Truth

__all__ = ["GradientNorm"]


@metrics.register
@dataclass(frozen=True)
class GradientNorm(Metric):
    """Length of the training loss's gradient in the parameters, ‖∇_w L‖₂.

    It is the residuals' norm in the tangent kernel, √(rᵀΘr)/N with rᵢ = ∇_f ℓᵢ of all samples: the rate at
    which gradient flow lowers the loss is its square. Exact where all samples are taken; noise makes the
    gradient of a part of them longer, by an untold amount: the component ``points``.

    Parameters: ``samples`` of ``split`` drawn without replacement; ``parameters_of``: names or shell patterns
    of the parameters meant, all if empty.
    """

    name = "gradient_norm"
    title = "gradient norm"
    unit = "[loss]/[weight]"
    space = "parameter"
    reference = (
        "Welper, arXiv:2309.04860 (residuals in the kernel's norm); Zhao et al., arXiv:2202.03599"
    )
    invariant_under = frozenset({"isometry"})

    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    parameters_of: tuple[str, ...] = ()
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        """Of a known kernel, where the residuals are those of ½ squared error."""
        if not isinstance(truth, KnownTangentKernel) or self.parameters_of:
            return None
        if subject.loss is not per_sample_loss("regression"):
            return None
        outputs = batched_outputs(subject.model.double(), subject.inputs.double())
        residuals = (outputs - subject.targets.double()).reshape(-1)
        square = float(residuals @ truth.kernel(subject) @ residuals)
        return Known(expected=math.sqrt(square) / len(subject.inputs))

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype, work = torch_dtype(self.dtype), Work()
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        model = subject.working_model(dtype)
        parameters = named_subset(model, self.parameters_of)
        place = place_of_points(subject, self.split, self.samples, dtype, seed=seed)
        facts = subject.shared.under(*place, tuple(self.parameters_of))
        total = whole_gradient(subject, model, inputs, targets, parameters, work, facts)
        return Measurement(
            value=float(total.norm()) / len(inputs),
            errors=untold_points(len(inputs), len(subject.data(self.split)[0])),
            samples=len(inputs),
            work=work,
        )
