"""Function-space controls: what the outputs alone say, without any derivative."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from sharpbench.change import SAME_FUNCTION, Change
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
from sharpbench.metrics.mean_over_points import mean_over_points, mean_over_tokens
from sharpbench.outputs import confidence, margin, output_norm
from sharpbench.subject import Subject, batched_outputs

__all__ = ["InverseMargin", "LogitNorm", "Margin", "MeanConfidence"]


@dataclass(frozen=True)
class _OutputMetric(Metric):
    version = 4
    space = "function"
    # The outputs at a point stay, whatever the unit or the axes its input is given in.
    invariant_under = SAME_FUNCTION | {"units", "logit_shift"}

    samples: Count = "all"
    split: Literal["train", "test"] = "test"
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)

    scales_with_logits: ClassVar[bool] = True
    """Whether dividing the logits by T divides the figure by T."""

    def expected_after(self, change: Change, before: float) -> float | None:
        if change.temperature == 1 or not self.scales_with_logits:
            return None
        return before / change.temperature

    @abstractmethod
    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The figure of each point (N,) from outputs (N, C)."""

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model = subject.working_model(dtype)
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        outputs, work = batched_outputs(model, inputs), Work(forward=len(inputs))
        population, ignored = len(subject.data(self.split)[0]), subject.tokens
        if ignored is None:
            return mean_over_points(self.of_outputs(outputs, targets), population, work)
        kept = targets != ignored
        # One line a token: (N·K, C).
        lines = outputs.movedim(1, -1).flatten(0, 1)
        values = self.of_outputs(lines, targets.masked_fill(~kept, 0).flatten())
        return mean_over_tokens(values.view(targets.shape), kept, population, work)

    def unsupported(self, subject: Subject) -> str | None:
        return subject.without_classes() if subject.of_model_and_batch else None


@dataclass(frozen=True)
class _ClassMetric(_OutputMetric):
    def unsupported(self, subject: Subject) -> str | None:
        reason = subject.without_classes(of_tokens=True)
        return None if reason is None else f"needs classes; {reason}"


@metrics.register
@dataclass(frozen=True)
class LogitNorm(_OutputMetric):
    """Mean ℓ₂ norm of the outputs, E‖z‖₂: the scale that moves λ of the loss.

    Parameters: ``samples`` points drawn from ``split``.
    """

    name = "logit_norm"
    reference = "Wei et al., arXiv:2205.09310 (the norm of the logits)"
    title = "logit norm"
    unit = "[output]"
    invariant_under = SAME_FUNCTION | {"units"}

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return output_norm(outputs)


@metrics.register
@dataclass(frozen=True)
class Margin(_ClassMetric):
    """Mean margin of the logits, E[z_y − max of the others]; negative for a wrong prediction.

    Parameters: ``samples`` points drawn from ``split``.
    """

    name = "margin"
    reference = "Bartlett, Foster & Telgarsky, arXiv:1706.08498"
    title = "logit margin"
    unit = "[output]"

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return margin(outputs, targets)


_SURE = 2.5
"""Standard errors by which a margin is above 0 if the error of 1/γ² is to be told: of samples that happen to
have a margin at all it is too large."""


@metrics.register
@dataclass(frozen=True)
class InverseMargin(Metric):
    """1/γ² with the margin γ that all but ``percentile`` % of the samples exceed.

    γ is that percentile (the 10th in the sources) of the margins z_y − max of the others, interpolated
    between neighbours in rank. It fails with the reason where γ is not positive: so many samples are wrong
    that no margin separates them.

    Exact where all samples of ``split`` are taken; else with the error ``points``, from the ranks between
    which the percentile of all of them lies.
    """

    name = "inverse_margin"
    version = 2
    reference = "Jiang et al., arXiv:1912.02178, appendix C.2 (γ as the 10th percentile)"
    title = "inverse margin 1/γ²"
    unit = "1/[output]²"
    space = "function"
    invariant_under = SAME_FUNCTION | {"units", "logit_shift"}

    percentile: float = 10.0
    samples: Count = "all"
    split: Literal["train", "test"] = "train"
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)
        if not 0 <= self.percentile < 100:
            raise ValueError(f"percentile must lie in [0, 100), got {self.percentile}")

    def expected_after(self, change: Change, before: float) -> float | None:
        return None if change.temperature == 1 else before * change.temperature**2

    def unsupported(self, subject: Subject) -> str | None:
        reason = subject.without_classes()
        return None if reason is None else f"needs classes; {reason}"

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model = subject.working_model(dtype)
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        margins = margin(batched_outputs(model, inputs), targets).double()
        share, n = self.percentile / 100, len(margins)
        gamma = float(margins.quantile(share))
        if not gamma > 0:
            raise MetricFailed(
                f"the {self.percentile:g}th percentile of the margins is {gamma:.3g}: so many samples are "
                "wrong that no margin separates them"
            )
        population = len(subject.data(self.split)[0])
        errors: tuple[ErrorComponent, ...] = ()
        if n < population:
            rank = math.sqrt(share * (1 - share) / n * (1 - n / population))
            low, high = (
                float(margins.quantile(min(max(share + sign * rank, 0.0), 1.0))) for sign in (-1, 1)
            )
            # 1/γ² is skewed: the longer of the two sides serves for both. Where the margin itself can't be
            # told from none, 1/γ² has no bound.
            value, least = gamma**-2, float(margins.quantile(max(share - _SURE * rank, 0.0)))
            told = least > 0 and rank > 0
            size = max(low**-2 - value, value - high**-2) if told else None
            errors = (ErrorComponent("points", size, max(n * share - 1, 1.0)),)
        return Measurement(
            gamma**-2, errors=errors, samples=n, work=Work(forward=n), details={"margin": gamma}
        )


@metrics.register
@dataclass(frozen=True)
class MeanConfidence(_ClassMetric):
    """Mean largest predicted probability.

    Parameters: ``samples`` points drawn from ``split``.
    """

    name = "mean_confidence"
    reference = "Guo et al., arXiv:1706.04599"
    title = "mean confidence"
    unit = ""
    scales_with_logits = False

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return confidence(outputs)
