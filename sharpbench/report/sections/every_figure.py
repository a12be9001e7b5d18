"""The table of all figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharpbench.analysis.networks import JUDGED, every_figure, notes, over_seeds
from sharpbench.analysis.results import TRAINED, Results
from sharpbench.report.sections.base import Section

__all__ = ["EveryFigure"]

_MOST_ROWS = 3000
"""Beyond this many figures the table would be most of a page that no one can scroll through."""


@dataclass(frozen=True)
class EveryFigure(Section):
    """Every figure of every network with its error, to be sorted, filtered and saved; of very many the
    means over the seeds, which stand in the file beside the page where they are very many themselves."""

    name, title, place = "figures", "All figures", 70
    needs = TRAINED

    def subtitle(self, results: Results) -> str:
        return "means over the seeds" if len(every_figure(results)) > _MOST_ROWS else ""

    def tables(self, results: Results) -> Mapping[str, Any]:
        """``rows``, how many figures they stand for as means, or None, whether they are ``shown``, and the
        ``notes`` beside them."""
        rows, stand_for = every_figure(results), None
        if len(rows) > _MOST_ROWS:
            rows, stand_for = over_seeds(rows), len(rows)
        told = notes(results).to_dict("records")
        return {
            "rows": rows,
            "rows_stand_for": stand_for,
            "shown": len(rows) <= _MOST_ROWS,
            "judged": JUDGED,
            "notes": told,
        }
