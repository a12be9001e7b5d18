"""Function-space controls: what the outputs alone say, without any derivative."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
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
from sharpbench.metrics.mean_over_points import (
    mean_over_decisions,
    mean_over_points,
    residuals_of_samples,
)
from sharpbench.network import TOGETHER
from sharpbench.outputs import (
    Decisions,
    confidence,
    decided,
    margin,
    output_norm,
    samples_at_once,
)
from sharpbench.subject import Subject

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

    def decisions(self, subject: Subject) -> Decisions:
        """What the figure is a mean over."""
        found = subject.decisions
        assert not isinstance(found, str)  # `unsupported`
        return found

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        values, owner, samples = _of_decisions(
            self, subject, self.decisions(subject), self.of_outputs, seed=seed
        )
        population, work = len(subject.data(self.split)[0]), Work(forward=samples)
        if owner is None:
            return mean_over_points(values, population, work)
        return mean_over_decisions(values, owner, samples, population, work)


@dataclass(frozen=True)
class _ClassMetric(_OutputMetric):
    def unsupported(self, subject: Subject) -> str | None:
        return _no_decisions(subject)


def _no_decisions(subject: Subject) -> str | None:
    found = subject.decisions
    return f"needs classes; {found}" if isinstance(found, str) else None


def _of_decisions(
    metric: _OutputMetric | InverseMargin,
    subject: Subject,
    decisions: Decisions,
    figure: Callable[[Tensor, Tensor], Tensor],
    *,
    seed: int,
) -> tuple[Tensor, Tensor | None, int]:
    """``figure(logits, classes)`` of every decision (M,), the samples that they belong to, and how many of
    these are measured."""
    dtype = torch_dtype(metric.dtype)
    model = subject.working_model(dtype)
    inputs, targets = measured_points(subject, metric.split, metric.samples, dtype, seed=seed)
    if subject.coupled:
        most = samples_at_once(targets, decisions, subject.outputs)
        if len(inputs) > most or len(inputs) < len(subject.data(metric.split)[0]):
            raise MetricFailed(
                f"{TOGETHER}, so that outputs are those of all samples in one batch: measure them with "
                f"samples='all', and no more than {most:,}"
            )
    values, owners = [], []
    for logits, classes, owner in decided(
        model, inputs, targets, decisions, classes=subject.outputs
    ):
        values.append(figure(logits, classes))
        owners += [] if owner is None else [owner]
    return torch.cat(values), torch.cat(owners) if owners else None, len(inputs)


@metrics.register
@dataclass(frozen=True)
class LogitNorm(_OutputMetric):
    """Mean ℓ₂ norm of the outputs, E‖z‖₂: the scale that moves λ of the loss. Of networks with a class a
    token (or pixel) it is the mean over the tokens that count.

    Parameters: ``samples`` points drawn from ``split``.
    """

    name = "logit_norm"
    reference = "Wei et al., arXiv:2205.09310 (the norm of the logits)"
    title = "logit norm"
    unit = "[output]"
    invariant_under = SAME_FUNCTION | {"units"}

    def decisions(self, subject: Subject) -> Decisions:
        # Labels are outputs of one sample, as those of a regression are.
        return Decisions("token", subject.tokens) if subject.tokens is not None else Decisions()

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return output_norm(outputs)

    def unsupported(self, subject: Subject) -> str | None:
        return subject.without_classes() if subject.of_model_and_batch else None


@metrics.register
@dataclass(frozen=True)
class Margin(_ClassMetric):
    """Mean margin of the logits, E[z_y − max of the others]; negative for a wrong prediction.

    Of networks with a class a token (or pixel) the mean over the tokens that count, with an error over the
    samples that they belong to; of labels that are yes or no, of the logits (0, z) of each.

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
    that no margin separates them. Where the network decides on each token (pixel) or each label, it is the
    percentile of theirs.

    Exact where all samples of ``split`` are taken; else with the error ``points``, from the ranks between
    which the percentile of all of them lies (Woodruff, J. Am. Stat. Assoc. 47, 1952), those of one sample's
    tokens taken together.
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
        return _no_decisions(subject)

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        decisions = subject.decisions
        assert not isinstance(decisions, str)  # `unsupported`
        margins, owner, n = _of_decisions(self, subject, decisions, margin, seed=seed)
        margins, share = margins.double(), self.percentile / 100
        if not len(margins):
            raise MetricFailed("every target of the samples drawn is one that the loss ignores")
        gamma = float(_quantile(margins, share))
        if not gamma > 0:
            raise MetricFailed(
                f"the {self.percentile:g}th percentile of the margins is {gamma:.3g}: so many samples are "
                "wrong that no margin separates them"
            )
        population = len(subject.data(self.split)[0])
        errors: tuple[ErrorComponent, ...] = ()
        if n < population:
            variance = share * (1 - share) / n
            if owner is not None:
                _, apart = residuals_of_samples((margins <= gamma).double(), owner, n)
                variance = float(apart.var()) / n if n > 1 else math.nan
            rank = math.sqrt(variance * (1 - n / population))
            low, high = (
                float(_quantile(margins, min(max(share + sign * rank, 0.0), 1.0)))
                for sign in (-1, 1)
            )
            # 1/γ² is skewed: the longer of the two sides serves for both. Where the margin itself can't be
            # told from none, 1/γ² has no bound.
            value, least = gamma**-2, float(_quantile(margins, max(share - _SURE * rank, 0.0)))
            told = least > 0 and rank > 0
            size = max(low**-2 - value, value - high**-2) if told else None
            errors = (ErrorComponent("points", size, max(n * share - 1, 1.0)),)
        return Measurement(
            gamma**-2, errors=errors, samples=n, work=Work(forward=n), details={"margin": gamma}
        )


def _quantile(values: Tensor, share: float) -> Tensor:
    """torch's, of more than 2²⁴ values, too; NaN of a share that is not known."""
    ranked = values.sort().values
    if math.isnan(share) or ranked[-1].isnan():
        return values.new_tensor(math.nan)
    place = share * (len(values) - 1)
    low = ranked[math.floor(place)]
    found: Tensor = torch.lerp(low, ranked[math.ceil(place)], place - math.floor(place))
    return found


@metrics.register
@dataclass(frozen=True)
class MeanConfidence(_ClassMetric):
    """Mean largest predicted probability: of each sample, or where the network decides on each token (pixel)
    or on each label, yes or no, of each of these.

    Parameters: ``samples`` points drawn from ``split``.
    """

    name = "mean_confidence"
    reference = "Guo et al., arXiv:1706.04599"
    title = "mean confidence"
    unit = ""
    scales_with_logits = False

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return confidence(outputs)
