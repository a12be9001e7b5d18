"""Two sets of results side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sharpbench.analysis.cost import FOREIGN_CORES
from sharpbench.analysis.numbers import count
from sharpbench.analysis.results import error_without_random_numbers, random_error

__all__ = ["Comparison", "compare_costs", "compare_records"]

_FIGURE = ["kind", "label", "transformation", "epoch"]
"""What tells the figures of one subject apart, but for a transformation's draw."""


@dataclass(frozen=True)
class Comparison:
    """``rows``: figures that differ (``subject_label``, ``figure``, ``a``, ``b``, ``standard_errors``),
    most standard errors first.

    Figures of the same key come from the same weights with the same random numbers: what these add to an
    error is the same in both, and a difference is told in terms of the rest, in most cases of nothing, so
    that it counts as infinite. Where the keys differ (another version of the metric), or the rest isn't
    told, the noise is the spread of the paired differences of this figure over networks, relative to
    their size; with fewer than three seeds it is both errors in quadrature, NaN where one isn't told.
    """

    rows: pd.DataFrame
    common: int
    only_a: int
    only_b: int

    @property
    def sentence(self) -> str:
        return (
            f"{count(self.common)} figures in both, {count(len(self.rows))} of them differ; "
            f"{count(self.only_a)} only before, {count(self.only_b)} only after"
        )


def compare_records(a: pd.DataFrame, b: pd.DataFrame) -> Comparison:
    """Match measured and evaluated figures by subject, figure, transformation, draw and epoch."""
    first, second = _keyed(a), _keyed(b)
    both = first.index.intersection(second.index)
    x, y = first.loc[both], second.loc[both]
    moved = (x["value"] != y["value"]) & ~(x["value"].isna() & y["value"].isna())
    error = _noise(x, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where(error == 0, np.inf, (x["value"] - y["value"]).abs() / error)
    after = x["transformation"].map(lambda t: f" after {t}" if isinstance(t, str) else "")
    rows = pd.DataFrame(
        {
            "subject_label": x["subject_label"],
            "figure": x["label"] + after,
            "a": x["value"],
            "b": y["value"],
            "standard_errors": errors,
        }
    )[moved]
    return Comparison(
        rows.sort_values("standard_errors", ascending=False, kind="stable"),
        len(both),
        len(first) - len(both),
        len(second) - len(both),
    )


_FEWEST = 3
"""Seeds from which on a spread over networks is told."""


def _noise(x: pd.DataFrame, y: pd.DataFrame) -> np.ndarray:
    """The standard error of each y − x; see `Comparison`."""
    apart = np.hypot(random_error(x), random_error(y)).to_numpy()
    spread = _spread(x, y)
    otherwise = np.where(np.isnan(spread), apart, spread)
    if "key" not in x or "key" not in y:
        return otherwise
    left = np.hypot(error_without_random_numbers(x), error_without_random_numbers(y)).to_numpy()
    same = (x["key"].notna() & (x["key"] == y["key"])).to_numpy()
    told: np.ndarray = np.where(same & ~np.isnan(left), left, otherwise)
    return told


def _spread(x: pd.DataFrame, y: pd.DataFrame) -> np.ndarray:
    """The deviation of a figure's paired differences over networks, at each one's size; NaN of few."""
    before, after = x["value"].astype(float), y["value"].astype(float)
    size = 0.5 * (before.abs() + after.abs())
    figure = [x[column].astype(object).where(x[column].notna(), "") for column in _FIGURE]
    rows = pd.DataFrame({"change": (after - before) / size.where(size > 0), "seed": x["seed"]})
    groups = rows.groupby([c.astype(str) for c in figure])
    enough = rows["change"].notna() & (groups["seed"].transform("nunique") >= _FEWEST)
    spread: np.ndarray = (groups["change"].transform("std").where(enough) * size).to_numpy(float)
    return spread


def compare_costs(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Costs of B over those of A, a row a metric: medians over the ``n`` subjects timed in both.

    Columns: ``metric``, ``n``, ``time`` with its ``smallest`` and ``largest`` ratio, ``memory``, ``work``.
    Times that were taken beside other work, in either, are left out.
    """
    columns = ["cost.median_seconds", "cost.peak_bytes", "gradient_equivalents"]
    sides = []
    for frame in (a, b):
        keyed = _keyed(frame)
        if "cost.median_seconds" not in keyed:
            return pd.DataFrame()
        alone = ~keyed["cost.shared_machine"].fillna(False).astype(bool)
        if "cost.foreign_cores" in keyed:
            alone &= ~(keyed["cost.foreign_cores"].astype(float) > FOREIGN_CORES)
        sides.append(keyed[keyed["cost.median_seconds"].notna() & alone])
    both = sides[0].index.intersection(sides[1].index)
    if both.empty:
        return pd.DataFrame()
    x, y = (side.loc[both] for side in sides)
    ratios = (y[columns].astype(float) / x[columns].astype(float)).assign(metric=x["label"])
    grouped = ratios.groupby("metric")
    return grouped.agg(
        n=("cost.median_seconds", "size"),
        time=("cost.median_seconds", "median"),
        smallest=("cost.median_seconds", "min"),
        largest=("cost.median_seconds", "max"),
        memory=("cost.peak_bytes", "median"),
        work=("gradient_equivalents", "median"),
    ).reset_index()


def _keyed(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[frame["kind"].isin(["measurement", "evaluation", "trajectory", "problem"])]
    key = ["subject", *_FIGURE, "draw"]
    filled = rows[key].astype(object).where(rows[key].notna(), "").astype(str)
    rows = rows.set_index(pd.MultiIndex.from_frame(filled))
    return rows[~rows.index.duplicated(keep="last")]
