"""Figures with 95% intervals, and the written rules by which a statement about one is judged."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

__all__ = [
    "Effect",
    "Estimate",
    "Judgement",
    "Level",
    "NoEffect",
    "Rule",
    "Sign",
    "Within",
    "exactly",
    "jackknife",
    "mean",
    "over_seeds",
    "partial_spearman",
    "pearson",
    "slope",
    "spearman",
]


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


def over_seeds(
    statistic: Callable[..., float],
    *columns: np.ndarray,
    seeds: np.ndarray,
    correlation: bool = False,
) -> Estimate | None:
    """``statistic(*columns)`` with its 95% interval by the jackknife over ``seeds``.

    Networks of one seed share data and initial weights: all of a seed are left out together, and Student's
    t has one degree of freedom less than there are seeds. A ``correlation``'s interval is taken on the
    scale artanh r. None for fewer than three seeds or where the statistic is not finite.
    """
    table = np.column_stack([np.asarray(c, dtype=float) for c in columns])
    complete = np.isfinite(table).all(1)
    table, blocks = table[complete], np.asarray(seeds)[complete]
    names = np.unique(blocks)
    if len(names) < 3:
        return None
    value = float(statistic(*table.T))
    if not math.isfinite(value):
        return None
    without = np.array([statistic(*table[blocks != name].T) for name in names])
    edge = 1 - 1 / len(table) ** 2 if correlation else None
    low, high, _ = jackknife(value, without, edge=edge)
    return Estimate(value, low, high, len(table))


def jackknife(
    value: float, without: np.ndarray, *, edge: float | None = None
) -> tuple[float, float, float]:
    """The 95% interval of a figure and its two-sided p against 0, from its values ``without`` each block.

    Tukey (1958), with Student's t for the number of blocks less one. ``edge``: of a correlation, whose
    interval is that of its artanh: how far |r| is told from 1.
    """
    left = without[np.isfinite(without)]
    count = len(left)
    if count < 2:
        ends = (-1.0, 1.0) if edge is not None else (-math.inf, math.inf)
        return *ends, 1.0
    centre, each = value, left
    if edge is not None:
        centre = math.atanh(min(max(value, -edge), edge))
        each = np.arctanh(np.clip(left, -edge, edge))
    error = math.sqrt((count - 1) / count * float(np.square(each - each.mean()).sum()))
    if error < 1e-9 * max(abs(centre), 1e-300):
        if edge is None:
            return value, value, 0.0 if value else 1.0
        # Every block says the same: binomial trials without a failure.
        worst = 2 * 0.025 ** (1 / count) - 1
        low, high = (worst, 1.0) if value > 0 else (-1.0, -worst)
        return low, high, min(1.0, 2 * 0.5**count)
    width = float(stats.t.ppf(0.975, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(centre) / error, count - 1))
    if edge is None:
        return centre - width, centre + width, p
    return math.tanh(centre - width), math.tanh(centre + width), p


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


REPRODUCED = "reproduced"
IN_DIRECTION = "reproduced in direction"
CONTRADICTED = "contradicted"
INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Judgement:
    """What a rule says of an estimate.

    ``resolution``: of an inconclusive one half the width of its interval, the smallest effect that could
    have been seen; ``networks``: how many it would take if the figure stayed where it is (None: no
    number would do).
    """

    verdict: str
    resolution: float | None = None
    networks: int | None = None


class Rule(ABC):
    """How a statement is judged from an estimate alone; a wide interval never decides anything."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The rule in words."""

    @abstractmethod
    def judge(self, found: Estimate) -> Judgement:
        """The verdict on an estimate with its 95% interval."""

    @property
    def identity(self) -> str:
        """A hash of the rule with its numbers: a rule changed after the fact shows."""
        return hashlib.sha256(f"{self!r}: {self.text}".encode()).hexdigest()[:12]


def _inconclusive(found: Estimate, half: float, *distances: float) -> Judgement:
    """``distances``: from the figure to the bounds that its interval would have to stay clear of."""
    room = max(distances, default=0.0)
    needed = math.ceil(found.n * (half / room) ** 2 - 1e-6) if room > 0 and half > 0 else None
    return Judgement(INCONCLUSIVE, half, needed)


@dataclass(frozen=True)
class Level(Rule):
    """A stated number, to be met within ``tolerance``.

    ``margin``: half the width of the stated number's own 95% interval, where that is known.
    """

    stated: float
    tolerance: float
    margin: float = 0.0

    @property
    def text(self) -> str:
        own = f", ±{self.margin:.2g} of the stated number itself included," if self.margin else ""
        return (
            f"reproduced if the 95% interval of the difference from {self.stated:g}{own} lies within "
            f"±{self.tolerance:g}, contradicted if it lies outside, else inconclusive"
        )

    def judge(self, found: Estimate) -> Judgement:
        distance = abs(found.value - self.stated)
        own = (found.high - found.low) / 2
        half = math.hypot(own, self.margin)
        if distance + half <= self.tolerance:
            return Judgement(REPRODUCED)
        if distance - half > self.tolerance:
            return Judgement(CONTRADICTED)
        room = abs(self.tolerance - distance)
        needed = None
        if room > self.margin and own > 0:  # what the stated number lacks no network of ours gives
            needed = math.ceil(found.n * own**2 / (room**2 - self.margin**2) - 1e-6)
        return Judgement(INCONCLUSIVE, half, needed)


@dataclass(frozen=True)
class Effect(Rule):
    """A stated difference, slope or correlation, to be met within a quarter of its size."""

    stated: float

    @property
    def text(self) -> str:
        return (
            f"stated {self.stated:+g}: reproduced if the interval lies within a quarter of it, in "
            "direction if it leaves out 0 on the same side, contradicted if it leaves out 0 on the other "
            "or shows the effect to be smaller than a quarter of it, else inconclusive"
        )

    def judge(self, found: Estimate) -> Judgement:
        quarter, half = abs(self.stated) / 4, (found.high - found.low) / 2
        if self.stated - quarter <= found.low and found.high <= self.stated + quarter:
            return Judgement(REPRODUCED)
        if found.low > 0 or found.high < 0:
            same = math.copysign(1, found.value) == math.copysign(1, self.stated)
            return Judgement(IN_DIRECTION if same else CONTRADICTED)
        if -quarter <= found.low and found.high <= quarter:
            return Judgement(CONTRADICTED)
        return _inconclusive(found, half, abs(found.value), quarter - abs(found.value))


@dataclass(frozen=True)
class Sign(Rule):
    """A stated sign without a size: +1 or −1."""

    stated: int

    @property
    def text(self) -> str:
        side, other = ("above", "below") if self.stated > 0 else ("below", "above")
        return (
            f"reproduced if the interval lies {side} 0, contradicted if {other}, inconclusive if it "
            "holds 0"
        )

    def judge(self, found: Estimate) -> Judgement:
        if found.low <= 0 <= found.high:
            return _inconclusive(found, (found.high - found.low) / 2, abs(found.value))
        return Judgement(REPRODUCED if found.value * self.stated > 0 else CONTRADICTED)


@dataclass(frozen=True)
class NoEffect(Rule):
    """Stated: nothing there, which takes an interval within ±``margin`` to show."""

    margin: float

    @property
    def text(self) -> str:
        return (
            f"reproduced if the interval lies within ±{self.margin:g}, contradicted if it leaves out 0 "
            "and does not, else inconclusive"
        )

    def judge(self, found: Estimate) -> Judgement:
        if -self.margin <= found.low and found.high <= self.margin:
            return Judgement(REPRODUCED)
        if found.low > 0 or found.high < 0:
            return Judgement(CONTRADICTED)
        half = (found.high - found.low) / 2
        return _inconclusive(found, half, abs(found.value), self.margin - abs(found.value))


@dataclass(frozen=True)
class Within(Rule):
    """Stated: it lies between two bounds."""

    low: float
    high: float

    @property
    def text(self) -> str:
        return (
            f"reproduced if the whole interval lies in [{self.low:g}, {self.high:g}], contradicted if "
            "it lies outside, else inconclusive"
        )

    def judge(self, found: Estimate) -> Judgement:
        if self.low <= found.low and found.high <= self.high:
            return Judgement(REPRODUCED)
        if found.high < self.low or found.low > self.high:
            return Judgement(CONTRADICTED)
        inside = min(found.value - self.low, self.high - found.value)
        return _inconclusive(found, (found.high - found.low) / 2, abs(inside))
