"""How metrics move along training."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from sharpbench.analysis.results import Results
from sharpbench.analysis.trajectory import trajectories
from sharpbench.report import figures
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Training"]


@dataclass(frozen=True)
class Training(Section):
    """Each metric that was measured along training, above the test error at the same epochs."""

    name, title, link, place = "training", "Along training", "Training", 60
    needs = frozenset({"trajectory"})

    def applies(self, results: Results) -> bool:
        return not trajectories(results).empty

    def pictures(self, results: Results) -> Iterable[Picture]:
        along = trajectories(results)
        for number, (metric, rows) in enumerate(along.groupby("metric", sort=False)):
            yield Picture(
                f"trajectory{number}",
                functools.partial(figures.trajectory_figure, rows),
                f"{metric} and test error along training. Lines are means over the seeds, bands the full "
                f"range ({rows['seed'].nunique()} seeds).",
            )
