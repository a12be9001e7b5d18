"""Invariant? Does a metric move although the function stays."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sharpbench.analysis.invariance import (
    NOT_TOLD,
    changes,
    gauge_orbits,
    invariance_matrix,
    left_alone,
    ranking_survival,
    reachable,
)
from sharpbench.analysis.names import change_in_words, symbol
from sharpbench.analysis.results import TRAINED, Results
from sharpbench.report.drawing import MARKERS, MOST_DRAWN, colours_of, legend
from sharpbench.report.format import count, number, percent, times
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Invariant"]

_VERDICTS = {
    "invariant": "unmoved:",
    "equivariant": "moved by the predicted amount:",
    "moves": "moved (after/before):",
    "mixed": "moved on some networks:",
    "unclear": "can't tell:",
}

_KEPT = {"invariant", "equivariant"}

_ROUNDING = 1e-10


@dataclass(frozen=True)
class Invariant(Section):
    """Each metric before and after changes that keep the function, the loss or nothing, against theory."""

    name, title, place = "invariant", "Invariant?", 30
    needs = TRAINED

    def subtitle(self, results: Results) -> str:
        return "does a metric move although the function stays"

    def sentences(self, results: Results) -> list[str]:
        matrix = invariance_matrix(results)
        if matrix.empty:
            return ["No transformation was asked for."]
        found = [
            _sentence(str(name), every)
            for name, every in matrix.groupby("transformation_name", sort=False)
        ]
        found += [
            f"Theory and measurement disagree: {row.metric} under "
            f"{change_in_words(row.transformation)} ({row.disagrees}; n = {row.n})."
            for row in matrix[matrix["disagrees"] != ""].itertuples()
        ]
        return found

    def tables(self, results: Results) -> Mapping[str, Any]:
        matrix = invariance_matrix(results)
        asked = len(matrix) > 0
        return {
            "matrix": matrix,
            "not_told": asked and bool((matrix["theory"] == NOT_TOLD).any()),
            "matrix_metrics": list(dict.fromkeys(matrix["metric"])) if asked else [],
            "transformations": list(dict.fromkeys(matrix["transformation"])) if asked else [],
            "reachable": reachable(results),
            "left": left_alone(results),
            "ranking": ranking_survival(results),
        }

    def pictures(self, results: Results) -> Iterable[Picture]:
        orbits = gauge_orbits(results)
        families = orbits.groupby("family", sort=False) if len(orbits) else ()
        for number_, (family, rows) in enumerate(families):
            parameter = rows["parameter"].iloc[0]
            yield Picture(
                f"gauge{number_ or ''}",
                functools.partial(_gauge_figure, rows),
                f"Gauge orbits: each metric along {str(family).replace('_', ' ')}, the same function "
                f"throughout, against its {parameter.replace('_', ' ')} (line: median over "
                f"{rows['subject'].nunique()} networks, band: full range). A metric of the function is flat; "
                "one that runs off can be made any size without changing what the network does.",
            )
        moved = changes(results)
        if len(moved):
            yield Picture(
                "invariance",
                functools.partial(_invariance_figure, moved[_DRAWN]),
                "Relative change of each metric, a point a network, same random seeds before and after. "
                "Crosses move by more than 2% and three standard errors of the random numbers that the two "
                "figures do not share (more where these are few); changes below 10⁻¹⁶ are drawn there.",
            )


def _sentence(name: str, every: pd.DataFrame) -> str:
    """What one transformation does; of several strengths the one that moves most speaks for it."""
    strength = every.groupby("transformation")["median_change"].max().fillna(-1).idxmax()
    group = every[every["transformation"] == strength]
    transformation = str(strength) if len(set(every["transformation"])) > 1 else name
    applied = group[group["n"] > 0]
    if applied.empty:
        return f"{_heading(transformation)} applied to none of the networks."
    change = applied["function_change"].max()
    kept = f"moves the logits by up to {percent(change)}"
    if change < _ROUNDING:
        kept = "keeps the function"
    parts = []
    for verdict, what in _VERDICTS.items():
        names = [
            row.metric + (f" ({_told(row)})" if verdict not in _KEPT else "")
            for row in applied[applied["verdict"] == verdict].itertuples()
        ]
        if names:
            parts.append(f"{what} {', '.join(names)}")
    told = "; ".join(parts)
    return (
        f"{_heading(transformation)} {kept} (n = {applied['n'].max()}). "
        f"{told[:1].upper()}{told[1:]}."
    )


def _heading(transformation: str) -> str:
    words = change_in_words(transformation)
    return words[:1].upper() + words[1:]


def _told(row: Any) -> str:
    """How far a metric moves; of one that isn't told to move or not, what would tell."""
    if row.verdict != "unclear":
        return times(row.lowest_ratio, row.highest_ratio)
    most = f"single networks {times(row.lowest_ratio, row.highest_ratio)}"
    if row.networks == row.networks:
        return f"{most}; some {count(int(row.networks))} networks would tell"
    if row.precision == row.precision:
        return f"{most}; errors {number(row.precision, 2)} times smaller would tell"
    return f"{most}; it tells no error of its own"


def _gauge_figure(orbits: pd.DataFrame) -> Figure:
    """after/before of each metric against the strength, log-log: median line and full range over networks.

    ``orbits``: ``parameter``, ``strength``, ``metric``, ``ratio``. Ratios that are not positive have no
    logarithm and are left out.
    """
    figure, axis = plt.subplots(figsize=(8.4, 4.6))
    colours = colours_of(orbits["metric"])
    shapes = dict(zip(dict.fromkeys(orbits["metric"]), itertools.cycle(MARKERS), strict=False))
    for metric, group in orbits[orbits["ratio"] > 0].groupby("metric", sort=False):
        range_ = group.groupby("strength")["ratio"].agg(["median", "min", "max"])
        axis.fill_between(
            range_.index,
            range_["min"],
            range_["max"],
            color=colours[metric],
            alpha=0.15,
            linewidth=0,
        )
        axis.plot(
            range_.index,
            range_["median"],
            marker=shapes[metric],
            color=colours[metric],
            markersize=5,
        )
    strength = symbol(str(orbits["parameter"].iloc[0]))
    axis.set(yscale="log", xlabel=strength, ylabel="after / before")
    if (orbits["strength"] > 0).all():
        axis.set_xscale("log")
    handles = legend(colours, {})
    for handle, shape in zip(handles, shapes.values(), strict=True):
        handle.set_marker(shape)
    figure.legend(handles=handles, loc="outside right upper", ncols=1)
    return figure


_DRAWN = ["metric", "transformation", "relative_change", "moved"]


def _invariance_figure(changes: pd.DataFrame) -> Figure:
    """Relative change of each metric on each subject, one panel a transformation, log axis.

    ``changes``: the columns `_DRAWN`. Those below 1e-16 are drawn at 1e-16: they are exactly or nearly zero.
    """
    transformations = list(dict.fromkeys(changes["transformation"]))
    metrics = list(dict.fromkeys(changes["metric"]))
    columns = min(4, len(transformations))
    bands = int(np.ceil(len(transformations) / columns))
    figure, axes = plt.subplots(
        bands,
        columns,
        figsize=(
            2.4 + 2.7 * columns,
            bands * (0.9 + 0.3 * len(metrics)) + 0.3 + 0.12 * len(metrics),
        ),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    colours = colours_of(changes["metric"])
    for axis in axes.flat[len(transformations) :]:
        axis.set_visible(False)
    for axis, transformation in zip(axes.flat, transformations, strict=False):
        rows = changes[changes["transformation"] == transformation]
        for height, metric in enumerate(metrics):
            group = rows[rows["metric"] == metric]
            jitter = (
                np.linspace(-0.25, 0.25, len(group)) if len(group) > 1 else np.zeros(len(group))
            )
            for moved, marker in ((True, "X"), (False, "o")):
                chosen = (group["moved"] == moved).to_numpy()
                axis.scatter(
                    group["relative_change"].clip(lower=1e-16)[chosen],
                    height + jitter[chosen],
                    s=16,
                    marker=marker,
                    color=colours[metric],
                    alpha=0.75,
                    linewidths=0,
                    rasterized=len(changes) > MOST_DRAWN,
                )
        axis.set_title(change_in_words(transformation))
        axis.set_xscale("log")
        axis.set_yticks(range(len(metrics)), metrics)
        axis.set_ylim(len(metrics) - 0.4, -0.6)
    figure.supxlabel("|after − before| / |before|", size=10)
    figure.legend(
        handles=legend({}, {"beyond its noise": "X", "within its noise, or noise not told": "o"}),
        loc="outside upper right",
        ncols=2,
    )
    return figure
