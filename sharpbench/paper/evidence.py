"""How the figures of arXiv:2511.01438 are read from the records of the suites that run them again.

The measures that any audit is made of are in `analysis.measures`; here are those of λ.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.audit import Evidence, Missing
from sharpbench.analysis.measures import Source
from sharpbench.analysis.statistics import Estimate, exactly, mean, over_seeds

__all__ = [
    "GRID",
    "GROUND",
    "JACOBIAN",
    "MNIST",
    "MOONS",
    "PAGES",
    "QUESTIONED",
    "ROBUST",
    "SPECTRAL_BIAS",
    "SUITES",
    "TABLE_2",
    "Along",
    "Change",
    "OfProblem",
    "Rate",
    "rate",
]

JACOBIAN = "input_jacobian_norm"


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
    from sharpbench.metrics import metrics  # not above: pages of other suites take no torch

    return metrics.create("curvature_rate", dict(parameters)).label


def rate(**parameters: Any) -> Rate:
    return Rate(tuple(parameters.items()))


# --- the suites ---------------------------------------------------------------------------------------

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
ROBUST = Source(("lambda_robustness",))
SPECTRAL_BIAS = Source(("spectral_bias",))
GRID = Source(("generalization_digits", "generalization_quick"))

PAGES = tuple(
    suite
    for source in (GROUND, MOONS, MNIST, TABLE_2, QUESTIONED, ROBUST, SPECTRAL_BIAS)
    for suite in source.suites
)
"""The suites that are made for the paper, whose pages show the audit."""

SUITES = (*PAGES, *GRID.suites)
"""All that give figures."""


# --- figures ------------------------------------------------------------------------------------------


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
