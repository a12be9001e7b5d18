"""How a metric moves along training."""

from __future__ import annotations

import pandas as pd

from sharpbench.analysis.results import Results, computed_once, stratum

__all__ = ["trajectories"]


@computed_once
def trajectories(results: Results) -> pd.DataFrame:
    """One row a subject, metric and epoch: ``metric``, ``stratum``, ``recipe``, ``seed``, ``epoch``,
    ``value``, ``standard_error``, ``test_error`` at that epoch."""
    rows = results.of_kind("trajectory")
    rows = rows[rows["status"] == "ok"]
    if rows.empty:
        return pd.DataFrame(
            columns=["metric", "stratum", "recipe", "seed", "epoch", "value", "standard_error",
                     "test_error"]
        )  # fmt: skip
    log = results.of_kind("training", columns=["subject", "name", "epoch", "value"])
    log = log[log["name"] == "test_error"]
    columns = ["subject", "metric_short", "dataset_short", "model_short", "recipe_short", "seed", "epoch",
               "value", "standard_error"]  # fmt: skip
    joined = rows[columns].merge(
        log[["subject", "epoch", "value"]],
        on=["subject", "epoch"],
        how="left",
        suffixes=("", "_error"),
    )
    return pd.DataFrame(
        {
            "metric": joined["metric_short"],
            "stratum": stratum(joined),
            "recipe": joined["recipe_short"],
            "seed": joined["seed"],
            "epoch": joined["epoch"].astype(int),
            "value": joined["value"],
            "standard_error": joined["standard_error"],
            "test_error": joined["value_error"],
        }
    )
