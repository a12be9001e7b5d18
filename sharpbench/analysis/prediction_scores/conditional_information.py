"""Conditional mutual information (Jiang et al., arXiv:1912.02178; PGDL, arXiv:2012.07976)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from sharpbench.analysis.prediction_scores.population import Population
from sharpbench.analysis.statistics import Estimate, jackknife

__all__ = ["conditional_information"]


def conditional_information(
    population: Population,
    x: np.ndarray,
    y: np.ndarray,
    *,
    protocol: Literal["jiang", "pgdl"] = "jiang",
) -> Estimate | None:
    """K: the least normalised conditional mutual information between the signs of differences.

    min over sets S of at most two axes of I(V_x; V_y | U_S)/H(V_y | U_S), where V is the sign of the
    difference between two networks and U_S the values of the axes in S in both of them (Jiang et al. 2019,
    section 2.3); over all ordered pairs. A tie is a third value of V. In [0, 1]; blind to the sign of the
    relation, so that it is read beside ψ. The interval is the jackknife's over the seeds. None where ``y``
    has one value, or for fewer than three networks.

    ``pgdl`` is what the competition's scorer computes: sets of exactly two axes, cells averaged with equal
    weight, a tie counted as "not larger", and each network paired with itself; without an interval, and None
    if a cell of the grid is empty (the scorer then has no number). A perfectly reversed figure gets less than
    1 from it.
    """
    there = np.isfinite(x) & np.isfinite(y)
    if there.sum() < 3:
        return None
    settings = population.settings[there]
    settings = np.column_stack([np.unique(c, return_inverse=True)[1] for c in settings.T])
    x, y = x[there], y[there]
    if protocol == "pgdl":
        return _pgdl(settings, x, y)
    left, right = np.triu_indices(len(x), 1)
    signs = 3 * np.sign(x[left] - x[right]) + np.sign(y[left] - y[right])
    signs = (signs + 4).astype(np.int32)  # 0 … 8; the opposite pair is 8 − it
    ways = [way[there] for way in population.blocks]
    subsets = population.once(
        "pairs",
        there,
        lambda: [_units(settings, left, right, s) for s in _subsets(settings.shape[1])],
    )
    least, without = math.inf, [np.full(way.max() + 1, math.inf) for way in ways]
    for number, forwards, symmetric in subsets:
        cells = len(symmetric)
        code = number * 9 + np.where(forwards, signs, 8 - signs)
        counts = np.bincount(code, minlength=cells * 9).reshape(cells, 9).astype(float)
        least = min(least, float(_normalised(counts, symmetric)))
        for i, way in enumerate(ways):
            left_out = counts - _of_blocks(code, way[left], way[right], cells)
            without[i] = np.minimum(without[i], _normalised(left_out, symmetric))
    if not math.isfinite(least):
        return None
    ends = [jackknife(least, w, reach=(0.0, 1.0)) for w in without]
    low, high = 0.0, 1.0
    if ends:
        low, high, _ = max(ends, key=lambda end: end[1] - end[0])
    return Estimate(least, max(low, 0.0), min(high, 1.0), len(x))


def _subsets(axes: int) -> Iterator[tuple[int, ...]]:
    for size in range(3):
        yield from itertools.combinations(range(axes), size)


def _units(
    settings: np.ndarray, left: np.ndarray, right: np.ndarray, subset: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cell of each pair, in the one of its orders that comes first; whether that is the given one; and
    of each cell whether both of its networks have the same values."""
    unit = np.zeros(len(left), np.intp)
    mirror = unit.copy()
    for axis in subset:
        base = settings[:, axis].max() + 1
        a, b = settings[left, axis], settings[right, axis]
        unit, mirror = unit * base**2 + a * base + b, mirror * base**2 + b * base + a
    cells, number = np.unique(np.minimum(unit, mirror), return_inverse=True)
    symmetric = np.zeros(len(cells), bool)
    symmetric[number[unit == mirror]] = True
    return number.astype(np.int32), unit <= mirror, symmetric


def _of_blocks(code: np.ndarray, a: np.ndarray, b: np.ndarray, cells: int) -> np.ndarray:
    """Of each block the counts (blocks, cells, 9) of pairs with a network, or both, in it."""
    blocks = int(max(a.max(), b.max())) + 1
    size = blocks * cells * 9
    found = np.bincount(a * (cells * 9) + code, minlength=size)
    apart = a != b
    found += np.bincount((b * (cells * 9) + code)[apart], minlength=size)
    return found.reshape(blocks, cells, 9).astype(float)


def _normalised(counts: np.ndarray, symmetric: np.ndarray) -> np.ndarray:
    """I/H (…) from counts (…, cells, 9) of one order of each pair; inf where there is no entropy.

    Where both networks of a pair have the same values both orders fall into one cell; else the other order
    falls into another cell, with the same information.
    """
    both = 0.5 * (counts + counts[..., ::-1])
    table = np.where(symmetric[:, None], both, counts)
    table = table.reshape(*counts.shape[:-1], 3, 3)
    of_y, of_x, of_cell = table.sum(-2), table.sum(-1), table.sum((-1, -2))
    within = _plogp(of_cell).sum(-1)
    left = within - _plogp(of_y).sum((-1, -2))
    known = _plogp(table).sum((-1, -2, -3)) - _plogp(of_x).sum((-1, -2)) + left
    some = left > 1e-12 * of_cell.sum(-1)
    return np.divide(
        np.maximum(known, 0.0), left, out=np.full(np.shape(left), math.inf), where=some
    )


def _plogp(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts * np.log(np.where(counts > 0, counts, 1.0)))


def _pgdl(settings: np.ndarray, x: np.ndarray, y: np.ndarray) -> Estimate | None:
    in_x, in_y = x[:, None] > x, y[:, None] > y
    signs = (2 * in_x + in_y).ravel()
    least = math.inf
    for one, other in itertools.combinations(range(settings.shape[1]), 2):
        unit = np.zeros(in_x.shape, np.intp)
        cells = 1
        for axis in (one, other):
            base = settings[:, axis].max() + 1
            unit = (unit * base + settings[:, axis][:, None]) * base + settings[:, axis][None]
            cells *= base**2
        counts = np.bincount(unit.ravel() * 4 + signs, minlength=4 * cells).reshape(cells, 2, 2)
        sizes = counts.sum((1, 2))
        if not sizes.all():
            return None
        share = counts / sizes[:, None, None]
        of_x, of_y = share.sum(2), share.sum(1)
        entropy = -_plogp(of_y).sum(1)
        information = _plogp(share).sum((1, 2)) - _plogp(of_x).sum(1) - _plogp(of_y).sum(1)
        if entropy.sum() > 0:
            least = min(least, float(information.sum() / entropy.sum()))
    return Estimate(least, math.nan, math.nan, len(x)) if math.isfinite(least) else None
