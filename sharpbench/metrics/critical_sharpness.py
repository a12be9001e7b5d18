"""Critical sharpness: how far a step down may go before the loss rises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy.optimize import brentq
from torch import Tensor

from sharpbench.change import Change
from sharpbench.curvature.trace import degrees_of_freedom
from sharpbench.errors import MetricFailed
from sharpbench.measurement import ErrorComponent, Measurement, Work
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
from sharpbench.metrics.surface import (
    Pieces,
    Surface,
    complex_parameters,
    length_of,
    moved_alone,
    whole_gradient,
)
from sharpbench.shared import Shared
from sharpbench.subject import Subject, batched_outputs

__all__ = ["CriticalSharpness"]

_START = 0.01
"""The first step's length, as a part of the weights'."""

_DOUBLINGS = 60

_BATCH = 256

_ROUNDINGS = 4
"""By how many units in the last place of loss and outputs it must fall somewhere on the way."""

_FIRST_ORDER = 0.15
"""Of the value: a larger error is not told."""


@metrics.register
@dataclass(frozen=True)
class CriticalSharpness(Metric):
    """Critical sharpness λ_c = 2/η_c, with the step η_c along −D from which on the loss is higher than here.

    L(w − ηD) > L(w) beyond η_c. ``direction`` D: the ``gradient`` g of the loss, or its ``sign``, that of a
    step of sign descent (there λ_c is in the inverse unit of a weight). ``gradient_of``: of which split's
    loss, all of its samples, the gradient is taken, where not of the samples measured: the relative form, how
    sharp one loss is along the way down another. On a quadratic loss λ_c = gᵀHg/gᵀg (with the sign
    DᵀHD/gᵀD), at most the largest eigenvalue; it takes one gradient (of another split one more, by which the
    measured loss falls along D) and forward passes else, no second derivative.

    η is doubled, from 1% of the weights' length, or halved until the loss is higher at one of two steps,
    and Brent's method finds the place; where the loss rises and falls more than once it is one of its
    crossings. It fails with a reason where the loss falls along D nowhere, by no more than it is rounded, or
    without end.

    Errors: ``error_bound`` of the search, which ends within ``resolution`` of η_c; ``points`` where some of
    the samples are drawn, from each sample's own rise at η_c. It is told where D is another split's and the
    error is at most 15% of λ_c, since it is known to first order: near a minimum the gradient of a part of
    the samples is mostly its own noise, and λ_c along it may be many times that of all.

    Parameters: ``samples`` of ``split`` drawn without replacement; ``parameters_of``: names or shell patterns
    of the parameters that are moved, all if empty.
    """

    name = "critical_sharpness"
    space = "parameter"
    title = "critical sharpness 2/η_c"
    unit = "[loss]/[weight]²"
    reference = "Kalra et al., arXiv:2601.16979"
    takes_each_loss = True
    invariant_under = frozenset({"isometry"})

    direction: Literal["gradient", "sign"] = "gradient"
    gradient_of: Literal["measured", "train", "test"] = "measured"
    resolution: float = 1e-3
    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    parameters_of: tuple[str, ...] = ()
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        if not 1e-9 <= self.resolution < 1:
            raise ValueError(f"resolution must lie in [1e-9, 1), got {self.resolution}")

    def stays_under(self, change: Change) -> bool:
        kept = change.properties
        if self.direction == "sign":  # signs are those on the parameters' own axes
            return "isometry" in kept and not kept.isdisjoint({"diagonal", "logit_shift"})
        return super().stays_under(change)

    def unit_on(self, subject: Subject) -> str:
        return "1/[weight]" if self.direction == "sign" else super().unit_on(subject)

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        whose = "" if self.gradient_of == "measured" else f" of the {self.gradient_of} loss"
        return [*super().notes(details), f"along the {self.direction}{whose}"]

    def unsupported(self, subject: Subject) -> str | None:
        return complex_parameters(subject)

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype, work = torch_dtype(self.dtype), Work()
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        line = _Line(subject.on(self.split), inputs, targets, dtype, self.parameters_of, work)
        alone = ("the others fixed",) if self.parameters_of else ()

        def slope(split: str, samples: Count, x: Tensor, y: Tensor) -> Tensor:
            place = place_of_points(subject, split, samples, dtype, seed=seed)
            there = subject.on(split)
            facts = there.shared.under(*place, tuple(self.parameters_of), *alone)
            return line.gradient(there, x, y, facts)

        relative = self.gradient_of != "measured"
        gradient = (
            slope(
                self.gradient_of,
                "all",
                *measured_points(subject, self.gradient_of, "all", dtype, seed=seed),
            )
            if relative
            else slope(self.split, self.samples, inputs, targets)
        )
        line.down = gradient.sign() if self.direction == "sign" else gradient
        length = float(line.down.norm())
        if not 0 < length < math.inf:
            raise MetricFailed(
                f"the gradient's length is {float(gradient.norm())}: no way leads down"
            )
        if relative:
            own = slope(self.split, self.samples, inputs, targets)
            if not float(own @ line.down) > 0:
                raise MetricFailed(
                    f"the loss measured rises along the way down the {self.gradient_of} loss"
                )
        low, high = line.bracket(math.log(_START * line.size / length))
        log = brentq(line.rise, low, high, xtol=self.resolution)
        value = 2 * math.exp(-log)
        return Measurement(
            value=value,
            errors=self._errors(subject, line, log),
            error_bound=value * math.expm1(self.resolution),
            samples=len(inputs),
            work=work,
            details={"step": math.exp(log), "tried": line.tried},
        )

    def _errors(self, subject: Subject, line: _Line, log: float) -> tuple[ErrorComponent, ...]:
        n = len(line.inputs)
        left = 1 - n / len(subject.data(self.split)[0])
        if left <= 0:
            return ()
        if self.gradient_of == "measured":
            return (ErrorComponent("points", None),)
        each, slope = line.rises(log), line.slope(log)
        if not slope > 0 or n < 2 or not bool(each.isfinite().all()):
            return (ErrorComponent("points", None),)
        spread = float(each.std()) * math.sqrt(left / n)
        if not spread < _FIRST_ORDER * slope:
            return (ErrorComponent("points", None),)
        size = 2 * math.exp(-log) * spread / slope
        return (ErrorComponent("points", size, degrees_of_freedom(each)),)


class _Line:
    """The loss along w − ηD as a function of log η; D is ``down``, (P,)."""

    def __init__(
        self,
        subject: Subject,
        inputs: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        patterns: Sequence[str],
        work: Work,
    ) -> None:
        model = subject.working_model(dtype)
        moved_alone(model, patterns)
        self._model, self._work = model, work
        self._batch = len(inputs) if subject.coupled else _BATCH

        def each() -> Tensor:
            outputs = batched_outputs(model, inputs, self._batch)
            self._largest = float(outputs.abs().max())
            return subject.losses(outputs, targets).nan_to_num(math.inf, math.inf)

        self.inputs, self.targets, self.tried = inputs, targets, 0
        self._surface = Surface(model, each, None, len(inputs), work)
        self._parameters = self._surface.parameters
        self._base = self._surface.height(None)
        self._each = self._surface.each.clone()
        unit = torch.finfo(self._each.dtype).eps
        self._rounding = _ROUNDINGS * unit * (abs(self._base) + self._largest)
        self._known: dict[float, float] = {}
        self.size = length_of([p.detach() for p in self._parameters]) or 1.0
        self.down = torch.empty(0)

    def gradient(self, subject: Subject, x: Tensor, y: Tensor, facts: Shared) -> Tensor:
        """Of the mean loss of ``subject`` at x and y, (P,)."""
        of = subject, self._model, x, y, self._parameters, self._work
        return whole_gradient(*of, facts) / len(x)

    def bracket(self, log: float) -> tuple[float, float]:
        """log η and log 2η between which the loss rises above where it starts. Raises MetricFailed."""
        above = self.rise(log) > 0
        for _ in range(_DOUBLINGS):
            following = log + (-1 if above else 1) * math.log(2)
            if (self.rise(following) > 0) != above:
                if min(self._known.values()) > -self._rounding:
                    raise MetricFailed(
                        "the loss falls along the direction by no more than it is rounded"
                    )
                return min(log, following), max(log, following)
            log = following
        if above:
            raise MetricFailed("the loss does not fall along the direction, however short the step")
        raise MetricFailed("the loss does not rise along the direction, however long the step")

    def rise(self, log: float) -> float:
        """By how much the loss is higher after the step; no more than by its size, and 1."""
        if log not in self._known:
            self.tried += 1
            rise = self._height(-math.exp(log) * self.down) - self._base
            self._known[log] = min(rise, abs(self._base) + 1)
        return self._known[log]

    def rises(self, log: float) -> Tensor:
        """Of each sample, in float64."""
        self._height(-math.exp(log) * self.down)
        return (self._surface.each - self._each).double()

    def slope(self, log: float, h: float = 0.01) -> float:
        """d rise/d log η."""
        return (self.rise(log + h) - self.rise(log - h)) / (2 * h)

    def _height(self, move: Tensor) -> float:
        return self._surface.height(self._pieces(move))

    def _pieces(self, vector: Tensor) -> Pieces:
        parts = vector.split([p.numel() for p in self._parameters])
        return [v.view_as(p).to(p) for v, p in zip(parts, self._parameters, strict=True)]
