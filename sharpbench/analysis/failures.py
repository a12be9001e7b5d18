"""What became of every figure that was asked for: measured, or why not."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from sharpbench.analysis.results import Results, computed_once

__all__ = ["WORDS", "failures", "outcome_of", "outcomes", "outcomes_of"]

WORDS = ("measured", "not applicable", "not installed", "failed", "timed out")
"""What can become of a figure, in the words of the whole report."""

_FIGURES = ("measurement", "evaluation", "trajectory", "problem", "calibration")


def outcome_of(status: str, reason: str | None) -> str:
    """What became of a figure, one of `WORDS`; of a training also ``diverged``."""
    told = reason if isinstance(reason, str) else ""
    if status != "ok" and ("is not installed" in told or "No module named" in told):
        return "not installed"
    words = {"ok": "measured", "unsupported": "not applicable", "timeout": "timed out",
             "diverged": "diverged"}  # fmt: skip
    return words.get(status, "failed")


def outcomes_of(rows: pd.DataFrame) -> pd.Series:
    """`outcome_of` of each row, asked once for equal ones."""
    status, reason = (
        pd.factorize(rows[name], use_na_sentinel=False)[0] for name in ("status", "reason")
    )
    _, first, number = np.unique(
        status * (reason.max(initial=0) + 1) + reason, return_index=True, return_inverse=True
    )
    one = rows[["status", "reason"]].iloc[first].to_numpy()
    words = np.array([outcome_of(str(status), reason) for status, reason in one], dtype=object)
    return pd.Series(words[number], index=rows.index)


@computed_once
def outcomes(results: Results) -> dict[str, int]:
    """How many of the figures that were asked for have each outcome, in the order of `WORDS`."""
    rows = results.of_kind(*_FIGURES, columns=["status", "reason"])
    counts = rows.groupby(["status", "reason"], dropna=False, observed=True).size()
    found = dict.fromkeys(WORDS, 0)
    for (status, reason), count in counts.items():
        found[outcome_of(str(status), reason)] += int(count)
    return found


@computed_once
def failures(results: Results) -> pd.DataFrame:
    """Networks that were not trained or built, and measurements without a figure; where the reasons differ in
    their numbers alone, together.

    Columns: ``what``, ``transformation``, ``outcome`` (of `WORDS`), ``reason`` (the first of them),
    ``others`` (how many more there are), ``n`` (figures), ``example`` (one).
    """
    columns = ["label", "transformation", "status", "reason", "subject", "subject_label"]
    rows = results.frame.loc[results.frame["status"] != "ok", columns].astype(object)
    if rows.empty:
        return pd.DataFrame(
            columns=["what", "transformation", "outcome", "reason", "others", "n", "example"]
        )
    rows["outcome"] = outcomes_of(rows)
    rows = rows.fillna({"transformation": "", "reason": ""})
    alike = {reason: _NUMBER.sub("#", reason) for reason in rows["reason"].unique()}
    rows["alike"] = rows["reason"].map(alike)
    grouped = rows.groupby(["label", "transformation", "outcome", "alike"], sort=True)
    counted = grouped.agg(
        reason=("reason", "first"),
        others=("reason", lambda reasons: reasons.nunique() - 1),
        n=("subject", "size"),
        example=("subject_label", "first"),
    ).reset_index()
    return counted.drop(columns="alike").rename(columns={"label": "what"})


_NUMBER = re.compile(r"(?<![\w.])-?\d[\d.,]*(?:e[+-]?\d+)?")
