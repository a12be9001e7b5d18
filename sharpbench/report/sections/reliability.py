"""Are the networks calibrated?"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from sharpbench.analysis.networks import reliability
from sharpbench.analysis.results import Results
from sharpbench.report import rate_figures
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Reliability"]

MOST_STRATA = 12
"""Beyond this many data sets and models a figure with a panel for each is no longer readable."""


@dataclass(frozen=True)
class Reliability(Section):
    """Reliability diagrams of the trained networks on test data."""

    name, title, place = "reliability", "Calibration", 62
    needs = frozenset({"reliability"})

    def applies(self, results: Results) -> bool:
        return super().applies(results) and reliability(results)["stratum"].nunique() <= MOST_STRATA

    def pictures(self, results: Results) -> Iterable[Picture]:
        yield Picture(
            "reliability",
            functools.partial(rate_figures.reliability_figure, reliability(results)),
            "Accuracy against confidence on test data in the bins of the ECE, all seeds together; area "
            "shows how many samples a bin holds. On the dashed line a network is calibrated.",
        )
