"""PAC-Bayes flatness: how much noise in the weights the network bears."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    torch_dtype,
)
from sharpbench.metrics.surface import (
    Pieces,
    Surface,
    complex_parameters,
    length_of,
    moved_alone,
)
from sharpbench.registry import added_later
from sharpbench.seeds import derive_seed, torch_generator
from sharpbench.subject import Subject, batched_outputs
from sharpbench.truth import Known, KnownHessian, Truth

__all__ = ["PacBayesFlatness"]

_START = 0.01
"""Of the weights' root mean square: where the search for σ begins."""

_STEPS = 30

_FEW = 16
"""Up to so many values show too little of their law's skewness."""

_STEP = 0.1
"""By how much log σ is moved on either side to see how fast the criterion falls."""


@metrics.register
@dataclass(frozen=True)
class PacBayesFlatness(Metric):
    """PAC-Bayes sharpness 1/σ², with the σ at which Gaussian noise in the weights costs ``drop``.

    E_u[criterion(w + u)] is worse than criterion(w) by ``drop``, where u ~ N(0, σ²) in every trainable
    parameter: ``accuracy`` falls by ``drop`` (0.1 in the sources), or the mean ``loss`` rises by it. The
    variance counts, σ², and not its root: the code that goes with arXiv:2010.11924 draws with σ² as
    standard deviation, so that its "1/σ²" is 1/σ here. ``magnitude_aware``: u ~ N(0, σ²w² + ε²) with
    ``epsilon`` for ε, the sources' 1/σ'².

    The expectation is a mean over ``draws``, in pairs ±u (an odd number is rounded up), and every σ is
    tried with the same ones. From 1% of the weights' size (of 1, where magnitude counts) σ grows or shrinks
    fourfold until the criterion lies on both sides, and Brent's method finds the place; where it is not
    monotone this is one of its crossings. It fails with a reason where no σ reaches ``drop``.

    Errors: ``draws``, from the spread of the pairs over the criterion's slope in log σ; ``points`` where
    some of the samples are drawn, from the samples' own changes. ``error_bound``: that of the search, which
    ends within ``resolution`` of σ.

    Parameters: ``samples`` of ``split`` drawn without replacement; ``parameters_of``: names or shell patterns
    of the parameters that bear the noise, all if empty.
    """

    name = "pac_bayes_flatness"
    title = "PAC-Bayes sharpness 1/σ²"
    unit = "1/[weight]²"
    version = 2
    space = "parameter"
    reference = "Jiang et al., arXiv:1912.02178, appendix C.5; Neyshabur et al., arXiv:1706.08947"
    # Noise of one variance in all directions has no axes.
    invariant_under = frozenset({"isometry"})

    criterion: Literal["accuracy", "loss"] = "accuracy"
    drop: float = 0.1
    magnitude_aware: bool = False
    epsilon: float = 1e-3
    draws: int = 16
    resolution: float = 5e-3
    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    dtype: Dtype = "float64"
    parameters_of: tuple[str, ...] = added_later(())

    def __post_init__(self) -> None:
        if not self.drop > 0 or (self.criterion == "accuracy" and not self.drop < 1):
            raise ValueError(f"drop must be positive, of an accuracy below 1, got {self.drop}")
        if not self.epsilon >= 0 or self.draws < 1:
            raise ValueError("epsilon must be at least 0, draws at least 1")
        if not 1e-9 <= self.resolution < 1:
            raise ValueError(f"resolution must lie in [1e-9, 1), got {self.resolution}")
        check_count("samples", self.samples)

    def stays_under(self, change: Change) -> bool:
        kept = change.properties
        if not self.magnitude_aware:
            return super().stays_under(change)
        if self.epsilon == 0:  # the noise follows what each parameter is multiplied by
            return "diagonal" in kept
        return kept >= {"isometry", "diagonal"}

    def unit_on(self, subject: Subject) -> str:
        return "" if self.magnitude_aware else super().unit_on(subject)

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        noise = "of each weight's size" if self.magnitude_aware else "of one size"
        return [*super().notes(details), f"noise {noise}, judged by the {self.criterion}"]

    def unsupported(self, subject: Subject) -> str | None:
        if self.criterion == "accuracy" and (reason := subject.without_classes()):
            return f'the accuracy needs classes, and {reason}; ask for criterion = "loss"'
        return complex_parameters(subject)

    def known(self, truth: Truth, subject: Subject) -> Known | None:
        """Of a quadratic loss, which rises by ½σ² tr H: 1/σ² = tr H/(2 ``drop``)."""
        if not isinstance(truth, KnownHessian) or not truth.quadratic or self.parameters_of:
            return None
        trace = float(truth.eigenvalues(subject).sum())
        if self.criterion != "loss" or self.magnitude_aware or not trace > 0:
            return None
        return Known(expected=trace / (2 * self.drop))

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        search = _Search(self, subject, seed)
        found = brentq(
            lambda log: search.change(log) - self.drop, *search.bracket(), xtol=self.resolution
        )
        sigma = math.exp(found)
        value = sigma**-2
        pairs, each = search.changes(sigma)
        ahead, behind = (search.change(found + h) for h in (_STEP, -_STEP))
        slope = (ahead - behind) / (2 * _STEP)
        return Measurement(
            value=value,
            errors=self._errors(pairs, each, 2 * value / slope if slope > 0 else None, subject),
            error_bound=value * math.expm1(2 * self.resolution),
            samples=len(each),
            work=search.work,
            details={"sigma": sigma, self.criterion: search.unperturbed, "tried": search.tried},
        )

    def _errors(
        self, pairs: Tensor, each: Tensor, scale: float | None, subject: Subject
    ) -> tuple[ErrorComponent, ...]:
        """``scale``: by how much the value moves with the criterion; None where that is not known."""

        def of_mean(values: Tensor, left: float) -> tuple[float | None, float | None]:
            if scale is None or len(values) < 2 or not bool(values.isfinite().all()):
                return None, None
            size = scale * math.sqrt(left) * float(values.std()) / math.sqrt(len(values))
            return size, degrees_of_freedom(values, few=len(values) <= _FEW)

        found: tuple[ErrorComponent, ...] = (ErrorComponent("draws", *of_mean(pairs, 1.0)),)
        left_out = 1 - len(each) / len(subject.data(self.split)[0])
        if left_out > 0:
            found += (ErrorComponent("points", *of_mean(each, left_out)),)
        return found


class _Search:
    """The criterion under noise as a function of σ, with the same draws for every σ."""

    def __init__(self, metric: PacBayesFlatness, subject: Subject, seed: int) -> None:
        dtype = torch_dtype(metric.dtype)
        inputs, targets = measured_points(subject, metric.split, metric.samples, dtype, seed=seed)
        model = subject.working_model(dtype)
        moved_alone(model, metric.parameters_of)
        self.metric, self.work, self.tried = metric, Work(), 0
        self._known: dict[float, float] = {}
        batch = len(inputs) if subject.coupled else 1024

        def each() -> Tensor:
            outputs = batched_outputs(model, inputs, batch)
            if metric.criterion == "loss":
                return subject.losses(outputs, targets).nan_to_num(math.inf, math.inf)
            wrong = outputs.argmax(1) != targets
            return (wrong | ~outputs.isfinite().flatten(1).all(1)).to(dtype)

        self._surface = Surface(model, each, None, len(inputs), self.work)
        self._weights = [p.detach().clone() for p in self._surface.parameters]
        self._seeds = [
            derive_seed(seed, "perturbations", pair) for pair in range(-(-metric.draws // 2))
        ]
        self._base = self._surface.height(None)
        self._each = self._surface.each.clone()
        self.unperturbed = self._base if metric.criterion == "loss" else 1 - self._base
        if not math.isfinite(self._base):
            raise MetricFailed(f"the loss is {self._base} without any noise")
        if metric.criterion == "accuracy" and self.unperturbed <= metric.drop:
            raise MetricFailed(
                f"the accuracy is {self.unperturbed:.3g} and can't fall by {metric.drop:g}"
            )

    def bracket(self) -> tuple[float, float]:
        """log σ and log 4σ between which the criterion reaches ``drop``. Raises MetricFailed."""
        size = length_of(self._weights) / math.sqrt(sum(w.numel() for w in self._weights))
        log = math.log(_START * (1.0 if self.metric.magnitude_aware or size == 0 else size))
        reached = self.change(log) >= self.metric.drop
        for _ in range(_STEPS):
            following = log + (-1 if reached else 1) * math.log(4)
            if (self.change(following) >= self.metric.drop) != reached:
                return min(log, following), max(log, following)
            log = following
        asked = f"the {self.metric.criterion} changes by {self.metric.drop:g}"
        if reached:
            raise MetricFailed(
                f"{asked} and more under the smallest noise, σ = {math.exp(log):.1e}"
            )
        raise MetricFailed(f"no noise is so strong that {asked}, up to σ = {math.exp(log):.1e}")

    def change(self, log: float) -> float:
        """By how much the criterion is worse in the mean; far above ``drop`` it doesn't matter how much."""
        if log not in self._known:
            found = float(self.changes(math.exp(log))[0].mean())
            self._known[log] = min(found, 10 * self.metric.drop)
        return self._known[log]

    def changes(self, sigma: float) -> tuple[Tensor, Tensor]:
        """By how much the criterion is worse, of each pair and of each sample, in float64."""
        self.tried += 1
        pairs = []
        each = torch.zeros_like(self._each, dtype=torch.float64)
        for seed in self._seeds:
            noise = self._noise(sigma, torch_generator(seed))
            both = 0.0
            for sign in (1.0, -1.0):
                both += 0.5 * (self._surface.height([sign * n for n in noise]) - self._base)
                each += (self._surface.each - self._each).double() / (2 * len(self._seeds))
            pairs.append(both)
        return torch.tensor(pairs, dtype=torch.float64), each

    def _noise(self, sigma: float, generator: torch.Generator) -> Pieces:
        noise = []
        for weight in self._weights:
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight)
            size: Tensor | float = sigma
            if self.metric.magnitude_aware:
                size = (sigma**2 * weight.square() + self.metric.epsilon**2).sqrt()
            noise.append(size * drawn)
        return noise
