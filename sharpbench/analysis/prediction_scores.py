"""Scores of how well a figure predicts generalization over a population of networks on a grid.

Those of the field: granulated τ and conditional mutual information (Jiang et al., arXiv:1912.02178, and the
PGDL competition, arXiv:2012.07976), the robust sign error (Dziugaite et al., arXiv:2010.11924), regret and
hits of a choice; and what tells a figure from a mere proxy of the hyperparameters: a permutation null, a
prediction from the hyperparameters alone, and what the figure adds to it. Arrays in, numbers out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from scipy import stats

from sharpbench.analysis.rank_correlation import holm
from sharpbench.analysis.statistics import LEVEL, Estimate, jackknife, students
from sharpbench.seeds import numpy_generator

__all__ = [
    "Choice",
    "Confidence",
    "Environments",
    "Increment",
    "Pairs",
    "Population",
    "SignError",
    "Tested",
    "choice",
    "conditional_information",
    "difference_of_tau",
    "environments",
    "from_hyperparameters",
    "granulated_tau",
    "hoeffding_confidence",
    "increment",
    "independent_confidence",
    "mean_of_axes",
    "noisy_oracle",
    "paired_confidence",
    "random_choice",
    "sign_error",
    "told_apart",
]

T = TypeVar("T")

_PERMUTATIONS = 999
_FOLDS = 5
_PENALTIES = np.logspace(-2, 3, 11)
_TOP = 0.2


@dataclass(frozen=True, kw_only=True)
class Tested(Estimate):
    """A figure with its interval, the probability ``p`` of one so far from 0 by chance, that of the largest
    of all that were asked (Holm), ``adjusted``, and the share of false ones among all that have so small a p
    (Benjamini & Hochberg), ``q``."""

    p: float
    adjusted: float
    q: float = 1.0

    @property
    def stars(self) -> str:
        """``**`` where the adjusted p is at most 5%, ``*`` where q is, else nothing."""
        return _stars(self.adjusted, self.q)


def _stars(adjusted: float, q: float) -> str:
    return "**" if adjusted <= LEVEL else "*" if q <= LEVEL else ""


@dataclass(frozen=True)
class Pairs:
    """Pairs of networks, (P,) each, those of one cell together: ``cell`` rises."""

    left: np.ndarray
    right: np.ndarray
    cell: np.ndarray

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each cell begins."""
        return np.flatnonzero(np.diff(self.cell, prepend=-1))


@dataclass(frozen=True)
class Population:
    """N networks by their settings on A axes.

    Parameters
    ----------
    axes: what the axes are called.
    settings: (N, A) whole numbers, equal for equal values; −1 where an axis does not apply, as the momentum
        of an optimizer without one.
    seeds: (N, streams): networks that share one are alike, and all that is estimated has its error over them.
        The first stream is the data's.
    strata: (N,) equal for equal data and model.
    groups: (N,) equal for networks between which somebody chooses: of equal data and data seed.
    """

    axes: tuple[str, ...]
    settings: np.ndarray
    seeds: np.ndarray
    strata: np.ndarray
    groups: np.ndarray

    @property
    def size(self) -> int:
        return len(self.settings)

    def once(self, name: str, there: np.ndarray, compute: Callable[[], T]) -> T:
        """What ``compute`` gives for the networks that are ``there``, from memory if it did before."""
        key = name, there.tobytes()
        if key not in self._memory:
            self._memory[key] = compute()
        found: T = self._memory[key]
        return found

    @cached_property
    def _memory(self) -> dict[tuple[str, bytes], Any]:
        return {}

    @cached_property
    def configurations(self) -> np.ndarray:
        """(N,): networks of equal settings, which differ in their seeds, have one number."""
        return np.asarray(_numbered(self.settings))

    @cached_property
    def blocks(self) -> list[np.ndarray]:
        """Numbers from 0 of the seeds, of each stream that tells some networks apart; the data's first."""
        ways = [np.unique(column, return_inverse=True)[1] for column in self.seeds.T]
        several = [w for w in ways if w.max(initial=0) > 0]
        return [
            w for i, w in enumerate(several) if not any(np.array_equal(w, v) for v in several[:i])
        ]

    def _others(self, axis: int) -> np.ndarray:
        """The axes that two networks must share to be compared along ``axis``: all but it and those that
        apply to some of its values alone."""
        levels = self.settings[:, axis]
        kept = []
        for other in range(len(self.axes)):
            if other == axis:
                continue
            there = self.settings[:, other] >= 0
            of_level = [there[levels == v] for v in np.unique(levels)]
            nested = not there.all() and all(part.all() or not part.any() for part in of_level)
            if not nested:
                kept.append(other)
        return self.settings[:, kept]

    def _pairs(self, axis: int, fixed: np.ndarray) -> Pairs:
        applies = np.flatnonzero(self.settings[:, axis] >= 0)
        number = np.asarray(_numbered(fixed[applies]))
        order = np.argsort(number, kind="stable")
        found = []
        for members in np.split(applies[order], np.flatnonzero(np.diff(number[order])) + 1):
            left, right = np.triu_indices(len(members), 1)
            left, right = members[left], members[right]
            differ = self.settings[left, axis] != self.settings[right, axis]
            if differ.any():
                left, right = left[differ], right[differ]
                upwards = self.settings[left, axis] < self.settings[right, axis]
                found.append((np.where(upwards, left, right), np.where(upwards, right, left)))
        if not found:
            return Pairs(*(np.zeros(0, np.intp) for _ in range(3)))
        cells = np.repeat(np.arange(len(found)), [len(a) for a, _ in found])
        left, right = (np.concatenate(side) for side in zip(*found, strict=True))
        return Pairs(left, right, cells)

    @cached_property
    def controlled(self) -> tuple[Pairs, ...]:
        """For each axis the pairs of networks that differ in it alone: all other settings and all seeds are
        equal. A cell is one choice of these."""
        return tuple(
            self._pairs(a, np.column_stack([self._others(a), self.seeds]))
            for a in range(len(self.axes))
        )

    @property
    def partners(self) -> np.ndarray:
        """(N,): along how many axes a network is one of a `coupled` pair."""
        found = np.zeros(self.size, np.intp)
        for pairs in self.coupled:
            found[np.union1d(pairs.left, pairs.right)] += 1
        return found

    @cached_property
    def coupled(self) -> tuple[Pairs, ...]:
        """For each axis the pairs of networks whose settings differ in it alone, whatever their seeds."""
        return tuple(self._pairs(a, self._others(a)) for a in range(len(self.axes)))


def _numbered(rows: np.ndarray) -> np.ndarray:
    """Equal rows by one number from 0."""
    if not rows.shape[1]:
        return np.zeros(len(rows), np.intp)
    parts = np.column_stack([np.unique(c, return_inverse=True)[1] for c in rows.T])
    return np.unique(parts, axis=0, return_inverse=True)[1].ravel()


# --- granulated τ -------------------------------------------------------------------------------


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
    seed = np.asarray(_numbered(population.seeds))
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


# --- conditional mutual information -------------------------------------------------------------


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


# --- robust sign error --------------------------------------------------------------------------

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


# --- the hyperparameters alone, and what is beyond them -----------------------------------------


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
        return _stars(self.adjusted, self.q)


def increment(population: Population, x: np.ndarray, y: np.ndarray) -> Increment | None:
    """How much better ``y`` is predicted with ``x`` than from the hyperparameters alone.

    Both are taken as normal scores, the normal quantiles of their ranks, so that neither's scale matters and
    sums of effects stay sums. What ridge regressions on the axes one-hot, all their pairs and the data seed
    leave of ``y`` is regressed on what they leave of ``x``: a figure that says nothing beyond the
    hyperparameters leaves noise. Cross-fitted in five folds of whole configurations: scores, regressions and
    slope are those of the other folds, and within them what is left is that of a configuration that was left
    out. The error is taken over the configurations and over the data seeds, and the larger one stands. None
    for fewer than ten configurations.
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
        size = float(own @ own)
        slope = float(own @ known) / size if size > 0 else 0.0
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


# --- decisions ----------------------------------------------------------------------------------


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
