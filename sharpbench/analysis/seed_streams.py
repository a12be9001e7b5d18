"""Where the spread over networks comes from: the data, the initial weights or the training's order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sharpbench.analysis.names import of_users
from sharpbench.analysis.prediction import TARGETS
from sharpbench.analysis.results import SEED_COLUMNS, Results, computed_once, seeds, stratum
from sharpbench.analysis.statistics import LEVEL, Estimate, jackknife
from sharpbench.seeds import STREAMS

__all__ = ["apart", "exchanged", "spreads"]


def apart(results: Results) -> bool:
    """Whether there are networks that share the seed of one stream and not of another."""
    if not set(SEED_COLUMNS) <= set(results.frame.columns):
        return False
    frame = results.frame[~of_users(results.frame)]
    told = frame.drop_duplicates("subject")[[*SEED_COLUMNS]].drop_duplicates().dropna()
    return len(told) > 1 and bool((told.nunique() < len(told)).any())


@computed_once
def spreads(results: Results) -> pd.DataFrame:
    """How far a figure of one data set, model and recipe spreads as one seed alone is exchanged.

    A row a stratum, recipe and figure (every metric, and what networks are judged by): ``stratum``,
    ``recipe``, ``figure`` (in words), ``name``, ``unit``, ``n`` networks, ``together`` (the standard
    deviation over all of them) and one column a stream of `STREAMS`, an `Estimate` or None where no two
    networks differ in it alone.
    """
    if not apart(results):
        return pd.DataFrame()
    judged = results.evaluated[results.evaluated["name"].isin(TARGETS)]
    figures = pd.concat(
        [
            results.measured.assign(figure=results.measured["metric_short"]),
            judged.assign(figure=judged["name"].map(results.title)),
        ]
    )
    figures = figures[~of_users(figures)]
    figures = figures.assign(stratum=stratum(figures))
    rows = []
    for (where, recipe, figure), group in figures.groupby(
        ["stratum", "recipe_short", "figure"], sort=False
    ):
        values, own = group["value"].to_numpy(float), seeds(group)
        row: dict[str, Any] = {
            "stratum": where,
            "recipe": recipe,
            "figure": figure,
            "name": group["name"].iloc[0],
            "unit": results.units.get(str(figure), ""),
            "n": len(group),
            "together": float(values.std(ddof=1)) if len(group) > 1 else math.nan,
        }
        rows.append(row | {s: exchanged(values, own, i) for i, s in enumerate(STREAMS)})
    return pd.DataFrame(rows)


def exchanged(values: np.ndarray, seeds: np.ndarray, stream: int) -> Estimate | None:
    """The standard deviation of ``values`` (N,) as the seed of one stream is exchanged and no other.

    ``seeds`` (N, streams). √ of half the mean squared difference of the pairs that differ in that seed
    alone, whatever the design. The 95% interval is the jackknife's, of the logarithm: over the seeds that are
    exchanged, which all of the data share, and over the data's, the wider of both, which miss what rare large
    differences add, so that it reaches at least as far as that of a normal spread of as many seeds (χ²); it
    has no end for fewer than three of either, or where all pairs are equal. None without such a pair.

    It holds 94% or more of spreads that are normal, Student's t₅ or lognormal with deviation 0.5; of
    lognormal ones with deviation 1, of which few seeds show the largest, 75 to 97%.
    """
    own = _variance(values, seeds, stream)
    if own is None:
        return None
    n = len(values)
    if own == 0:
        return Estimate(0.0, 0.0, math.inf, n)
    low, high = 0.0, math.inf
    ends = [_interval(own, values, seeds, stream, blocks) for blocks in sorted({0, stream})]
    if None not in ends:
        free = len(np.unique(seeds[:, stream])) - 1
        normal = [
            math.sqrt(own * free / q) for q in stats.chi2.ppf([1 - LEVEL / 2, LEVEL / 2], free)
        ]
        low = min(normal[0], *(e[0] for e in ends if e))
        high = max(normal[1], *(e[1] for e in ends if e))
    return Estimate(math.sqrt(own), low, high, n)


def _interval(
    own: float, values: np.ndarray, seeds: np.ndarray, stream: int, blocks: int
) -> tuple[float, float] | None:
    left = [seeds[:, blocks] != seed for seed in np.unique(seeds[:, blocks])]
    without = [_variance(values[kept], seeds[kept], stream) for kept in left]
    logs = np.array([math.log(v) if v else math.nan for v in without])
    if len(logs) < 3 or not np.isfinite(logs).all():
        return None
    low, high, _ = jackknife(math.log(own), logs)
    return math.exp(0.5 * low), math.exp(0.5 * high)


def _variance(values: np.ndarray, seeds: np.ndarray, stream: int) -> float | None:
    others = np.delete(seeds, stream, axis=1)
    first, second = np.triu_indices(len(values), 1)
    alone = (others[first] == others[second]).all(1) & (
        seeds[first, stream] != seeds[second, stream]
    )
    if not alone.any():
        return None
    return 0.5 * float(np.square(values[first[alone]] - values[second[alone]]).mean())
