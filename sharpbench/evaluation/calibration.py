"""Calibration of predicted probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import norm

__all__ = [
    "brier_score",
    "calibrated_floor",
    "debiased_calibration_error",
    "expected_calibration_error",
    "reliability",
]

_DRAWS = 1000


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


def debiased_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15, *, rng: np.random.Generator
) -> tuple[float, float]:
    """The ECE without what chance alone adds to it, and its standard error.

    |d| of a bin whose accuracy and confidence differ by δ is too large in the mean, by what Kumar, Liang
    & Ma 2019 (arXiv:1909.10155) take off by resampling: E|δ + sz| − |δ| with z normal and s the standard
    deviation of d. δ isn't known; |d| itself overstates it, and so takes off less than half of the bias of
    a calibrated network. Here it is √max(d² − s², 0), whose square has the right mean. What bias is left
    is below 0.45 of the floor (`calibrated_floor`): a fourth of it, upward, for a calibrated network,
    downward where δ is about s, none where δ stands out. The figure can be negative.

    s² is the variance of right − confidence in the bin over its samples, of a single one c(1 − c). The
    error is the root mean square distance of this estimate from the ECE of a network with those δ.

    Parameters: as those of `expected_calibration_error`.
    """
    gap, deviation = _gaps(confidence, correct, bins)
    own = _without_noise(gap, deviation)
    drawn = own + deviation * rng.standard_normal((_DRAWS, len(gap)))
    distance = _debiased(drawn, deviation).sum(1) - own.sum()
    return float(_debiased(gap, deviation).sum()), float(np.sqrt(np.mean(distance**2)))


def calibrated_floor(
    confidence: np.ndarray, bins: int = 15, *, rng: np.random.Generator
) -> tuple[float, float]:
    """The ECE that a perfectly calibrated network of these confidences shows: mean and spread.

    Over draws of every prediction's being right with its confidence as the probability, the
    consistency resampling of Bröcker & Smith (Weather and Forecasting 22, 2007).
    """
    drawn = [
        expected_calibration_error(confidence, rng.random(len(confidence)) < confidence, bins)
        for _ in range(_DRAWS)
    ]
    return float(np.mean(drawn)), float(np.std(drawn, ddof=1))


def _gaps(confidence: np.ndarray, correct: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """(n_b/N)(accuracy_b − confidence_b) of the bins that hold samples, and its standard deviation."""
    index = _bin(confidence, bins)
    count, confident, right = _sums(confidence, correct, bins)
    squares = np.bincount(index, weights=(correct - confidence) ** 2, minlength=bins)
    by_model = np.bincount(index, weights=confidence * (1 - confidence), minlength=bins)
    total, several = right - confident, count > 1
    n = np.maximum(count, 2)
    variance = np.where(several, (squares - total**2 / n) * n / (n - 1), by_model)
    held = count > 0
    deviation = np.sqrt(np.maximum(variance[held], 0))
    return total[held] / len(confidence), deviation / len(confidence)


def _without_noise(gap: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """√max(d² − s², 0)."""
    size: np.ndarray = np.sqrt(np.maximum(gap**2 - deviation**2, 0))
    return size


def _debiased(gap: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """|d| − (E|δ + sz| − δ), by the mean of the folded normal distribution."""
    size = _without_noise(gap, deviation)
    ratio = np.divide(size, deviation, out=np.full(gap.shape, np.inf), where=deviation > 0)
    surplus = 2 * deviation * norm.pdf(ratio) - 2 * size * norm.sf(ratio)
    left: np.ndarray = np.abs(gap) - surplus
    return left


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
    index = _bin(confidence, bins)
    count = np.bincount(index, minlength=bins)
    confident = np.bincount(index, weights=confidence, minlength=bins)
    return count, confident, np.bincount(index, weights=correct.astype(float), minlength=bins)


def _bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The number of each sample's bin, from 0."""
    number: np.ndarray = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return number


def brier_score(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Multi-class Brier score a sample, Σ_c (p_c − 1{c = y})², in [0, 2] (Brier 1950); (N,)."""
    truth = np.zeros_like(probabilities)
    truth[np.arange(len(targets)), targets] = 1
    return np.asarray(np.square(probabilities - truth).sum(1))
