"""The robust sign error (Dziugaite et al., arXiv:2010.11924)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from sharpbench.analysis.prediction_scores.granulated_tau import mean_of_axes
from sharpbench.analysis.prediction_scores.population import Population
from sharpbench.analysis.statistics import Estimate, jackknife

__all__ = [
    "Confidence",
    "Environments",
    "SignError",
    "environments",
    "hoeffding_confidence",
    "independent_confidence",
    "paired_confidence",
    "sign_error",
]

Confidence = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of networks i and j, (P,) each: how sure it is that their targets differ in the sign that is seen."""


def hoeffding_confidence(y: np.ndarray, samples: int) -> Confidence:
    """Dziugaite et al.'s: max(0, 1 − 2 exp(−n Δ²/2))², for shares of ``samples`` test points each.

    Both of a pair lie within |Δ|/2 of their expectations with at least that probability, by Hoeffding's
    inequality, as if they were judged on different points.
    """

    def confidence(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        miss = 2 * np.exp(-0.5 * samples * np.square(y[i] - y[j]))
        return np.asarray(np.square(np.maximum(0.0, 1 - miss)))

    return confidence


def independent_confidence(y: np.ndarray, errors: np.ndarray) -> Confidence:
    """1 − p of a difference with the standard ``errors`` of both added up, for normal errors."""

    def confidence(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        error = np.hypot(errors[i], errors[j])
        known = np.isfinite(error) & (error > 0)
        ratio = np.divide(np.abs(y[i] - y[j]), error, out=np.zeros(len(i)), where=known)
        return np.asarray(1 - 2 * stats.norm.sf(ratio))

    return confidence


def paired_confidence(
    wrong: np.ndarray, points: np.ndarray, y: np.ndarray, errors: np.ndarray
) -> Confidence:
    """1 − p of McNemar's exact test, for networks that are judged on the same points.

    ``wrong`` (N, n) tells which test points each network gets wrong, ``points`` (N,) which networks have the
    same ones (−1: not known); other pairs are `independent_confidence`'s. Only the points that one of both
    gets wrong count: under equal error rates they fall to either by a fair coin (McNemar 1947).
    """
    apart = independent_confidence(y, errors)

    def confidence(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        found = apart(i, j)
        same = np.flatnonzero((points[i] == points[j]) & (points[i] >= 0))
        for some in np.array_split(same, max(1, len(same) // 4096)):
            a, b = wrong[i[some]], wrong[j[some]]
            more, less = (a & ~b).sum(1), (~a & b).sum(1)
            p = np.minimum(2 * stats.binom.cdf(np.minimum(more, less), more + less, 0.5), 1.0)
            found[some] = 1 - p
        return found

    return confidence


@dataclass(frozen=True)
class Environments:
    """Pairs of networks that differ in one axis, by environment.

    ``axis`` (E,), ``low`` and ``high`` (E,) the two settings, ``effective`` (E,) pairs that each is worth;
    of every pair ``left``, ``right``, ``weight`` and ``number`` of its environment. ``dropped``: environments
    that are worth too few pairs.
    """

    axis: np.ndarray
    low: np.ndarray
    high: np.ndarray
    effective: np.ndarray
    left: np.ndarray
    right: np.ndarray
    weight: np.ndarray
    number: np.ndarray
    dropped: int


def environments(
    population: Population,
    confidence: Confidence,
    *,
    of: Literal["values", "configurations"] = "values",
    threshold: float = 0.5,
    least: float = 12.0,
) -> Environments:
    """The environments in which a sign error is taken; all seeds are pooled.

    ``values``: one for each axis and two of its values, over all other settings. ``configurations``: one for
    each two configurations that differ in one axis (Dziugaite et al. 2020), which needs many seeds. A pair
    weighs as much as its ``confidence`` exceeds ``threshold``; an environment is dropped that is worth fewer
    than ``least`` pairs, (Σw)²/Σw².
    """
    parts = []
    for axis, pairs in enumerate(population.coupled):
        if not len(pairs.left):
            continue
        low, high = population.settings[pairs.left, axis], population.settings[pairs.right, axis]
        weight = np.maximum(confidence(pairs.left, pairs.right) - threshold, 0.0)
        labels = [np.full(len(low), axis), low, high]
        if of == "configurations":
            own = population.configurations
            labels += [own[pairs.left], own[pairs.right]]
        parts.append((np.column_stack(labels), pairs.left, pairs.right, weight))
    if not parts:
        none = np.zeros(0, np.intp)
        return Environments(none, none, none, none, none, none, none, none, dropped=0)
    width = max(p[0].shape[1] for p in parts)
    labels_of = np.concatenate([np.pad(p[0], ((0, 0), (0, width - p[0].shape[1]))) for p in parts])
    left, right, weight = (np.concatenate([p[k] for p in parts]) for k in (1, 2, 3))
    names, number = np.unique(labels_of, axis=0, return_inverse=True)
    number = number.ravel()
    sums, squares = (np.bincount(number, weights=w) for w in (weight, weight**2))
    worth = np.divide(sums**2, squares, out=np.zeros_like(sums), where=squares > 0)
    kept = worth >= least - 1e-9
    new = np.cumsum(kept) - 1
    of_pair = kept[number] & (weight > 0)
    names = names[kept]
    return Environments(
        axis=names[:, 0],
        low=names[:, 1],
        high=names[:, 2],
        effective=worth[kept],
        left=left[of_pair],
        right=right[of_pair],
        weight=weight[of_pair],
        number=new[number[of_pair]],
        dropped=int((~kept).sum()),
    )


@dataclass(frozen=True)
class SignError:
    """How often a figure ranks pairs wrongly, by environment: ½ is a coin, and a tie.

    ``mean`` with its interval over the seeds, the 90th percentile ``high``, the ``worst`` with the number of
    its environment (``where``), and ``each``.
    """

    mean: Estimate
    high: float
    worst: float
    where: int
    each: np.ndarray


def sign_error(
    population: Population, found: Environments, x: np.ndarray, y: np.ndarray
) -> SignError | None:
    """The weighted mean of (1 − sign Δx · sign Δy)/2 in each environment (Dziugaite et al. 2020, section 3).

    None without an environment.
    """
    with np.errstate(invalid="ignore"):
        wrong = 0.5 - 0.5 * np.sign(x[found.left] - x[found.right]) * np.sign(
            y[found.left] - y[found.right]
        )
    each = _by_environment(found, wrong, np.isfinite(wrong))
    told = np.flatnonzero(np.isfinite(each))
    if not len(told):
        return None
    mean = float(each[told].mean())
    ends = []
    for way in population.blocks:
        a, b = way[found.left], way[found.right]
        left_out = [
            _by_environment(found, wrong, np.isfinite(wrong) & (a != s) & (b != s))
            for s in range(way.max() + 1)
        ]
        means = np.array([float(mean_of_axes(e)) for e in left_out])
        ends.append(jackknife(mean, means, reach=(0.0, 1.0)))
    low, high = (0.0, 1.0)
    if ends:
        low, high, _ = max(ends, key=lambda end: end[1] - end[0])
    where = int(told[each[told].argmax()])
    return SignError(
        Estimate(mean, max(low, 0.0), min(high, 1.0), int(np.isfinite(x).sum())),
        float(np.percentile(each[told], 90)),
        float(each[where]),
        where,
        each,
    )


def _by_environment(found: Environments, wrong: np.ndarray, kept: np.ndarray) -> np.ndarray:
    count = len(found.axis)
    total = np.bincount(found.number[kept], weights=found.weight[kept], minlength=count)
    bad = np.bincount(found.number[kept], weights=(found.weight * wrong)[kept], minlength=count)
    return np.divide(bad, total, out=np.full(count, np.nan), where=total > 0)
