"""Costly? How cost grows with the size of network, data and order."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.analysis.cost import device_ratios, scaling, sweeps
from sharpbench.analysis.results import Results
from sharpbench.report.drawing import colours_of, explain, legend, plain_log_ticks
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
        found, rows = [], scaling(results)
        several = len(set(rows["device"])) > 1
        for axis, group in rows.groupby("axis", sort=False):
            parts = [
                f"{row['metric']}{' on ' + row['device'] if several else ''} {interval(row['time'], 2)}"
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
            functools.partial(_scaling_figure, sweeps(results)),
            "Wall time and peak memory of one measurement against size, one axis varied at a time "
            "(medians over the repeats; a dashed line is a GPU; a hollow point ran beside other work).",
        )


def _scaling_figure(swept: pd.DataFrame) -> Figure:
    """Wall time (top) and peak memory (bottom) against size, a column an axis, log-log.

    ``swept``: the table of `analysis.cost.sweeps`; figures taken beside other work are hollow.
    """
    axes_named = list(dict.fromkeys(swept["axis"]))
    figure, axes = plt.subplots(
        2, len(axes_named), figsize=(2.9 * len(axes_named) + 0.6, 6.2), sharex="col", squeeze=False
    )
    colours = colours_of(swept["metric"])
    for column, name in enumerate(axes_named):
        rows = swept[swept["axis"] == name]
        for axis, cost, scale in (
            (axes[0, column], "seconds", 1.0),
            (axes[1, column], "peak_bytes", 2.0**-20),
        ):
            for (metric, _, device), group in rows.groupby(
                ["metric", "group", "device"], sort=False
            ):
                line = group.sort_values("size")
                style = "-" if device == "cpu" else "--"
                axis.plot(
                    line["size"], scale * line[cost], style, color=colours[metric], linewidth=1
                )
                for shared, own in line.groupby("shared"):
                    axis.plot(
                        own["size"], scale * own[cost], "o", color=colours[metric], markersize=5,
                        markerfacecolor="none" if shared else colours[metric],
                    )  # fmt: skip
            axis.set(xscale="log", yscale="log")
            plain_log_ticks(axis.xaxis)
            plain_log_ticks(axis.yaxis)
        axes[1, column].set_xlabel(name)
    axes[0, 0].set_ylabel("wall time (s)")
    axes[1, 0].set_ylabel("peak memory (MiB)")
    explain(figure, legend(colours, {}))
    return figure
