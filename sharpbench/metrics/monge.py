"""Sharpness in the Monge metric: SAM's step, shorter where the loss is steep."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from sharpbench.errors import MetricFailed
from sharpbench.measurement import Measurement, Work
from sharpbench.metrics import metrics
from sharpbench.metrics.base import (
    Count,
    Dtype,
    Metric,
    check_count,
    measured_points,
    torch_dtype,
)
from sharpbench.metrics.sam import errors_of_batches
from sharpbench.metrics.surface import (
    Surface,
    complex_parameters,
    facts_of_batches,
    length_of,
    moved_alone,
    random_batches,
)
from sharpbench.registry import added_later
from sharpbench.subject import Subject

__all__ = ["MongeSharpness"]


@metrics.register
@dataclass(frozen=True)
class MongeSharpness(Metric):
    """Monge sharpness: rise of the loss at SAM's ascent point in the metric I + ggᵀ, L(w + δ) − L(w).

    The metric is that of the graph of the loss, in which a step uphill is as long as the way on the surface:
    δ maximises gᵀδ under δᵀ(I + ggᵀ)δ ≤ ρ², δ = ρ g/(‖g‖ √(1 + ‖g‖²)) with the gradient g. Near a minimum it
    is `sam_sharpness`; where the loss is steep the rise stays below about ρ, whatever the scale of the loss.
    I is not transformed with the weights: under a rescaling it moves as SAM's does.

    Taken on batches of ``m`` samples and averaged, with the errors of `sam_sharpness` in the worst case.
    Parameters: ``rho`` the length on the surface; ``samples`` of ``split`` drawn without replacement;
    ``parameters_of``: names or shell patterns of the parameters that are moved, all if empty (g is then the
    gradient in them).
    """

    name = "monge_sharpness"
    title = "Monge sharpness"
    unit = "[loss]"
    space = "parameter"
    reference = "Jacobsen & Arvanitidis, arXiv:2502.08448 (Monge SAM)"
    invariant_under = frozenset({"isometry"})

    rho: float = 0.05
    m: Count = 128
    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    dtype: Dtype = "float64"
    parameters_of: tuple[str, ...] = added_later(())

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ValueError(f"rho must be positive, got {self.rho}")
        check_count("m", self.m)
        check_count("samples", self.samples)

    def unsupported(self, subject: Subject) -> str | None:
        return complex_parameters(subject)

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype, work = torch_dtype(self.dtype), Work()
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        model = subject.working_model(dtype)
        moved_alone(model, self.parameters_of)
        rises, taken = [], 0
        of = subject, self.split, self.samples, self.m, dtype, self.parameters_of
        facts = facts_of_batches(*of, seed=seed).under("logits")
        for i, (x, y) in enumerate(random_batches(inputs, targets, self.m, seed=seed)):
            taken += len(x)
            surface = Surface(model, lambda: subject.losses(model(x), y), None, len(x), work)  # noqa: B023
            base, gradient = surface.slope_here(facts.under(i))
            length = length_of(gradient)
            if not 0 < length < math.inf:
                raise MetricFailed(
                    f"the gradient's norm on a batch is {length}: the ascent direction is not defined"
                )
            step = self.rho / (length * math.hypot(1.0, length))
            rises.append(surface.height([step * g for g in gradient]) - base)
        left_out = max(0.0, 1 - taken / len(subject.data(self.split)[0]))
        return Measurement(
            value=statistics.fmean(rises),
            errors=errors_of_batches(rises, left_out),
            samples=taken,
            work=work,
            details={"batches": len(rises)},
        )
