"""Granulated τ (Jiang et al., arXiv:1912.02178), its permutation null, and differences of two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from sharpbench.analysis.prediction_scores.population import Pairs, Population, Tested, numbered
from sharpbench.analysis.rank_correlation import holm
from sharpbench.analysis.statistics import LEVEL, Estimate, jackknife
from sharpbench.seeds import numpy_generator

__all__ = ["difference_of_tau", "granulated_tau", "mean_of_axes", "told_apart"]

_PERMUTATIONS = 999


def granulated_tau(
    population: Population, x: np.ndarray, y: np.ndarray
) -> tuple[list[Estimate | None], Tested | None]:
    """ψ of each axis, and their mean Ψ (Jiang et al. 2019, equations 5 and 6).

    ψ is the mean over the cells of Kendall's τ-a between the networks of a cell, which differ in that axis
    alone and share all seeds; a tie counts 0, and as a pair. None for an axis without such pairs, and Ψ is
    the mean of the others. NaN in ``x`` or ``y`` leaves a network out. A figure that is the same for all
    networks ranks none of them, and has neither.

    Intervals by the jackknife over the seeds. ``p`` of Ψ is the larger of two: the jackknife's, and that of
    permutations of ``x`` among the configurations of equal data and model, the networks of all seeds
    together: the first sees only what differs between seeds, the second only what differs between
    configurations.
    """
    cells = [_cell_tau(pairs, x[None], y)[0] for pairs in population.controlled]
    told = [np.isfinite(tau) for tau in cells]
    values = np.array(
        [t[k].mean() if k.any() else math.nan for t, k in zip(cells, told, strict=True)]
    )
    told_of = x[np.isfinite(x) & np.isfinite(y)]
    networks = len(told_of)
    if not np.isfinite(values).any() or not np.ptp(told_of) > 0:
        return [None] * len(values), None
    without = [_without_blocks(population, cells, way) for way in population.blocks]
    each: list[Estimate | None] = []
    for axis, value in enumerate(values):
        if not math.isfinite(value):
            each.append(None)
            continue
        low, high, _ = _widest(value, [w[:, axis] for w in without], int(told[axis].sum()))
        each.append(Estimate(float(value), low, high, networks))
    mean = float(np.nanmean(values))
    left = [mean_of_axes(w) for w in without]
    low, high, p = _widest(mean, left, sum(int(k.sum()) for k in told))
    p = max(p, _permuted(population, x, y, mean))
    return each, Tested(mean, low, high, networks, p=p, adjusted=p)


def mean_of_axes(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(-1)
    total = np.where(there, values, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _cell_tau(pairs: Pairs, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """τ-a (R, cells) of rows of ``x`` (R, N) with ``y`` (N,); NaN in a cell without a pair."""
    if not len(pairs.left):
        return np.full((len(x), 0), np.nan)
    signs = np.sign(x[:, pairs.left] - x[:, pairs.right]) * np.sign(y[pairs.left] - y[pairs.right])
    told = np.isfinite(signs)
    count = np.add.reduceat(told.astype(float), pairs.starts, axis=1)
    total = np.add.reduceat(np.where(told, signs, 0.0), pairs.starts, axis=1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _without_blocks(population: Population, cells: list[np.ndarray], way: np.ndarray) -> np.ndarray:
    """ψ of each axis (blocks, A) without the cells of each seed."""
    names = np.arange(way.max() + 1)
    found = np.full((len(names), len(cells)), np.nan)
    for axis, (tau, pairs) in enumerate(zip(cells, population.controlled, strict=True)):
        if len(tau):
            block = way[pairs.left[pairs.starts]]
            kept = (block[None] != names[:, None]) & np.isfinite(tau)
            found[:, axis] = mean_of_axes(np.where(kept, tau, np.nan))
    return found


def _widest(value: float, without: list[np.ndarray], cells: int) -> tuple[float, float, float]:
    """The widest interval of a correlation over the streams of seeds, with the largest p."""
    step = 2 / max(cells, 2)
    ends = [jackknife(value, w, step=step, correlation=True) for w in without]
    if not ends:
        return -1.0, 1.0, 1.0
    low, high, _ = max(ends, key=lambda end: end[1] - end[0])
    return low, high, max(end[2] for end in ends)


def _permuted(population: Population, x: np.ndarray, y: np.ndarray, found: float) -> float:
    """The share of permutations that are at least as far from their own mean as ``found``."""
    rng = numpy_generator(0)
    configuration = population.configurations
    seed = np.asarray(numbered(population.seeds))
    plane = np.full((configuration.max() + 1, seed.max() + 1), np.nan)
    plane[configuration, seed] = x
    stratum = np.zeros(len(plane), np.intp)
    stratum[configuration] = np.unique(population.strata, return_inverse=True)[1]
    order = np.tile(np.arange(len(plane)), (_PERMUTATIONS, 1))
    for one in np.unique(stratum):
        members = np.flatnonzero(stratum == one)
        order[:, members] = rng.permuted(np.tile(members, (_PERMUTATIONS, 1)), axis=1)
    if (order == np.arange(len(plane))).all():
        return 1.0  # one configuration a stratum: nothing can be exchanged
    drawn = plane[order[:, configuration], seed]
    axes = [_cell_tau(pairs, drawn, y) for pairs in population.controlled]
    null = mean_of_axes(np.column_stack([mean_of_axes(tau) for tau in axes]))
    null = null[np.isfinite(null)]
    centre = float(null.mean()) if len(null) else 0.0
    beyond = np.abs(null - centre) >= abs(found - centre) - 1e-12
    return float((1 + beyond.sum()) / (1 + len(null)))


def difference_of_tau(
    population: Population, one: np.ndarray, other: np.ndarray, y: np.ndarray
) -> Tested | None:
    """Ψ of ``one`` minus Ψ of ``other``, over the networks that have both, with its interval over the
    seeds."""
    both = np.isfinite(one) & np.isfinite(other)
    first, second = (_psi(population, np.where(both, x, np.nan), y) for x in (one, other))
    return _difference(first, second, int(both.sum()))


def told_apart(
    population: Population, figures: Mapping[str, np.ndarray], y: np.ndarray
) -> dict[str, frozenset[str]]:
    """Of each of the ``figures`` (N,) those whose Ψ differs from its own beyond chance: p ≤ 5% over the
    seeds, after Holm's adjustment for all pairs (the groups of Demšar 2006, by differences of Ψ in place of
    mean ranks of independent data sets)."""
    whole = {name: _psi(population, x, y) for name, x in figures.items()}
    there = {name: np.isfinite(x) for name, x in figures.items()}
    pairs = list(itertools.combinations(figures, 2))
    p = np.ones(len(pairs))
    for k, (one, other) in enumerate(pairs):
        if (there[one] == there[other]).all():
            found = _difference(whole[one], whole[other], int(there[one].sum()))
        else:
            found = difference_of_tau(population, figures[one], figures[other], y)
        p[k] = found.p if found is not None else 1.0
    apart: dict[str, set[str]] = {name: set() for name in figures}
    for (one, other), adjusted in zip(pairs, holm(p), strict=True):
        if adjusted <= LEVEL:
            apart[one].add(other)
            apart[other].add(one)
    return {name: frozenset(others) for name, others in apart.items()}


_Psi = tuple[float, list[np.ndarray], int]


def _psi(population: Population, x: np.ndarray, y: np.ndarray) -> _Psi:
    """Ψ, of each stream of seeds what it is without each of them, and of how many cells it is the mean."""
    cells = [_cell_tau(pairs, x[None], y)[0] for pairs in population.controlled]
    whole = np.array([mean_of_axes(tau) for tau in cells])
    left = [mean_of_axes(_without_blocks(population, cells, w)) for w in population.blocks]
    return float(mean_of_axes(whole)), left, sum(int(np.isfinite(tau).sum()) for tau in cells)


def _difference(one: _Psi, other: _Psi, networks: int) -> Tested | None:
    value = one[0] - other[0]
    if not math.isfinite(value):
        return None
    step = 2 / max(one[2], 2)
    ends = [jackknife(value, a - b, step=step) for a, b in zip(one[1], other[1], strict=True)]
    if not ends:
        return None
    low, high, _ = max(ends, key=lambda end: end[1] - end[0])
    p = max(end[2] for end in ends)
    return Tested(value, low, high, networks, p=p, adjusted=p)
