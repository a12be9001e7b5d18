"""Right? How far the implementations of one metric agree on the same subjects and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sharpbench.analysis.names import in_reading_order
from sharpbench.analysis.results import (
    Results,
    computed_once,
    error_on_same_points,
    scatter_of_error,
)
from sharpbench.analysis.statistics import beyond

__all__ = ["convergence", "implementation_agreement", "implementation_pairs"]


@computed_once
def implementation_pairs(results: Results) -> pd.DataFrame:
    """Each pair of implementations of one metric on one subject.

    Columns: ``subject``, ``metric``, ``a``, ``b`` (short names), ``value_a``, ``value_b``,
    ``difference`` (b − a, relative to |a|), ``standard_errors`` (|b − a| over the combined standard
    error without that of the points, which are the same; NaN where neither has one or one isn't told),
    ``beyond`` (whether these are more than three, or as many more as few random numbers excuse).
    """
    rows = results.measured
    rows = rows[rows["parameters"].map(lambda p: "implementation" in p).astype(bool)]
    same = ["subject", "name", "others"]
    rows = rows.assign(scatter=scatter_of_error(rows, error_on_same_points))
    asked = pd.DataFrame(
        {
            **{
                column: rows[column]
                for column in ("subject", "name", "value", "own_error", "scatter")
            },
            "short": rows["metric_short"],
            "others": rows["parameters"].map(_others),
            # The native one comes first, the others by their labels.
            "place": rows["parameters"].map(lambda p: str(int(p["implementation"] != "native")))
            + rows["label"].astype(str),
        }
    ).drop_duplicates([*same, "place"], keep="last")
    both = asked.merge(asked, on=same, suffixes=("_a", "_b"))
    both = both[both["place_a"] < both["place_b"]].sort_values([*same, "place_a", "place_b"])
    gap = both["value_b"] - both["value_a"]
    error = np.hypot(both["own_error_a"], both["own_error_b"])
    standard_errors = gap.abs() / error.where(error > 0)
    return pd.DataFrame(
        {
            "subject": both["subject"],
            "metric": both["name"],
            "a": both["short_a"],
            "b": both["short_b"],
            "value_a": both["value_a"],
            "value_b": both["value_b"],
            "difference": gap / both["value_a"].abs().where(both["value_a"] != 0),
            "standard_errors": standard_errors,
            "beyond": standard_errors > beyond(error, both["scatter_a"] + both["scatter_b"]),
        }
    ).reset_index(drop=True)


def _others(parameters: Mapping[str, Any]) -> str:
    """The parameters but for the implementation: only figures with the same ones are compared."""
    return str(sorted((k, str(v)) for k, v in parameters.items() if k != "implementation"))


@computed_once
def implementation_agreement(results: Results) -> pd.DataFrame:
    """`implementation_pairs` summed up, one row a pair of implementations.

    ``n``, median and largest |relative difference|, and the share of subjects on which they differ
    ``beyond`` three combined standard errors (NaN where the figures carry none).
    """
    rows = []
    for (a, b), group in implementation_pairs(results).groupby(["a", "b"]):
        sizes = group["difference"].abs()
        errors = group["standard_errors"]
        rows.append(
            {
                "a": a,
                "b": b,
                "n": len(group),
                "median_difference": float(sizes.median()),
                "largest_difference": float(sizes.max()),
                "median_signed_difference": float(group["difference"].median()),
                "beyond_3_errors": float(group["beyond"].mean())
                if errors.notna().any()
                else np.nan,
            }
        )
    return in_reading_order(pd.DataFrame(rows), "a", "b") if rows else pd.DataFrame()


@computed_once
def convergence(results: Results) -> pd.DataFrame:
    """One row a metric: n, and how many estimates met their tolerance."""
    rows = []
    for metric, group in results.measured.groupby("metric_short"):
        rows.append(
            {
                "metric": metric,
                "n": len(group),
                "converged": int(group["converged"].astype(bool).sum()),
            }
        )
    return in_reading_order(pd.DataFrame(rows), "metric") if rows else pd.DataFrame()
