"""Figures with 95% intervals, and the written rules by which a statement about one is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sharpbench.seeds import numpy_generator

__all__ = [
    "Effect",
    "Estimate",
    "Level",
    "NoEffect",
    "Rule",
    "Sign",
    "Within",
    "bootstrap",
    "exactly",
    "mean",
    "partial_spearman",
    "pearson",
    "slope",
    "spearman",
]

_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval over ``n`` networks; an exact one has no width.

    ``noise``: how far from 0 it gets in 95 of 100 cases by chance in the points that all of the networks
    are judged on, which the interval does not see; within it there is no verdict.
    """

    value: float
    low: float
    high: float
    n: int
    noise: float = 0.0


def exactly(value: float, n: int = 1) -> Estimate:
    """A figure without sampling error."""
    return Estimate(value, value, value, n)


def mean(values: np.ndarray) -> Estimate | None:
    """Mean with Student's t interval; None for fewer than two values."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    centre = float(values.mean())
    return Estimate(centre, centre - half, centre + half, len(values))


def bootstrap(
    statistic: Callable[..., float], *columns: np.ndarray, strata: np.ndarray | None = None
) -> Estimate | None:
    """``statistic(*columns)`` with a percentile bootstrap over rows, within ``strata`` if given.

    None for fewer than four rows, where a resampled correlation is an accident.
    """
    table = np.column_stack([np.asarray(c, dtype=float) for c in columns])
    complete = np.isfinite(table).all(1)
    groups = (
        np.zeros(len(table), dtype=int)
        if strata is None
        else np.unique(strata, return_inverse=True)[1]
    )
    table, groups = table[complete], groups[complete]
    if len(table) < 4:
        return None
    rng = numpy_generator(0)
    rows_of = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    draws = []
    for _ in range(_RESAMPLES):
        rows = np.concatenate([rng.choice(rows, len(rows)) for rows in rows_of])
        drawn = statistic(*table[rows].T)
        if np.isfinite(drawn):
            draws.append(drawn)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(statistic(*table.T)), float(low), float(high), len(table))


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r; NaN if either is constant."""
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else math.nan


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation."""
    return pearson(stats.rankdata(x), stats.rankdata(y))


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Spearman's rank correlation of x and y with the ranks of ``given`` regressed out of both."""
    xy, xz, yz = spearman(x, y), spearman(x, given), spearman(y, given)
    left = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / math.sqrt(left) if left > 1e-12 else math.nan


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Least-squares slope of y on x."""
    x = x - x.mean()
    size = float(x @ x)
    return float(x @ (y - y.mean())) / size if size > 0 else math.nan


class Rule:
    """How a statement is judged from an estimate alone."""

    @property
    def text(self) -> str:
        """The rule in words."""
        raise NotImplementedError

    def verdict(self, found: Estimate) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class Level(Rule):
    """A stated number; ``margin``: half the width of its own 95% interval, where that is known."""

    stated: float
    tolerance: float
    margin: float = 0.0

    @property
    def text(self) -> str:
        own = f" (±{self.margin:.2g} of {self.stated:g} among them)" if self.margin else ""
        return (
            f"reproduced if the figure is within {self.tolerance:g} of {self.stated:g}, or no further "
            f"from it than the 95% errors of both{own}, else not"
        )

    def verdict(self, found: Estimate) -> str:
        distance = abs(found.value - self.stated)
        error = math.hypot((found.high - found.low) / 2, self.margin)
        return "reproduced" if distance <= max(self.tolerance, error) else "not reproduced"


@dataclass(frozen=True)
class Effect(Rule):
    """A stated difference, slope or correlation, with its sign."""

    stated: float

    @property
    def text(self) -> str:
        return (
            f"stated {self.stated:+g}: reproduced if the interval leaves out 0 and holds it, or the "
            "figure is within a quarter of it; in direction if it leaves out 0 on the same side; "
            "contradicted on the other; not reproduced if it holds 0"
        )

    def verdict(self, found: Estimate) -> str:
        if found.low <= 0 <= found.high:
            return "not reproduced"
        if math.copysign(1, found.value) != math.copysign(1, self.stated):
            return "contradicted"
        near = abs(found.value - self.stated) <= 0.25 * abs(self.stated)
        if near or found.low <= self.stated <= found.high:
            return "reproduced"
        return "reproduced in direction"


@dataclass(frozen=True)
class Sign(Rule):
    """A stated sign without a size: +1 or −1."""

    stated: int

    @property
    def text(self) -> str:
        side, other = ("above", "below") if self.stated > 0 else ("below", "above")
        return (
            f"reproduced if the interval lies {side} 0, contradicted if {other}, not reproduced if it "
            "holds 0"
        )

    def verdict(self, found: Estimate) -> str:
        if found.low <= 0 <= found.high:
            return "not reproduced"
        return "reproduced" if found.value * self.stated > 0 else "contradicted"


@dataclass(frozen=True)
class NoEffect(Rule):
    """Stated: nothing there."""

    @property
    def text(self) -> str:
        return "reproduced if the interval holds 0, else contradicted"

    def verdict(self, found: Estimate) -> str:
        return "reproduced" if found.low <= 0 <= found.high else "contradicted"


@dataclass(frozen=True)
class Within(Rule):
    """Stated: it lies between two bounds."""

    low: float
    high: float

    @property
    def text(self) -> str:
        return (
            f"reproduced if the whole interval lies in [{self.low:g}, {self.high:g}], contradicted if "
            "it lies outside, else not reproduced"
        )

    def verdict(self, found: Estimate) -> str:
        if self.low <= found.low and found.high <= self.high:
            return "reproduced"
        outside = found.high < self.low or found.low > self.high
        return "contradicted" if outside else "not reproduced"
