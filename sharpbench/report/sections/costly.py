"""Costly? Time, memory and work of one measurement."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.analysis.cost import cost_table
from sharpbench.analysis.results import TRAINED, Results
from sharpbench.report.drawing import MARKERS, colours_of, explain, legend, plain_log_ticks
from sharpbench.report.format import work
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
            return []
        by_metric = costs.groupby("metric")["gradients"].median().sort_values()
        parts = [f"{metric} {work(v)}" for metric, v in by_metric.items() if v > 0]
        found = []
        if parts:
            found.append(
                f"Work in gradients over the measured samples (median): {', '.join(parts)}."
            )
        uncounted = [str(metric) for metric, v in by_metric.items() if not v > 0]
        if uncounted:
            found.append(f"Not counted: {', '.join(uncounted)}.")
        if costs["shared"].any():
            found.append(
                "Other subjects ran beside these measurements: their times are marked and not comparable."
            )
        if costs["first_call"].any():
            found.append(
                "No repeat was asked for: times are marked that are those of a first call, with all that it "
                "sets up, and not comparable."
            )
        return found

    def tables(self, results: Results) -> Mapping[str, Any]:
        return {"costs": cost_table(results)}

    def pictures(self, results: Results) -> Iterable[Picture]:
        if len(cost_table(results)) > 1:  # a single mark tells no more than its row
            yield Picture(
                "cost",
                functools.partial(_cost_figure, cost_table(results)),
                "Wall time and peak memory of one measurement against its work, medians; bars are the "
                "interquartile range over the repeats.",
            )


def _cost_figure(table: pd.DataFrame) -> Figure:
    """Wall time and peak memory against work, a point a metric and kind of network."""
    colours = colours_of(table["metric"])
    shapes = dict(zip(dict.fromkeys(table["subject"]), MARKERS, strict=False))
    lines = (len(colours) + len(shapes) + 1) // 2  # of the legend: the panels keep their room
    figure, axes = plt.subplots(1, 2, figsize=(9.2, max(4.2, 3.2 + 0.21 * lines)))
    for axis, column, scale, label in (
        (axes[0], "seconds", 1.0, "wall time (s)"),
        (axes[1], "peak_bytes", 2.0**-20, "peak memory above the baseline (MiB)"),
    ):
        for row in table.itertuples():
            height = getattr(row, column) * scale
            if not (height > 0 and row.gradients > 0):
                continue
            spread = row.spread / 2 if column == "seconds" and row.spread == row.spread else 0
            axis.errorbar(
                row.gradients,
                height,
                yerr=spread,
                fmt=shapes[row.subject],
                color=colours[row.metric],
                markersize=7,
                markeredgewidth=0,
                elinewidth=0.8,
            )
        axis.set(xlabel="work (gradients)", ylabel=label)
        if axis.has_data():  # logarithms of nothing are warned of
            axis.set(xscale="log", yscale="log")
            plain_log_ticks(axis.xaxis)
            plain_log_ticks(axis.yaxis)
    explain(figure, legend(colours, shapes), most=2, rows=lines)
    return figure
