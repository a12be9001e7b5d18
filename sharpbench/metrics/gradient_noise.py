"""How much the gradients of single samples differ at the point that training reached."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sharpbench.curvature.gauss_newton import gradient_lengths
from sharpbench.curvature.parameters import named_subset
from sharpbench.errors import MetricFailed, TimeLimitExceeded, in_words
from sharpbench.formulas.context import repeatedly_differentiable
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
from sharpbench.metrics.mean_over_points import jackknife
from sharpbench.metrics.sampling import random_groups
from sharpbench.metrics.surface import summed_gradient, whole_gradient
from sharpbench.network import TOGETHER
from sharpbench.running import as_written
from sharpbench.seeds import derive_seed
from sharpbench.shared import Shared
from sharpbench.subject import Subject

__all__ = ["GradientNoise"]

_SURE = 2.5
"""Standard errors by which a noise scale is above 0 if its error is to be told."""


@metrics.register
@dataclass(frozen=True)
class GradientNoise(Metric):
    """Gradient noise: the trace of the covariance of the samples' loss gradients, tr Σ.

    tr Σ = (1/N) Σᵢ ‖gᵢ − g‖² with gᵢ = ∇ℓᵢ and their mean g, summed over the parameters: the gradient of a
    batch of B samples has about the variance tr Σ/B. ``quantity`` ``noise_scale``: tr Σ/‖g‖², the number of
    samples at which noise and gradient of a batch are of one size (the simple noise scale of
    arXiv:1812.06162); it fails with a reason where the gradient can't be told from its noise.

    Exact where all samples are taken: one backward pass gives the length of every sample's gradient, layer
    by layer. What that assumes is verified on the network at hand (``checks`` in the details); where it does
    not hold, and ``why`` says what, each sample has a backward pass of its own.

    Error: ``points`` where some of the samples are drawn, by a jackknife over at most 32 groups of them.
    What n samples tell of all N is corrected for: tr Σ by n/(n − 1), and ‖g‖², which noise makes longer.
    The error of a noise scale of few samples, no larger than 2.5 of it, is of untold size.

    Parameters: ``samples`` of ``split`` drawn without replacement; ``parameters_of``: names or shell patterns
    of the parameters meant, all if empty.
    """

    name = "gradient_noise"
    version = 2
    title = "gradient noise tr Σ"
    unit = "[loss]²/[weight]²"
    space = "parameter"
    reference = "Jiang et al., arXiv:1912.02178, appendix C.6; McCandlish et al., arXiv:1812.06162"
    invariant_under = frozenset({"isometry"})

    quantity: Literal["trace", "noise_scale"] = "trace"
    split: Literal["train", "test"] = "train"
    samples: Count = "all"
    parameters_of: tuple[str, ...] = ()
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)

    def unit_on(self, subject: Subject) -> str:
        return "" if self.quantity == "noise_scale" else super().unit_on(subject)

    def notes(self, details: Mapping[str, Any]) -> list[str]:
        relative = "divided by the squared length of the gradient"
        own = [relative] if self.quantity == "noise_scale" else []
        return [*super().notes(details), *own]

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        population = len(subject.data(self.split)[0])
        if len(inputs) < 2 and population > 1:
            raise MetricFailed("one sample has no variance: ask for more samples")
        if subject.coupled:
            raise MetricFailed(f"{TOGETHER}, so that no sample has a gradient of its own")
        model, work = subject.working_model(dtype), Work()
        parameters = named_subset(model, self.parameters_of)
        place = place_of_points(subject, self.split, self.samples, dtype, seed=seed)
        facts = subject.shared.under(*place, tuple(self.parameters_of))
        squares, details = self._squares(subject, model, inputs, targets, parameters, work, facts)
        groups, sums = list[Tensor](), list[Tensor]()
        if len(inputs) == population:
            total = whole_gradient(subject, model, inputs, targets, parameters, work, facts)
        else:
            groups = random_groups(len(inputs), seed=derive_seed(seed, "gradients"))
            with repeatedly_differentiable(), as_written():
                sums = [
                    summed_gradient(subject, model, inputs[g], targets[g], parameters, work)
                    for g in (g.to(inputs.device) for g in groups)
                ]
            total = torch.stack(sums).sum(0)
        value = self._of(squares.sum(), total, len(inputs), population)
        if value is None:
            raise MetricFailed("the gradient can't be told from its noise: it has no noise scale")
        return Measurement(
            value=value,
            errors=self._errors(squares, sums, groups, population),
            samples=len(inputs),
            work=work,
            details=details,
        )

    def _squares(
        self,
        subject: Subject,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        parameters: Sequence[nn.Parameter],
        work: Work,
        facts: Shared,
    ) -> tuple[Tensor, dict[str, Any]]:
        """‖gᵢ‖² (n,) and how they were found."""
        loss = subject.loss
        assert loss is not None
        try:
            found = gradient_lengths(
                model, loss, inputs, targets, work=work, only=parameters, shared=facts
            )
            return found.terms, {"checks": found.checks}
        except TimeLimitExceeded:
            raise
        except Exception as reason:
            why = in_words(reason)
        squares = []
        with repeatedly_differentiable(), as_written():
            for few in torch.arange(len(inputs)).tensor_split(max(len(inputs) // 2, 1)):
                x, y = inputs[few.to(inputs.device)], targets[few.to(targets.device)]
                for i in range(len(x)):
                    gradient = summed_gradient(subject, model, x, y, parameters, work, only=i)
                    squares.append(gradient.square().sum())
        return torch.stack(squares), {"why": why}

    def _of(self, squares: Tensor, total: Tensor, n: int, population: int) -> float | None:
        """The figure from Σ‖gᵢ‖² and Σgᵢ of n samples; None where there is none."""
        mean = float((total / n).square().sum())
        spread = max(float(squares) / n - mean, 0.0)
        if n < population:
            spread *= n / (n - 1) * (population - 1) / population
        if self.quantity == "trace":
            return spread
        if n < population:  # E‖mean of n‖² = ‖g‖² + tr Σ/(N − 1)·(N/n − 1)
            mean -= spread * (population / n - 1) / (population - 1)
        return spread / mean if mean > 1e-20 * spread else None

    def _errors(
        self, squares: Tensor, sums: list[Tensor], groups: list[Tensor], population: int
    ) -> tuple[ErrorComponent, ...]:
        n = len(squares)
        if n >= population:
            return ()
        total, without = torch.stack(sums).sum(0), []
        for group, share in zip(groups, sums, strict=True):
            kept = n - len(group)
            rest = squares.sum() - squares[group.to(squares.device)].sum()
            found = self._of(rest, total - share, kept, population) if kept > 1 else None
            without.append(math.nan if found is None else found)
        values = torch.tensor(without, dtype=torch.float64)
        error = jackknife(values, source="points", left=1 - n / population)
        if self.quantity == "noise_scale" and not self._tells(error, squares, total, population):
            error = dataclasses.replace(error, size=None)
        return (error,)

    def _tells(
        self, error: ErrorComponent, squares: Tensor, total: Tensor, population: int
    ) -> bool:
        """Whether ‖g‖² is above 0 by enough for the scale's error to be told: samples that happen to show a
        gradient at all show it too long."""
        value = self._of(squares.sum(), total, len(squares), population)
        return value is not None and error.size is not None and error.size * _SURE < value
