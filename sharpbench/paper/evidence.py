"""How the figures of arXiv:2511.01438 are read from the records of the suites that run them again.

A `Group` names networks of a suite, a measure (`Mean`, `Difference`, `Correlation`, …) makes one figure of
groups, a column or two, and nothing else: claims and questions are lists of them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.audit import Evidence, Missing
from sharpbench.analysis.statistics import NORMAL, Estimate, exactly, mean, over_seeds, slope
from sharpbench.metrics import metrics

__all__ = [
    "ECE",
    "GROUND",
    "JACOBIAN",
    "MNIST",
    "MOONS",
    "QUESTIONED",
    "SUITES",
    "TABLE_2",
    "TEST_ERROR",
    "Along",
    "Apart",
    "BetweenDefinitions",
    "Change",
    "Column",
    "Correlation",
    "Difference",
    "Group",
    "Mean",
    "OfProblem",
    "Rate",
    "Slope",
    "Source",
    "TimeRatio",
    "rate",
]

TEST_ERROR, ECE, JACOBIAN = "= test_error", "= ece_debiased", "input_jacobian_norm"
_FLOOR = "± ece_floor"


@dataclass(frozen=True)
class Rate:
    """λ with these parameters, as a column of the evidence."""

    parameters: tuple[tuple[str, Any], ...]

    @property
    def label(self) -> str:
        """The label under which it is recorded."""
        return _label(self.parameters)


@functools.cache
def _label(parameters: tuple[tuple[str, Any], ...]) -> str:
    return metrics.create("curvature_rate", dict(parameters)).label


def rate(**parameters: Any) -> Rate:
    return Rate(tuple(parameters.items()))


Column = str | Rate


def _column(rows: pd.DataFrame, column: Column) -> np.ndarray:
    name = column.label if isinstance(column, Rate) else column
    if name not in rows.columns:
        raise Missing(name)
    return rows[name].to_numpy(float)


# --- the suites, and networks of them ---------------------------------------------------------------


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


GROUND = Source(("lambda_ground_truth",))
MOONS = Source(
    ("paper_two_moons",),
    {
        "model__activation": "tanh",
        "model__initialization": "torch",
        "recipe": "adam",
        "recipe__epochs": 25,
    },
)
MNIST = Source(("paper_mnist",))
TABLE_2 = Source(("paper_sam", "paper_sam_reduced"))
QUESTIONED = Source(("lambda_questions",))

SUITES = tuple(s for source in (GROUND, MOONS, MNIST, TABLE_2, QUESTIONED) for s in source.suites)


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
        return mean(_column(self.group.rows(evidence, suite), self.column))


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
        return mean(_column(rows, self.one) - _column(rows, self.other))


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
        found = mean(apart.groupby(level=0).mean().to_numpy(float))
        if self.column != ECE or found is None:
            return found
        floor = _column(base, _FLOOR).mean()
        spreads = [math.hypot(_column(rows, _FLOOR).mean(), floor) for rows in there]
        return dataclasses.replace(found, noise=NORMAL * float(np.mean(spreads)))


def _by_seed(rows: pd.DataFrame, column: Column) -> pd.Series:
    return pd.Series(_column(rows, column), index=rows["seed"]).groupby(level=0).first()


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
        by_chance = NORMAL * math.sqrt(2) * _column(rows, _FLOOR).mean()
        alike = np.ptp(_column(rows, ECE)) < by_chance
        return dataclasses.replace(found, noise=math.inf if alike else 0.0)


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
    named = [_column(rows, column) for column in columns]
    seeds = rows["seed"].to_numpy()
    if within is None:
        return over_seeds(statistic, *named, seeds=seeds, correlation=correlation)

    def centred(*values: np.ndarray) -> float:
        left, groups = [v.copy() for v in values[:-1]], values[-1]
        for level in np.unique(groups):
            at = groups == level
            for v in left:
                v[at] -= v[at].mean()
        return statistic(*left)

    groups = rows[within].to_numpy(float)
    return over_seeds(centred, *named, groups, seeds=seeds, correlation=correlation)


@dataclass(frozen=True)
class Along:
    """λ along training of 50 epochs at one epoch, by seed, mean over seeds.

    ``since``: its rise since that epoch; ``over``: relative to the mean of that recipe, less 1.
    """

    source: Source
    recipe: str
    epoch: int
    since: int | None = None
    over: str | None = None

    @property
    def suites(self) -> tuple[str, ...]:
        return self.source.suites

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        then = self._at(evidence, suite, self.recipe, self.epoch)
        if self.since is not None:
            return mean((then - self._at(evidence, suite, self.recipe, self.since)).to_numpy(float))
        if self.over is None:
            return mean(then.to_numpy(float))
        other = self._at(evidence, suite, self.over, self.epoch)
        both = pd.concat([then, other], axis=1).dropna()
        return over_seeds(
            lambda a, b: float(a.mean() / b.mean() - 1), *both.to_numpy().T, seeds=both.index
        )

    @staticmethod
    def _at(evidence: Evidence, suite: str, recipe: str, epoch: int) -> pd.Series:
        frame = evidence.frame(suite)
        rows = frame[
            (frame["kind"] == "trajectory")
            & (frame["recipe"] == recipe)
            & (frame["recipe.epochs"] == 50)
            & (frame["epoch"] == epoch)
        ]
        if rows.empty:
            raise Missing(suite)
        return rows.sort_values("seed").set_index("seed")["value"].astype(float)


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


@dataclass(frozen=True)
class Change:
    """The change of λ under transformations, by their labels, over networks: its mean.

    ``named``: by their names, whatever the parameters, and the largest size in place of the mean.
    """

    source: Source
    column: Rate
    transformation: str = ""
    named: tuple[str, ...] = ()

    @property
    def suites(self) -> tuple[str, ...]:
        return self.source.suites

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        frame = evidence.frame(suite)
        ours = frame[(frame["kind"] == "measurement") & (frame["status"] == "ok")]
        ours = ours[ours["label"] == self.column.label]
        plain = ours[ours["transformation"].isna()].set_index("subject")["value"]
        if self.named:
            changed = ours[ours["transformation_name"].isin(self.named)]
        else:
            changed = ours[ours["transformation"] == self.transformation]
        if changed.empty:
            raise Missing(suite)
        change = (changed["value"] - changed["subject"].map(plain)).to_numpy(float)
        if self.named:
            return exactly(float(np.abs(change).max()), len(change))
        return mean(change)


@dataclass(frozen=True)
class OfProblem:
    """λ of a problem whose derivatives are all known, in some ``form``; of the lowest seed.

    ``less``: from it λ by another definition is taken away.
    """

    source: Source
    problem: str
    column: Rate
    form: Callable[[float], float] = float
    less: Rate | None = None

    @property
    def suites(self) -> tuple[str, ...]:
        return self.source.suites

    def __call__(self, evidence: Evidence, suite: str) -> Estimate:
        value = self._value(evidence, suite, self.column)
        if self.less is not None:
            value -= self._value(evidence, suite, self.less)
        return exactly(self.form(value))

    def _value(self, evidence: Evidence, suite: str, column: Rate) -> float:
        frame = evidence.frame(suite)
        rows = frame[
            (frame["kind"] == "problem")
            & (frame["problem_label"] == self.problem)
            & (frame["label"] == column.label)
            & (frame["status"] == "ok")
        ]
        if rows.empty:
            raise Missing(suite)
        return float(rows.sort_values("seed").iloc[0]["value"])
