"""Predictive? Rank correlation of metrics with what a trained network is judged by.

Pooling unlike subjects invites Simpson's paradox (label noise moves both λ and the test error), so
every correlation is given twice: pooled, and within strata of equal data and model, where subjects
differ in recipe and seed alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sharpbench.analysis.frames import evaluations, measured, stratum
from sharpbench.seeds import numpy_generator

__all__ = ["TARGETS", "Association", "associations", "kendall", "metric_agreement"]

TARGETS = ("test_error", "gap", "test_loss", "loss_gap", "ece", "brier_score")
"""Evaluated quantities that a sharpness metric is asked to rank; larger is worse in each."""

_RESAMPLES = 1000

_FEWEST = 6
"""Below so many subjects a bootstrap interval is narrow by accident."""


@dataclass(frozen=True)
class Association:
    """Kendall's τ with a 95% bootstrap interval over ``n`` subjects in ``strata`` strata."""

    tau: float
    low: float
    high: float
    n: int
    pairs: int
    strata: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out, over enough subjects for it to mean something."""
        return self.n >= _FEWEST and (self.low > 0 or self.high < 0)


def kendall(
    x: np.ndarray, y: np.ndarray, strata: np.ndarray, *, seed: int = 0
) -> Association | None:
    """Kendall's τ over the pairs of subjects within one stratum, pooled over the strata.

    τ = (concordant − discordant) / (pairs that neither x nor y ties). With a single stratum this is
    Goodman and Kruskal's form of Kendall's coefficient over all subjects. The interval is the
    percentile bootstrap over subjects, resampled within their strata. None if no pair is untied.
    """
    rng = numpy_generator(seed)
    numerator, denominator, n, used = 0.0, 0.0, 0, 0
    top, bottom = np.zeros(_RESAMPLES), np.zeros(_RESAMPLES)
    for signs in _concordance(x, y, strata):
        size = len(signs)
        numerator += signs.sum(dtype=float) / 2
        denominator += np.abs(signs).sum(dtype=float) / 2
        n, used = n + size, used + 1
        # How often each subject is drawn: a resample's sum over pairs is then a quadratic form. Its
        # products are whole numbers, exact in float32.
        drawn = rng.multinomial(size, np.full(size, 1 / size), _RESAMPLES).astype(np.float32)
        top += ((drawn @ signs) * drawn).sum(1, dtype=float) / 2
        bottom += ((drawn @ np.abs(signs)) * drawn).sum(1, dtype=float) / 2
    if denominator == 0:
        return None
    taus = top[bottom > 0] / bottom[bottom > 0]
    low, high = np.quantile(taus, [0.025, 0.975])
    tau = float(numerator / denominator)
    return Association(tau, float(low), float(high), n, int(denominator), used)


def _concordance(x: np.ndarray, y: np.ndarray, strata: np.ndarray) -> Iterator[np.ndarray]:
    """For each stratum of two subjects or more: +1 for concordant pairs, −1 for discordant, 0 for ties."""
    for one in pd.unique(strata):
        rows = np.flatnonzero(strata == one)
        if len(rows) > 1:
            a, b = x[rows].astype(float), y[rows].astype(float)
            signs = np.sign(a[:, None] - a) * np.sign(b[:, None] - b)
            yield signs.astype(np.float32)


def associations(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a metric and target with the pooled and the within-stratum coefficient.

    Columns: ``metric``, ``target``, ``pooled`` and ``within`` (`Association`), ``simpson``: both are
    clear of zero and of opposite sign.
    """
    values = measured(frame)
    judged = evaluations(frame)
    rows = []
    for metric, group in values.groupby("metric_short"):
        joined = group.merge(judged, left_on="subject", right_index=True)
        for target in TARGETS:
            if target not in judged.columns:
                continue
            complete = joined.dropna(subset=["value", target])
            x, y = complete["value"].to_numpy(float), complete[target].to_numpy(float)
            groups = stratum(complete).to_numpy()
            pooled = kendall(x, y, np.zeros(len(x)))
            within = kendall(x, y, groups)
            simpson = bool(
                pooled and within and pooled.clear and within.clear and pooled.tau * within.tau < 0
            )
            rows.append(
                {
                    "metric": metric,
                    "target": target,
                    "pooled": pooled,
                    "within": within,
                    "simpson": simpson,
                }
            )
    return pd.DataFrame(rows, columns=["metric", "target", "pooled", "within", "simpson"])


def metric_agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """Kendall's τ within strata between every two metrics, as a symmetric frame with ones."""
    values = measured(frame)
    table = values.pivot_table(index="subject", columns="metric_short", values="value")
    first = values.drop_duplicates("subject").set_index("subject")
    groups = stratum(first).reindex(table.index).to_numpy()
    result = pd.DataFrame(np.eye(len(table.columns)), table.columns, table.columns)
    for a, b in itertools.combinations(table.columns, 2):
        both = table[[a, b]].notna().all(axis=1).to_numpy()
        x, y = (table[name].to_numpy(float)[both] for name in (a, b))
        signs = list(_concordance(x, y, groups[both]))
        untied = sum(float(np.abs(s).sum(dtype=float)) for s in signs)
        concordant = sum(float(s.sum(dtype=float)) for s in signs)
        result.loc[a, b] = result.loc[b, a] = concordant / untied if untied else np.nan
    return result
