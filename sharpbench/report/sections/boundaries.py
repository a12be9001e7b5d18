"""Where the networks of two-dimensional problems decide."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sharpbench.analysis.networks import decision_maps
from sharpbench.analysis.results import Results
from sharpbench.report import figures
from sharpbench.report.format import figure, percent_figure
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Boundaries"]

_MOST = 16


@dataclass(frozen=True)
class Boundaries(Section):
    """Decision boundaries of the networks of the lowest seed, with their first metric and error."""

    name, title, link, place = "boundaries", "Decision boundaries", "Boundaries", 64
    needs = frozenset({"decision_map"})

    def pictures(self, results: Results) -> Iterable[Picture]:
        maps = [
            {
                "title": f"{found['dataset']}\n{found['model']} · {found['recipe']}",
                "caption": _caption(found),
                "details": found["details"],
            }
            for found in decision_maps(results)[:_MOST]
        ]
        yield Picture(
            "boundaries",
            functools.partial(figures.boundary_figure, maps),
            "Decision boundaries (black line) of the networks of the lowest seed over some of the test "
            "points (● class 0, ▲ class 1), with their figures.",
        )


def _caption(found: dict[str, Any]) -> str:
    parts = []
    if found["figure"] is not None:
        parts.append(f"{found['metric']} {figure(*found['figure'])}")
    if found["test_error"] is not None:
        parts.append(f"error {percent_figure(*found['test_error'])}")
    return "\n".join(parts)
