"""Calibration of predicted probabilities."""

from __future__ import annotations

import numpy as np

__all__ = ["brier_score", "expected_calibration_error"]


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
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, weights=correct.astype(float) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def brier_score(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Multi-class Brier score a sample, Σ_c (p_c − 1{c = y})², in [0, 2] (Brier 1950); (N,)."""
    truth = np.zeros_like(probabilities)
    truth[np.arange(len(targets)), targets] = 1
    return np.asarray(np.square(probabilities - truth).sum(1))
