"""Invariant? How far a metric moves under a transformation, against its own noise."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sharpbench.analysis.frames import measured

__all__ = ["changes", "invariance_matrix"]

_FLOOR = 0.01
"""Relative change below which a figure without a standard error counts as unmoved."""

_ERRORS = 3.0
"""Combined standard errors below which a change counts as noise."""


def changes(frame: pd.DataFrame) -> pd.DataFrame:
    """Each metric before and after each transformation, with the same seeds, on each subject.

    Columns: ``subject``, ``metric``, ``name``, ``transformation``, ``relative_change``
    (|after − before|/|before|), ``noise`` (the relative change that counts as noise: three combined
    standard errors, at least 1%), ``moved``, ``function_change``.
    """
    base = measured(frame)
    rows = frame[
        (frame["kind"] == "measurement")
        & (frame["status"] == "ok")
        & frame["transformation"].notna()
    ]
    joined = rows.merge(
        base[["subject", "label", "value", "standard_error"]],
        on=["subject", "label"],
        suffixes=("", "_before"),
    )
    size = joined["value_before"].abs()
    errors = np.hypot(
        joined["standard_error"].astype(float).fillna(0),
        joined["standard_error_before"].astype(float).fillna(0),
    )
    relative = (joined["value"] - joined["value_before"]).abs() / size
    noise = np.maximum(_ERRORS * errors / size, _FLOOR)
    return pd.DataFrame(
        {
            "subject": joined["subject"],
            "metric": joined["metric_short"],
            "name": joined["name"],
            "transformation": joined["transformation"],
            "transformation_name": joined["transformation_name"],
            "relative_change": relative,
            "noise": noise,
            "moved": relative > noise,
            "function_change": joined["function_change"],
        }
    )


def invariance_matrix(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a metric and transformation.

    ``n`` subjects (several draws of one count once), ``median_change`` and ``largest_change``
    (relative), ``moved_share`` of the changes that exceed the noise, ``function_change`` (the
    largest, of the logits) and the ``verdict``:

    - ``moves`` if the change exceeds the noise in at least half of the cases;
    - ``mixed`` if it does in more than 5% of them;
    - ``stays`` if in at least 95% of them the change is below 1%;
    - ``within noise`` otherwise: larger than 1%, but no larger than the estimator's own uncertainty,
      so that nothing can be said;
    - ``not applicable`` (n = 0) where the transformation refuses every subject.
    """
    moved = changes(frame)
    asked = frame[(frame["kind"] == "measurement") & frame["transformation"].notna()]
    rows = []
    for (metric, transformation), group in asked.groupby(["metric_short", "transformation"]):
        found = moved[(moved["metric"] == metric) & (moved["transformation"] == transformation)]
        share = float(found["moved"].mean()) if len(found) else np.nan
        verdict = _verdict(found)
        rows.append(
            {
                "metric": metric,
                "name": group["name"].iloc[0],
                "transformation": transformation,
                "transformation_name": group["transformation_name"].iloc[0],
                "n": found["subject"].nunique(),
                "not_applicable": group.loc[group["status"] == "unsupported", "subject"].nunique(),
                "median_change": float(found["relative_change"].median()),
                "largest_change": float(found["relative_change"].max()),
                "moved_share": share,
                "function_change": float(found["function_change"].max()),
                "verdict": verdict,
            }
        )
    return pd.DataFrame(rows)


def _verdict(found: pd.DataFrame) -> str:
    if found.empty:
        return "not applicable"
    moved = found["moved"].mean()
    if moved >= 0.5:
        return "moves"
    if moved > 0.05:
        return "mixed"
    return "stays" if (found["relative_change"] <= _FLOOR).mean() >= 0.95 else "within noise"
