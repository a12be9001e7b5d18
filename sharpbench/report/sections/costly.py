"""Costly? Time, memory and work of one measurement."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sharpbench.analysis.cost import cost_table
from sharpbench.analysis.results import TRAINED, Results
from sharpbench.report import figures
from sharpbench.report.format import fixed
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Costly"]


@dataclass(frozen=True)
class Costly(Section):
    """What one measurement of each metric takes on trained networks."""

    name, title, place = "costly", "Costly?", 50
    needs = TRAINED

    def subtitle(self, results: Results) -> str:
        return "time, memory and work of one measurement"

    def sentences(self, results: Results) -> list[str]:
        costs = cost_table(results)
        if costs.empty:
            return ["No measurement was timed."]
        by_metric = costs.groupby("metric")["gradients"].median().sort_values()
        parts = [f"{metric} {fixed(v, 0 if v >= 10 else 1)}" for metric, v in by_metric.items()]
        found = [f"Work in gradients over the measured samples (median): {', '.join(parts)}."]
        if costs["shared"].any():
            found.append(
                "Other subjects ran beside these measurements: their times are marked and not comparable."
            )
        return found

    def tables(self, results: Results) -> Mapping[str, Any]:
        return {"costs": cost_table(results)}

    def pictures(self, results: Results) -> Iterable[Picture]:
        if len(cost_table(results)):
            yield Picture(
                "cost",
                functools.partial(figures.cost_figure, cost_table(results)),
                "Wall time and peak memory of one measurement against its work, medians; bars are the "
                "interquartile range over the repeats.",
            )
