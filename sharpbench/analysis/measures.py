"""What audits are made of: networks of a suite, columns of their figures, and measures that make one figure.

A `Group` names networks of a suite, a measure (`Mean`, `Difference`, `Correlation`, …) makes one figure of
groups, a column or two, and nothing else: the claims of an audit are lists of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from sharpbench.analysis.audit import Evidence, Missing
from sharpbench.analysis.generalization import grid
from sharpbench.analysis.prediction_scores.beyond_hyperparameters import from_hyperparameters
from sharpbench.analysis.prediction_scores.granulated_tau import difference_of_tau, granulated_tau
from sharpbench.analysis.statistics import LEVEL, NORMAL, Estimate, mean, over_seeds, slope

__all__ = [
    "ADVERSARIAL",
    "CORRUPTED",
    "ECE",
    "TEST_ERROR",
    "Apart",
    "BetweenDefinitions",
    "Column",
    "Correlation",
    "Difference",
    "GridRank",
    "Group",
    "Labelled",
    "Log",
    "Mean",
    "Slope",
    "Source",
    "TimeRatio",
    "values",
]

TEST_ERROR, ECE = "= test_error", "= ece_debiased"
ADVERSARIAL, CORRUPTED = "= adversarial_error", "= corrupted_error"
_FLOOR = "± ece_floor"


class Labelled(Protocol):
    """A metric with its parameters, as a column of the evidence."""

    @property
    def label(self) -> str:
        """The label under which it is recorded."""


@dataclass(frozen=True)
class Log:
    """The natural logarithm of a column: its differences are those of orders of magnitude."""

    of: str | Labelled


Column = str | Labelled | Log
"""A label, or what `Evidence.networks` calls an evaluated figure; a metric; the logarithm of one."""


def values(rows: pd.DataFrame, column: Column) -> np.ndarray:
    """A column of the rows of `Evidence.networks`, (N,). Raises Missing if there is none."""
    if isinstance(column, Log):
        found = values(rows, column.of)
        return np.log(np.where(found > 0, found, np.nan))
    name = column if isinstance(column, str) else column.label
    if name not in rows.columns:
        raise Missing(name)
    return rows[name].to_numpy(float)


def _counted(*columns: Column) -> bool:
    """Whether one is a share of the test points, of which a few can be equal by chance."""
    shares = (TEST_ERROR, ADVERSARIAL, CORRUPTED)
    return any(isinstance(column, str) and column in shares for column in columns)


# --- networks of suites -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A suite, or several that ask the same at different length: the first with figures is taken.

    ``common``: what all networks have that are asked for, unless it is said otherwise.
    """

    suites: tuple[str, ...]
    common: dict[str, Any] = field(default_factory=dict, hash=False)

    def where(self, **conditions: Any) -> Group:
        """The networks whose ``part__parameter`` equals the value."""
        return Group(self, {**self.common, **conditions})


@dataclass(frozen=True)
class Group:
    """Networks of a source that share some parameters."""

    source: Source
    conditions: dict[str, Any] = field(hash=False)

    def rows(self, evidence: Evidence, suite: str) -> pd.DataFrame:
        return evidence.where(suite, **self.conditions)

    def but(self, **conditions: Any) -> Group:
        """The same networks with other parameters."""
        return Group(self.source, {**self.conditions, **conditions})


# --- figures ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _OfNetworks:
    """``groups`` are taken together."""

    groups: tuple[Group, ...]

    @property
    def suites(self) -> tuple[str, ...]:
        return self.groups[0].source.suites

    def _rows(self, evidence: Evidence, suite: str) -> pd.DataFrame:
        return pd.concat([group.rows(evidence, suite) for group in self.groups])


@dataclass(frozen=True)
class Mean:
    """The mean of a column over networks, with Student's t interval."""

    group: Group
    column: Column

    @property
    def suites(self) -> tuple[str, ...]:
        return self.group.source.suites

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        figures = values(self.group.rows(evidence, suite), self.column)
        return mean(figures, counted=_counted(self.column))


@dataclass(frozen=True)
class BetweenDefinitions:
    """The mean over networks of ``one`` − ``other``, two columns of the same network."""

    group: Group
    one: Column
    other: Column

    @property
    def suites(self) -> tuple[str, ...]:
        return self.group.source.suites

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        rows = self.group.rows(evidence, suite)
        return mean(values(rows, self.one) - values(rows, self.other))


@dataclass(frozen=True)
class Difference(_OfNetworks):
    """The mean of ``groups`` − ``base`` over networks of equal seeds; a seed counts once, by its mean.

    Of a calibration error with its noise: two calibrated networks of the same confidences differ by 95%
    of √(s² + s′²), s the spreads of their floors, and more seeds judged on the same points no less.
    """

    base: Group
    column: Column

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        base = self.base.rows(evidence, suite)
        there = []
        for group in self.groups:
            try:
                there.append(group.rows(evidence, suite))
            except Missing:
                continue
        if not there:
            raise Missing(suite)
        apart = pd.concat([_paired(rows, base, self.column) for rows in there])
        each = apart.groupby(level=0).mean().to_numpy(float)
        found = mean(each, counted=_counted(self.column))
        if self.column != ECE or found is None:
            return found
        floor = values(base, _FLOOR).mean()
        spreads = [math.hypot(values(rows, _FLOOR).mean(), floor) for rows in there]
        return dataclasses.replace(found, noise=NORMAL * float(np.mean(spreads)))


def _by_seed(rows: pd.DataFrame, column: Column) -> pd.Series:
    return pd.Series(values(rows, column), index=rows["seed"]).groupby(level=0).first()


def _paired(one: pd.DataFrame, other: pd.DataFrame, column: Column) -> pd.Series:
    """``one`` − ``other`` of the networks of equal seeds, by seed."""
    return (_by_seed(one, column) - _by_seed(other, column)).dropna()


@dataclass(frozen=True)
class TimeRatio:
    """Training time of ``one`` over that of ``other`` at equal seeds, each taken alone on the machine."""

    one: Group
    other: Group

    @property
    def suites(self) -> tuple[str, ...]:
        return self.one.source.suites

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        slow, fast = (
            _by_seed(group.rows(evidence, suite), "training_seconds")
            for group in (self.one, self.other)
        )
        if slow.isna().all() or fast.isna().all():
            raise Missing(suite)
        return mean((slow / fast).dropna().to_numpy())


@dataclass(frozen=True)
class Correlation(_OfNetworks):
    """A correlation of columns over networks, its interval by the jackknife over seeds.

    ``within``: of the differences from the means of networks that are equal in this parameter. Ranks by a
    calibration error say nothing where all of it can be chance: the noise is infinite then.
    """

    statistic: Callable[..., float]
    columns: tuple[Column, ...]
    within: str | None = None

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        rows = self._rows(evidence, suite)
        found = _over_seeds(self.statistic, rows, self.columns, self.within, correlation=True)
        if ECE not in self.columns or found is None:
            return found
        by_chance = NORMAL * math.sqrt(2) * values(rows, _FLOOR).mean()
        alike = np.ptp(values(rows, ECE)) < by_chance
        return dataclasses.replace(found, noise=math.inf if alike else 0.0)


@dataclass(frozen=True)
class GridRank:
    """Ψ, by how much a column ranks the networks of a grid of hyperparameters by their test error, with the
    interval over the seeds (Jiang et al. 2019; `prediction_scores.granulated_tau`).

    Where the ranks could be chance among the configurations (permutations, p > 5%) the interval reaches 0.
    ``beyond``: less the Ψ of what the hyperparameters alone predict.
    """

    source: Source
    column: Column
    beyond: bool = False

    @property
    def suites(self) -> tuple[str, ...]:
        return self.source.suites

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        found = grid(evidence.results(suite))
        if found is None:
            return None
        rows = evidence.networks(suite).reindex(list(found.subjects))
        x, y = values(rows, self.column), values(rows, TEST_ERROR)
        if self.beyond:
            rival = from_hyperparameters(found.population, y)
            return difference_of_tau(found.population, x, rival, y)
        _, mean = granulated_tau(found.population, x, y)
        if mean is None or mean.p <= LEVEL:
            return mean
        return dataclasses.replace(mean, low=min(mean.low, 0.0), high=max(mean.high, 0.0))


@dataclass(frozen=True)
class Slope(_OfNetworks):
    """The least-squares slope of ``y`` on ``x`` over networks; ``within`` as of a `Correlation`."""

    x: Column
    y: Column
    within: str | None = None

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        rows = self._rows(evidence, suite)
        return _over_seeds(slope, rows, (self.x, self.y), self.within, correlation=False)


def _over_seeds(
    statistic: Callable[..., float],
    rows: pd.DataFrame,
    columns: tuple[Column, ...],
    within: str | None,
    *,
    correlation: bool,
) -> Estimate | None:
    named = [values(rows, column) for column in columns]
    how: dict[str, Any] = {
        "seeds": rows["seed"].to_numpy(),
        "correlation": correlation,
        "counted": _counted(*columns),
    }
    if within is None:
        return over_seeds(statistic, *named, **how)

    def centred(*values: np.ndarray) -> float:
        left, groups = [v.copy() for v in values[:-1]], values[-1]
        for level in np.unique(groups):
            at = groups == level
            for v in left:
                v[at] -= v[at].mean()
        return statistic(*left)

    groups = rows[within].to_numpy(float)
    return over_seeds(centred, *named, groups, **how)


@dataclass(frozen=True)
class Apart:
    """The difference of two means over networks that have nothing in common."""

    one: Mean
    other: Mean

    @property
    def suites(self) -> tuple[str, ...]:
        return self.other.suites

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        a, b = self.one(evidence, self.one.suites[0]), self.other(evidence, suite)
        if a is None or b is None:
            return None
        half = math.hypot(a.high - a.value, b.high - b.value)
        gap = a.value - b.value
        return Estimate(gap, gap - half, gap + half, a.n + b.n)
