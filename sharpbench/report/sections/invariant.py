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
    TOLERANCE,
    changes,
    gauge_orbits,
    invariance_matrix,
    left_alone,
    ranking_survival,
    reachable,
)
from sharpbench.analysis.names import reading_order, symbol
from sharpbench.analysis.rank_correlation import FEWEST_BLOCKS
from sharpbench.analysis.results import TRAINED, Results
from sharpbench.report.drawing import (
    MARKERS,
    MOST_DRAWN,
    colours_of,
    explain_beside,
    legend,
    of_change,
    wrapped,
)
from sharpbench.report.format import count, number, percent, roughly, times
from sharpbench.report.marks import told_as
from sharpbench.report.sections.base import Picture, Section

__all__ = ["Invariant"]

_VERDICTS = {
    "invariant": "unmoved:",
    "equivariant": "moved by the predicted amount:",
    "moves": "moved (after/before):",
    "mixed": "moved on some networks:",
    "can't tell": "can't tell:",
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
            return []
        found = [
            _sentence(results, str(name), every)
            for name, every in matrix.groupby("transformation_name", sort=False)
        ]
        found += [
            f"Theory and measurement disagree: {row.metric} under "
            f"{results.change(row.transformation)} ({row.disagrees}; n = {count(row.n)})."
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
            "transformations": reading_order(matrix["transformation"]) if asked else [],
            "reachable": reachable(results),
            "left": left_alone(results),
            "ranking": ranking_survival(results),
            "fewest_blocks": FEWEST_BLOCKS,
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
                f"throughout, against its {symbol(str(parameter))} (line: median over "
                f"{count(rows['subject'].nunique())} networks, band: full range). A metric of the function "
                "is flat; one that runs off can be made any size without changing what the network does.",
            )
        moved = changes(results)
        if len(moved):
            yield Picture(
                "invariance",
                functools.partial(
                    _invariance_figure,
                    moved[_DRAWN].assign(
                        transformation=moved["transformation"].map(results.change)
                    ),
                ),
                "Each metric after a change over before it, a point a network, same random seeds before and "
                f"after; at ×1 nothing has moved. The band is ×{1 - TOLERANCE:g} to ×{1 + TOLERANCE:g}; "
                "crosses leave it by more than three standard errors of the random numbers that the two "
                "figures do not share (more where these are few). The axis is stretched about ×1 (√|log|); "
                "what has changed its sign, or become or been 0, stands at its end.",
            )


def _sentence(results: Results, name: str, every: pd.DataFrame) -> str:
    """What one transformation does; of several strengths the one that moves most speaks for it."""
    strength = every.groupby("transformation")["median_change"].max().fillna(-1).idxmax()
    group = every[every["transformation"] == strength]
    words = results.change(str(strength) if len(set(every["transformation"])) > 1 else name)
    heading = words[:1].upper() + words[1:]
    applied = group[group["n"] > 0]
    if applied.empty:
        lost = [row.metric for row in group.itertuples() if row.verdict != "not applicable"]
        if lost:
            return f"{heading}: no figure stands before and after it ({', '.join(lost)} failed)."
        return f"{heading} applied to none of the networks."
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
    return f"{heading} {kept} (n = {count(int(applied['n'].max()))}). {told[:1].upper()}{told[1:]}."


def _told(row: Any) -> str:
    """How far a metric moves; of one that isn't told to move or not, what would tell."""
    if row.verdict != "can't tell":
        return times(row.lowest_ratio, row.highest_ratio)
    most = f"single networks {times(row.lowest_ratio, row.highest_ratio)}"
    if row.networks == row.networks:
        return f"{most}; {roughly(row.networks)} networks would tell"
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
    axis.set(yscale="log", xlabel=strength, ylabel="after/before")
    if (orbits["strength"] > 0).all():
        axis.set_xscale("log")
    handles = legend(colours, {})
    for handle, shape in zip(handles, shapes.values(), strict=True):
        handle.set_marker(shape)
    explain_beside(figure, handles, list(colours))
    return figure


_DRAWN = ["metric", "transformation", "ratio", "moved"]

_NARROWEST = 1.2
"""To such a factor, either way, the axis reaches at least."""


def _invariance_figure(changes: pd.DataFrame) -> Figure:
    """After/before of each metric on each subject, one panel a transformation.

    ``changes``: the columns `_DRAWN`. What has no logarithm is drawn at the left end, what is infinite or
    of 0 at the right one.
    """
    transformations = reading_order(changes["transformation"])
    metrics = reading_order(changes["metric"])
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
    colours = dict(zip(metrics, colours_of(pd.Series(metrics)).values(), strict=True))
    ratios = changes["ratio"]
    finite = ratios[(ratios > 0) & np.isfinite(ratios)]
    low = min(finite.min(), 1 / _NARROWEST) if len(finite) else 1 / _NARROWEST
    high = max(finite.max(), _NARROWEST) if len(finite) else _NARROWEST
    drawn = ratios.where(ratios > 0, low).where(ratios.notna(), high).clip(low, high)
    for place, axis in enumerate(axes.flat):
        if place >= len(transformations):
            axis.set_visible(False)
            axes.flat[place - columns].tick_params(axis="x", labelbottom=True)
            continue
        rows = changes["transformation"] == transformations[place]
        axis.axvspan(1 - TOLERANCE, 1 + TOLERANCE, color="0.5", alpha=0.2, linewidth=0)
        for height, metric in enumerate(metrics):
            own = rows & (changes["metric"] == metric)
            count_ = int(own.sum())
            jitter = np.linspace(-0.25, 0.25, count_) if count_ > 1 else np.zeros(count_)
            for moved, marker in ((True, "X"), (False, "o")):
                chosen = (changes.loc[own, "moved"] == moved).to_numpy()
                if not chosen.any():
                    continue
                marks = axis.scatter(
                    drawn[own][chosen],
                    height + jitter[chosen],
                    s=16,
                    marker=marker,
                    color=colours[metric],
                    alpha=0.75,
                    linewidths=0,
                    rasterized=len(changes) > MOST_DRAWN,
                )
                told_as(marks, x=[times(v) for v in ratios[own][chosen]])
        axis.set_title(wrapped(transformations[place], 28))
        axis.set_yticks(range(len(metrics)), metrics)
        axis.set_ylim(len(metrics) - 0.4, -0.6)
    of_change(axes.flat[0], low, high)
    figure.supxlabel("after/before", size=10)
    figure.legend(
        handles=legend({}, {"beyond its noise": "X", "within its noise, or noise not told": "o"}),
        loc="outside upper right",
        ncols=2,
    )
    return figure
