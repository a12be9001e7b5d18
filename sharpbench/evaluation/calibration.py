"""Calibration of predicted probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["brier_score", "expected_calibration_error", "reliability"]


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15
) -> float:
    """ECE = Σ_b (n_b/N) |accuracy_b − confidence_b| over ``bins`` equal-width bins of the confidence.

    The bins are (0, 1/B], (1/B, 2/B], …, (1 − 1/B, 1] as in Guo et al. 2017 (arXiv:1706.04599,
    eq. 3), so that a confidence of exactly 1 belongs to the last one.

    Parameters
    ----------
    confidence: largest predicted probability a sample, (N,).
    correct: whether the prediction was right, (N,).
    """
    _, confident, right = _sums(confidence, correct, bins)
    return float(np.abs(right - confident).sum() / len(confidence))


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> dict[str, Any]:
    """The bins of the ECE that hold samples.

    ``bin`` (from 0), ``confidence`` and ``accuracy`` (means), ``count``.
    """
    count, confident, right = _sums(confidence, correct, bins)
    held = count > 0
    return {
        "bin": np.flatnonzero(held).tolist(),
        "confidence": (confident[held] / count[held]).tolist(),
        "accuracy": (right[held] / count[held]).tolist(),
        "count": count[held].astype(int).tolist(),
    }


def _sums(
    confidence: np.ndarray, correct: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, summed confidence and right answers a bin."""
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    confident = np.bincount(index, weights=confidence, minlength=bins)
    return count, confident, np.bincount(index, weights=correct.astype(float), minlength=bins)


def brier_score(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Multi-class Brier score a sample, Σ_c (p_c − 1{c = y})², in [0, 2] (Brier 1950); (N,)."""
    truth = np.zeros_like(probabilities)
    truth[np.arange(len(targets)), targets] = 1
    return np.asarray(np.square(probabilities - truth).sum(1))
