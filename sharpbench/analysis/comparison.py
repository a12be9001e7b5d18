"""Two sets of results side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from sharpbench.analysis.cost import FOREIGN_CORES
from sharpbench.analysis.frames import random_error

__all__ = ["Comparison", "compare_costs", "compare_records"]


@dataclass(frozen=True)
class Comparison:
    """``rows``: figures that differ (``subject_label``, ``figure``, ``a``, ``b``, ``standard_errors``),
    most standard errors first; a difference without any standard error counts as infinite, one whose
    error isn't told is NaN."""

    rows: pd.DataFrame
    common: int
    only_a: int
    only_b: int

    @property
    def sentence(self) -> str:
        return (
            f"{self.common} figures in both, {len(self.rows)} of them differ; "
            f"{self.only_a} only in A, {self.only_b} only in B"
        )


def compare_records(a: pd.DataFrame, b: pd.DataFrame) -> Comparison:
    """Match measured and evaluated figures by subject, figure, transformation, draw and epoch."""
    first, second = _keyed(a), _keyed(b)
    both = first.index.intersection(second.index)
    x, y = first.loc[both], second.loc[both]
    moved = (x["value"] != y["value"]) & ~(x["value"].isna() & y["value"].isna())
    error = np.hypot(random_error(x), random_error(y))
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
    key = ["subject", "kind", "label", "transformation", "draw", "epoch"]
    filled = rows[key].astype(object).where(rows[key].notna(), "").astype(str)
    rows = rows.set_index(pd.MultiIndex.from_frame(filled))
    return rows[~rows.index.duplicated(keep="last")]
