"""What failed, and what did not apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharpbench.analysis.failures import failures
from sharpbench.analysis.results import Results
from sharpbench.report.sections.base import Section

__all__ = ["Failed"]


@dataclass(frozen=True)
class Failed(Section):
    """Networks and measurements without a figure, with the reason."""

    name, title = "failed", "What failed, and what did not apply"
    link, place = "What failed", 80

    def tables(self, results: Results) -> Mapping[str, Any]:
        return {"problems": failures(results)}
