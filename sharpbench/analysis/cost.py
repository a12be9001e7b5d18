"""Costly? Time, memory and work of a measurement."""

from __future__ import annotations

import pandas as pd

from sharpbench.analysis.frames import measured

__all__ = ["cost_table"]


def cost_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a metric and stratum's model: medians over the timed subjects.

    Columns: ``metric``, ``subject`` (data set and model), ``n`` subjects timed, ``seconds``,
    ``spread`` (median interquartile range over the repeats, seconds), ``repeats``, ``peak_bytes``,
    ``gradients`` (work in gradient-equivalents), ``device``, ``threads``, ``shared`` (whether other
    subjects ran beside: such times are not comparable).
    """
    columns = ["metric", "subject", "n", "seconds", "spread", "repeats", "peak_bytes", "gradients",
               "device", "threads", "shared"]  # fmt: skip
    if "cost.median_seconds" not in frame.columns:
        return pd.DataFrame(columns=columns)
    timed = measured(frame)
    timed = timed[timed["cost.median_seconds"].notna()]
    rows = []
    for (metric, dataset, model), group in timed.groupby(
        ["metric_short", "dataset", "model_short"]
    ):
        rows.append(
            {
                "metric": metric,
                "subject": f"{dataset} · {model}",
                "n": len(group),
                "seconds": group["cost.median_seconds"].median(),
                "spread": group["cost.spread_seconds"].astype(float).median(),
                "repeats": int(group["cost.seconds"].map(len).min()),
                "peak_bytes": group["cost.peak_bytes"].astype(float).median(),
                "gradients": group["gradient_equivalents"].median(),
                "device": group["cost.device"].iloc[0],
                "threads": int(group["cost.threads"].iloc[0]),
                "shared": bool(group["cost.shared_machine"].astype(bool).any()),
            }
        )
    return pd.DataFrame(rows, columns=columns)
