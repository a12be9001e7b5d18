"""Are the networks calibrated?"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.analysis.networks import reliability
from sharpbench.analysis.results import Results
from sharpbench.report.drawing import MARKERS, finish_panels, panels_size, wrapped
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Reliability"]

MOST_PANELS = 12
"""Beyond this many data sets and models a figure with a panel for each is no longer readable."""


@dataclass(frozen=True)
class Reliability(Section):
    """Reliability diagrams of the trained networks on test data."""

    name, title, place = "reliability", "Calibration", 62
    needs = frozenset({"reliability"})

    def applies(self, results: Results) -> bool:
        return super().applies(results) and reliability(results)["stratum"].nunique() <= MOST_PANELS

    def pictures(self, results: Results) -> Iterable[Picture]:
        yield Picture(
            "reliability",
            functools.partial(_reliability_figure, reliability(results)),
            "Accuracy against confidence on test data in the bins of the ECE, all seeds together; area "
            "shows how many samples a bin holds. On the dashed line a network is calibrated.",
        )


def _reliability_figure(rows: pd.DataFrame) -> Figure:
    """Accuracy against confidence, a panel a data set and model, a line a recipe, seeds together.

    ``rows``: ``stratum``, ``recipe``, ``confidence``, ``accuracy``, ``count``, ``bin``.
    """
    strata = list(dict.fromkeys(rows["stratum"]))
    recipes = list(dict.fromkeys(rows["recipe"]))
    palette = dict(zip(recipes, sns.color_palette("colorblind", len(recipes)), strict=True))
    columns = min(4, len(strata))
    bands = math.ceil(len(strata) / columns)
    figure, axes = plt.subplots(bands, columns, figsize=panels_size(columns, bands), squeeze=False)
    for axis, stratum in zip(axes.flat, strata, strict=False):
        axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.9)
        for number, recipe in enumerate(recipes):
            own = rows[(rows["stratum"] == stratum) & (rows["recipe"] == recipe)]
            if own.empty:
                continue
            weight = own.groupby("bin")["count"].sum()
            confidence = (own["confidence"] * own["count"]).groupby(own["bin"]).sum() / weight
            accuracy = (own["accuracy"] * own["count"]).groupby(own["bin"]).sum() / weight
            axis.plot(confidence, accuracy, color=palette[recipe], linewidth=1)
            axis.scatter(
                confidence, accuracy, color=palette[recipe], marker=MARKERS[number % len(MARKERS)],
                s=10 + 60 * weight / weight.max(), linewidth=0, label=recipe,
            )  # fmt: skip
        low = max(0.0, float(rows.loc[rows["stratum"] == stratum, "confidence"].min()) - 0.05)
        axis.set(xlim=(low, 1.02), ylim=(-0.02, 1.02), xlabel="confidence", ylabel="accuracy")
        axis.set_title(wrapped(stratum), size=8)
    finish_panels(figure, axes, len(strata))
    return figure
