"""Costly? How cost grows with the size of network, data and order."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sharpbench.analysis.cost import AXES, device_ratios, scaling, sweeps
from sharpbench.analysis.results import Results
from sharpbench.report import figures
from sharpbench.report.format import interval
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Growth"]


@dataclass(frozen=True)
class Growth(Section):
    """The exponents of time, memory and work against each size of a workload."""

    name, title, link, place = "growth", "Cost against size", "Cost", 75
    needs = frozenset({"problem"})

    def applies(self, results: Results) -> bool:
        return not scaling(results).empty

    def subtitle(self, results: Results) -> str:
        return "one size varied at a time"

    def sentences(self, results: Results) -> list[str]:
        """One a size: how time grows with it."""
        found = []
        for axis, group in scaling(results).groupby("axis", sort=False):
            parts = [
                f"{row['metric']} {interval(row['time'], 2)}"
                for row in group.to_dict("records")
                if row["time"] is not None
            ]
            if parts:
                found.append(f"Time grows with the {axis} to the power: {'; '.join(parts)}.")
        return found

    def tables(self, results: Results) -> Mapping[str, Any]:
        return {"scaling": scaling(results), "device_ratios": device_ratios(results)}

    def pictures(self, results: Results) -> Iterable[Picture]:
        yield Picture(
            "scaling",
            functools.partial(figures.scaling_figure, sweeps(results), AXES),
            "Wall time and peak memory of one measurement against size, one axis varied at a time "
            "(medians over the repeats; a dashed line is a GPU; a hollow point ran beside other work).",
        )
