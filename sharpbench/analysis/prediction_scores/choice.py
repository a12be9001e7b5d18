"""What a choice of a network by its figure costs: regret, and hits among the best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sharpbench.analysis.prediction_scores.population import Population
from sharpbench.analysis.statistics import Estimate, jackknife

__all__ = ["Choice", "choice", "random_choice"]

_TOP = 0.2


@dataclass(frozen=True)
class Choice:
    """What comes of choosing by a figure the network where it is least.

    ``regret``: how much worse the chosen network is than the best one, as a part of the range from best to
    worst. ``hits``: the share of the best fifth by the figure that is among the best fifth. Means over the
    groups between whose networks one chooses.
    """

    regret: Estimate
    hits: Estimate


def choice(population: Population, x: np.ndarray, y: np.ndarray) -> Choice | None:
    """Regret and hits of ``x`` where small ``y`` is good, with intervals over the data seeds.

    Ties in either are drawn by lot, exactly: what is given is the mean over the lots. None without a group of
    five networks that differ.
    """
    regrets, hits, blocks = [], [], []
    there = np.isfinite(x) & np.isfinite(y)
    for members in _chosen_from(population, there, y):
        a, b = x[members], y[members]
        regrets.append((b[a == a.min()].mean() - b.min()) / np.ptp(b))
        size = max(1, round(_TOP * len(members)))
        hits.append(float(_among_least(a, size) @ _among_least(b, size)) / size)
        blocks.append(population.seeds[members[0], 0])
    if not regrets:
        return None
    count = int(there.sum())
    return Choice(*(_over_groups(np.array(v), np.array(blocks), count) for v in (regrets, hits)))


def random_choice(population: Population, y: np.ndarray) -> tuple[float, float] | None:
    """The exact mean regret and hits of a figure that knows nothing."""
    found = []
    for members in _chosen_from(population, np.isfinite(y), y):
        b = y[members]
        size = max(1, round(_TOP * len(members)))
        found.append(((b.mean() - b.min()) / np.ptp(b), size / len(members)))
    if not found:
        return None
    regret, hits = np.mean(found, axis=0)
    return float(regret), float(hits)


def _chosen_from(population: Population, there: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    _, group = np.unique(population.groups, return_inverse=True)
    for one in range(group.max(initial=-1) + 1):
        members = np.flatnonzero((group == one) & there)
        if len(members) >= 5 and np.ptp(y[members]) > 0:
            yield members


def _among_least(values: np.ndarray, size: int) -> np.ndarray:
    """The probability of each to be among the ``size`` least, ties by lot."""
    last = np.partition(values, size - 1)[size - 1]
    below, at = values < last, values == last
    return np.asarray(below + at * (size - below.sum()) / at.sum())


def _over_groups(values: np.ndarray, blocks: np.ndarray, networks: int) -> Estimate:
    value = float(values.mean())
    names = np.unique(blocks)
    if len(names) < 2:
        return Estimate(value, 0.0, 1.0, networks)
    without = np.array([values[blocks != name].mean() for name in names])
    low, high, _ = jackknife(value, without, reach=(0.0, 1.0))
    return Estimate(value, max(low, 0.0), min(high, 1.0), networks)
