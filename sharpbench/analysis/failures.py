"""What failed, and what did not apply."""

from __future__ import annotations

import pandas as pd

from sharpbench.analysis.results import Results, computed_once

__all__ = ["failures"]


@computed_once
def failures(results: Results) -> pd.DataFrame:
    """Trainings and measurements without a figure, equal ones counted together.

    Columns: ``what``, ``transformation``, ``status``, ``reason``, ``n``, ``example`` (a subject).
    """
    columns = ["label", "transformation", "status", "reason", "subject", "subject_label"]
    rows = results.frame.loc[results.frame["status"] != "ok", columns].astype(object)
    if rows.empty:
        return pd.DataFrame(columns=["what", "transformation", "status", "reason", "n", "example"])
    grouped = rows.fillna({"transformation": "", "reason": ""}).groupby(
        ["label", "transformation", "status", "reason"], sort=True
    )
    counted = grouped.agg(n=("subject", "size"), example=("subject_label", "first")).reset_index()
    return counted.rename(columns={"label": "what"})
