"""Function-space controls: what the outputs alone say, without any derivative."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

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
from sharpbench.metrics.mean_over_points import mean_over_points
from sharpbench.subject import Subject, batched_outputs

__all__ = ["LogitNorm", "Margin", "MeanConfidence"]


@dataclass(frozen=True)
class _OutputMetric(Metric):
    space = "function"
    invariant_under = frozenset({"neuron_rescaling", "neuron_permutation"})

    samples: Count = "all"
    split: Literal["train", "test"] = "test"
    dtype: Dtype = "float64"

    def __post_init__(self) -> None:
        check_count("samples", self.samples)

    @abstractmethod
    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The figure of each point (N,) from outputs (N, C)."""

    def measure(self, subject: Subject, *, seed: int) -> Measurement:
        dtype = torch_dtype(self.dtype)
        model = subject.working_model(dtype)
        inputs, targets = measured_points(subject, self.split, self.samples, dtype, seed=seed)
        outputs = batched_outputs(model, inputs)
        return mean_over_points(self.of_outputs(outputs, targets), Work(forward=len(inputs)))


@dataclass(frozen=True)
class _ClassMetric(_OutputMetric):
    def unsupported(self, subject: Subject) -> str | None:
        return None if subject.task == "classification" else "needs classes; this is a regression"


@metrics.register
@dataclass(frozen=True)
class LogitNorm(_OutputMetric):
    """Mean ℓ₂ norm of the outputs, E‖z‖₂: the scale that moves λ of the loss.

    Parameters: ``samples`` points drawn from ``split``.
    """

    name = "logit_norm"
    title = "logit norm"

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        norms: Tensor = outputs.flatten(1).norm(dim=1)
        return norms


@metrics.register
@dataclass(frozen=True)
class Margin(_ClassMetric):
    """Mean margin of the logits, E[z_y − max of the others]; negative for a wrong prediction.

    Parameters: ``samples`` points drawn from ``split``.
    """

    name = "margin"
    title = "logit margin"

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        own: Tensor = outputs.gather(1, targets.unsqueeze(1)).squeeze(1)
        others = outputs.masked_fill(F.one_hot(targets, outputs.shape[1]).bool(), -math.inf)
        return own - others.max(1).values


@metrics.register
@dataclass(frozen=True)
class MeanConfidence(_ClassMetric):
    """Mean largest predicted probability.

    Parameters: ``samples`` points drawn from ``split``.
    """

    name = "mean_confidence"
    title = "mean confidence"

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.softmax(1).max(1).values
