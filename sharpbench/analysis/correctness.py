"""Right? How far the implementations of one metric agree on the same subjects and data."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from sharpbench.analysis.results import Results, computed_once
from sharpbench.analysis.statistics import BEYOND

__all__ = ["convergence", "implementation_agreement", "implementation_pairs"]


@computed_once
def implementation_pairs(results: Results) -> pd.DataFrame:
    """Each pair of implementations of one metric on one subject.

    Columns: ``subject``, ``metric``, ``a``, ``b`` (short names), ``value_a``, ``value_b``,
    ``difference`` (b − a, relative to |a|), ``standard_errors`` (|b − a| over the combined standard
    error without that of the points, which are the same; NaN where neither has one or one isn't told).
    """
    rows = []
    columns = ["subject", "name", "label", "metric_short", "parameters", "value", "own_error"]
    for (subject, name), group in results.measured[columns].groupby(["subject", "name"]):
        if "implementation" not in group["parameters"].iloc[0]:
            continue
        others = group["parameters"].map(
            lambda p: str(sorted((k, str(v)) for k, v in p.items() if k != "implementation"))
        )
        for _, same in group.groupby(others):
            by_native = same.assign(
                rank=same["parameters"].map(lambda p: p["implementation"] != "native")
            ).sort_values(["rank", "label"])
            for a, b in itertools.combinations(by_native.to_dict("records"), 2):
                error = float(np.hypot(a["own_error"], b["own_error"]))
                gap = b["value"] - a["value"]
                rows.append(
                    {
                        "subject": subject,
                        "metric": name,
                        "a": a["metric_short"],
                        "b": b["metric_short"],
                        "value_a": a["value"],
                        "value_b": b["value"],
                        "difference": gap / abs(a["value"]) if a["value"] else np.nan,
                        "standard_errors": abs(gap) / error if error > 0 else np.nan,
                    }
                )
    return pd.DataFrame(
        rows,
        columns=["subject", "metric", "a", "b", "value_a", "value_b", "difference",
                 "standard_errors"],
    )  # fmt: skip


@computed_once
def implementation_agreement(results: Results) -> pd.DataFrame:
    """`implementation_pairs` summed up, one row a pair of implementations.

    ``n``, median and largest |relative difference|, and the share of subjects on which they differ
    by more than three combined standard errors (NaN where the figures carry none).
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
                "beyond_3_errors": float((errors > BEYOND).mean())
                if errors.notna().any()
                else np.nan,
            }
        )
    return pd.DataFrame(rows)


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
    return pd.DataFrame(rows)
