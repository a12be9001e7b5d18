"""Networks on a grid of hyperparameters, their pairs, and a figure that was tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from sharpbench.analysis.statistics import LEVEL, Estimate

__all__ = ["Pairs", "Population", "Tested", "numbered", "stars_of"]

T = TypeVar("T")


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
        return stars_of(self.adjusted, self.q)


def stars_of(adjusted: float, q: float) -> str:
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
        return np.asarray(numbered(self.settings))

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
        number = np.asarray(numbered(fixed[applies]))
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


def numbered(rows: np.ndarray) -> np.ndarray:
    """Equal rows by one number from 0."""
    if not rows.shape[1]:
        return np.zeros(len(rows), np.intp)
    parts = np.column_stack([np.unique(c, return_inverse=True)[1] for c in rows.T])
    return np.unique(parts, axis=0, return_inverse=True)[1].ravel()
