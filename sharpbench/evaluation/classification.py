"""The figures of a trained classifier that sharpness is compared with, each with its uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from torch import nn

from sharpbench.evaluation.calibration import (
    brier_score,
    calibrated_floor,
    debiased_calibration_error,
    expected_calibration_error,
    reliability,
)
from sharpbench.outputs import confidence, margin, output_norm
from sharpbench.seeds import numpy_generator
from sharpbench.subject import Splits, batched_outputs, per_sample_loss

__all__ = [
    "EVALUATION_VERSION",
    "FIGURES",
    "Figure",
    "Meaning",
    "decision_map",
    "evaluate",
    "mean_figure",
    "reliability_diagram",
    "share_figure",
]

EVALUATION_VERSION = 4


@dataclass(frozen=True)
class Meaning:
    """What a reader calls a figure, and its unit: empty for a pure number such as a fraction.

    "[loss]" stands for nats and "[output]" for a logit, in classification.
    """

    title: str
    unit: str = ""


FIGURES = {
    "train_loss": Meaning("training loss", "[loss]"),
    "train_error": Meaning("training error"),
    "test_loss": Meaning("test loss", "[loss]"),
    "test_error": Meaning("test error"),
    "brier_score": Meaning("Brier score"),
    "mean_confidence": Meaning("mean confidence"),
    "logit_norm": Meaning("norm of the centred logits", "[output]"),
    "margin": Meaning("logit margin", "[output]"),
    "gap": Meaning("generalization gap"),
    "loss_gap": Meaning("loss gap", "[loss]"),
    "hard_accuracy": Meaning("accuracy on the hardest fifth"),
    "ece": Meaning("ECE"),
    "ece_debiased": Meaning("ECE, debiased"),
    "ece_floor": Meaning("ECE of a calibrated network"),
}
"""What each figure that `evaluate` gives is called, with its unit."""

_RESAMPLES = 200
_HARD_SHARE = 0.2


@dataclass(frozen=True)
class Figure:
    """One evaluated quantity over ``samples`` samples.

    ``standard_error``: None where a single sample tells none. ``interval``: the 95% interval of a figure
    that has no symmetric one.
    """

    value: float
    standard_error: float | None
    samples: int
    interval: tuple[float, float] | None = None


def evaluate(
    model: nn.Module, splits: Splits, *, ece_bins: int = 15, seed: int
) -> dict[str, Figure]:
    """Every evaluated figure of a network by name, in float64 from its outputs.

    ``train_loss``, ``test_loss`` (nats), ``train_error``, ``test_error`` (fractions), ``gap`` (test
    error − train error), ``loss_gap``, ``ece`` and ``brier_score`` on test data, ``hard_accuracy``
    (on the 20% of test points with the lowest confidence), ``mean_confidence``, ``logit_norm``
    (mean ℓ₂ norm of the centred logits) and ``margin`` (mean of the true class' logit minus the
    largest other one). Standard errors are those of means over samples, of a share of samples after
    Agresti & Coull (Am. Stat. 52, 1998), so that no error among few samples is not certain to be none; the
    gaps add both splits'; the ECE's is a bootstrap over test samples: its spread, not its bias.
    ``ece_debiased`` is the ECE without what chance adds to it, with an interval, ``ece_floor`` what a
    calibrated network of the same confidences shows, with its spread for a standard error: an ECE within it
    tells nothing.

    A regression has ``train_loss``, ``test_loss`` (½ squared error summed over the outputs) and
    ``loss_gap`` alone: the others need classes.
    """
    if splits.task == "regression":
        return _regression(model, splits)
    train = _outcomes(model, splits.train_inputs, splits.train_targets)
    test = _outcomes(model, splits.test_inputs, splits.test_targets)
    figures = {
        "train_loss": mean_figure(train.loss),
        "train_error": share_figure(train.wrong),
        "test_loss": mean_figure(test.loss),
        "test_error": share_figure(test.wrong),
        "brier_score": mean_figure(test.brier),
        "mean_confidence": mean_figure(test.confidence),
        "logit_norm": mean_figure(test.logit_norm),
        "margin": mean_figure(test.margin),
    }
    figures["gap"] = _difference(figures["test_error"], figures["train_error"])
    figures["loss_gap"] = _difference(figures["test_loss"], figures["train_loss"])
    hardest = np.argsort(test.confidence, kind="stable")
    hardest = hardest[: max(1, round(_HARD_SHARE * len(hardest)))]
    figures["hard_accuracy"] = share_figure(1 - test.wrong[hardest])
    figures |= _calibration(test, ece_bins, seed)
    return figures


def _regression(model: nn.Module, splits: Splits) -> dict[str, Figure]:
    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> Figure:
        outputs = batched_outputs(model, inputs).double()
        return mean_figure(per_sample_loss("regression")(outputs, targets.double()).cpu().numpy())

    train = loss(splits.train_inputs, splits.train_targets)
    test = loss(splits.test_inputs, splits.test_targets)
    return {"train_loss": train, "test_loss": test, "loss_gap": _difference(test, train)}


def reliability_diagram(model: nn.Module, splits: Splits, *, bins: int) -> dict[str, Any]:
    """Confidence against accuracy on the test data, by the bins of the ECE."""
    test = _outcomes(model, splits.test_inputs, splits.test_targets)
    return reliability(test.confidence, 1 - test.wrong, bins)


def decision_map(model: nn.Module, splits: Splits, *, cells: int = 64) -> dict[str, object] | None:
    """The predicted probability of class 1 on a grid over a two-dimensional, two-class problem.

    None for any other problem. JSON-able: ``x_range``, ``y_range``, ``probability`` (rows from low
    to high y), and up to 300 test points with their labels.
    """
    if splits.input_shape != (2,) or splits.outputs != 2:
        return None
    points = splits.test_inputs
    low, high = points.min(0).values - 0.4, points.max(0).values + 0.4
    xs, ys = (
        torch.linspace(float(low[i]), float(high[i]), cells, device=points.device) for i in (0, 1)
    )
    grid = torch.cartesian_prod(ys, xs).flip(1)
    probability = batched_outputs(model, grid.to(points.dtype)).softmax(1)[:, 1]
    return {
        "x_range": [float(low[0]), float(high[0])],
        "y_range": [float(low[1]), float(high[1])],
        "probability": [
            [round(p, 3) for p in row] for row in probability.view(cells, cells).tolist()
        ],
        "points": [[round(v, 3) for v in p] for p in points[:300].tolist()],
        "labels": splits.test_targets[:300].tolist(),
    }


@dataclass(frozen=True)
class _Outcomes:
    """Per-sample outcomes, each (N,)."""

    loss: np.ndarray
    wrong: np.ndarray
    confidence: np.ndarray
    brier: np.ndarray
    logit_norm: np.ndarray
    margin: np.ndarray


def _outcomes(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> _Outcomes:
    outputs, targets = batched_outputs(model, inputs).double().cpu(), targets.cpu()
    logits, labels = outputs.numpy(), targets.numpy()
    log_probabilities = log_softmax(logits, axis=1)
    return _Outcomes(
        loss=-log_probabilities[np.arange(len(labels)), labels],
        wrong=(logits.argmax(1) != labels).astype(float),
        confidence=confidence(outputs).numpy(),
        brier=brier_score(np.exp(log_probabilities), labels),
        logit_norm=output_norm(outputs, centred=True).numpy(),
        margin=margin(outputs, targets).numpy(),
    )


def mean_figure(values: np.ndarray) -> Figure:
    """The mean of ``values`` (n,) with its standard error."""
    n = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    return Figure(float(values.mean()), error, n)


def share_figure(hits: np.ndarray) -> Figure:
    """The share of ``hits`` (0 or 1), with the error of two more of either kind."""
    n = len(hits)
    likely = (float(hits.sum()) + 2) / (n + 4)
    return Figure(float(hits.mean()), math.sqrt(likely * (1 - likely) / (n + 4)), n)


def _difference(a: Figure, b: Figure) -> Figure:
    told = a.standard_error is not None and b.standard_error is not None
    error = math.hypot(a.standard_error or 0.0, b.standard_error or 0.0) if told else None
    return Figure(a.value - b.value, error, min(a.samples, b.samples))


def _calibration(test: _Outcomes, bins: int, seed: int) -> dict[str, Figure]:
    rng = numpy_generator(seed)
    sure, correct = test.confidence, 1 - test.wrong
    n = len(correct)
    draws = rng.integers(0, n, (_RESAMPLES, n))
    resampled = [expected_calibration_error(sure[d], correct[d], bins) for d in draws]
    value = expected_calibration_error(sure, correct, bins)
    own = debiased_calibration_error(sure, correct, bins)
    floor, spread = calibrated_floor(sure, bins, rng=rng)
    return {
        "ece": Figure(value, float(np.std(resampled, ddof=1)) if n > 1 else None, n),
        "ece_debiased": Figure(own.value, own.standard_error, n, (own.low, own.high)),
        "ece_floor": Figure(floor, spread, n),
    }
