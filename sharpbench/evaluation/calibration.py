"""Calibration of predicted probabilities."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

__all__ = [
    "Debiased",
    "Gaps",
    "brier_score",
    "calibrated_floor",
    "debiased_calibration_error",
    "expected_calibration_error",
    "gaps_of_samples",
    "reliability",
]

_DRAWS = 1000
_DRAWN = 20_000_000
"""Answers drawn for a floor, where that allows a hundred draws."""
_NORMAL = 1.959964
"""Standard deviations of a normal law that hold 95%."""
_GRID = 513
_FAR = 10.0
"""Standard deviations from which on chance adds nothing to |d|."""


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


@dataclass(frozen=True)
class Debiased:
    """The ECE without what chance adds to it, ``low`` to ``high`` its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def standard_error(self) -> float:
        """That of the symmetric interval value ± 1.96 standard errors which holds ``low`` and ``high``."""
        return max(self.high - self.value, self.value - self.low, 0.0) / _NORMAL


def debiased_calibration_error(
    confidence: np.ndarray,
    correct: np.ndarray,
    bins: int = 15,
    *,
    design_effect: float = 1.0,
    effect_on_sum: float = 1.0,
) -> Debiased:
    """The ECE without what chance alone adds to it, and its 95% interval.

    |d| of a bin whose accuracy and confidence differ by δ is too large in the mean, by what Kumar, Liang
    & Ma 2019 (arXiv:1909.10155) take off by resampling: E|δ + sz| − |δ| with z normal and s the standard
    deviation of d. δ isn't known; |d| itself overstates it, and so takes off less than half of the bias of
    a calibrated network. Here it is √max(d² − s², 0), whose square has the right mean. What bias is left
    is below 0.45 of the floor (`calibrated_floor`): a fourth of it, upward, for a calibrated network,
    downward where δ is about s, none where δ stands out. The figure can be negative, its interval cannot.

    s is that of a right answer's being drawn with the probability of confidence + δ: a network that is
    sure and right every time has not shown to be calibrated without error.

    The interval holds each ECE θ = Σ|δ| that the figure does not contradict at 5%: no mean and variance
    of the figure at θ, 1.96 standard deviations off. What θ leaves open, how it falls to the bins, is taken
    to be most likely: the δ next to the d with that sum. (Test inversion, the nuisance parameters at their
    profile: Chuang & Lai, Statistica Sinica 10, 2000.) A normal interval about the figure would cover 78%
    where the δ are about s; this one covers 92 to 98%, and more where hardly an answer is wrong.

    Parameters: as those of `expected_calibration_error`. ``design_effect``: by how much the variance of a
    bin's gap is larger than that of as many independent answers, ``effect_on_sum``: that of the ECE, whose
    bins then go together (`Gaps`).
    """
    found = _bins(confidence, correct, bins, design_effect, effect_on_sum)
    value = float(_debiased(found.gap, found.deviation).sum())
    return Debiased(value, *_not_contradicted(found, value))


def calibrated_floor(
    confidence: np.ndarray,
    bins: int = 15,
    *,
    rng: np.random.Generator,
    design_effect: float = 1.0,
) -> tuple[float, float]:
    """The ECE that a perfectly calibrated network of these confidences shows: mean and spread.

    Over draws of every prediction's being right with its confidence as the probability, the
    consistency resampling of Bröcker & Smith (Weather and Forecasting 22, 2007). ``design_effect``: of
    answers that are not independent; all that chance does is then larger by its square root.
    """
    draws = _DRAWS
    if design_effect > 1:  # decisions of samples, which can be very many
        draws = max(_DRAWS // 10, min(_DRAWS, _DRAWN // len(confidence)))
    drawn = [
        expected_calibration_error(confidence, rng.random(len(confidence)) < confidence, bins)
        for _ in range(draws)
    ]
    larger = math.sqrt(design_effect)
    return larger * float(np.mean(drawn)), larger * float(np.std(drawn, ddof=1))


@dataclass(frozen=True)
class Gaps:
    """What each of m samples adds to the gap of each bin: ``sums`` Σ(right − confidence) (m, B), and how many
    decisions it has, ``counts`` (m,)."""

    sums: np.ndarray
    counts: np.ndarray
    alone: float
    alone_in_sum: float
    """The variance of the gaps, summed over the bins, and that of the ECE, if all decisions were
    independent."""

    def of(self, drawn: np.ndarray) -> float:
        """The ECE of the samples ``drawn`` (n,), by their numbers."""
        times = np.bincount(drawn, minlength=len(self.counts))
        return float(np.abs(times @ self.sums).sum() / (times @ self.counts))

    @property
    def design_effect(self) -> float:
        """By how much the bins' gaps vary more than those of as many independent decisions, at least 1
        (Kish, Survey Sampling, 1965): the ratio of their variances, summed over the bins."""
        return self._effect(self.sums, self.alone)

    @property
    def effect_on_sum(self) -> float:
        """By how much the ECE itself, the sum of the gaps by their signs, varies more."""
        signed = self.sums @ np.sign(self.sums.sum(0))
        return self._effect(signed[:, None], self.alone_in_sum)

    def _effect(self, sums: np.ndarray, alone: float) -> float:
        m, total = len(self.counts), self.counts.sum()
        if m < 2 or not alone > 0:
            return max(float(self.counts.mean()), 1.0)  # nothing is known: a sample counts as one
        residuals = sums - np.outer(self.counts, sums.sum(0) / total)
        together = m / (m - 1) * float((residuals**2).sum()) / float(total) ** 2
        return max(together / alone, 1.0)


def gaps_of_samples(
    confidence: np.ndarray, correct: np.ndarray, owner: np.ndarray, bins: int = 15
) -> Gaps:
    """The gaps of decisions that belong to samples: ``owner`` (n,), from 0 to m − 1."""
    index, off = _bin(confidence, bins), correct - confidence
    m, n = int(owner.max()) + 1, len(owner)
    sums = np.bincount(owner * bins + index, weights=off, minlength=m * bins).reshape(m, bins)
    squares = np.bincount(index, weights=off**2, minlength=bins)
    alone = float((squares - sums.sum(0) ** 2 / n).sum()) / n**2
    in_sum = float(squares.sum() - np.abs(sums.sum(0)).sum() ** 2 / n) / n**2
    return Gaps(sums, np.bincount(owner), alone, in_sum)


@dataclass(frozen=True)
class _Bins:
    """The bins that hold samples, (B,) each, in shares of all; ``samples``: how many independent ones.

    ``share`` n_b/N, ``confidence`` Σc/N; ``gap`` d: (right − confidence)/N, with its standard
    ``deviation``.
    """

    samples: float
    share: np.ndarray
    confidence: np.ndarray
    gap: np.ndarray
    deviation: np.ndarray
    wider: float
    """By how much the sum over the bins spreads more than that of bins that are independent."""


def _bins(
    confidence: np.ndarray,
    correct: np.ndarray,
    bins: int,
    design_effect: float = 1.0,
    effect_on_sum: float = 1.0,
) -> _Bins:
    samples = len(confidence)
    count, confident, right = _sums(confidence, correct, bins)
    by_model = np.bincount(
        _bin(confidence, bins), weights=confidence * (1 - confidence), minlength=bins
    )
    held = count > 0
    n, mean, of_mean = count[held], confident[held] / count[held], by_model[held] / count[held] ** 2
    off = right[held] / n - mean
    # The accuracy as far as it stands out from what chance does to the network's own probabilities.
    by_chance = of_mean * design_effect
    likely = np.clip(mean + np.sign(off) * np.sqrt(np.maximum(off**2 - by_chance, 0)), 0, 1)
    deviation = np.sqrt(n * likely * (1 - likely) * design_effect)
    return _Bins(
        samples / design_effect,
        n / samples,
        mean * n / samples,
        off * n / samples,
        deviation / samples,
        math.sqrt(max(effect_on_sum / design_effect, 1.0)),
    )


def _not_contradicted(bins: _Bins, value: float) -> tuple[float, float]:
    """The least and the largest ECE for which ``value`` is no surprise."""
    deviation = bins.deviation
    spread = bins.wider * math.sqrt(float((deviation**2).sum()) + 1 / bins.samples)
    highest = min(1.0, max(value, 0.0) + float(deviation.sum()) + 5 * spread)
    errors = np.linspace(0, highest, _GRID)
    apart = _distribution(bins, errors)
    off = np.abs(value - apart[0]) / np.maximum(apart[1], 1e-300)
    inside = np.flatnonzero(off <= _NORMAL)
    if not len(inside):  # better than chance lets any network be
        nearest = float(errors[off.argmin()])
        return nearest, nearest
    first, last = int(inside[0]), int(inside[-1])
    low = (
        0.0 if first == 0 else _crossing(errors[first - 1 : first + 1], off[first - 1 : first + 1])
    )
    if last == len(errors) - 1:
        return low, highest
    return low, _crossing(errors[last : last + 2], off[last : last + 2])


def _crossing(errors: np.ndarray, off: np.ndarray) -> float:
    """Where ``off`` passes 1.96 between two neighbours."""
    part = (_NORMAL - off[0]) / (off[1] - off[0])
    return float(errors[0] + part * (errors[1] - errors[0]))


def _distribution(bins: _Bins, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the debiased figure, (T,) each, where the ECE is ``errors`` (T,)."""
    deviation = bins.deviation
    sizes = _most_likely(bins, errors)
    ratio = np.divide(sizes, deviation, out=np.full(sizes.shape, np.inf), where=deviation > 0)
    mean, variance = _moments(ratio)
    means = np.where(ratio < _FAR, deviation * mean, sizes)
    variances = deviation**2 * variance
    # A gap of this size is another accuracy with another spread: above the confidence or below it.
    towards = np.where(bins.gap > 0, sizes, -sizes)
    accuracy = (bins.confidence + towards) / bins.share
    possible = (accuracy >= 0) & (accuracy <= 1)
    accuracy = np.where(possible, accuracy, (bins.confidence - towards) / bins.share).clip(0, 1)
    drawn = bins.share * accuracy * (1 - accuracy) / bins.samples
    variances = np.maximum(variances, drawn + deviation**2 * (variance - 1))
    # Bins differ in their gaps, and how many samples fall into each is chance as well.
    between = ((sizes**2 / bins.share).sum(1) - sizes.sum(1) ** 2) / bins.samples
    return means.sum(1), bins.wider * np.sqrt(variances.sum(1) + np.maximum(between, 0))


def _most_likely(bins: _Bins, errors: np.ndarray) -> np.ndarray:
    """The gaps' sizes (T, B) next to those found, in units of their deviations, that add up to ``errors``.

    max(|d| + λs², 0) for the λ that gives the sum. One error more or less is always possible.
    """
    found = np.abs(bins.gap)
    weight = bins.deviation**2 + 1 / bins.samples**2
    largest = float((errors.max() + 1) / weight.sum())
    at = np.append(np.sort(-found / weight), largest)
    sums = np.maximum(found + at[:, None] * weight, 0).sum(1)
    multiplier = np.interp(errors, sums, at)
    sizes: np.ndarray = np.maximum(found + multiplier[:, None] * weight, 0)
    return sizes


def _moments(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of `_debiased` of one bin with s = 1 where |δ| is ``ratio``."""
    grid, mean, variance = _moment_table()
    return np.interp(ratio, grid, mean), np.interp(ratio, grid, variance)


@functools.cache
def _moment_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where |δ| is a grid of values up to `_FAR`, by the trapezoidal rule; beyond it they are |δ| and 1."""
    grid, noise = np.linspace(0, _FAR, 401), np.linspace(-8, 8, 3201)
    weight = _normal_density(noise) * (noise[1] - noise[0])
    drawn = _debiased(grid[:, None] + noise, np.ones((1, 1)))
    mean = drawn @ weight
    return grid, mean, (drawn**2) @ weight - mean**2


def _without_noise(gap: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """√max(d² − s², 0)."""
    size: np.ndarray = np.sqrt(np.maximum(gap**2 - deviation**2, 0))
    return size


def _debiased(gap: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """|d| − (E|δ + sz| − δ), by the mean of the folded normal distribution."""
    size = _without_noise(gap, deviation)
    ratio = np.divide(size, deviation, out=np.full(gap.shape, np.inf), where=deviation > 0)
    surplus = 2 * deviation * _normal_density(ratio) - 2 * size * ndtr(-ratio)
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


def _normal_density(x: np.ndarray) -> np.ndarray:
    """That of scipy.stats, to the bit, without its import, which takes a fifth of a start."""
    density: np.ndarray = np.exp(-(x**2) / 2.0) / np.sqrt(2 * np.pi)
    return density
