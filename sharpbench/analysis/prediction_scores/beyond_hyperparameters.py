"""What tells a figure from a mere proxy of the hyperparameters: a prediction from these alone, and what the
figure adds to it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sharpbench.analysis.prediction_scores.population import Population, stars_of
from sharpbench.analysis.statistics import Estimate, students
from sharpbench.seeds import numpy_generator

__all__ = ["Increment", "from_hyperparameters", "increment", "noisy_oracle"]

_FOLDS = 5
_PENALTIES = np.logspace(-2, 3, 11)
_SLOPE_PENALTY = 1.0
"""Ridge for the slope on what is left of a figure: a score moves the target's by about as much, at most. Of a
figure that the hyperparameters determine only a misfit is left, and without it any slope would fit that."""


def noisy_oracle(population: Population, y: np.ndarray, size: float) -> np.ndarray:
    """The target itself with normal noise of ``size`` standard deviations within equal data and model."""
    rng = numpy_generator(round(1000 * size) + 1)
    _, stratum = np.unique(population.strata, return_inverse=True)
    there = np.isfinite(y)
    strata = int(stratum.max(initial=-1)) + 1  # of some of them no target may be known
    count = np.bincount(stratum[there], minlength=strata)
    mean = np.bincount(stratum[there], weights=y[there], minlength=strata) / np.maximum(count, 1)
    free = max(int(there.sum()) - int((count > 0).sum()), 1)
    spread = math.sqrt(float(np.square(y - mean[stratum])[there].sum()) / free)
    return np.asarray(y + size * spread * rng.standard_normal(len(y)))


def from_hyperparameters(population: Population, y: np.ndarray) -> np.ndarray:
    """The normal scores of ``y`` predicted from the settings alone, each configuration by all others.

    Ridge regression on the axes one-hot with all their pairs; its penalty is that with the least error of
    leaving a configuration out. NaN where ``y`` is.
    """
    there = np.isfinite(y)
    found = np.full(len(y), np.nan)
    if there.sum() < 3:
        return found
    features = _features(population)[there]
    scores = _normal_scores(y[there], y[there])
    off, _ = _Ridge(features, population.configurations[there]).left_out(scores)
    found[there] = scores - off
    return found


@dataclass(frozen=True)
class Increment:
    """What a figure adds to the hyperparameters.

    ``share``: by how much of it the mean squared error of the predicted score falls once the figure is known,
    with its interval; negative where it rises. ``p``: one-sided, of so large a share by a figure that adds
    nothing.
    """

    share: Estimate
    p: float
    adjusted: float
    q: float = 1.0

    @property
    def stars(self) -> str:
        """As those of `Tested`."""
        return stars_of(self.adjusted, self.q)


def increment(population: Population, x: np.ndarray, y: np.ndarray) -> Increment | None:
    """How much better ``y`` is predicted with ``x`` than from the hyperparameters alone.

    Both are taken as normal scores, the normal quantiles of their ranks, so that neither's scale matters and
    sums of effects stay sums. What ridge regressions on the axes one-hot, all their pairs and the data seed
    leave of ``y`` is regressed on what they leave of ``x``, by a ridge regression as well: a figure that says
    nothing beyond the hyperparameters leaves noise. Cross-fitted in five folds of whole configurations:
    scores, regressions and slope are those of the other folds, and within them what is left is that of a
    configuration that was left out. The error is taken over the configurations and over the data seeds, and
    the larger one stands. None for fewer than ten configurations.
    """
    there = np.isfinite(x) & np.isfinite(y)
    configuration = population.configurations[there]
    names = np.unique(configuration)
    if len(names) < 2 * _FOLDS:
        return None
    data = population.seeds[there, 0]
    folds = population.once("folds", there, lambda: _folds(population, there))
    key = f"without the figure {hash(y[there].tobytes())}"
    of_target = population.once(key, there, lambda: [fold.left(y[there]) for fold in folds])
    alone, together = np.empty(len(data)), np.empty(len(data))
    for fold, (known, unknown) in zip(folds, of_target, strict=True):
        own, other = fold.left(x[there])
        slope = float(own @ known) / (float(own @ own) + _SLOPE_PENALTY)
        alone[fold.test] = unknown
        together[fold.test] = unknown - slope * other
    gain = alone**2 - together**2
    base = float(np.mean(alone**2))
    if base <= 0:
        return None
    value = float(gain.mean()) / base
    ends = [_clustered(gain / base, value, blocks) for blocks in (configuration, data)]
    low, high, _ = max(ends, key=lambda end: end[1] - end[0])
    p = max(end[2] for end in ends)
    return Increment(Estimate(value, low, min(high, 1.0), len(data)), p, p)


@dataclass(frozen=True)
class _Fold:
    train: np.ndarray
    test: np.ndarray
    at: np.ndarray
    """The features of the rows to be predicted."""
    ridge: _Ridge

    def left(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the hyperparameters leave of the normal scores: of the rows that are fitted, each by the other
        configurations, and of those that are predicted."""
        known = _normal_scores(values[self.train], values[self.train])
        left, penalty = self.ridge.left_out(known)
        unknown = _normal_scores(values[self.train], values[self.test])
        return left, unknown - self.ridge.predicted(known, self.at, penalty)


def _folds(population: Population, there: np.ndarray) -> list[_Fold]:
    """Folds of whole configurations of the networks that are ``there``."""
    seeds = _one_hot(np.unique(population.seeds[there, 0], return_inverse=True)[1])
    features = np.column_stack([_features(population)[there], seeds])
    configuration = population.configurations[there]
    names = np.unique(configuration)
    fold_of = np.empty(configuration.max() + 1, np.intp)
    fold_of[numpy_generator(0).permutation(names)] = np.arange(len(names)) % _FOLDS
    found = []
    for one in range(_FOLDS):
        test = fold_of[configuration] == one
        ridge = _Ridge(features[~test], configuration[~test])
        found.append(_Fold(~test, test, features[test], ridge))
    return found


def _clustered(values: np.ndarray, mean: float, blocks: np.ndarray) -> tuple[float, float, float]:
    """Interval and one-sided p of a mean whose values are alike within ``blocks``."""
    _, block, size = np.unique(blocks, return_inverse=True, return_counts=True)
    count = len(size)
    if count < 2:
        return mean, mean, 0.0
    off = np.bincount(block, weights=values - mean)
    error = math.sqrt(count / (count - 1) * float(np.square(off).sum())) / len(values)
    if error <= 0:
        return mean, mean, 1.0
    half = students(count - 1) * error
    return mean - half, mean + half, float(stats.t.sf(mean / error, count - 1))


def _normal_scores(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The normal quantiles of the mid-ranks of ``values`` among ``known`` (van der Waerden 1952)."""
    ordered = np.sort(known)
    low, high = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray(stats.norm.ppf((low + high + 1) / (2 * len(ordered) + 2)))


def _features(population: Population) -> np.ndarray:
    """The axes one-hot, and the products of all pairs of axes."""
    single = [_one_hot(column) for column in population.settings.T]
    pairs = [
        (a[:, :, None] * b[:, None]).reshape(len(a), -1)
        for a, b in itertools.combinations(single, 2)
    ]
    return np.column_stack([*single, *pairs]) if single else np.zeros((population.size, 0))


def _one_hot(codes: np.ndarray) -> np.ndarray:
    return np.asarray(codes[:, None] == np.unique(codes), dtype=float)


class _Ridge:
    """Ridge regressions on ``features`` (n, F) with a free constant, by whole blocks of rows."""

    def __init__(self, features: np.ndarray, blocks: np.ndarray) -> None:
        self._centre = features.mean(0)
        left, sizes, right = np.linalg.svd(features - self._centre, full_matrices=False)
        kept = sizes > 1e-9 * max(float(sizes.max(initial=0.0)), 1e-300)
        self._left, self._sizes, self._right = left[:, kept], sizes[kept], right[kept]
        self._shrunk = self._sizes**2 / (self._sizes**2 + _PENALTIES[:, None])
        _, block = np.unique(blocks, return_inverse=True)
        counts = np.bincount(block)
        order = np.argsort(block, kind="stable")
        starts = np.cumsum(counts) - counts
        place = np.arange(counts.max())
        self._there = place < counts[:, None]
        self._rows = order[np.where(self._there, starts[:, None] + place, 0)]
        both = self._there[:, :, None] & self._there[:, None]
        own = self._left[self._rows]
        self._inverse = np.array(
            [
                np.linalg.inv(
                    np.eye(len(place))
                    - np.where(both, 1 / len(features) + (own * d) @ own.swapaxes(1, 2), 0.0)
                )
                for d in self._shrunk
            ]
        )

    def left_out(self, y: np.ndarray) -> tuple[np.ndarray, int]:
        """How far off each block is predicted by the others, in closed form, and the number of the penalty
        with the least error of that."""
        centred = y - y.mean()
        on = self._left.T @ centred
        best, found, chosen = math.inf, centred, 0
        for number, (shrunk, inverse) in enumerate(zip(self._shrunk, self._inverse, strict=True)):
            off = centred - self._left @ (shrunk * on)
            by_block = np.einsum("bij,bj->bi", inverse, np.where(self._there, off[self._rows], 0))
            left = np.empty_like(off)
            left[self._rows[self._there]] = by_block[self._there]
            error = float(np.square(left).mean())
            if error < best:
                best, found, chosen = error, left, number
        return found, chosen

    def predicted(self, y: np.ndarray, at: np.ndarray, penalty: int) -> np.ndarray:
        """What rows with these features are predicted to have."""
        mean = float(y.mean())
        on = self._left.T @ (y - mean)
        weights = self._right.T @ (self._sizes / (self._sizes**2 + _PENALTIES[penalty]) * on)
        return np.asarray(mean + (at - self._centre) @ weights)
