"""How metrics move along training."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.analysis.results import Results
from sharpbench.analysis.trajectory import trajectories
from sharpbench.report.drawing import explain, wrapped
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
                functools.partial(_trajectory_figure, rows),
                f"{metric[:1].upper()}{metric[1:]} and test error along training. Lines are means over the "
                f"seeds, bands the full range ({rows['seed'].nunique()} seeds).",
            )


def _trajectory_figure(rows: pd.DataFrame) -> Figure:
    """A metric (top) and the test error (bottom) along training; a line a recipe, a band over seeds."""
    recipes = list(dict.fromkeys(rows["recipe"]))  # each looks the same in all panels
    strata = list(dict.fromkeys(rows["stratum"]))
    columns = min(4, len(strata))
    bands = int(np.ceil(len(strata) / columns))
    figure, axes = plt.subplots(
        2 * bands, columns, figsize=(2.9 * columns, 3.9 * bands), sharex=True, squeeze=False
    )
    for place, stratum in enumerate(strata):
        top = 2 * (place // columns)
        column = place % columns
        group = rows[rows["stratum"] == stratum]
        for axis, value, label in (
            (axes[top, column], group["value"], group["metric"].iloc[0]),
            (axes[top + 1, column], 100 * group["test_error"], "test error (%)"),
        ):
            sns.lineplot(
                x=group["epoch"],
                y=value,
                hue=group["recipe"],
                hue_order=recipes,
                style=group["recipe"],
                style_order=recipes,
                markers=True,
                errorbar=("pi", 100),
                ax=axis,
                legend=place == 0 and axis is axes[top, column],
                palette=sns.color_palette("colorblind", len(recipes)),
            )
            axis.set(xlabel="epoch", ylabel=label if column == 0 else "")
        axes[top, column].set_title(wrapped(stratum), size=9)
    for place in range(len(strata), bands * columns):
        top = 2 * (place // columns)
        axes[top, place % columns].set_visible(False)
        axes[top + 1, place % columns].set_visible(False)
        axes[top - 1, place % columns].tick_params(axis="x", labelbottom=True)
    legend = axes[0, 0].get_legend()
    if legend is not None:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        legend.remove()
        explain(figure, handles, labels, most=6)
    return figure
