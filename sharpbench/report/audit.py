"""An audit on the page: the section that shows its claims, and the rows in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from sharpbench.analysis.audit import Claim, Evidence, claims_table, with_first_rules
from sharpbench.analysis.results import Results
from sharpbench.report.format import number, roughly
from sharpbench.report.sections.base import Section

__all__ = ["AuditSection", "reason", "with_reasons"]

_VERDICTS = (
    "reproduced",
    "reproduced in direction",
    "contradicted",
    "inconclusive",
    "can't be tested",
    "not run",
)


@dataclass(frozen=True)
class AuditSection(Section):
    """Statements held against what is measured, from every suite of the audit in this results folder.

    Class attributes beside those of a `Section`: ``audit`` (under which name its rules are remembered),
    ``claims``, ``suites`` that give their figures, and ``pages``: on which of their pages the audit stands,
    all if empty. The fragment shows the claims by the macro ``claims_table(claims)``.
    """

    audit: ClassVar[str]
    claims: ClassVar[Sequence[Claim]]
    suites: ClassVar[tuple[str, ...]]
    pages: ClassVar[tuple[str, ...]] = ()

    def applies(self, results: Results) -> bool:
        return results.suite in (self.pages or self.suites) and results.store is not None

    def sentences(self, results: Results) -> list[str]:
        found = results.once(self.judged)["verdict"].value_counts()
        told = ", ".join(f"{found[word]} {word}" for word in _VERDICTS if word in found)
        return [f"Of {found.sum()} claims: {told}."]

    def tables(self, results: Results) -> Mapping[str, Any]:
        rows = results.once(self.judged).to_dict("records")
        if results.store:
            rows = with_first_rules(results.store, self.audit, rows)
        return {"claims": with_reasons(rows)}

    def frames(self, results: Results) -> Mapping[str, pd.DataFrame]:
        """The records of every suite of the audit that has run in the same folder."""
        return Evidence.of(results.store, self.suites).frames if results.store else {}

    def judged(self, results: Results) -> pd.DataFrame:
        """The claims with their verdicts."""
        return claims_table(results.once(self.frames), self.claims)


def with_reasons(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `analysis.audit.claims_table` with what `reason` says of each."""
    return [{**row, "reason": reason(row)} for row in rows]


def reason(row: Mapping[str, Any]) -> str:
    """Why a row of `analysis.audit.claims_table` has no figure or no verdict; of an inconclusive one what it
    could have shown and what it would take."""
    found, resolution = row["estimate"], row["resolution"]
    if found is None or resolution is None:
        return str(row["reason"])
    if resolution == found.noise:
        told = f"within ±{number(found.noise, 2)}" if math.isfinite(found.noise) else "all alike"
        return f"no larger than chance among the points that all are judged on ({told})"
    if math.isinf(resolution):
        return "few networks, or equal ones, tell no spread: it would take more of them"
    text = f"the smallest effect to be seen: {number(resolution, 2)}"
    if row["networks"] is None:
        return f"{text}; more networks would not decide it"
    return f"{text}; it would take {roughly(row['networks'])} networks"
