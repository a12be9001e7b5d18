"""What is learned first: λ against the tangent kernel's eigenvalues, from the records of `spectral_bias`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from sharpbench.analysis.audit import Evidence, Missing
from sharpbench.analysis.measures import Group
from sharpbench.analysis.statistics import Estimate, mean, over_seeds, slope
from sharpbench.paper.evidence import OfProblem, Rate

__all__ = [
    "FarthestFromTheKernel",
    "FirstWhereTheyDiffer",
    "SlowerByRate",
    "kernel_eigenvalue",
    "learning_rates",
]

_MODE = "dataset.mode"


def kernel_eigenvalue(mode: int) -> float:
    """Of cos(mode·φ), by the tangent kernel of an infinitely wide ReLU network without biases on the circle.

    (1/π) ∫ K(θ) cos(kθ) dθ over [0, π] of K(θ) = [(π − θ) 2 cos θ + sin θ]/(2π):
    (k² + 3)/(π²(k² − 1)²) for even k, ¼ for k = 1, 0 for other odd ones.
    """
    if mode % 2:
        return 0.25 if mode == 1 else 0.0
    return float((mode**2 + 3) / (math.pi**2 * (mode**2 - 1) ** 2))


def learning_rates(evidence: Evidence, suite: str, group: Group) -> pd.DataFrame:
    """One row a network: ``seed``, ``mode`` and the ``rate`` at which its residual falls per unit of time.

    Gradient descent on a fixed kernel multiplies the residual by 1 − ηλ each step, so that the rate is
    (1 − (Lₙ/L₀)^(1/2n))/η after n steps of size η: as many as it takes until the residual has fallen to 1/e
    of what it was, or all. Of a loss that doesn't fall it is negative.
    """
    networks = group.rows(evidence, suite)
    frame = evidence.frame(suite)
    log = frame[(frame["kind"] == "training") & (frame["name"] == "train_loss")]
    log = log[log["subject"].isin(networks.index)]
    if log.empty:
        raise Missing(suite)
    rows = []
    for subject, losses in log.groupby("subject"):
        losses = losses.sort_values("epoch")  # each is one step, its loss that before it
        epochs, values = losses["epoch"].to_numpy(float), losses["value"].to_numpy(float)
        steps, ratios = epochs[1:] - epochs[0], np.sqrt(values[1:] / values[0])
        fallen = np.flatnonzero(ratios <= 1 / math.e)
        end = int(fallen[0]) if len(fallen) else len(ratios) - 1
        network = networks.loc[subject]
        rate = (1 - ratios[end] ** (1 / steps[end])) / network["recipe.lr"]
        rows.append({"seed": network["seed"], "mode": int(network[_MODE]), "rate": rate})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _OfModes:
    """Of the networks of ``group``, each of which learns one mode."""

    group: Group

    @property
    def suites(self) -> tuple[str, ...]:
        return self.group.source.suites


@dataclass(frozen=True)
class FarthestFromTheKernel(_OfModes):
    """The rate of learning a mode over the kernel's eigenvalue, less 1, mean over networks.

    Of that mode whose interval reaches farthest from 0, among those that the kernel can learn.
    """

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        found = learning_rates(evidence, suite, self.group)
        ratios = [
            mean(rows["rate"].to_numpy() / kernel_eigenvalue(mode) - 1)
            for mode, rows in found.groupby("mode")
            if kernel_eigenvalue(mode) > 0
        ]
        told = [ratio for ratio in ratios if ratio is not None]
        if len(told) < len(ratios) or not told:
            return None
        return max(told, key=lambda e: max(abs(e.low), abs(e.high)))


@dataclass(frozen=True)
class _Curved(_OfModes):
    """``rate``: the λ of the modes."""

    rate: Rate

    def _curvature_rate(self, evidence: Evidence, suite: str, mode: int) -> float:
        """λ of cos(mode·φ) along the circle, as the same suite measured it; of a constant −∞."""
        if mode == 0:
            return -math.inf
        problem = "sine" if mode == 1 else f"sine(scale={mode})"
        return OfProblem(self.group.source, problem, self.rate)(evidence, suite).value


@dataclass(frozen=True)
class SlowerByRate(_Curved):
    """The least-squares slope of the logarithm of the rate of learning on λ, over modes and seeds."""

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        found = learning_rates(evidence, suite, self.group)
        curved = {m: self._curvature_rate(evidence, suite, m) for m in found["mode"].unique()}
        x, rates = found["mode"].map(curved).to_numpy(), found["rate"].to_numpy()
        return over_seeds(slope, x, _log(rates), seeds=found["seed"].to_numpy())


@dataclass(frozen=True)
class FirstWhereTheyDiffer(_Curved):
    """The rate of learning the mode of lower λ less that of the mode of higher λ, mean over seeds.

    In the mean over the pairs of modes that the kernel's eigenvalues order the other way.
    """

    def __call__(self, evidence: Evidence, suite: str) -> Estimate | None:
        found = learning_rates(evidence, suite, self.group)
        modes = sorted(found["mode"].unique())
        curved = {m: self._curvature_rate(evidence, suite, m) for m in modes}
        table = found.pivot_table(index="seed", columns="mode", values="rate")
        pairs = list(_at_odds(modes, curved))
        if not pairs:
            raise Missing(suite)
        apart = np.mean([(table[low] - table[high]).to_numpy() for low, high in pairs], axis=0)
        return mean(apart)


def _at_odds(modes: list[int], curved: dict[int, float]) -> Iterator[tuple[int, int]]:
    """Pairs of a mode of lower λ and one of higher λ whose eigenvalue is the larger one."""
    for one, other in combinations(modes, 2):
        low, high = sorted((one, other), key=curved.__getitem__)
        if curved[low] < curved[high] and kernel_eigenvalue(low) < kernel_eigenvalue(high):
            yield low, high


def _log(rates: np.ndarray) -> np.ndarray:
    """NaN for a rate that is not positive: that network has learned nothing."""
    return np.log(np.where(rates > 0, rates, np.nan))
