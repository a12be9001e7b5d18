"""The rows of an audit in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sharpbench.report.format import count, number

__all__ = ["reason"]


def reason(row: Mapping[str, Any]) -> str:
    """Why a row of `analysis.audit.claims_table` has no figure or no verdict; of an inconclusive one what it
    could have shown and what it would take."""
    found, resolution = row["estimate"], row["resolution"]
    if found is None or resolution is None:
        return str(row["reason"])
    if resolution == found.noise:
        told = f"within ±{number(found.noise, 2)}" if math.isfinite(found.noise) else "all alike"
        return f"no larger than chance among the points that all are judged on ({told})"
    text = f"the smallest effect to be seen: {number(resolution, 2)}"
    if row["networks"] is None:
        return f"{text}; more networks would not decide it"
    return f"{text}; it would take some {count(row['networks'])} networks"
