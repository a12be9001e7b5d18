"""The section of the report that holds what is said of sharpness against controlled experiments."""

from __future__ import annotations

from dataclasses import dataclass

from sharpbench.analysis.results import Results
from sharpbench.falsification.claims import CLAIMS, SUITES
from sharpbench.report.audit import AuditSection

__all__ = ["FalsificationSection"]


@dataclass(frozen=True)
class FalsificationSection(AuditSection):
    """Statements of the literature, each with the outcome that it foretells and the one that was found."""

    name, title, link, place = (
        "falsification",
        "What is said of sharpness, tried",
        "Falsification",
        11,
    )
    audit, claims, suites = "falsification", CLAIMS, SUITES

    def subtitle(self, results: Results) -> str:
        return "the sign stated beforehand, then the experiment"
