"""The figures of a trained classifier that sharpness is compared with, each with its uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax
from torch import nn

from sharpbench.errors import InputError
from sharpbench.evaluation.calibration import (
    brier_score,
    calibrated_floor,
    debiased_calibration_error,
    expected_calibration_error,
    gaps_of_samples,
    reliability,
)
from sharpbench.metrics.mean_over_points import residuals_of_samples
from sharpbench.outputs import Decisions, confidence, decided, margin, output_norm
from sharpbench.seeds import numpy_generator
from sharpbench.subject import Loss, Splits, batched_outputs, per_sample_loss

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
    model: nn.Module,
    splits: Splits,
    *,
    decisions: Decisions | None = None,
    loss: Loss | None = None,
    ece_bins: int = 15,
    seed: int,
) -> dict[str, Figure]:
    """Every evaluated figure of a network by name, in float64 from its outputs.

    ``train_loss``, ``test_loss`` (the cross-entropy, in nats, whatever it was trained by), ``train_error``,
    ``test_error`` (fractions), ``gap`` (test error − train error), ``loss_gap``, ``ece`` and
    ``brier_score`` on test data, ``hard_accuracy`` (on the 20% of test points with the lowest confidence),
    ``mean_confidence``, ``logit_norm`` (mean ℓ₂ norm of the centred logits) and ``margin`` (mean of the true
    class' logit minus the largest other one). Standard errors are those of means over samples, of a share of
    samples after Agresti & Coull (Am. Stat. 52, 1998), so that no error among few samples is not certain to
    be none; the gaps add both splits'; the ECE's is a bootstrap over test samples: its spread, not its bias.
    ``ece_debiased`` is the ECE without what chance adds to it, with an interval, ``ece_floor`` what a
    calibrated network of the same confidences shows, with its spread for a standard error: an ECE within it
    tells nothing.

    ``decisions``: what the network decides, where that is not a class a sample (the default of a
    classification): a class a token or pixel, or labels that are yes or no. Every figure is then one of
    decisions (the loss is the cross-entropy of one, the hardest are a fifth of them), and every error one
    over the samples, for the decisions of one sample are not independent: of means to first order (a ratio of
    means, Cochran 1977, §2.11), of shares by the number of independent decisions of that error (Korn &
    Graubard, Survey Methodology 24, 1998), and of what is said of chance in the ECE by that number as the
    bins have it (the design effect). ``samples`` counts samples that have a decision.

    A regression has ``train_loss``, ``test_loss`` and ``loss_gap`` alone, of ``loss``, one value a sample (½
    squared error summed over the outputs where none is given): the others need classes.
    """
    if decisions is None and splits.task == "regression":
        return _regression(model, splits, loss or per_sample_loss("regression"))
    taken = decisions or Decisions()
    train = _outcomes(model, splits.train_inputs, splits.train_targets, taken, splits.outputs)
    test = _outcomes(model, splits.test_inputs, splits.test_targets, taken, splits.outputs)
    figures = {
        "train_loss": mean_figure(train.loss, train.owner),
        "train_error": share_figure(train.wrong, train.owner),
        "test_loss": mean_figure(test.loss, test.owner),
        "test_error": share_figure(test.wrong, test.owner),
        "brier_score": mean_figure(test.brier, test.owner),
        "mean_confidence": mean_figure(test.confidence, test.owner),
        "logit_norm": mean_figure(test.logit_norm, test.owner),
        "margin": mean_figure(test.margin, test.owner),
    }
    figures["gap"] = _difference(figures["test_error"], figures["train_error"])
    figures["loss_gap"] = _difference(figures["test_loss"], figures["train_loss"])
    hardest = np.argsort(test.confidence, kind="stable")
    hardest = hardest[: max(1, round(_HARD_SHARE * len(hardest)))]
    theirs = None if test.owner is None else test.owner[hardest]
    figures["hard_accuracy"] = share_figure(1 - test.wrong[hardest], theirs)
    figures |= _calibration(test, ece_bins, seed)
    return figures


def _regression(model: nn.Module, splits: Splits, loss: Loss) -> dict[str, Figure]:
    def figure(inputs: torch.Tensor, targets: torch.Tensor) -> Figure:
        outputs = batched_outputs(model, inputs).double()
        real = targets.double() if targets.is_floating_point() else targets
        return mean_figure(loss(outputs, real).cpu().numpy())

    train = figure(splits.train_inputs, splits.train_targets)
    test = figure(splits.test_inputs, splits.test_targets)
    return {"train_loss": train, "test_loss": test, "loss_gap": _difference(test, train)}


def reliability_diagram(
    model: nn.Module, splits: Splits, *, decisions: Decisions | None = None, bins: int
) -> dict[str, Any]:
    """Confidence against accuracy on the test data, by the bins of the ECE; of all ``decisions``."""
    taken = decisions or Decisions()
    test = _outcomes(model, splits.test_inputs, splits.test_targets, taken, splits.outputs)
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
    """The outcome of each decision, (M,) each. ``owner``: the sample (from 0, all there are) that it belongs
    to; None where each is a sample of its own."""

    loss: np.ndarray
    wrong: np.ndarray
    confidence: np.ndarray
    brier: np.ndarray
    logit_norm: np.ndarray
    margin: np.ndarray
    owner: np.ndarray | None


def _outcomes(
    model: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    decisions: Decisions,
    classes: int,
) -> _Outcomes:
    parts, owners = [], []
    for logits, decided_by, owner in decided(model, inputs, targets, decisions, classes=classes):
        parts.append(_of_logits(logits.double().cpu(), decided_by.cpu()))
        owners += [] if owner is None else [owner.cpu().numpy()]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(found["loss"]):
        raise InputError("every target of these data is one that the loss ignores")
    numbered = None
    if owners:  # samples without a decision take no part
        there, numbered = np.unique(np.concatenate(owners), return_inverse=True)
        numbered = None if len(there) == len(numbered) else numbered
    return _Outcomes(**found, owner=numbered)


def _of_logits(outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, np.ndarray]:
    logits, labels = outputs.numpy(), targets.numpy()
    log_probabilities = log_softmax(logits, axis=1)
    return {
        "loss": -log_probabilities[np.arange(len(labels)), labels],
        "wrong": (logits.argmax(1) != labels).astype(float),
        "confidence": confidence(outputs).numpy(),
        "brier": brier_score(np.exp(log_probabilities), labels),
        "logit_norm": output_norm(outputs, centred=True).numpy(),
        "margin": margin(outputs, targets).numpy(),
    }


def mean_figure(values: np.ndarray, owner: np.ndarray | None = None) -> Figure:
    """The mean of ``values`` (n,) with its standard error: over the samples, where ``owner`` (n,) says to
    which each belongs."""
    if owner is not None:
        mean, residuals = _of_samples(values, owner)
        m = len(residuals)
        spread = float(residuals.std(ddof=1)) / math.sqrt(m) if m > 1 else None
        return Figure(mean, spread, m)
    n = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    return Figure(float(values.mean()), error, n)


def _of_samples(values: np.ndarray, owner: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of ``values`` (n,) and what each sample that has one adds to it."""
    there, numbered = np.unique(owner, return_inverse=True)
    given = torch.from_numpy(values), torch.from_numpy(numbered)
    mean, residuals = residuals_of_samples(*given, len(there))
    return mean, residuals.numpy()


def share_figure(hits: np.ndarray, owner: np.ndarray | None = None) -> Figure:
    """The share of ``hits`` (0 or 1), with the error of two more of either kind; of decisions that are not
    independent, where ``owner`` says to which sample each belongs, as many count as their spread over the
    samples allows."""
    n: float = len(hits)
    share, samples = float(hits.mean()), len(hits)
    if owner is not None:
        _, residuals = _of_samples(hits, owner)
        samples = m = len(residuals)
        variance = float(residuals.var(ddof=1)) / m if m > 1 else 0.0
        # Of shares of 0 and 1 the spread tells nothing: each sample counts as one decision.
        n = min(max(share * (1 - share) / variance, m), n) if variance > 0 else m
    likely = (float(hits.sum()) + 2) / (n + 4) if owner is None else (share * n + 2) / (n + 4)
    return Figure(share, math.sqrt(likely * (1 - likely) / (n + 4)), samples)


def _difference(a: Figure, b: Figure) -> Figure:
    told = a.standard_error is not None and b.standard_error is not None
    error = math.hypot(a.standard_error or 0.0, b.standard_error or 0.0) if told else None
    return Figure(a.value - b.value, error, min(a.samples, b.samples))


def _calibration(test: _Outcomes, bins: int, seed: int) -> dict[str, Figure]:
    rng = numpy_generator(seed)
    sure, correct = test.confidence, 1 - test.wrong
    value = expected_calibration_error(sure, correct, bins)
    effect = on_sum = 1.0
    if test.owner is None:
        n = len(correct)
        draws = rng.integers(0, n, (_RESAMPLES, n))
        resampled = [expected_calibration_error(sure[d], correct[d], bins) for d in draws]
    else:
        gaps = gaps_of_samples(sure, correct, test.owner, bins)
        n, effect, on_sum = len(gaps.counts), gaps.design_effect, gaps.effect_on_sum
        resampled = [gaps.of(rng.integers(0, n, n)) for _ in range(_RESAMPLES)]
    own = debiased_calibration_error(
        sure, correct, bins, design_effect=effect, effect_on_sum=on_sum
    )
    floor, spread = calibrated_floor(sure, bins, rng=rng, design_effect=effect)
    return {
        "ece": Figure(value, float(np.std(resampled, ddof=1)) if n > 1 else None, n),
        "ece_debiased": Figure(own.value, own.standard_error, n, (own.low, own.high)),
        "ece_floor": Figure(floor, spread, n),
    }
